package placement

import (
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// MoveID names one move for ever.
type MoveID string

// Phase is how far a move has come. The registry has it; package rebalance says what is done in each.
type Phase string

// A move goes down this list, or from any phase before PhaseSwitched to PhaseAborting.
const (
	PhasePlanned  Phase = "planned"  // nothing but the record is there
	PhaseMark     Phase = "mark"     // the shards are being told of the move; not aborted before the source knows
	PhaseCopy     Phase = "copy"     // the source's rows are being copied
	PhaseCatchup  Phase = "catchup"  // what changed meanwhile is
	PhaseFence    Phase = "fence"    // the source's slots are fenced, or about to be, and the last of it is copied
	PhaseSwitched Phase = "switched" // the target owns the slots; the shards are being told
	PhaseClean    Phase = "clean"    // the shards know; the source's copy is kept for a while, then deleted
	PhaseDone     Phase = "done"     // nothing is left to do

	PhaseAborting Phase = "aborting" // the source owns the slots, at a new epoch; the shards are being told, the target's copy deleted
	PhaseAborted  Phase = "aborted"  // nothing is left to do
)

// Before tells whether the slots have not been decided about yet: the move can still be aborted.
func (p Phase) Before() bool {
	return p == PhasePlanned || p == PhaseMark || p == PhaseCopy || p == PhaseCatchup || p == PhaseFence
}

// Ended tells whether nothing is left to do.
func (p Phase) Ended() bool { return p == PhaseDone || p == PhaseAborted }

// Move is one journey of slots from a shard to another, as the registry has it.
type Move struct {
	ID     MoveID         `json:"id"`
	Source ledger.ShardID `json:"source"`
	Target ledger.ShardID `json:"target"`
	Slots  SlotSet        `json:"slots"`
	Phase  Phase          `json:"phase"`
	Paused bool           `json:"paused,omitempty"` // not to be gone on with; a fence is never paused
	Why    string         `json:"why"`              // it was planned: "rebalance", "drain", or what a person said
	Cause  string         `json:"cause,omitempty"`  // why it was aborted, or is to be as soon as that is possible

	Evidence    bool  `json:"evidence,omitempty"`     // after an abort: the target's copy is kept for a while, for a person to look at
	Fenced      bool  `json:"fenced,omitempty"`       // it has been in PhaseFence: its source may have fenced the slots
	FenceMillis int64 `json:"fence_millis,omitempty"` // for which clients had to wait, known once the target owns the slots

	// Epochs are those of the slots, in their order, since the move was decided about: what the shards are to be told. The map
	// may have moved on.
	Epochs Epochs `json:"epochs,omitempty"`

	CreatedAt time.Time  `json:"created_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`   // of PhaseDone and PhaseAborted
	DecidedAt *time.Time `json:"decided_at,omitempty"` // of PhaseSwitched and PhaseAborting
	ToldAt    *time.Time `json:"told_at,omitempty"`    // of PhaseClean: since then both shards know; retention counts from here

	Revision int64 `json:"-"` // of the record; a write compares it
}

// Holds returns the slots of the move at the epochs that were decided, or, while nothing is, at those of a map.
func (v Move) Holds(m *Map) []Hold {
	holds := make([]Hold, len(v.Slots))
	for i, slot := range v.Slots {
		holds[i].Slot = slot
		if v.decided() {
			holds[i].Epoch = v.Epochs[i]
		} else {
			holds[i].Epoch = m.Owner(slot).Epoch
		}
	}
	return holds
}

func (v Move) decided() bool { return len(v.Slots) > 0 && len(v.Epochs) == len(v.Slots) }

// CheckEpochs makes sure that a move has epochs if it was decided about, and only then.
func (v Move) CheckEpochs() error {
	switch decided := v.decided(); {
	case len(v.Epochs) > 0 && !decided:
		return fmt.Errorf("it has %d slots and %d epochs", len(v.Slots), len(v.Epochs))
	case v.Phase.Before() && decided, !v.Phase.Before() && !decided && v.Phase != PhaseAborted:
		return fmt.Errorf("in phase %q it has %d epochs", v.Phase, len(v.Epochs))
	}
	return nil
}

// Occupies tells whether the move keeps its source and its target from other moves. One that is only to be cleaned does
// not, nor does one that is to be aborted as soon as its source can be told of it: a source that is away must not bar its
// target.
func (v Move) Occupies() bool {
	return !v.Phase.Ended() && v.Phase != PhaseClean && (v.Phase != PhaseMark || v.Cause == "")
}
