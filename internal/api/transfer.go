package api

import (
	"cmp"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// add answers POST /users/{uid}/add.
func (f *face) add(r *request) (reply, error) { return f.addOrWithdraw(r, ledger.KindAdd) }

// withdraw answers POST /users/{uid}/withdraw.
func (f *face) withdraw(r *request) (reply, error) { return f.addOrWithdraw(r, ledger.KindWithdraw) }

func (f *face) addOrWithdraw(r *request, kind ledger.Kind) (reply, error) {
	id, err := r.user("uid")
	if err != nil {
		return reply{}, err
	}
	var txID, currency string
	transfer := ledger.Transfer{Identity: ledger.Identity{Initiator: id}, Kind: kind}
	fields := [...]field{
		{name: "amount", amount: &transfer.Amount, required: true},
		{name: "transaction_id", text: &txID},
		{name: "currency", text: &currency},
	}
	if err := r.body(fields[:]); err != nil {
		return reply{}, err
	}
	var byHeader bool
	if transfer.TxID, byHeader, err = r.txID(fields[1]); err != nil {
		return reply{}, err
	}
	if transfer.TxID == "" {
		_, err := ledger.ParseTxID("")
		return reply{}, err
	}
	if transfer.Currency, err = f.currency(currency, fields[2].given); err != nil {
		return reply{}, err
	}

	record, replayed, err := f.start(r, ledger.Operation{Transfer: transfer})
	switch {
	case err != nil:
		return reply{}, err
	case record.WhyNot() != ledger.Applied:
		return reply{}, &refusal{reason: record.WhyNot()}
	case replayed && !byHeader:
		// As its seed says. A client that sends a key knows that it may repeat itself and wants the first answer again.
		return reply{}, &ledger.Error{Code: codeProcessed}
	}
	return reply{
		status:  http.StatusAccepted,
		message: transactionDone,
		data:    currentBalance{balance: record.Balance, version: record.Version},
	}, nil
}

// newTransfer is what a client writes of a transfer.
type newTransfer struct {
	source, destination, txID, currency, description string
	amount                                           ledger.Amount
}

// Places of the fields that need not be there.
const (
	txIDField     = 3
	currencyField = 4
)

func (t *newTransfer) fields() [6]field {
	return [...]field{
		{name: "source", text: &t.source, required: true},
		{name: "destination", text: &t.destination, required: true},
		{name: "amount", amount: &t.amount, required: true},
		{name: "transaction_id", text: &t.txID},
		{name: "currency", text: &t.currency},
		{name: "description", text: &t.description},
	}
}

// operation checks all but the transaction id. The message of an error begins with the name of a field.
func (t *newTransfer) operation(f *face, currencyGiven bool) (start ledger.Operation, err error) {
	start.Kind, start.Step = ledger.KindTransfer, ledger.StepStart
	start.Amount, start.Description = t.amount, t.description
	if start.Initiator, err = ledger.ParseUserID(t.source); err != nil {
		return start, about("source", err)
	}
	if start.Payee, err = ledger.ParseUserID(t.destination); err != nil {
		return start, about("destination", err)
	}
	if start.Currency, err = f.currency(t.currency, currencyGiven); err != nil {
		return start, err
	}
	if len(t.description) > ledger.MaxDescriptionLength {
		return start, &ledger.Error{
			Code:    codeDescription,
			Message: "description must be at most " + strconv.Itoa(ledger.MaxDescriptionLength) + " bytes",
		}
	}
	return start, nil
}

// transfer answers POST /transfers.
func (f *face) transfer(r *request) (reply, error) {
	var t newTransfer
	fields := t.fields()
	err := r.body(fields[:])
	if err != nil {
		return reply{}, err
	}
	start, err := t.operation(f, fields[currencyField].given)
	if err != nil {
		return reply{}, err
	}
	if start.TxID, _, err = r.txID(fields[txIDField]); err != nil {
		return reply{}, err
	}
	record, err := f.transferMoney(r, start)
	if err != nil {
		return reply{}, err
	}
	out := reply{status: http.StatusCreated, message: transactionDone, data: transferResult(record)}
	if record.Status() == ledger.StatusPending {
		out.status, out.message = http.StatusAccepted, "transaction pending"
	}
	r.gin.Writer.Header()["Location"] = []string{location(record.Identity)}
	return out, nil
}

// transferMoney does the start of a transfer from user to user, with a new transaction id if it has none. The record is
// of one that is completed or pending; a refused or refunded one is an error.
func (f *face) transferMoney(r *request, start ledger.Operation) (record ledger.TransferRecord, err error) {
	if start.TxID == "" {
		if start.TxID, err = newID[ledger.TxID](); err != nil {
			return record, err
		}
	}
	start.Trace = r.traceparent()
	record, _, err = f.start(r, start)
	if err == nil && record.WhyNot() != ledger.Applied {
		err = &refusal{reason: record.WhyNot(), data: refusedTransfer(record)}
	}
	return record, err
}

// start does the first step of a transfer and says in a header if it was known already.
func (f *face) start(r *request, start ledger.Operation) (record ledger.TransferRecord, replayed bool, err error) {
	start.Step = ledger.StepStart
	var wait time.Duration
	if start.Kind == ledger.KindTransfer {
		wait = f.wait(r)
	}
	r.identity = transactionID(start.TxID)
	record, replayed, err = f.Ledger.Transfer(r, start, wait)
	if span := trace.SpanFromContext(r); span.IsRecording() {
		span.SetAttributes(tracing.TxID.String(string(start.TxID)))
		if err == nil {
			span.SetAttributes(tracing.Outcome.String(cmp.Or(string(record.WhyNot()), "applied")))
		}
	}
	if err == nil && replayed {
		r.gin.Header("Idempotent-Replayed", "true")
	}
	return record, replayed, err
}

// wait is how long the client waits for ends of sagas.
func (f *face) wait(r *request) time.Duration {
	if r.respondAsync() {
		r.gin.Header("Preference-Applied", "respond-async")
		return 0
	}
	if f.writes.crowded() { // mostly by those who wait for ends: a transfer that is on record needs nobody to wait for it
		return 0
	}
	return f.Wait
}

// userTransfer answers GET /users/{uid}/transfers/{tx_id}.
func (f *face) userTransfer(r *request) (reply, error) {
	initiator, err := r.user("uid")
	if err != nil {
		return reply{}, err
	}
	txID, err := ledger.ParseTxID(r.param("tx_id"))
	if err != nil {
		return reply{}, err
	}
	record, err := f.Ledger.Find(r, ledger.Identity{Initiator: initiator, TxID: txID})
	return reply{status: http.StatusOK, data: transferData(record)}, err
}

// anyTransfer answers GET /transfers/{tx_id}.
func (f *face) anyTransfer(r *request) (reply, error) {
	txID, err := ledger.ParseTxID(r.param("tx_id"))
	if err != nil {
		return reply{}, err
	}
	return f.find(r, txID)
}

// transferNamedBatch answers GET /transfers/batch: a transfer may be called so.
func (f *face) transferNamedBatch(r *request) (reply, error) { return f.find(r, "batch") }

func (f *face) find(r *request, txID ledger.TxID) (reply, error) {
	record, err := f.Ledger.FindByTxID(r, txID)
	return reply{status: http.StatusOK, data: transferData(record)}, err
}

// location is where a transfer's status can be asked.
func location(id ledger.Identity) string {
	return "/users/" + string(id.Initiator) + "/transfers/" + string(id.TxID)
}

// about says which field an error is about.
func about(field string, err error) error {
	e := *err.(*ledger.Error)
	e.Message = field + ": " + e.Message
	return &e
}

// transactionID is what a client needs to learn an outcome.
type transactionID ledger.TxID

func (d transactionID) appendTo(o object) object { return o.text("transaction_id", string(d)) }

// currentBalance is the outcome of an add or a withdrawal.
type currentBalance struct {
	balance ledger.Amount
	version int64
}

func (d currentBalance) appendTo(o object) object {
	return o.integer("current_balance", int64(d.balance)).integer("version", d.version)
}

// transferResult is what the payer is told: how the transfer stands now, and the payer's balance after the start.
type transferResult ledger.TransferRecord

func (d transferResult) appendTo(o object) object {
	record := ledger.TransferRecord(d)
	return o.text("transaction_id", string(d.TxID)).
		text("status", string(record.Status())).
		integer("current_balance", int64(d.Balance)).
		text("currency", string(d.Currency)).
		integer("version", d.Version)
}

// refusedTransfer is what is told of a transfer that is refused or refunded.
type refusedTransfer ledger.TransferRecord

func (d refusedTransfer) appendTo(o object) object {
	record := ledger.TransferRecord(d)
	return o.text("transaction_id", string(d.TxID)).text("status", string(record.Status()))
}

// transferData is all about a transfer. Source or destination is empty where the money came from or went outside.
type transferData ledger.TransferRecord

func (d transferData) appendTo(o object) object {
	record := ledger.TransferRecord(d)
	source, destination := d.Initiator, d.Payee
	if d.Kind == ledger.KindAdd {
		source, destination = "", d.Initiator
	}
	o = o.text("transaction_id", string(d.TxID)).
		text("status", string(record.Status())).
		text("kind", d.Kind.String()).
		text("source", string(source)).
		text("destination", string(destination)).
		integer("amount", int64(d.Amount)).
		text("currency", string(d.Currency)).
		text("description", d.Description)
	if reason := record.WhyNot(); reason != ledger.Applied {
		o = o.text("reason", string(reason))
	}
	o = o.time("created_at", d.CreatedAt)
	if !d.EndedAt.IsZero() {
		o = o.time("ended_at", d.EndedAt)
	}
	return o
}
