package placement_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// The vectors pin the hash and the cut. They were computed with the reference implementation's command line tool
// (xxhsum -H64); if one of them changes, every stored cluster would send its users to the wrong shard.
func TestSlotVectors(t *testing.T) {
	t.Parallel()
	vectors := map[ledger.UserID]ledger.Slot{
		"":                                     0xef4,
		"a":                                    0xd24,
		"alice":                                0x73a,
		"bob":                                  0x928,
		"6d7750a1-c3f2-4765-bf8f-33bc80f3f809": 0x2ed,
	}
	for user, want := range vectors {
		if got := placement.SlotOf(user); got != want {
			t.Errorf("SlotOf(%q) = %#x, want %#x", user, got, want)
		}
	}
}

func TestFoundSpreadsEvenly(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 7; n++ {
		var shards []ledger.ShardID
		for i := range n {
			shards = append(shards, ledger.ShardID(fmt.Sprintf("s%d", n-i)))
		}
		m, err := placement.NewMap(1, placement.Found(shards))
		if err != nil {
			t.Fatal(err)
		}
		if !m.Complete() || len(m.Ranges()) != n || len(m.Shards()) != n {
			t.Fatalf("%d shards: ranges %v", n, m.Ranges())
		}
		for _, r := range m.Ranges() {
			if size := int(r.Last-r.First) + 1; size < placement.Slots/n || size > placement.Slots/n+1 {
				t.Errorf("%d shards: %v has %d slots", n, r, size)
			}
		}
	}
}

func TestRangesSayTheMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		owner := rapid.Custom(func(t *rapid.T) placement.Owner {
			return placement.Owner{
				Shard: ledger.ShardID(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "shard")),
				Epoch: ledger.Epoch(rapid.Int64Range(1, 2).Draw(t, "epoch")),
			}
		})
		owners := rapid.MapOf(rapid.Custom(func(t *rapid.T) ledger.Slot {
			return ledger.Slot(rapid.IntRange(0, 20).Draw(t, "slot"))
		}), owner).Draw(t, "owners")
		m, err := placement.NewMap(7, owners)
		if err != nil {
			t.Fatal(err)
		}
		said := map[ledger.Slot]placement.Owner{}
		for i, r := range m.Ranges() {
			for slot := r.First; slot <= r.Last; slot++ {
				said[slot] = r.Owner
			}
			if i > 0 && m.Ranges()[i-1].Last+1 == r.First && m.Ranges()[i-1].Owner == r.Owner {
				t.Fatalf("ranges %d and %d could be one", i-1, i)
			}
		}
		if len(said) != len(owners) {
			t.Fatalf("said %v, want %v", said, owners)
		}
		for slot, owner := range owners {
			if said[slot] != owner || m.Owner(slot) != owner {
				t.Fatalf("slot %d: %v, want %v", slot, said[slot], owner)
			}
		}
	})
}

func TestNewMapRefuses(t *testing.T) {
	t.Parallel()
	for _, owners := range []map[ledger.Slot]placement.Owner{
		{placement.Slots: {Shard: "a", Epoch: 1}},
		{0: {Shard: "", Epoch: 1}},
		{0: {Shard: "a", Epoch: 0}},
	} {
		if _, err := placement.NewMap(1, owners); err == nil {
			t.Errorf("NewMap(%v) succeeded", owners)
		}
	}
}

func TestOwnershipErrorSaysWhere(t *testing.T) {
	t.Parallel()
	err := &placement.OwnershipError{Refusals: []placement.Refusal{
		{Slot: 7, Answer: placement.Fenced, Epoch: 1}, {Slot: 8, Answer: placement.Moved, Epoch: 2, MovedTo: "s2"},
	}}
	if got, want := err.Error(), "slots not owned as held: 7 fenced (epoch 1) 8 moved to s2 (epoch 2)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
