package placement_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestEpochsText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]placement.Epochs{
		"2":         {2},
		"2*3":       {2, 2, 2},
		"2,3,2*2,7": {2, 3, 2, 2, 7},
	} {
		var got placement.Epochs
		if err := got.UnmarshalText([]byte(text)); err != nil || !slices.Equal(got, want) || got.String() != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "x", "2*", "2*0", "2*4097", "2*4096,1", "2*99999999999999999999", "1,,2"} {
		var got placement.Epochs
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d epochs", text, len(got))
		}
	}
}

// What was decided stays: the map goes on.
func TestHolds(t *testing.T) {
	t.Parallel()
	owners := placement.Found([]ledger.ShardID{"a"})
	owners[7] = placement.Owner{Shard: "a", Epoch: 5}
	m, err := placement.NewMap(1, owners)
	if err != nil {
		t.Fatal(err)
	}
	move := placement.Move{ID: "m", Slots: placement.NewSlotSet(6, 7), Phase: placement.PhaseCopy}
	if got := move.Holds(m); !slices.Equal(got, []placement.Hold{{Slot: 6, Epoch: 1}, {Slot: 7, Epoch: 5}}) {
		t.Errorf("undecided: %v", got)
	}
	move.Phase, move.Epochs = placement.PhaseClean, placement.Epochs{2, 3}
	value, err := json.Marshal(move)
	if err != nil {
		t.Fatal(err)
	}
	var stored placement.Move
	if err := json.Unmarshal(value, &stored); err != nil {
		t.Fatal(err)
	}
	if got := stored.Holds(m); !slices.Equal(got, []placement.Hold{{Slot: 6, Epoch: 2}, {Slot: 7, Epoch: 3}}) {
		t.Errorf("decided: %v", got)
	}
}
