package api

import (
	"net/http"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// The second seed's API: everything is in the path, answers stand without the envelope, and a user's name is the id.

// appCreateUser answers POST /app/create_user/{name}/{email}.
func (f *face) appCreateUser(r *request) (reply, error) {
	id, err := r.user("name")
	if err != nil {
		return reply{}, err
	}
	email := r.param("email")
	if !validEmail(email) {
		return reply{}, &ledger.Error{Code: codeEmail, Message: "email must be 1 to 254 bytes without blanks"}
	}
	r.identity = userID(id)
	_, _, err = f.Ledger.CreateUser(r, ledger.User{ID: id, Name: string(id), Email: email})
	return reply{status: http.StatusOK, bare: true, data: appCreated{}}, err
}

// appGetUser answers GET /app/get_user/{name}.
func (f *face) appGetUser(r *request) (reply, error) {
	id, err := r.user("name")
	if err != nil {
		return reply{}, err
	}
	user, err := f.Ledger.User(r, id)
	return reply{status: http.StatusOK, bare: true, data: appUser{User: user, currency: f.Currency}}, err
}

// appTransfer answers POST /app/transfer/{src}/{dst}/{amount}.
func (f *face) appTransfer(r *request) (reply, error) {
	source, err := r.user("src")
	if err != nil {
		return reply{}, about("source", err)
	}
	destination, err := r.user("dst")
	if err != nil {
		return reply{}, about("destination", err)
	}
	amount, length := scanAmount(r.param("amount"))
	if length == 0 || length != len(r.param("amount")) {
		return reply{}, badAmount("amount")
	}
	txID, _, err := r.txID(field{})
	if err != nil {
		return reply{}, err
	}
	record, err := f.transferMoney(r, ledger.Operation{Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: source, TxID: txID},
		Kind:     ledger.KindTransfer,
		Payee:    destination,
		Amount:   amount,
		Currency: f.Currency,
	}})
	return reply{status: http.StatusOK, bare: true, data: appTransferred(record)}, err
}

type appCreated struct{}

func (appCreated) appendTo(o object) object { return o.text("status", "created") }

type appUser struct {
	ledger.User
	currency ledger.Currency
}

func (d appUser) appendTo(o object) object {
	return o.text("name", string(d.ID)).
		text("email", d.Email).
		integer("balance", int64(balanceIn(d.User, d.currency)))
}

type appTransferred ledger.TransferRecord

func (d appTransferred) appendTo(o object) object {
	record := ledger.TransferRecord(d)
	return o.text("tx_id", string(d.TxID)).text("status", string(record.Status()))
}
