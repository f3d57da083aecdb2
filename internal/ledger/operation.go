package ledger

import "fmt"

// Step is one part of a transfer, done on one shard in one transaction. The numbers are stored; they never change.
type Step uint8

const (
	StepStart  Step = 1 // in the initiator's slot: moves the money, or debits it for a saga
	StepCredit Step = 2 // in the payee's slot: ends the way of a saga's money
	StepRefund Step = 3 // in the initiator's slot: gives a saga's money back
)

func (s Step) String() string {
	switch s {
	case StepStart:
		return "start"
	case StepCredit:
		return "credit"
	case StepRefund:
		return "refund"
	}
	return fmt.Sprintf("step(%d)", uint8(s))
}

// Key is what a book knows an operation by. (On a shard the slot of Operation.Owner comes first.)
type Key struct {
	Identity
	Step Step
}

// Operation is one step of one transfer.
type Operation struct {
	Transfer
	Step Step
	// Saga is set on the start of a transfer whose payee may live in another book: it debits and opens a saga. Without
	// it a start does all of the transfer in this book. It is not part of the contents: a repeat is answered from what
	// the first one did.
	Saga bool
	// Cause is set on a refund: why the payee's book refused the credit.
	Cause Reason
	// Description is the client's own text, at most MaxDescriptionLength bytes. It is not part of the contents.
	Description string
	// Trace is the trace context that a saga carries along, in W3C traceparent form, or empty.
	Trace string
}

// MaxDescriptionLength is in bytes.
const MaxDescriptionLength = 500

// Key returns what the operation is known by.
func (op *Operation) Key() Key { return Key{Identity: op.Identity, Step: op.Step} }

// Owner is the user in whose slot the operation is recorded, and whose account's balance and version its outcome tells.
func (op *Operation) Owner() UserID {
	if op.Step == StepCredit {
		return op.Payee
	}
	return op.Initiator
}

// Accounts appends the keys of the user accounts that the operation may change: one or two.
func (op *Operation) Accounts(keys []AccountKey) []AccountKey {
	keys = append(keys, AccountKey{op.Owner(), op.Currency})
	if op.movesLocally() && op.Payee != op.Initiator {
		keys = append(keys, AccountKey{op.Payee, op.Currency})
	}
	return keys
}

func (op *Operation) movesLocally() bool {
	return op.Step == StepStart && op.Kind == KindTransfer && !op.Saga
}

// System returns the system side of the operation if it is applied: the account and the amount that makes the
// operation's entries sum to zero. A transfer within one book has none.
func (op *Operation) System() (SystemAccount, Amount) {
	switch {
	case op.Step != StepStart: // a credit and a refund both take the money out of transit
		return Transit, -op.Amount
	case op.Kind == KindAdd:
		return World, -op.Amount
	case op.Kind == KindWithdraw:
		return World, op.Amount
	case op.Saga:
		return Transit, op.Amount
	}
	return "", 0
}

// validate reports an operation that no caller should have built. Untrusted input is checked long before.
func (op *Operation) validate() error {
	switch {
	case op.Initiator == "" || op.TxID == "" || op.Currency == "":
		return fmt.Errorf("operation without initiator, tx_id or currency")
	case op.Amount < 1 || op.Amount > MaxAmount:
		return fmt.Errorf("operation with amount %d", op.Amount)
	case op.Kind < KindAdd || op.Kind > KindTransfer || op.Step < StepStart || op.Step > StepRefund:
		return fmt.Errorf("operation of %v and %v", op.Kind, op.Step)
	case (op.Kind == KindTransfer) != (op.Payee != ""):
		return fmt.Errorf("%v with payee %q", op.Kind, op.Payee)
	case op.Kind != KindTransfer && (op.Saga || op.Step != StepStart):
		return fmt.Errorf("%v of kind %v in a saga", op.Step, op.Kind)
	case (op.Step == StepRefund) != (op.Cause != Applied):
		return fmt.Errorf("%v with cause %q", op.Step, op.Cause)
	}
	return nil
}

// Outcome is what became of an operation. Once recorded it never changes.
type Outcome struct {
	Reason  Reason // Applied, or why not
	Balance Amount // of the owner's account after the operation, if applied
	Version int64  // of the owner's account after the operation, if applied
}

// Recorded is an operation with its outcome, as a book knows it.
type Recorded struct {
	Operation
	Outcome
}

// AccountKey names one user's money in one currency.
type AccountKey struct {
	User     UserID
	Currency Currency
}

// Account is a balance and the number of the entry that made it; 0 where there is none yet.
type Account struct {
	Balance Amount
	Version int64
}

// Entry is one signed line in one account's history.
type Entry struct {
	AccountKey
	Version      int64  // 1, 2, 3… with no gap
	Amount       Amount // signed, never 0
	Balance      Amount // after it
	Identity            // of the transfer
	Step         Step
	Kind         Kind
	Counterparty UserID // the other user; "" where that is @world
}
