package placement_test

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestSlotSetText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"0", "0"},
		{"0-127,300", "0-127,300"},
		{" 7 - 9 , 3", "3,7-9"},
		{"5-9,7-12,13", "5-13"},
		{"4095,0-1", "0-1,4095"},
	} {
		set, err := placement.ParseSlotSet(c.text)
		if err != nil || set.String() != c.want {
			t.Errorf("%q is %q, %v; not %q", c.text, set, err, c.want)
		}
	}
	for _, text := range []string{"", "a", "-1", "4096", "9-7", "1,", "1-2-3", "0x10"} {
		if set, err := placement.ParseSlotSet(text); err == nil {
			t.Errorf("%q is %q, and not refused", text, set)
		}
	}
}

func TestSlotSets(t *testing.T) {
	t.Parallel()
	set := placement.NewSlotSet(9, 3, 9, 4)
	if set.String() != "3-4,9" {
		t.Errorf("the set is %s", set)
	}
	for slot, want := range map[ledger.Slot]bool{3: true, 4: true, 5: false, 9: true, 10: false} {
		if set.Contains(slot) != want {
			t.Errorf("it contains %d: %v", slot, !want)
		}
	}
	if !set.Overlaps(placement.NewSlotSet(1, 9)) || set.Overlaps(placement.NewSlotSet(1, 5)) {
		t.Error("it overlaps with the wrong sets")
	}
}
