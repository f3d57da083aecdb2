package api

import (
	"net/http"
	"net/mail"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// createUser answers POST /users.
func (f *face) createUser(r *request) (reply, error) {
	var id, name, email string
	fields := [...]field{
		{name: "name", text: &name, required: true},
		{name: "id", text: &id},
		{name: "email", text: &email},
	}
	if err := r.body(fields[:]); err != nil {
		return reply{}, err
	}
	user := ledger.User{Name: name, Email: email}
	var err error
	if fields[1].given {
		user.ID, err = ledger.ParseUserID(id)
	} else {
		user.ID, err = newID[ledger.UserID]()
	}
	if err != nil {
		return reply{}, err
	}
	if len(name) > ledger.MaxNameLength || strings.TrimSpace(name) == "" {
		return reply{}, &ledger.Error{
			Code: codeName, Message: "name must be 1 to " + strconv.Itoa(ledger.MaxNameLength) + " bytes, not all blank",
		}
	}
	if email != "" && !isAddress(email) {
		return reply{}, &ledger.Error{
			Code: codeEmail, Message: "email must be an address of at most " + strconv.Itoa(ledger.MaxEmailLength) + " bytes",
		}
	}

	r.identity = userID(user.ID)
	stored, created, err := f.Ledger.CreateUser(r, user)
	if err != nil {
		return reply{}, err
	}
	r.gin.Header("Location", "/users/"+string(stored.ID))
	out := reply{status: http.StatusOK, data: userData{User: stored, currency: f.Currency}}
	if created {
		out.status = http.StatusCreated
	}
	return out, nil
}

func isAddress(email string) bool {
	if !validEmail(email) { // a long one is never parsed: that takes long
		return false
	}
	address, err := mail.ParseAddress(email)
	return err == nil && address.Address == email
}

// validEmail is all that is asked of an email in a path: the second seed's own example has no "@".
func validEmail(email string) bool {
	return email != "" && len(email) <= ledger.MaxEmailLength && utf8.ValidString(email) &&
		!strings.ContainsFunc(email, func(c rune) bool { return unicode.IsControl(c) || unicode.IsSpace(c) })
}

// user answers GET /users/{uid}.
func (f *face) user(r *request) (reply, error) {
	id, err := r.user("uid")
	if err != nil {
		return reply{}, err
	}
	user, err := f.Ledger.User(r, id)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, data: userData{User: user, currency: f.Currency}}, nil
}

// balance answers GET /users/{uid}/balance.
func (f *face) balance(r *request) (reply, error) {
	id, err := r.user("uid")
	if err != nil {
		return reply{}, err
	}
	currency, err := f.queryCurrency(r)
	if err != nil {
		return reply{}, err
	}
	account, err := f.Ledger.Balance(r, id, currency)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, data: balanceData{Currency: currency, Account: account}}, nil
}

func (f *face) queryCurrency(r *request) (ledger.Currency, error) {
	return f.currency(r.query.Get("currency"), r.query.Has("currency"))
}

// currency returns what the client asked for, or the default.
func (f *face) currency(text string, given bool) (ledger.Currency, error) {
	if !given {
		return f.Currency, nil
	}
	return ledger.ParseCurrency(text)
}

// newID makes an id for a request that has none.
func newID[ID ledger.UserID | ledger.TxID]() (ID, error) {
	id, err := uuid.NewV7()
	return ID(id.String()), err
}

type userID ledger.UserID

func (d userID) appendTo(o object) object { return o.text("id", string(d)) }

// userData is a user; currency is the one whose balance stands first.
type userData struct {
	ledger.User
	currency ledger.Currency
}

func (d userData) appendTo(o object) object {
	balances := make([]balanceData, 0, len(d.Holdings))
	for _, holding := range d.Holdings {
		balances = append(balances, balanceData(holding))
	}
	o = o.text("id", string(d.ID)).
		text("name", d.Name).
		text("email", d.Email).
		integer("balance", int64(balanceIn(d.User, d.currency))).
		text("currency", string(d.currency))
	return list(o, "balances", balances).
		time("created_at", d.CreatedAt).
		time("updated_at", d.UpdatedAt)
}

func balanceIn(user ledger.User, currency ledger.Currency) ledger.Amount {
	for _, holding := range user.Holdings {
		if holding.Currency == currency {
			return holding.Balance
		}
	}
	return 0
}

// balanceData is one account.
type balanceData ledger.Holding

func (d balanceData) appendTo(o object) object {
	return o.integer("balance", int64(d.Balance)).
		text("currency", string(d.Currency)).
		integer("version", d.Version)
}
