package plan

import (
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// run is slots that follow each other.
type run struct {
	first ledger.Slot
	size  int
}

// choose takes n slots from one shard for another, or as many as there are, in the fewest runs. If a run has to be cut, the
// part goes that lies beside what the target has, or else its end.
func (p *planning) choose(from, to *state, n int) placement.SlotSet {
	var chosen []ledger.Slot
	for n > 0 {
		runs := runsOf(from.owned, to.barred)
		if len(runs) == 0 {
			break
		}
		best := slices.MaxFunc(runs, func(a, b run) int {
			// The smallest of those that suffice; or else the largest.
			if aEnough, bEnough := a.size >= n, b.size >= n; aEnough && bEnough {
				return b.size - a.size
			}
			return a.size - b.size
		})
		taken := best
		taken.size = min(best.size, n)
		if beforeIt := best.first > 0 && p.owner[best.first-1] == to; taken.size < best.size && !beforeIt {
			taken.first = best.first + ledger.Slot(best.size-taken.size)
		}
		for i := range taken.size {
			slot := taken.first + ledger.Slot(i)
			chosen = append(chosen, slot)
			p.owner[slot] = to
		}
		from.owned = slices.DeleteFunc(from.owned, func(slot ledger.Slot) bool { return p.owner[slot] == to })
		n -= taken.size
		from.has -= taken.size
		to.has += taken.size
	}
	return placement.NewSlotSet(chosen...)
}

// runsOf returns the slots as runs, without those that are barred.
func runsOf(slots []ledger.Slot, barred placement.SlotSet) []run {
	var runs []run
	for _, slot := range slots {
		if barred.Contains(slot) {
			continue
		}
		if last := len(runs) - 1; last >= 0 && runs[last].first+ledger.Slot(runs[last].size) == slot {
			runs[last].size++
			continue
		}
		runs = append(runs, run{first: slot, size: 1})
	}
	return runs
}
