package routing

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// SubmitAll does credits and refunds on the shards of their owners, once each: a runner of sagas repeats those without an
// answer at its own pace. Errors as for Transfer, ErrImpossible, and with a *placement.OwnershipError in its tree what the
// map was wrong about; then there is a newer map when it returns, if the registry answers.
func (r *Router) SubmitAll(ctx context.Context, ops []ledger.Operation) []ledger.Answer {
	return r.eachOnce(ctx, len(ops), func(i int) ledger.UserID { return ops[i].Owner() },
		func(s Shard, at []int, holds []placement.Hold) []ledger.Answer {
			some, held := make([]ledger.Operation, len(at)), make([][]placement.Hold, len(at))
			for i, n := range at {
				some[i], held[i] = ops[n], holds[i:i+1:i+1]
			}
			return s.SubmitAll(tracing.Some(ctx, len(ops), at), some, held)
		})
}

// CompleteAll ends credited sagas at their homes, once each. The State of a Result is the saga's, with an error too, if
// known. Errors as for SubmitAll.
func (r *Router) CompleteAll(ctx context.Context, ids []ledger.Identity) []ledger.Answer {
	return r.eachOnce(ctx, len(ids), func(i int) ledger.UserID { return ids[i].Initiator },
		func(s Shard, at []int, holds []placement.Hold) []ledger.Answer {
			some := make([]ledger.Identity, len(at))
			for i, n := range at {
				some[i] = ids[n]
			}
			return s.CompleteAll(tracing.Some(ctx, len(ids), at), some, holds)
		})
}

// stepPart is what one shard gets of some steps.
type stepPart struct {
	id    ledger.ShardID
	at    []int // in all of them
	holds []placement.Hold
}

// eachOnce does n steps, those of one shard together, each on the shard of its user.
func (r *Router) eachOnce(ctx context.Context, n int, user func(i int) ledger.UserID,
	do func(s Shard, at []int, holds []placement.Hold) []ledger.Answer) []ledger.Answer {
	var parts []stepPart
	m := r.cluster.Map()
	for i := range n {
		id, hold := m.HoldOn(user(i))
		at := slices.IndexFunc(parts, func(p stepPart) bool { return p.id == id })
		if at < 0 {
			at = len(parts)
			parts = append(parts, stepPart{id: id})
		}
		p := &parts[at]
		p.at, p.holds = append(p.at, i), append(p.holds, hold)
	}
	answers := make([]ledger.Answer, n)
	doPart := func(p *stepPart) {
		s, ok := r.cluster.Shard(p.id)
		if !ok {
			for _, i := range p.at {
				answers[i].Err = ledger.Unavailable("the user's shard is not open here: try again", nil)
			}
			return
		}
		for i, answer := range do(s, p.at, p.holds) {
			answers[p.at[i]] = answer
		}
	}
	var group sync.WaitGroup
	for i := range parts {
		if p := &parts[i]; i == len(parts)-1 {
			doPart(p)
		} else {
			group.Go(func() { doPart(p) })
		}
	}
	group.Wait()
	r.learn(ctx, m, answers)
	return answers
}

// learn makes errors what their callers know, and gets a newer map if m was wrong.
func (r *Router) learn(ctx context.Context, m *placement.Map, answers []ledger.Answer) {
	wrong := false
	for i := range answers {
		if answers[i].Err == nil {
			continue
		}
		answers[i].Err = r.strangers(answers[i].Err)
		var refused *placement.OwnershipError
		if errors.As(answers[i].Err, &refused) {
			wrong = true
			r.sayAhead(refused)
		}
	}
	if wrong {
		_ = r.refresh(ctx, m, hurry) // the next try is by whatever map there is
	}
}

// Await returns when it is worth sending steps again that were refused for these slots, or when ctx ends.
func (r *Router) Await(ctx context.Context, slots []ledger.Slot) {
	_ = r.waitAtFence(ctx, time.Now().Add(r.config.FenceWait), slots)
}
