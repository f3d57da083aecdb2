package shard

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestKnownSlots(t *testing.T) {
	t.Parallel()
	var k knownSlots
	holds := func(holds ...placement.Hold) []placement.Hold { return holds }
	one, other, later := placement.Hold{Slot: 1, Epoch: 1}, placement.Hold{Slot: 2, Epoch: 7}, placement.Hold{Slot: 1, Epoch: 3}
	first, second := revision{1}, revision{2}
	for _, step := range []struct {
		name string
		at   revision // nothing is added if it is zero
		add  []placement.Hold
		ask  []placement.Hold
		want revision
	}{
		{name: "nothing is known", ask: holds(one)},
		{name: "nor nothing at all", ask: holds()},
		{"seen", first, holds(one), holds(one, one), first},
		{name: "one of them was not", ask: holds(one, other)},
		{name: "another epoch", ask: holds(later)},
		{name: "no epoch", ask: holds(placement.Hold{Slot: 3})},
		{"bit by bit", first, holds(other), holds(other, one), first},
		{"what was seen at another revision", second, holds(other), holds(one), revision{}},
		{name: "is forgotten, the rest is not", ask: holds(other), want: second},
		{"the slot comes back", second, holds(later), holds(later, other), second},
		{name: "at another epoch", ask: holds(one)},
	} {
		if step.at != (revision{}) {
			k.add(step.at, step.add)
		}
		if got, ok := k.seen(step.ask); got != step.want || ok != (step.want != revision{}) {
			t.Errorf("%s: %v, %v", step.name, got, ok)
		}
	}
}
