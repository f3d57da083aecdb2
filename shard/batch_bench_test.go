package shard_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// BenchmarkBatch is what a batch costs this process: one caller and one writer, so what is submitted together stands
// together, and the allocations hardly ever differ by one. The last part of a name is the number of operations. The server
// does not flush: the times say little.
func BenchmarkBatch(b *testing.B) {
	dsn := pgtest.Database(b, nil)
	prepare(b, dsn)
	book := openAt(b, dsn, func(c *shard.Config) { c.Writers = 1 })
	users, funds := make([]ledger.UserID, 200), make([]ledger.Operation, 200)
	for i := range users {
		users[i] = benchUser(i)
		funds[i] = add(users[i], "fund", 1<<40)
	}
	book.user(users...)
	book.together(funds)

	batches := 0
	for _, work := range []struct {
		name string
		make func(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation
		n    int
	}{
		{"local", pay, 1}, {"local", pay, 100}, {"start", debit, 100}, {"credit", credit, 100},
	} {
		b.Run(fmt.Sprintf("%s/%d", work.name, work.n), func(b *testing.B) {
			batch := func() []ledger.Operation {
				batches++
				ops := make([]ledger.Operation, work.n)
				for i := range ops {
					ops[i] = work.make(users[2*i], fmt.Sprintf("%d-%d", batches, i), users[2*i+1], 1)
				}
				return ops
			}
			for range 10 { // the connection prepares its statements
				book.together(batch())
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ops := batch()
				b.StartTimer()
				book.together(ops)
			}
		})
	}
}

func credit(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, tx, payee, amount)
	op.Step = ledger.StepCredit
	return op
}

// together submits operations that must all be applied.
func (b *book) together(ops []ledger.Operation) {
	b.t.Helper()
	holds := make([][]placement.Hold, len(ops))
	for i, op := range ops {
		holds[i] = b.holds(op)
	}
	for i, a := range b.SubmitAll(context.Background(), ops, holds) {
		if a.Err != nil || a.Result.Reason != ledger.Applied || a.Result.Replayed {
			b.t.Fatalf("%+v: %+v", ops[i], a)
		}
	}
}
