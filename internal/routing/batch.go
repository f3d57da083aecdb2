package routing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// TransferAll does the starts of several transfers, each as Transfer does it, and answers them in their order: Err is what
// Transfer would return. It waits once for all sagas.
//
// Starts of one initiator are done in their order; only a payee's slot that moves meanwhile may let a later one pass. Of
// starts with the same identity the first counts, also if nothing was recorded of it. Starts of different initiators have no
// order.
func (r *Router) TransferAll(ctx context.Context, starts []ledger.Operation, wait time.Duration) []ledger.Answer {
	answers := make([]ledger.Answer, len(starts))
	once, again := distinct(starts)
	r.startAll(ctx, starts, once, answers)
	r.startAll(ctx, starts, withFirst(starts, once, again, answers), answers)
	results := make([]*ledger.Result, 0, len(answers))
	for i := range answers {
		if answers[i].Err == nil {
			results = append(results, &answers[i].Result)
		}
	}
	r.finish(ctx, results, wait)
	return answers
}

// distinct returns the indexes of the starts whose identity is the first of its kind, and of the others.
func distinct(starts []ledger.Operation) (once, again []int) {
	known := make(map[ledger.Identity]struct{}, len(starts))
	once = make([]int, 0, len(starts))
	for i := range starts {
		known[starts[i].Identity] = struct{}{}
		if len(known) > len(once) {
			once = append(once, i)
		} else {
			again = append(again, i)
		}
	}
	return once, again
}

// withFirst returns those of the starts at again whose first was recorded, or may have been: the shard compares them with
// that. The others are answered as their first was: no later one takes its place.
func withFirst(starts []ledger.Operation, once, again []int, answers []ledger.Answer) (rest []int) {
	if len(again) == 0 {
		return nil
	}
	left := make(map[ledger.Identity]error)
	for _, at := range once {
		if code := ledger.CodeOf(answers[at].Err); code == ledger.CodeUnavailable || code == ledger.CodeOverloaded {
			left[starts[at].Identity] = answers[at].Err
		}
	}
	for _, at := range again {
		if err := left[starts[at].Identity]; err != nil {
			answers[at].Err = err
		} else {
			rest = append(rest, at)
		}
	}
	return rest
}

// startAll does the open ones of the starts, given by their indexes in ascending order, and fills in their answers.
func (r *Router) startAll(ctx context.Context, starts []ledger.Operation, open []int, answers []ledger.Answer) {
	for p := (pursuit{}); len(open) > 0; {
		m := r.cluster.Map()
		r.tryAll(ctx, m, starts, open, answers)
		open = r.followAll(ctx, &p, m, open, answers)
	}
}

// part is what one shard gets of the starts.
type part struct {
	id    ledger.ShardID
	shard Shard
	at    []int // in starts
	ops   []ledger.Operation
	holds [][]placement.Hold
}

// tryAll submits the open starts once, each at its home by the map.
func (r *Router) tryAll(ctx context.Context, m *placement.Map, starts []ledger.Operation, open []int, answers []ledger.Answer) {
	parts := r.split(m, starts, open, answers)
	holds := make([]placement.Hold, 0, 2*len(open))
	for i := range parts {
		p := &parts[i]
		p.ops, p.holds = make([]ledger.Operation, len(p.at)), make([][]placement.Hold, len(p.at))
		for j, at := range p.at {
			p.ops[j] = starts[at]
			begin := len(holds)
			holds = aim(m, &p.ops[j], holds)
			p.holds[j] = holds[begin:len(holds):len(holds)]
		}
	}
	var group sync.WaitGroup
	for i := range parts {
		if p := &parts[i]; i == len(parts)-1 {
			r.submit(ctx, p, answers)
		} else {
			group.Go(func() { r.submit(ctx, p, answers) })
		}
	}
	group.Wait()
}

func (r *Router) submit(ctx context.Context, p *part, answers []ledger.Answer) {
	for i, answer := range p.shard.SubmitAll(ctx, p.ops, p.holds) {
		answer.Err = r.strangers(answer.Err)
		answers[p.at[i]] = answer
	}
}

// split groups the open starts by their homes, and answers those that have none.
func (r *Router) split(m *placement.Map, starts []ledger.Operation, open []int, answers []ledger.Answer) []part {
	var parts []part
	for _, at := range open {
		id, hold := m.HoldOn(starts[at].Initiator)
		i := slices.IndexFunc(parts, func(p part) bool { return p.id == id })
		if i < 0 {
			shard, err := r.shard(id, hold.Slot)
			if err != nil {
				answers[at] = ledger.Answer{Err: err}
				continue
			}
			i = len(parts)
			parts = append(parts, part{id: id, shard: shard})
		}
		parts[i].at = append(parts[i].at, at)
	}
	return parts
}

// followAll is follow for all of the open starts that were refused by map m: it returns those that should be made again,
// and answers those that should not. They share one pursuit. If some wait for a move and others only for a newer map, all
// are made again with that: nobody waits for the slots of others.
func (r *Router) followAll(ctx context.Context, p *pursuit, m *placement.Map, open []int, answers []ledger.Answer) (again []int) {
	var (
		ahead, waiting, others []int // as follow tells them apart
		slots                  []ledger.Slot
	)
	for _, at := range open {
		var refused *placement.OwnershipError
		switch err := answers[at].Err; {
		case !errors.As(err, &refused) || ledger.CodeOf(err) == ledger.CodeUnknown: // that is the answer
		case refused.Ahead():
			ahead = append(ahead, at)
		default:
			n := len(slots)
			if slots = fenced(slots, refused); len(slots) > n {
				waiting = append(waiting, at)
			} else {
				others = append(others, at)
			}
		}
	}
	give := func(some []int, follow func(err error) error) (gaveUp bool) {
		if len(some) == 0 {
			return false
		}
		err := follow(answers[some[0]].Err)
		if err == nil {
			again = append(again, some...)
			return false
		}
		for _, at := range some {
			answers[at].Err = err
		}
		return true
	}
	for _, at := range ahead {
		give([]int{at}, func(err error) error {
			var refused *placement.OwnershipError
			errors.As(err, &refused)
			return r.follow(ctx, p, m, refused, err)
		})
	}
	gaveUp := give(others, func(err error) error { return r.renewMap(ctx, p, m, err) })
	give(waiting, func(err error) error {
		if len(others) > 0 && !gaveUp {
			return nil
		}
		return r.awaitMove(ctx, p, slots, err)
	})
	slices.Sort(again)
	return again
}
