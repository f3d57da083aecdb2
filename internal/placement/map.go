package placement

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Owner is one ownership decision about one slot. The zero Owner means that the slot has none yet.
type Owner struct {
	Shard ledger.ShardID
	Epoch ledger.Epoch
}

// Map is who owns each slot, at one revision of the cluster's registry. It is immutable and safe for concurrent use.
type Map struct {
	revision int64
	owners   [Slots]Owner
}

// NewMap makes a map. A slot that owners does not name has no owner.
func NewMap(revision int64, owners map[ledger.Slot]Owner) (*Map, error) {
	m := &Map{revision: revision}
	for slot, owner := range owners {
		if int(slot) >= Slots {
			return nil, fmt.Errorf("slot %d is not one of %d", slot, Slots)
		}
		if owner.Shard == "" || owner.Epoch < 1 {
			return nil, fmt.Errorf("slot %d has owner %q at epoch %d", slot, owner.Shard, owner.Epoch)
		}
		m.owners[slot] = owner
	}
	return m, nil
}

// Revision is the registry's revision that the map was read at. A larger one is newer.
func (m *Map) Revision() int64 { return m.revision }

// Owner returns who owns a slot.
func (m *Map) Owner(slot ledger.Slot) Owner { return m.owners[slot] }

// OwnerOf returns who owns a user's slot.
func (m *Map) OwnerOf(user ledger.UserID) Owner { return m.owners[SlotOf(user)] }

// Shards returns the ids of the shards that own a slot, sorted.
func (m *Map) Shards() []ledger.ShardID {
	var shards []ledger.ShardID
	for _, r := range m.Ranges() {
		if !slices.Contains(shards, r.Shard) {
			shards = append(shards, r.Shard)
		}
	}
	slices.Sort(shards)
	return shards
}

// Complete tells whether every slot has an owner.
func (m *Map) Complete() bool {
	return !slices.Contains(m.owners[:], Owner{})
}

// Range is a run of slots, First to Last inclusive, with one owner.
type Range struct {
	First, Last ledger.Slot
	Owner
}

// Ranges returns the owned slots as the fewest ranges, in slot order.
func (m *Map) Ranges() []Range {
	var ranges []Range
	for slot, owner := range m.owners {
		if owner == (Owner{}) {
			continue
		}
		slot := ledger.Slot(slot)
		if n := len(ranges); n > 0 && ranges[n-1].Owner == owner && ranges[n-1].Last == slot-1 {
			ranges[n-1].Last = slot
			continue
		}
		ranges = append(ranges, Range{First: slot, Last: slot, Owner: owner})
	}
	return ranges
}

// Found returns the first ownership of a new cluster: the slots spread evenly over the shards as contiguous runs in the
// order of their ids, each at epoch 1. The first shards get the odd slots.
func Found(shards []ledger.ShardID) map[ledger.Slot]Owner {
	shards = slices.Compact(slices.SortedFunc(slices.Values(shards), cmp.Compare[ledger.ShardID]))
	owners := make(map[ledger.Slot]Owner, Slots)
	if len(shards) == 0 {
		return owners
	}
	for slot := range Slots {
		owners[ledger.Slot(slot)] = Owner{Shard: shards[slot*len(shards)/Slots], Epoch: 1}
	}
	return owners
}
