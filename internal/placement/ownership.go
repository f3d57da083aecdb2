package placement

import (
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Hold is a caller's belief that a shard owns a slot at an epoch. A shard checks it in the transaction that acts on it.
type Hold struct {
	Slot  ledger.Slot
	Epoch ledger.Epoch
}

// HoldOn returns the hold of a user's slot by this map, and the shard it is held on.
func (m *Map) HoldOn(user ledger.UserID) (ledger.ShardID, Hold) {
	slot := SlotOf(user)
	return m.owners[slot].Shard, Hold{Slot: slot, Epoch: m.owners[slot].Epoch}
}

// Answer is why a shard refused a hold.
type Answer string

const (
	// Moved: the slot is not, or no longer, on this shard. Get a newer map and go where it says.
	Moved Answer = "moved"
	// Fenced: the slot is about to move. Wait a moment, get a newer map, try again.
	Fenced Answer = "fenced"
	// EpochOld: the caller's map is older than the shard. Get a newer one.
	EpochOld Answer = "epoch_old"
	// EpochAhead: the caller's map is NEWER than the shard: the shard lost a write or was restored from a backup.
	// Nothing may be tried again; a person must look.
	EpochAhead Answer = "epoch_ahead"
)

// Refusal is a shard's answer about one slot.
type Refusal struct {
	Slot    ledger.Slot
	Held    ledger.Epoch // by the caller; 0 for a read, which holds no epoch
	Answer  Answer
	Epoch   ledger.Epoch   // the shard's, 0 if it never had the slot
	MovedTo ledger.ShardID // of Moved, if known: for people, since only the registry decides where a slot is
	Move    MoveID         // of Fenced, if known: under which the slot moves, for traces
}

// OwnershipError is returned by a shard that does not own slots as a caller holds them. Nothing was changed.
type OwnershipError struct {
	Refusals []Refusal // at least one
}

func (e *OwnershipError) Error() string {
	var text strings.Builder
	text.WriteString("slots not owned as held:")
	for i, r := range e.Refusals {
		if i == 4 {
			fmt.Fprintf(&text, " … (%d in all)", len(e.Refusals))
			break
		}
		fmt.Fprintf(&text, " %d %s", r.Slot, r.Answer)
		if r.MovedTo != "" {
			fmt.Fprintf(&text, " to %s", r.MovedTo)
		}
		fmt.Fprintf(&text, " (epoch %d)", r.Epoch)
	}
	return text.String()
}

// Ahead tells whether a refusal says that the shard is behind the map.
func (e *OwnershipError) Ahead() bool {
	for _, r := range e.Refusals {
		if r.Answer == EpochAhead {
			return true
		}
	}
	return false
}

// StrangerError is returned when the Postgres behind a shard's address is not that shard, or not its adopted primary:
// another cluster's, another shard's, or one that was promoted and not adopted yet; or one with older tables than this program
// needs. Nothing was changed.
type StrangerError struct {
	Message string
}

func (e *StrangerError) Error() string { return e.Message }
