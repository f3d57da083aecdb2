package simtest

import (
	"fmt"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Currency is the one currency of a simulated world. Currencies meet in no rule; Conformance tries several.
const Currency ledger.Currency = "USD"

// Scope is a world to try: who has what and where, what is asked, and how much may go wrong.
type Scope struct {
	Name         string
	Shards       int // at most 4: A, B, C, D
	Coordinators int // at most 3
	Users        []User
	// Transfers are what clients ask for, one client each; at most 8. Two of them may share an identity: then one is a
	// conflict.
	Transfers []ledger.Transfer
	// Sometime are adds and withdrawals that happen once each, at any moment.
	Sometime []ledger.Transfer
	Budget   Budget
	Bug      Bug
}

// User is one user of a scope.
type User struct {
	ID      ledger.UserID
	Shard   int
	Balance ledger.Amount
	// Late users do not exist at first. They are created at any moment.
	Late bool
}

// Budget says how often each fault may happen.
type Budget struct {
	Losses     uint8 // of a request, or of the reply to an executed request
	Duplicates uint8 // of a request or a reply
	Timeouts   uint8 // timers that fire while the call or its reply is on its way
	Crashes    uint8 // of a coordinator
	Seconds    uint8 // a second coordinator takes up a saga that another one runs
	Repeats    uint8 // of a client's request
	MapChanges uint8 // requests sent by a router that takes a local pair for a split one, or the reverse
}

// Bug is a planted bug. The simulator must find it.
type Bug string

const (
	NoBug Bug = ""
	// ForgetsKeys: a shard does not keep the operations that it applied.
	ForgetsKeys Bug = "no-operation-key"
	// TimeoutRefuses: a coordinator takes a timeout of a credit for a refusal.
	TimeoutRefuses Bug = "timeout-taken-as-refusal"
	// ForgetsRefusals: a shard does not keep the credits that it refused, so that a late one may succeed.
	ForgetsRefusals Bug = "refund-without-guard-against-late-credit"
	// RefundsAgain: a home keeps neither the refund nor the saga's end.
	RefundsAgain Bug = "refund-twice"
	// SagaNotDurable: a home writes the saga's row in a second commit, after the debit's.
	SagaNotDurable Bug = "coordinator-state-not-durable"
	// GivesUp: a coordinator drops a saga whose credit had no answer. It harms nobody's money, it only never ends.
	GivesUp Bug = "coordinator-gives-up"
)

// Bugs are all planted bugs.
var Bugs = []Bug{ForgetsKeys, TimeoutRefuses, ForgetsRefusals, RefundsAgain, SagaNotDurable, GivesUp}

// Payment is a transfer from a payer to a payee.
func Payment(payer ledger.UserID, tx ledger.TxID, payee ledger.UserID, amount ledger.Amount) ledger.Transfer {
	return ledger.Transfer{
		Identity: ledger.Identity{Initiator: payer, TxID: tx}, Kind: ledger.KindTransfer,
		Payee: payee, Amount: amount, Currency: Currency,
	}
}

// Deposit and Withdrawal are an add to and a withdraw from a user's account.
func Deposit(user ledger.UserID, tx ledger.TxID, amount ledger.Amount) ledger.Transfer {
	return ledger.Transfer{
		Identity: ledger.Identity{Initiator: user, TxID: tx}, Kind: ledger.KindAdd, Amount: amount, Currency: Currency,
	}
}

func Withdrawal(user ledger.UserID, tx ledger.TxID, amount ledger.Amount) ledger.Transfer {
	transfer := Deposit(user, tx, amount)
	transfer.Kind = ledger.KindWithdraw
	return transfer
}

func (s *Scope) validate() error {
	switch {
	case s.Shards < 1 || s.Shards > maxShards,
		s.Coordinators < 1 || s.Coordinators > maxCoordinators,
		len(s.Transfers) > maxTransfers,
		len(s.Users)+len(s.Sometime) > maxOccasions:
		return fmt.Errorf("scope %s is too large", s.Name)
	}
	for _, transfer := range s.Transfers {
		if transfer.Kind != ledger.KindTransfer || transfer.Currency != Currency {
			return fmt.Errorf("scope %s: %v is not a payment in %s", s.Name, transfer.Identity, Currency)
		}
	}
	return nil
}

// shardOf returns where a user lives. Users that the scope does not name have a slot too: it is on the last shard.
func (s *Scope) shardOf(user ledger.UserID) int {
	for _, u := range s.Users {
		if u.ID == user {
			return u.Shard
		}
	}
	return s.Shards - 1
}
