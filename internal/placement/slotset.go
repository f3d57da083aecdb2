package placement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// SlotSet is a set of slots: ascending, each once. Its text form is their runs, as in "0-127,300".
type SlotSet []ledger.Slot

// NewSlotSet returns the set of the slots.
func NewSlotSet(slots ...ledger.Slot) SlotSet {
	set := SlotSet(slices.Clone(slots))
	slices.Sort(set)
	return slices.Compact(set)
}

// ParseSlotSet reads the text form, in which runs may come in any order and overlap.
func ParseSlotSet(text string) (SlotSet, error) {
	var slots []ledger.Slot
	for run := range strings.SplitSeq(text, ",") {
		from, to, isRun := strings.Cut(strings.TrimSpace(run), "-")
		if !isRun {
			to = from
		}
		first, err := parseSlot(from)
		if err != nil {
			return nil, err
		}
		last, err := parseSlot(to)
		if err != nil {
			return nil, err
		}
		if last < first {
			return nil, fmt.Errorf("slots %q: %d comes after %d", run, first, last)
		}
		for slot := first; slot <= last; slot++ {
			slots = append(slots, slot)
		}
	}
	return NewSlotSet(slots...), nil
}

func parseSlot(text string) (ledger.Slot, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
	if err != nil || n >= Slots {
		return 0, fmt.Errorf("%q is not a slot: slots are 0 to %d, written as in 0-127,300", text, Slots-1)
	}
	return ledger.Slot(n), nil
}

// Contains tells whether the slot is in the set.
func (s SlotSet) Contains(slot ledger.Slot) bool {
	_, ok := slices.BinarySearch(s, slot)
	return ok
}

// Overlaps tells whether the sets have a slot in common.
func (s SlotSet) Overlaps(other SlotSet) bool {
	return slices.ContainsFunc(s, other.Contains)
}

func (s SlotSet) String() string {
	var text strings.Builder
	for i := 0; i < len(s); {
		end := i + 1
		for end < len(s) && s[end] == s[end-1]+1 {
			end++
		}
		if text.Len() > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, "%d", s[i])
		if end > i+1 {
			fmt.Fprintf(&text, "-%d", s[end-1])
		}
		i = end
	}
	return text.String()
}

// MarshalText implements encoding.TextMarshaler.
func (s SlotSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *SlotSet) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSlotSet(string(text))
	return err
}
