package ledger

import "fmt"

// Kind says what a transfer does. The numbers are stored; they never change.
type Kind uint8

const (
	KindAdd      Kind = 1 // from @world to the user
	KindWithdraw Kind = 2 // from the user to @world
	KindTransfer Kind = 3 // from the payer to the payee
)

func (k Kind) String() string {
	switch k {
	case KindAdd:
		return "add"
	case KindWithdraw:
		return "withdraw"
	case KindTransfer:
		return "transfer"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Identity is what makes two requests the same transfer. The same TxID from another initiator is another transfer.
type Identity struct {
	Initiator UserID // the payer; for an add, the user
	TxID      TxID
}

func (id Identity) String() string { return string(id.Initiator) + "/" + string(id.TxID) }

// Transfer is one movement of money as its client asked for it, after defaults. Two transfers with one identity are the
// same if they are equal, and in conflict otherwise.
type Transfer struct {
	Identity
	Kind     Kind
	Payee    UserID // of KindTransfer only
	Amount   Amount // 1 to MaxAmount
	Currency Currency
}

// Status is what a client is told about a transfer.
type Status string

const (
	StatusPending   Status = "PENDING"   // debited, not yet credited
	StatusCompleted Status = "COMPLETED" // every entry is written
	StatusRefunded  Status = "REFUNDED"  // the payee's shard refused; the payer has the money back
	StatusRefused   Status = "REFUSED"   // nothing moved
)

// Reason says why a step was refused. The empty reason means that it was applied. The texts are stored and shown to
// clients as error codes; they never change.
type Reason string

const (
	Applied           Reason = ""
	UserNotFound      Reason = "user_not_found" // the initiator
	PayeeNotFound     Reason = "payee_not_found"
	SameAccount       Reason = "same_account"
	InsufficientFunds Reason = "insufficient_funds"
	BalanceLimit      Reason = "balance_limit" // a balance would exceed MaxAmount
)
