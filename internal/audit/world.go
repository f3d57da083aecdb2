package audit

import (
	"context"
	"errors"
	"math/big"
	"slices"
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
	Moves   []placement.Move // all that have not ended; others may be among them
}

// underWay returns the moves that have not ended.
func (v View) underWay() map[placement.MoveID]placement.Move {
	moves := make(map[placement.MoveID]placement.Move)
	for _, move := range v.Moves {
		if !move.Phase.Ended() {
			moves[move.ID] = move
		}
	}
	return moves
}

// shards returns the ids of those that are registered or own a slot, sorted.
func (v View) shards() []ledger.ShardID {
	return slices.Compact(slices.Sorted(slices.Values(append(v.Map.Shards(), v.Shards...))))
}

// Part says which of a shard's rows a snapshot shows to Book, Lines and the streams of Steps. What is looked up by its key
// is found wherever it is, and Standing is always whole. The zero Part is all rows of the slots that the shard answers for.
//
// A part has no sums: Totals counts, and has the bookings. Of slots alone there are no Lines, since their other ends are in
// other slots.
type Part struct {
	Since *Mark             // only what was committed since, in slots that the shard has answered for all the time
	Slots placement.SlotSet // only of these, if there are any
}

// Whole tells whether the part is all there is.
func (p Part) Whole() bool { return p.Since == nil && len(p.Slots) == 0 }

// Mark is a moment of a shard: what had been committed there. It means nothing to another server, nor to this one after it
// has lost something.
type Mark struct {
	Shard    ledger.ShardID
	System   int64 // the server's identifier
	Timeline int   // that it ran on
	Snapshot string
	LSN      string                       // how far its log was written
	Slots    map[ledger.Slot]ledger.Epoch // that it answered for
	Pending  []ledger.Identity            // sagas that had not ended, of those begun since an earlier mark; few, or the newest
}

// Marked is a snapshot of a part, which a later part may be since.
type Marked interface {
	Snapshot
	// Mark is of the moment of the snapshot. The sagas in it are known once EndedSagas was read.
	Mark() Mark
}

// ErrMarkLost is why a shard cannot say what happened since a mark: it is another server by now, or has lost something.
var ErrMarkLost = errors.New("the mark is lost")

// Snapshot is one shard at one instant. Its methods may be slow, and must not be called at the same time.
type Snapshot interface {
	Standing
	Book
	Lines
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
	// Operations judges CheckOperations, all but the payees' lines of local transfers: see Lines.
	Operations(ctx context.Context, report Reporter) error
	// Accounts judges CheckAccounts and CheckOverdraft.
	Accounts(ctx context.Context, report Reporter) error
	// Sagas judges CheckSagas.
	Sagas(ctx context.Context, report Reporter) error
	// Rows judges CheckRows.
	Rows(ctx context.Context, report Reporter) error
}

// Lines is what local transfers credit their payees with. A local transfer is one operation and two entries on one shard,
// but its ends may move apart later: the operation goes with its payer, the payee's entry with the payee. Streams are of
// the slots that the shard answers for, in no order.
type Lines interface {
	// LineSums streams a hash of each line that an operation calls for, and of each that an entry shows, with the slots of
	// both ends. Equal lines have equal hashes on all shards.
	LineSums(ctx context.Context, found func(payer, payee ledger.Slot, hash uint64, called bool)) error
	// FindLines streams the lines themselves, of payees in some slots.
	FindLines(ctx context.Context, payees map[ledger.Slot]bool, found func(line Line, called bool)) error
	// CountEntries tells how many entries show each line, whoever owns the slots. What none shows is not in the answer.
	CountEntries(ctx context.Context, lines []Line) (map[Line]int64, error)
}

// Line is the payee's side of a local transfer.
type Line struct {
	ledger.Identity
	Payee    ledger.UserID
	Amount   ledger.Amount
	Currency ledger.Currency
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
	State    string // owned, fenced, incoming, moved
	Epoch    ledger.Epoch
	Move     placement.MoveID // that it is under; "" is none
	FencedAt time.Time        // of a fenced one
	Copy     bool             // its rows are not this shard's own: incoming, or moved and not deleted yet
}

// The states of a slot that a shard answers for.
const (
	stateOwned  = "owned"
	stateFenced = "fenced"
)

// Answered tells whether the shard answers for the slot.
func (s Slot) Answered() bool { return s.State == stateOwned || s.State == stateFenced }

// Totals counts and sums a shard.
type Totals struct {
	Counts
	OldestPending time.Time // zero if there is none
	Money         map[ledger.Currency]Money
	Bookings      []Booking // of every move, few as they are
}

// Booking is what a shard has booked against @moved, in one currency, when a move's slots came or went.
type Booking struct {
	Move     placement.MoveID
	Other    ledger.ShardID // where the slots came from or went
	Currency ledger.Currency
	Amount   *big.Int
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
	System   *big.Int // all system sides of operations
	World    *big.Int // the system sides that are @world's
	Transit  *big.Int // the system sides that are @transit's
	Moved    *big.Int // the bookings
	Debited  *big.Int // amounts of applied starts of sagas
	Credited *big.Int // amounts of applied credits
	Refunded *big.Int // amounts of applied refunds
}

// NewMoney returns zeros.
func NewMoney() Money {
	return Money{
		new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int), new(big.Int),
	}
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
