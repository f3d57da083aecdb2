package shard_test

import (
	"context"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/simtest"
	"github.com/saldo-ledger/saldo/shard"
)

// The real shard answers as the pure book does, which is also what the simulator's shards are made of.
func TestConformance(t *testing.T) {
	t.Parallel()
	b := open(t)
	batches := b.Batches()
	defer batches.Close()
	simtest.Conformance(t, func() simtest.Shard { return &conforming{book: b, batches: batches} })
	b.mustBeSound()
}

// conforming is the real shard as the suite wants it. Every second call is one batch, the others a batch for each item; and
// every second pair of calls begins without looking up what is known already.
type conforming struct {
	*book
	batches *shard.Batches
	calls   int
}

func (c *conforming) CreateUser(ctx context.Context, user ledger.UserID) error {
	_, _, err := c.book.CreateUser(ctx, ledger.User{ID: user, Name: string(user)}, c.hold(user))
	return err
}

func (c *conforming) Submit(ctx context.Context, ops []ledger.Operation) []simtest.Answer {
	answers := make([]simtest.Answer, len(ops))
	if c.calls++; c.calls%4 < 2 {
		c.Quiet()
	}
	if c.calls%2 == 0 {
		for i, op := range ops {
			answers[i].Result, answers[i].Err = c.book.Submit(ctx, op, c.holds(op)...)
		}
		return answers
	}
	results, errs := c.batches.Submit(ops, c.holds)
	for i := range ops {
		answers[i] = simtest.Answer{Result: results[i], Err: errs[i]}
	}
	return answers
}

func (c *conforming) Complete(ctx context.Context, ids []ledger.Identity) []simtest.CompleteAnswer {
	answers := make([]simtest.CompleteAnswer, len(ids))
	if c.calls++; c.calls%2 == 0 {
		for i, id := range ids {
			answers[i].State, answers[i].Err = c.book.Complete(ctx, id, c.hold(id.Initiator))
		}
		return answers
	}
	states, errs := c.batches.Complete(ids, c.hold)
	for i := range ids {
		answers[i] = simtest.CompleteAnswer{State: states[i], Err: errs[i]}
	}
	return answers
}

func (c *conforming) Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	return c.book.Transfer(ctx, id)
}
