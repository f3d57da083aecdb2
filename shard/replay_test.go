package shard_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// What was recorded and is not looked up is answered as it would be if it were.
func TestReplaysWithoutLookUp(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	for _, tx := range []string{"ended", "returned"} {
		b.must(debit("alice", tx, "bob", 1))
	}
	if _, err := b.Complete(t.Context(), ledger.Identity{Initiator: "alice", TxID: "ended"}, b.hold("alice")); err != nil {
		t.Fatal(err)
	}
	refund := debit("alice", "returned", "bob", 1)
	refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.PayeeNotFound
	for _, c := range []struct {
		name string
		op   ledger.Operation
	}{
		{"add", add("alice", "t1", 5)},
		{"pay", pay("alice", "t2", "bob", 60)},
		{"pay what was there only once", pay("alice", "t3", "bob", 30)},
		{"refused", pay("alice", "t4", "bob", 50)},
		{"unknown payer", pay("ghost", "t5", "bob", 50)},
		{"start of a saga", debit("alice", "t6", "bob", 1)},
		{"credit", credit("carol", "t7", "bob", 5)},
		{"refused credit", credit("carol", "t8", "ghost", 5)},
		{"refund", refund},
	} {
		b.Quiet()
		first := b.must(c.op)
		if first.Replayed || b.ExpectsReplays() {
			t.Errorf("%s: %+v; replays expected: %v", c.name, first, b.ExpectsReplays())
		}
		b.must(add("alice", c.name, 1000)) // what was refused would not be now
		b.must(add("bob", c.name, 1000))
		b.Quiet()
		again := b.must(c.op)
		if !again.Replayed || again.Outcome != first.Outcome || again.State != first.State {
			t.Errorf("%s: %+v, and again %+v", c.name, first, again)
		}
		if !b.ExpectsReplays() {
			t.Errorf("%s: the lane does not look up what comes next", c.name)
		}
		other := c.op
		other.Amount++
		b.Quiet()
		if _, err := b.submit(other); ledger.CodeOf(err) != ledger.CodeConflict {
			t.Errorf("%s, with other contents: %v", c.name, err)
		}
	}
	for tx, want := range map[string]ledger.SagaState{"ended": ledger.SagaCompleted, "returned": ledger.SagaRefunded} {
		b.Quiet()
		if r := b.must(debit("alice", tx, "bob", 1)); !r.Replayed || r.State != want {
			t.Errorf("the start of the saga that is %s: %+v", tx, r)
		}
	}
	b.mustBeSound()
}

// One batch: known operations among new ones, twins, a conflict.
func TestBatchWithReplaysWithoutLookUp(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	known := b.must(pay("alice", "known", "bob", 10))
	batches := b.Batches()
	defer batches.Close()
	b.Quiet()
	results, errs := batches.Submit([]ledger.Operation{
		pay("alice", "new", "bob", 20), pay("alice", "known", "bob", 10), pay("alice", "new", "bob", 20),
		pay("alice", "known", "bob", 11), pay("alice", "new", "bob", 21), pay("alice", "newer", "bob", 30),
	}, b.holds)
	for i, want := range []struct {
		replayed bool
		code     ledger.Code
		balance  ledger.Amount
	}{
		{false, "", 70}, {true, "", known.Balance}, {true, "", 70},
		{code: ledger.CodeConflict}, {code: ledger.CodeConflict}, {false, "", 40},
	} {
		if r := results[i]; ledger.CodeOf(errs[i]) != want.code || r.Replayed != want.replayed || r.Balance != want.balance {
			t.Errorf("operation %d: %+v, %v", i, r, errs[i])
		}
	}
	const recorded = `select count(*) || ' in ' || count(distinct tx) from saldo.operations where tx_id like 'new%'`
	if got := b.sql(recorded); got != "2 in 1" {
		t.Errorf("operations and transactions: %s", got)
	}
	b.mustBeSound()
}

// A lane stops to look up when it has met no replay for long, and begins again when it meets one.
func TestLookUpsFollowReplays(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers = 1 })
	b.user("alice")
	for i := range 2 * shard.QuietBatches {
		if i == shard.QuietBatches/2 {
			if r := b.must(add("alice", "0", 1)); !r.Replayed { // begins to count anew
				t.Fatalf("%+v", r)
			}
		}
		want := i < shard.QuietBatches/2+shard.QuietBatches
		if got := b.ExpectsReplays(); got != want {
			t.Fatalf("after %d new operations: replays are expected: %v", i, got)
		}
		b.must(add("alice", fmt.Sprint(i), 1))
	}
	b.must(add("alice", "0", 1))
	if !b.ExpectsReplays() {
		t.Error("a replay does not bring the look-ups back")
	}
	b.must(add("alice", "last", 1))
	if !b.ExpectsReplays() {
		t.Error("one batch without a replay ends the look-ups")
	}
	b.mustBeSound()
}

// Twins that meet in lanes none of which looks them up.
func TestTwinsAtOnceWithoutLookUp(t *testing.T) {
	t.Parallel()
	b := open(t)
	lanes := []*book{b, openAt(t, b.dsn), openAt(t, b.dsn)}
	users := apart(10)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 1000))
	}
	for round := range 20 {
		fresh := make([]atomic.Int64, len(users))
		var group sync.WaitGroup
		for _, lane := range lanes {
			lane.Quiet()
			for i, u := range users {
				group.Go(func() {
					r, err := lane.submit(pay(u, fmt.Sprint("t", round), users[(i+1)%len(users)], 1))
					if err != nil || r.Reason != ledger.Applied {
						t.Errorf("%+v, %v", r, err)
					}
					if !r.Replayed {
						fresh[i].Add(1)
					}
				})
			}
		}
		group.Wait()
		for i := range fresh {
			if n := fresh[i].Load(); n != 1 {
				t.Errorf("round %d: %d of %d twins were new", round, n, len(lanes))
			}
		}
	}
	b.mustBeSound()
}
