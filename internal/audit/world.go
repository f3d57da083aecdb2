package audit

import (
	"context"
	"math/big"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// World is the cluster under audit.
type World interface {
	// View reads, linearizably, who the cluster is and who owns what. It is called again for each fresh look.
	View(ctx context.Context) (View, error)
	// Snapshot opens a snapshot of a shard, taken before it returns, on the shard's primary. An error means that the
	// shard cannot be read now.
	Snapshot(ctx context.Context, id ledger.ShardID) (Snapshot, error)
}

// View is the cluster as its registry has it.
type View struct {
	Cluster string           // the uid
	Shards  []ledger.ShardID // registered
	Map     *placement.Map
}

// Snapshot is one shard at one instant. Its methods may be slow, and must not be called at the same time.
type Snapshot interface {
	Standing
	Book
	Steps
	// Close ends the snapshot. The others fail from then on.
	Close()
}

// Standing is what a shard says it is. It was read when the snapshot was taken.
type Standing interface {
	Identity() Identity
	// Slots returns a row for each slot that was ever here.
	Slots() map[ledger.Slot]Slot
}

// Book is what can be judged from one shard's rows alone, of the slots that it answers for.
type Book interface {
	// Totals counts and sums.
	Totals(ctx context.Context) (Totals, error)
	// Operations judges CheckOperations. parted is the number of lines that it could not join, since the other end of
	// their transfer is not on this shard.
	Operations(ctx context.Context, report Reporter) (parted int64, err error)
	// Accounts judges CheckAccounts and CheckOverdraft.
	Accounts(ctx context.Context, report Reporter) error
	// Sagas judges CheckSagas.
	Sagas(ctx context.Context, report Reporter) error
	// Rows judges CheckRows.
	Rows(ctx context.Context, report Reporter) error
}

// Steps is what is joined with other shards.
type Steps interface {
	// Credits and EndedSagas stream what is in the slots that the shard answers for, in no order. An error of found ends
	// the stream and is returned.
	Credits(ctx context.Context, found func(ledger.Recorded) error) error
	EndedSagas(ctx context.Context, found func(ledger.Saga) error) error
	// FindCredits and FindHomes look up by key, whoever owns the slots. What is not there is not in the answer.
	FindCredits(ctx context.Context, ids []CreditID) (map[CreditID]ledger.Recorded, error)
	FindHomes(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]Home, error)
}

// Reporter takes a violation: the check that failed, the id of what is wrong in the form that Violation.ID documents, and
// what is wrong with it.
type Reporter func(check Name, id, problem string)

// Identity is who a database says it is. The zero Identity: it is not enrolled.
type Identity struct {
	Cluster  string
	Shard    ledger.ShardID
	Slots    int
	Hash     string
	Timeline int // adopted
	Running  int // the timeline that the server is on
}

// Slot is a shard's row about a slot.
type Slot struct {
	State string // owned, fenced, incoming, moved
	Epoch ledger.Epoch
}

// Totals counts and sums a shard.
type Totals struct {
	Counts
	OldestPending time.Time // zero if there is none
	Money         map[ledger.Currency]Money
}

// Counts is how many rows there are.
type Counts struct {
	Users      int64 `json:"users"`
	Accounts   int64 `json:"accounts"`
	Operations int64 `json:"operations"`
	Credits    int64 `json:"credits"` // of the operations, applied or refused
	Entries    int64 `json:"entries"`
	Sagas      int64 `json:"sagas"`
	Pending    int64 `json:"pending"` // of the sagas
}

// Money is sums of amounts, which int64 may be too small for. None is nil.
type Money struct {
	Entries  *big.Int
	System   *big.Int // all system sides
	World    *big.Int // the system sides that are @world's
	Transit  *big.Int // the system sides that are @transit's
	Debited  *big.Int // amounts of applied starts of sagas
	Credited *big.Int // amounts of applied credits
	Refunded *big.Int // amounts of applied refunds
}

// NewMoney returns zeros.
func NewMoney() Money {
	return Money{new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int)}
}

// CreditID names a credit where it is looked up: by the payee's slot.
type CreditID struct {
	Payee ledger.UserID
	ledger.Identity
}

// Home is what the initiator's shard knows about a transfer. Either may be missing.
type Home struct {
	Start *ledger.Recorded
	Saga  *ledger.Saga
}
