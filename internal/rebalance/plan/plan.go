package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Shard is what a plan must know of a shard.
type Shard struct {
	ID       ledger.ShardID
	Weight   int // at least 1
	Draining bool
}

// Input is what a plan is made of.
type Input struct {
	Shards []Shard
	Owners *placement.Map

	// Moving says where slots that are on their way will be. They count there, and are not planned.
	Moving map[ledger.Slot]ledger.ShardID
	// Barred are the slots that a shard cannot take, since it still holds an older copy.
	Barred map[ledger.ShardID]placement.SlotSet
	// Fixed are slots that stay where they are unless their shard is draining.
	Fixed placement.SlotSet
}

// Step is a number of slots that should go from one shard to another.
type Step struct {
	Source, Target ledger.ShardID
	Slots          placement.SlotSet
	Drains         bool // the source is to have no slots
}

func (s Step) String() string {
	return fmt.Sprintf("%s -> %s: %d slots (%s)", s.Source, s.Target, len(s.Slots), s.Slots)
}

// Make returns the fewest moves of slots that lead to balance, as steps that may be done in any order or left out. First
// come those that empty draining shards. It is empty if there is nothing to do. What is barred or fixed may leave a plan
// short of balance.
func Make(in Input) ([]Step, error) {
	p, err := begin(in)
	if err != nil {
		return nil, err
	}
	if p.balanced() {
		return nil, nil
	}
	p.setTargets()
	return p.pair(), nil
}

// Split cuts a step into steps of at most so many slots.
func Split(step Step, most int) []Step {
	var parts []Step
	for slots := range slices.Chunk(step.Slots, max(most, 1)) {
		part := step
		part.Slots = slices.Clone(slots)
		parts = append(parts, part)
	}
	return parts
}

// state is one shard in a plan.
type state struct {
	Shard
	owned  []ledger.Slot // that may be planned, ascending
	has    int           // slots, with those on their way to it and without those on their way from it
	target int           // slots that it should have
	barred placement.SlotSet
}

type planning struct {
	shards []*state // sorted by id
	owner  [placement.Slots]*state
	weight int // of all that are not draining
	slots  int // that have an owner
}

func begin(in Input) (*planning, error) {
	p := new(planning)
	byID := make(map[ledger.ShardID]*state, len(in.Shards))
	for _, shard := range in.Shards {
		if shard.Weight < 1 {
			return nil, fmt.Errorf("shard %s has weight %d: a weight is at least 1", shard.ID, shard.Weight)
		}
		if byID[shard.ID] != nil {
			return nil, fmt.Errorf("shard %s is there twice", shard.ID)
		}
		s := &state{Shard: shard, barred: in.Barred[shard.ID]}
		byID[shard.ID] = s
		p.shards = append(p.shards, s)
		if !shard.Draining {
			p.weight += shard.Weight
		}
	}
	slices.SortFunc(p.shards, func(a, b *state) int { return cmp.Compare(a.ID, b.ID) })
	for slot := range ledger.Slot(placement.Slots) {
		id := in.Owners.Owner(slot).Shard
		if id == "" {
			continue
		}
		target, moving := in.Moving[slot]
		if moving {
			id = target
		}
		s := byID[id]
		if s == nil {
			return nil, fmt.Errorf("slot %d is shard %s's, which is not registered", slot, id)
		}
		p.owner[slot] = s
		p.slots++
		s.has++
		if !moving && (s.Draining || !in.Fixed.Contains(slot)) {
			s.owned = append(s.owned, slot)
		}
	}
	if p.weight == 0 && p.slots > 0 {
		return nil, fmt.Errorf("all %d shards are draining: add one that can take the slots, or stop draining one", len(p.shards))
	}
	return p, nil
}

// share is the shard's share, rounded down, and what is left of it, in parts of the sum of weights.
func (p *planning) share(s *state) (slots, rest int) {
	if s.Draining || p.weight == 0 {
		return 0, 0
	}
	return p.slots * s.Weight / p.weight, p.slots * s.Weight % p.weight
}

func (p *planning) balanced() bool {
	for _, s := range p.shards {
		slots, rest := p.share(s)
		if s.Draining && s.has > 0 {
			return false
		}
		most := slots + 1
		least := slots - 1
		if rest > 0 {
			least = slots
		}
		if !s.Draining && (s.has > most || s.has < least) {
			return false
		}
	}
	return true
}

// setTargets rounds the shares so that they sum to all slots.
func (p *planning) setTargets() {
	left := p.slots
	var inexact []*state
	for _, s := range p.shards {
		slots, rest := p.share(s)
		s.target = slots
		left -= slots
		if rest > 0 {
			inexact = append(inexact, s)
		}
	}
	slices.SortStableFunc(inexact, func(a, b *state) int {
		if aHas, bHas := a.has > a.target, b.has > b.target; aHas != bHas {
			if aHas {
				return -1
			}
			return 1
		}
		_, aRest := p.share(a)
		_, bRest := p.share(b)
		return cmp.Compare(bRest, aRest)
	})
	for _, s := range inexact[:left] {
		s.target++
	}
}

// pair lets those that have too many give to those that have too few: large to large, so that there are few steps.
func (p *planning) pair() []Step {
	var givers, takers []*state
	for _, s := range p.shards {
		switch {
		case s.has > s.target:
			givers = append(givers, s)
		case s.has < s.target:
			takers = append(takers, s)
		}
	}
	slices.SortStableFunc(givers, func(a, b *state) int {
		if a.Draining != b.Draining {
			if a.Draining {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.has-b.target, a.has-a.target)
	})
	slices.SortStableFunc(takers, func(a, b *state) int { return cmp.Compare(b.target-b.has, a.target-a.has) })
	var steps []Step
	for _, from := range givers {
		for _, to := range takers {
			n := min(from.has-from.target, to.target-to.has)
			if n <= 0 {
				continue
			}
			if slots := p.choose(from, to, n); len(slots) > 0 {
				steps = append(steps, Step{Source: from.ID, Target: to.ID, Slots: slots, Drains: from.Draining})
			}
		}
	}
	return steps
}
