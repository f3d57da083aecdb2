package rebalance

import (
	"context"
	"errors"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Registry is where moves are decided. Its methods that write compare what they were given with what is there; the error
// is ErrChanged if that has changed, and ErrNotLeading if this process no longer leads. Any other error of a write leaves
// open whether it was done: look again.
type Registry interface {
	// View reads the cluster, linearizably.
	View(ctx context.Context) (*View, error)
	// Plan creates the record of a move that was decided from the view. Nothing else of the cluster's shards or moves may
	// have changed since.
	Plan(ctx context.Context, view *View, move placement.Move) (placement.Move, error)
	// Advance writes a phase before PhaseSwitched or after it, never one that decides.
	Advance(ctx context.Context, move placement.Move, to placement.Phase) (placement.Move, error)
	// Switch gives the slots to the target: the commit point.
	Switch(ctx context.Context, move placement.Move) (placement.Move, error)
	// Abort gives the slots to the source, at a new epoch; a planned move is only ended. It needs no leadership.
	Abort(ctx context.Context, move placement.Move, cause string) (placement.Move, error)
	// Changed returns a channel that is closed when the cluster looks different from when Changed was called, as far as this
	// process has heard.
	Changed() <-chan struct{}
}

// The errors of a Registry.
var (
	ErrChanged    = errors.New("the cluster has changed since it was read")
	ErrNotLeading = errors.New("another process leads")
)

// View is the cluster at one revision of the registry.
type View struct {
	Revision int64
	Map      *placement.Map
	Shards   []Shard          // sorted by id
	Moves    []placement.Move // sorted by id, ended ones too while they are kept
}

// Shard is what planning must know of a shard.
type Shard struct {
	ID       ledger.ShardID
	Weight   int  // its share of the slots relative to the others', at least 1
	Draining bool // is to have no slots
}

// Shards opens the two shards of a move.
type Shards interface {
	// Pair returns the shards of a move for a mover with this token. It does not connect. Close it.
	Pair(view *View, move placement.Move, token int64) (Pair, error)
	// Fenced returns the moves whose slots some reachable shard has had fenced for longer than a time, by that shard's clock.
	Fenced(ctx context.Context, view *View, longer time.Duration) ([]placement.MoveID, error)
	// Uncleaned returns the slots of which a shard still has a copy that is not its own.
	Uncleaned(ctx context.Context, view *View, id ledger.ShardID) (placement.SlotSet, error)
}

// Pair is a move's source and target, as its mover uses them. Every method may be called again after an error, or by another
// process that took over, and ends what was begun. Errors that callers tell apart:
//
//	ErrTokenLost  a newer leader's token is there: stop
//	ErrMismatch   the target's rows are not the source's: abort, and keep both for a person to look at
//	ErrBusy       a lock could not be had in time (at most 100 ms): pause, try again
//	ErrNotClean   the target holds another copy of a slot: wait until it was cleaned
//	ErrStale      the source is not the server that the copy began with: abort
//	*placement.OwnershipError, *placement.StrangerError: the shard does not have the slots as the registry says, or is another one
type Pair interface {
	// Mark writes move and token to the slots at both shards: owned at these epochs at the source, incoming at the target.
	// With a larger token than the stored one it takes the move over.
	Mark(ctx context.Context, holds []placement.Hold) error
	// CopyChunk copies the next rows of what was there when the copy began. Zero rows: all is copied.
	CopyChunk(ctx context.Context, rows int) (copied int, err error)
	// Pass copies what changed since the last pass, or since the copy began, up to one snapshot.
	Pass(ctx context.Context) (copied int, err error)
	// VerifyChunk compares history and accounts of some more slots, as of the last pass before the comparison began. It
	// returns how many slots are still to be compared.
	VerifyChunk(ctx context.Context) (left int, err error)
	// Fence stops writes to the slots at the source. Fenced slots stay so.
	Fence(ctx context.Context, holds []placement.Hold) error
	// Unfence takes Fence back. Only before Switch was sent.
	Unfence(ctx context.Context, holds []placement.Hold) error
	// Final is the last pass, under the fence, and compares every account that it touched.
	Final(ctx context.Context) (copied int, err error)
	// Activate makes the target own the slots at these epochs, and books what came against @moved.
	Activate(ctx context.Context, holds []placement.Hold) error
	// Tombstone makes the source tell that the slots have moved to the target, and books what went against @moved.
	Tombstone(ctx context.Context, holds []placement.Hold) error
	// Restore makes the source own the slots at these epochs, after an abort.
	Restore(ctx context.Context, holds []placement.Hold) error
	// Discard makes the target's copy one that is to be cleaned, after an abort.
	Discard(ctx context.Context, holds []placement.Hold) error
	// CleanChunk deletes up to so many rows of the copy that is left: the source's after a switch, the target's after an
	// abort. Zero rows: it is clean.
	CleanChunk(ctx context.Context, rows int) (deleted int, err error)
	// Progress is how far the copy has come, for people.
	Progress(ctx context.Context) (Progress, error)
	// Close ends the connections.
	Close()
}

// The errors of a Pair; see there.
var (
	ErrTokenLost = errors.New("another mover has taken the move over")
	ErrMismatch  = errors.New("the copy differs from its source")
	ErrBusy      = errors.New("the shard is busy: its lock could not be had in time")
	ErrNotClean  = errors.New("the shard still holds an older copy of a slot")
	ErrStale     = errors.New("the source is not the server that the copy began with")
)

// Progress of a move's copy.
type Progress struct {
	Rows     int64 // copied so far, by all passes
	Expected int64 // by the source's statistics; 0 if unknown
	Passes   int   // since the copy of what was there
	LastPass int   // rows
}
