package saga

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Steps does steps on whichever shards their users live on by the live map. Every method may be called again with the same
// arguments, whatever it returned. It tries once and returns when every step has an answer: trying again is the caller's.
//
// An answer's error is about the saga (ErrImpossible, CodeConflict), about the user's slot (a *placement.OwnershipError is
// in its tree), or else about the shard.
type Steps interface {
	// SubmitAll does credits and refunds. A refusal is a Result, not an error.
	SubmitAll(ctx context.Context, ops []ledger.Operation) []ledger.Answer
	// CompleteAll ends sagas whose credits are applied. The State of a Result is the saga's, with an error too, if known.
	CompleteAll(ctx context.Context, ids []ledger.Identity) []ledger.Answer
	// Await returns when it is worth sending steps again that were refused for their slots, which are these, or when ctx
	// ends.
	Await(ctx context.Context, slots []ledger.Slot)
	// ShardOf says where a user lives, to back off from a shard that does not answer.
	ShardOf(user ledger.UserID) ledger.ShardID
}

// act does the next step of each run, and returns the answers in their order.
func act(ctx context.Context, steps Steps, runs []*run) []ledger.Answer {
	var (
		ops []ledger.Operation
		ids []ledger.Identity
	)
	for _, r := range runs {
		if r.action == SendComplete {
			ids = append(ids, r.Identity)
		} else {
			ops = append(ops, r.operation())
		}
	}
	submitting, completing := beginTries(ctx, runs)
	switch {
	case len(ids) == 0:
		answers := steps.SubmitAll(submitting, ops)
		endTries(runs, answers)
		return answers
	case len(ops) == 0:
		answers := steps.CompleteAll(completing, ids)
		endTries(runs, answers)
		return answers
	}
	var (
		both             sync.WaitGroup
		submitted, ended []ledger.Answer
	)
	both.Go(func() { submitted = steps.SubmitAll(submitting, ops) })
	ended = steps.CompleteAll(completing, ids)
	both.Wait()
	answers := make([]ledger.Answer, 0, len(runs))
	for _, r := range runs {
		from := &submitted
		if r.action == SendComplete {
			from = &ended
		}
		answers, *from = append(answers, (*from)[0]), (*from)[1:]
	}
	endTries(runs, answers)
	return answers
}

// strange tells whether an error is about the saga, not the shard, and no waiting mends it.
func strange(err error) bool {
	return errors.Is(err, ledger.ErrImpossible) || ledger.CodeOf(err) == ledger.CodeConflict
}

// refusedSlot tells whether an error is about one slot, not the shard, and which.
func refusedSlot(err error) (ledger.Slot, bool) {
	var refused *placement.OwnershipError
	if err == nil || !errors.As(err, &refused) {
		return 0, false
	}
	return refused.Refusals[0].Slot, true
}

func sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter spreads a wait over its second half, so that those who wait together do not come back together.
func jitter(wait time.Duration) time.Duration {
	return wait/2 + rand.N(wait/2+1)
}
