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
// open whether it was done: look again. A record is written with the phase that is told and otherwise as given.
//
// seen is the revision of the view that the move's pair was opened from. If the record of one of its shards is newer, the
// error is ErrShardChanged, nothing was written, and no earlier attempt with the same view can come through any more. A new
// primary accepts nothing before that record says so; so nothing is decided by what a deposed one has told.
type Registry interface {
	// View reads the cluster, linearizably.
	View(ctx context.Context) (*View, error)
	// Plan creates the record of a move that was decided from the view. Nothing else of the cluster's shards or moves may
	// have changed since.
	Plan(ctx context.Context, view *View, move placement.Move) (placement.Move, error)
	// Advance writes a phase before PhaseSwitched or after it, never one that decides. It may go back from PhaseFence to
	// PhaseCatchup, so that a Switch that was sent and not answered can no longer succeed.
	Advance(ctx context.Context, move placement.Move, to placement.Phase, seen int64) (placement.Move, error)
	// Switch gives the slots to the target, and writes their epochs to the record: the commit point.
	Switch(ctx context.Context, move placement.Move, seen int64) (placement.Move, error)
	// Abort gives the slots to the source, at a new epoch, and writes that to the record. A planned move is only ended. Of
	// one in PhaseMark only the cause is written, and its mover aborts it as soon as the source knows of it. Abort needs no
	// leadership, and does not ask which primaries the shards have.
	Abort(ctx context.Context, move placement.Move, cause string) (placement.Move, error)
	// Leads returns ErrNotLeading if this process no longer leads.
	Leads(ctx context.Context) error
	// Forget removes the records of moves that ended long ago.
	Forget(ctx context.Context) error
	// Changed returns a channel that is closed when the cluster looks different from when Changed was called, as far as this
	// process has heard.
	Changed() <-chan struct{}
}

// The errors of a Registry.
var (
	ErrChanged      = errors.New("the cluster has changed since it was read")
	ErrNotLeading   = errors.New("another process leads")
	ErrShardChanged = errors.New("the record of a shard has changed since the connections to it were opened")
)

// View is the cluster at one revision of the registry.
type View struct {
	Revision int64
	Map      *placement.Map
	Shards   []Shard          // sorted by id
	Moves    []placement.Move // sorted by id, ended ones too while they are kept
}

// Shard is what planning and reaching a shard take.
type Shard struct {
	ID       ledger.ShardID
	Weight   int    // its share of the slots relative to the others', at least 1
	Draining bool   // is to have no slots
	Address  string // of its primary
	Timeline int    // that its primary must be on; 0: not known
	Revision int64  // of its record
}

// Shard returns a shard of the view.
func (v *View) Shard(id ledger.ShardID) (Shard, bool) {
	for _, shard := range v.Shards {
		if shard.ID == id {
			return shard, true
		}
	}
	return Shard{}, false
}

// Shards opens the two shards of a move.
type Shards interface {
	// Pair returns the shards of a move for a mover with this token, at the addresses that the view has for them. It does not
	// connect. Close it.
	Pair(view *View, move placement.Move, token int64) (Pair, error)
	// Fenced returns the moves whose slots some reachable shard has had fenced for longer than a time, by that shard's clock;
	// no id for slots that are fenced under no move.
	// The error tells of shards that were not reached; the moves are those of the others.
	Fenced(ctx context.Context, view *View, longer time.Duration) ([]placement.MoveID, error)
	// Uncleaned returns the slots of which a shard still has a copy that is not its own.
	Uncleaned(ctx context.Context, view *View, id ledger.ShardID) (placement.SlotSet, error)
	// Copies returns the moves whose copies those are.
	Copies(ctx context.Context, view *View, id ledger.ShardID) ([]placement.MoveID, error)
}

