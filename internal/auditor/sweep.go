package auditor

import (
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// sweep goes round all slots, a few at a time.
type sweep struct {
	at     ledger.Slot       // the next slot of the round
	size   int               // slots of a step
	urgent placement.SlotSet // to be read before
	step   placement.SlotSet // under way
	end    ledger.Slot       // where the step's slots of the round end
	gaps   bool              // a step of the round was not complete
}

// first puts a slot before all others.
func (s *sweep) first(slot ledger.Slot) {
	if !slices.Contains(s.urgent, slot) {
		s.urgent = append(s.urgent, slot)
	}
}

// next returns the slots of the next step, sorted: up to half of them urgent ones.
func (s *sweep) next() placement.SlotSet {
	half := max(s.size/2, 1)
	s.step = slices.Clone(s.urgent[:min(len(s.urgent), half)])
	for s.end = s.at; s.end < placement.Slots && len(s.step) < 2*half; s.end++ {
		if !slices.Contains(s.step, s.end) {
			s.step = append(s.step, s.end)
		}
	}
	slices.Sort(s.step)
	return s.step
}

// done says that the step was read, whether on all shards, and how long that took. It tells whether all slots have been read
// in this round of the sweep, which has ended then.
func (s *sweep) done(complete bool, took, should time.Duration) (round bool) {
	if complete {
		s.urgent = slices.DeleteFunc(s.urgent, func(slot ledger.Slot) bool { return slices.Contains(s.step, slot) })
	}
	if n := min(len(s.urgent), max(s.size/2, 1)); !complete { // others are not kept waiting by those of a shard that is away
		s.urgent = append(s.urgent[n:len(s.urgent):len(s.urgent)], s.urgent[:n]...)
	}
	s.gaps = s.gaps || !complete
	switch {
	case took < should/2:
		s.size = min(2*s.size, 1024)
	case took > should:
		s.size = max(s.size/2, 2)
	}
	if s.at = s.end; s.at < placement.Slots {
		return false
	}
	round = !s.gaps
	s.at, s.gaps = 0, false
	return round
}
