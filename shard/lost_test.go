package shard_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

func isBegin(r request) bool  { return r.begin }
func isCommit(r request) bool { return r.commit }

// throughProxy opens the shard of a fresh database behind a proxy, and the same without it, to look at.
func throughProxy(t testing.TB, change ...func(*shard.Config)) (lane *book, proxy *proxy, direct *book) {
	t.Helper()
	direct = open(t)
	proxy, dsn := via(t, direct.dsn)
	change = append([]func(*shard.Config){func(c *shard.Config) {
		// A session that is lost in its first round holds its locks until the server ends it, after 2 s.
		c.Writers, c.RoundTrip, c.Patience = 1, 400*time.Millisecond, 10*time.Second
	}}, change...)
	lane = openAt(t, dsn, change...)
	return lane, proxy, direct
}

var faults = []struct {
	moment string
	at     func(request) bool
	fault  fault
}{
	{"first round", isBegin, cutRequest},
	{"first round", isBegin, cutAtOnce},
	{"first round", isBegin, cutAnswer},
	{"first round", isBegin, swallowRequest},
	{"first round", isBegin, swallowAnswer},
	{"commit", isCommit, cutRequest},
	{"commit", isCommit, cutAtOnce},
	{"commit", isCommit, cutAnswer},
	{"commit", isCommit, swallowRequest},
	{"commit", isCommit, swallowAnswer},
}

// Whatever is lost on the way, the caller gets the one true outcome, as that of a new operation.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.moment+" "+f.fault.String(), func(t *testing.T) {
			t.Parallel()
			b, proxy, direct := throughProxy(t)
			b.user("alice", "bob")
			b.must(add("alice", "fund", 1000))
			b.must(debit("alice", "saga", "bob", 100))
			b.must(debit("alice", "saga2", "nobody", 100))
			refund := debit("alice", "saga2", "nobody", 100)
			refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.PayeeNotFound
			credit := debit("carol", "from afar", "bob", 5)
			credit.Step, credit.Saga = ledger.StepCredit, false

			cases := []struct {
				name string
				op   ledger.Operation
				want ledger.Outcome
			}{
				{"pay", pay("alice", "t1", "bob", 10), ledger.Outcome{Balance: 790, Version: 4}},
				{"pay too much", pay("alice", "t2", "bob", 10_000), ledger.Outcome{Reason: ledger.InsufficientFunds}},
				{"pay from nobody", pay("ghost", "t3", "bob", 10), ledger.Outcome{Reason: ledger.UserNotFound}},
				{"first money", add("bob", "t4", 1), ledger.Outcome{Balance: 11, Version: 2}},
				{"start", debit("alice", "t5", "bob", 10), ledger.Outcome{Balance: 780, Version: 5}},
				{"credit", credit, ledger.Outcome{Balance: 16, Version: 3}},
				{"refund", refund, ledger.Outcome{Balance: 880, Version: 6}},
			}
			if f.fault == swallowRequest || f.fault == swallowAnswer { // each takes until the server ends the session
				cases = cases[:3]
			}
			for i, c := range cases {
				if i%2 == 0 {
					b.Quiet()
				}
				happened := proxy.once(f.at, f.fault)
				result, err := b.submit(c.op)
				if err != nil || result.Replayed || result.Outcome != c.want {
					t.Errorf("%s: %+v, %v", c.name, result.Outcome, err)
				}
				if c.name == "start" && result.State != ledger.SagaPending {
					t.Errorf("%s: %v", c.name, result.State)
				}
				select {
				case <-happened:
				default:
					t.Errorf("%s: the fault did not happen", c.name)
				}
				proxy.onRequest(nil)
				if again, err := b.submit(c.op); err != nil || !again.Replayed || again.Outcome != c.want {
					t.Errorf("%s again: %+v, %v", c.name, again.Outcome, err)
				}
			}

			proxy.once(f.at, f.fault)
			state, err := b.Complete(t.Context(), ledger.Identity{Initiator: "alice", TxID: "saga"}, b.hold("alice"))
			if err != nil || state != ledger.SagaCompleted {
				t.Errorf("complete: %v, %v", state, err)
			}
			proxy.once(f.at, f.fault)
			_, created, err := b.CreateUser(t.Context(), ledger.User{ID: "dave", Name: "Dave"}, b.hold("dave"))
			if err != nil || !created {
				t.Errorf("create a user: %v, %v", created, err)
			}
			direct.mustBeSound()
			if n := proxy.cancelled(); n != 0 {
				t.Errorf("%d cancel requests", n)
			}
		})
	}
}