// Pair is a move's source and target, as its mover uses them. Every method may be called again after an error, or by another
// process that took over, and ends what was begun. Errors that callers tell apart:
//
//	ErrTokenLost  a newer leader's token is there: stop
//	ErrMismatch   the target's rows are not the source's: abort, and keep both for a person to look at
//	ErrBusy       a lock could not be had in time (at most 100 ms): pause, try again
//	ErrNotClean   the target holds another copy of a slot: wait until it was cleaned
//	ErrHalfMarked of Mark, around the target's error: the source knows of the move, the target does not
//	ErrStale      the source is not the server that the copy began with: abort
//	ErrNotFinal   of Activate: the primary that the target has now has not made the final pass; a failover lost it, or more
//	              of the copy. What the source has under its fence, or behind its tombstone, is copied again: Mark,
//	              CopyChunk until zero, Pass, Final, Activate
//	ErrNotActivated
//	              of CleanChunk, for the source's copy: the target does not own a slot, or lost that: this copy may be the
//	              only good one. Activate first
//	ErrSwitchLost of Mark, Unfence and Restore: the target was activated by this move, at an epoch that the registry does not
//	              have. It was set back: nothing may be opened at the source until it was rebuilt
//	*placement.OwnershipError, *placement.StrangerError: the shard does not have the slots as the registry says, or is
//	              another one
type Pair interface {
	// Mark writes move and token to the slots, first at the source, owned at these epochs, then at the target: incoming.
	// With a larger token than the stored one it takes the move over. Slots that are fenced stay so. When the move has been
	// switched the epochs are the decided ones; then the target's slots become incoming at the ones before, if they are not
	// there, and a source that has moved away is only asked for its token.
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
	// Unfence takes Fence back. Slots that are owned stay so. Only while no Switch can succeed: before it was sent, or after
	// the record went back to PhaseCatchup, and after a Mark that was made since a Switch was sent: the target is asked whether
	// it was activated, but not waited for.
	Unfence(ctx context.Context, holds []placement.Hold) error
	// Final is the last pass, under the fence, and compares every account that it touched. It fails if the slots are not
	// fenced by this mover, or moved away and not cleaned.
	Final(ctx context.Context) (copied int, err error)
	// Activate makes the target own the slots at these epochs, and books what came against @moved. Slots that are incoming,
	// at whatever epoch, are not owned yet.
	Activate(ctx context.Context, holds []placement.Hold) error
	// Tombstone makes the source tell that the slots have moved to the target, and books what went against @moved.
	Tombstone(ctx context.Context, holds []placement.Hold) error
	// Restore makes the source own the slots at these epochs, after an abort. The target is asked as by Unfence.
	Restore(ctx context.Context, holds []placement.Hold) error
	// Discard makes the target's copy one that is to be cleaned, after an abort. Where Mark has not come it leaves a clean
	// tombstone at these epochs, so that a Mark that was sent before the abort is refused when it comes.
	Discard(ctx context.Context, holds []placement.Hold) error
	// Activated tells whether the target was activated by this move.
	Activated(ctx context.Context) (bool, error)
	// CleanChunk deletes up to so many rows of the copy that is left: the source's after Tombstone, the target's after
	// Discard. Zero rows: it is clean, and the slots may come back.
	CleanChunk(ctx context.Context, rows int) (deleted int, err error)
	// Progress is how far the copy has come, for people.
	Progress(ctx context.Context) (Progress, error)
	// Close ends the connections.
	Close()
}

// The errors of a Pair; see there.
var (
	ErrTokenLost    = errors.New("another mover has taken the move over")
	ErrMismatch     = errors.New("the copy differs from its source")
	ErrBusy         = errors.New("the shard is busy: its lock could not be had in time")
	ErrNotClean     = errors.New("the shard still holds an older copy of a slot")
	ErrHalfMarked   = errors.New("the source knows of the move, the target does not")
	ErrStale        = errors.New("the source is not the server that the copy began with")
	ErrNotFinal     = errors.New("the target has not the final pass of this move")
	ErrNotActivated = errors.New("the target does not own a slot whose rows were to be deleted at its source")
	ErrSwitchLost   = errors.New("the target was activated by this move, and the registry has lost that: it was set back; " +
		"stop routers and coordinators and say `saldo registry rebuild`")
)

// Progress of a move's copy.
type Progress struct {
	Rows     int64 // copied so far, by all passes
	Expected int64 // by the source's statistics; 0 if unknown
	Passes   int   // since the copy of what was there
	LastPass int   // rows
}