// Of several twins in a batch whose answer is lost, one is new.
func TestLostAnswerOfTwins(t *testing.T) {
	t.Parallel()
	b, proxy, direct := throughProxy(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	blocker := session(t, direct.dsn)
	do(t, blocker, "begin")
	do(t, blocker, "select from saldo.accounts for update")
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		fresh = map[string]int{}
	)
	submit := func(op ledger.Operation) {
		group.Go(func() {
			r, err := b.submit(op)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !r.Replayed {
				fresh[string(op.TxID)]++
			}
		})
	}
	submit(pay("alice", "first", "bob", 1)) // stands in front of the others, until they are one batch
	eventually(t, "the lane waits", func() bool {
		return direct.sql(`select count(*)::text from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == "1"
	})
	for i := range 10 {
		for range 3 {
			submit(pay("alice", fmt.Sprint("t", i), "bob", 10))
			submit(pay("ghost", fmt.Sprint("g", i), "bob", 10))
		}
	}
	time.Sleep(20 * time.Millisecond)
	commits := 0
	proxy.onRequest(func(r request) fault {
		if r.commit {
			commits++
			if commits == 2 {
				return cutAnswer
			}
		}
		return pass
	})
	do(t, blocker, "rollback")
	group.Wait()
	for i := range 10 {
		if fresh[fmt.Sprint("t", i)] != 1 || fresh[fmt.Sprint("g", i)] != 1 {
			t.Errorf("new: %v", fresh)
			break
		}
	}
	if got := direct.balance("alice"); got != 899 {
		t.Errorf("alice has %d", got)
	}
	direct.mustBeSound()
}

// When the shard stays away, the answer tells whether something may have been recorded.
func TestShardStaysAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		moment   string
		at       func(request) bool
		fault    fault
		code     ledger.Code
		recorded bool
	}{
		{"first round", isBegin, cutRequest, ledger.CodeUnavailable, false},
		{"first round", isBegin, cutAnswer, ledger.CodeUnavailable, false},
		{"first round", isBegin, swallowAnswer, ledger.CodeUnavailable, false},
		{"commit", isCommit, cutRequest, ledger.CodeUnknown, false},
		{"commit", isCommit, cutAnswer, ledger.CodeUnknown, true},
		{"commit", isCommit, swallowRequest, ledger.CodeUnknown, false},
		{"commit", isCommit, swallowAnswer, ledger.CodeUnknown, true},
	} {
		t.Run(c.moment+" "+c.fault.String(), func(t *testing.T) {
			t.Parallel()
			b, proxy, direct := throughProxy(t, func(c *shard.Config) {
				c.RoundTrip, c.Patience, c.LastPatience = 200*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond
			})
			direct.user("alice", "bob")
			direct.must(add("alice", "fund", 100))
			broken := false
			proxy.onRequest(func(r request) fault {
				switch {
				case broken:
					return cutRequest
				case c.at(r):
					broken = true
					return c.fault
				}
				return pass
			})
			op := pay("alice", "t", "bob", 30)
			if _, err := b.submit(op); ledger.CodeOf(err) != c.code {
				t.Errorf("while it is away: %v", err)
			}
			if _, err := b.submit(pay("alice", "u", "bob", 1)); ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Errorf("another one: %v", err)
			}
			proxy.onRequest(nil)
			var result ledger.Result
			eventually(t, "it is back", func() (ok bool) { // an old session may hold locks until the server ends it
				var err error
				result, err = b.submit(op)
				return err == nil
			})
			if result.Replayed != c.recorded || result.Reason != ledger.Applied || result.Balance != 70 {
				t.Errorf("when it is back: %+v", result)
			}
			if direct.balance("alice") != 70 || direct.balance("bob") != 30 {
				t.Errorf("balances %d and %d", direct.balance("alice"), direct.balance("bob"))
			}
			if got := direct.sql(`select count(*)::text from saldo.operations where tx_id = 'u'`); got != "0" {
				t.Errorf("nothing was recorded, it said, but %s", got)
			}
			direct.mustBeSound()
		})
	}
}

// A request that is on its way for long, and then arrives, finds its transaction gone.
func TestLateCommitDoesNothing(t *testing.T) {
	t.Parallel()
	b, proxy, direct := throughProxy(t, func(c *shard.Config) { c.RoundTrip = 100 * time.Millisecond })
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	proxy.once(isCommit, holdRequest)
	time.AfterFunc(3*time.Second, func() { close(proxy.release) }) // the server has given up on the session after 2 s
	result, err := b.submit(pay("alice", "t", "bob", 30))
	if err != nil || result.Replayed || result.Balance != 70 {
		t.Errorf("%+v, %v", result, err)
	}
	time.Sleep(2 * time.Second)
	if direct.balance("alice") != 70 {
		t.Errorf("alice has %d", direct.balance("alice"))
	}
	direct.mustBeSound()
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers = 1 })
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	blocker := session(t, b.dsn)
	do(t, blocker, "begin")
	do(t, blocker, "select from saldo.accounts for update")

	ctx, cancel := context.WithCancel(t.Context())
	taken := pay("alice", "taken", "bob", 1)
	var group sync.WaitGroup
	group.Go(func() {
		_, err := b.Submit(ctx, taken, b.holds(taken)...)
		if ledger.CodeOf(err) != ledger.CodeUnknown || !errors.Is(err, context.Canceled) {
			t.Errorf("taken: %v", err)
		}
	})
	eventually(t, "the lane waits", func() bool {
		return b.sql(`select count(*)::text from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == "1"
	})
	for i := range 5 {
		queued := pay("alice", fmt.Sprint("queued", i), "bob", 1)
		group.Go(func() {
			_, err := b.Submit(ctx, queued, b.holds(queued)...)
			if ledger.CodeOf(err) != ledger.CodeUnavailable || !errors.Is(err, context.Canceled) {
				t.Errorf("queued: %v", err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	group.Wait()
	do(t, blocker, "rollback")
	if r := b.must(taken); !r.Replayed || r.Balance != 99 {
		t.Errorf("taken: %+v", r)
	}
	if got := b.sql(`select count(*)::text from saldo.operations where tx_id like 'queued%'`); got != "0" {
		t.Errorf("%s withdrawn operations were executed", got)
	}
}
