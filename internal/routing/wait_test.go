package routing_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/routing"
)

func poll(every time.Duration) func(*routing.Config) {
	return func(c *routing.Config) { c.Poll = every }
}

// pair is a system with a payer on s1 and a payee on s2.
func pair(t *testing.T) (s *system, payer, payee ledger.UserID) {
	s = newSystem(t, 2)
	payer, payee = s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
	r := s.router()
	s.create(r, 1_000_000, payer, payee)
	return s, payer, payee
}

type answer struct {
	record ledger.TransferRecord
	err    error
	took   time.Duration
}

// start transfers in the background, and returns when it waits for the end.
func (s *system) start(r *routing.Router, op ledger.Operation, wait time.Duration) <-chan answer {
	s.t.Helper()
	answers := make(chan answer, 1)
	began := time.Now()
	go func() {
		record, _, err := r.Transfer(s.ctx, op, wait)
		answers <- answer{record, err, time.Since(began)}
	}()
	eventually(s.t, "the start is recorded", func() bool {
		_, err := r.Find(s.ctx, op.Identity)
		return err == nil
	})
	time.Sleep(50 * time.Millisecond)
	return answers
}

func TestPollAnswersWhoWaits(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	const every = 200 * time.Millisecond
	r := s.router(poll(every))
	op, other := transfer(payer, payee, "t", 1), transfer(payer, payee, "other", 1)
	nobody := transfer(payer, s.usersOn("s2", 2)[1], "nobody", 1)
	began := time.Now()
	first, twin, otherWaits, refunded := s.start(r, op, long), s.start(r, op, long), s.start(r, other, 2*time.Second), s.start(r, nobody, long)
	s.drain(r, op)
	s.drain(r, nobody)
	for _, answers := range []<-chan answer{first, twin} {
		if a := <-answers; a.err != nil || a.record.Status() != ledger.StatusCompleted {
			t.Errorf("answered %v, %v", a.record.Status(), a.err)
		}
	}
	if a := <-refunded; a.record.Status() != ledger.StatusRefunded || a.record.WhyNot() != ledger.PayeeNotFound {
		t.Errorf("answered %v, %q, %v", a.record.Status(), a.record.WhyNot(), a.err)
	}
	if a := <-otherWaits; a.err != nil || a.record.Status() != ledger.StatusPending || a.took < 2*time.Second {
		t.Errorf("the other is answered %v after %v, %v", a.record.Status(), a.took, a.err)
	}
	if n, polls := s.spies["s1"].looks.Load(), int64(time.Since(began)/every)+2; n > polls {
		t.Errorf("%d queries at %d polls", n, polls)
	}
}

func TestWaitIsNoLongerThanAsked(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(poll(never))
	began := time.Now()
	s.mustBe(r, transfer(payer, payee, "async", 1), 0, ledger.StatusPending, "", false)
	if took := time.Since(began); took > long {
		t.Errorf("wait=0 took %v", took)
	}
	if n := s.spies["s1"].looks.Load(); n != 0 {
		t.Errorf("%d queries without a waiter", n)
	}
	began = time.Now()
	s.mustBe(r, transfer(payer, payee, "sync", 1), 300*time.Millisecond, ledger.StatusPending, "", false)
	if took := time.Since(began); took < 300*time.Millisecond || took > long {
		t.Errorf("wait=300ms took %v", took)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	record, _, err := r.Transfer(ctx, transfer(payer, payee, "gone", 1), never)
	if err != nil || record.Status() != ledger.StatusPending {
		t.Errorf("the caller's end: %v, %v", record.Status(), err)
	}
}

func TestReplayWaitsToo(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(poll(50 * time.Millisecond))
	op, nobody := transfer(payer, payee, "t", 1), transfer(payer, s.usersOn("s2", 2)[1], "nobody", 1)
	s.mustBe(r, op, 0, ledger.StatusPending, "", false)
	s.mustBe(r, nobody, 0, ledger.StatusPending, "", false)
	first, second := s.start(r, op, long), s.start(r, nobody, long)
	s.drain(r, op)
	s.drain(r, nobody)
	if a := <-first; a.record.Status() != ledger.StatusCompleted {
		t.Errorf("answered %v, %v", a.record.Status(), a.err)
	}
	if a := <-second; a.record.Status() != ledger.StatusRefunded || a.record.WhyNot() != ledger.PayeeNotFound {
		t.Errorf("answered %v, %q, %v", a.record.Status(), a.record.WhyNot(), a.err)
	}
	s.mustBe(r, op, time.Second, ledger.StatusCompleted, "", true)
	s.mustBe(r, nobody, time.Second, ledger.StatusRefunded, ledger.PayeeNotFound, true)
	s.mustBe(r, nobody, 0, ledger.StatusRefunded, ledger.PayeeNotFound, true)

	// Why it was given back comes with the start: no second read could fail after something was recorded.
	s.spies["s1"].mu.Lock()
	s.spies["s1"].onFind = func() error { return ledger.Unavailable("down", errLost) }
	s.spies["s1"].mu.Unlock()
	s.mustBe(r, nobody, 0, ledger.StatusRefunded, ledger.PayeeNotFound, true)
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(poll(never))
	waits := s.start(r, transfer(payer, payee, "t", 1), never)
	r.Close()
	if a := <-waits; a.err != nil || a.record.Status() != ledger.StatusPending || a.took > long {
		t.Errorf("answered %v after %v, %v", a.record.Status(), a.took, a.err)
	}
	began := time.Now()
	s.mustBe(r, transfer(payer, payee, "later", 1), never, ledger.StatusPending, "", false)
	if took := time.Since(began); took > long {
		t.Errorf("a closed router waited %v", took)
	}
	r.Close()
}

// A thousand wait at once: they share queries, and nothing is left of them.
func TestManyWaitersShareQueries(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	const every, n = 250 * time.Millisecond, 1000
	r := s.router(poll(every))
	began := time.Now()
	var (
		group   sync.WaitGroup
		started = make(chan ledger.Operation, n)
	)
	for i := range n {
		group.Go(func() {
			op := transfer(payer, payee, ledger.TxID(fmt.Sprint(i)), 1)
			started <- op
			record, _, err := r.Transfer(s.ctx, op, never)
			if err != nil || record.Status() != ledger.StatusCompleted {
				t.Errorf("answered %v, %v", record.Status(), err)
			}
		})
	}
	eventually(t, "all are debited", func() bool {
		return s.ask("s1", `select count(*) from saldo.sagas where state = 1`) == n
	})
	ops := make([]ledger.Operation, n)
	for i := range ops {
		ops[i] = <-started
	}
	s.drainAll(r, ops)
	group.Wait()
	took := time.Since(began)
	looks := s.spies["s1"].looks.Load()
	t.Logf("%d waiters, %d queries in %v", n, looks, took)
	if polls := int64(took/every) + 2; looks > polls {
		t.Errorf("%d queries for %d waiters at %d polls", looks, n, polls)
	}
	time.Sleep(2 * every)
	idle := s.spies["s1"].looks.Load()
	time.Sleep(3 * every)
	if s.spies["s1"].looks.Load() != idle {
		t.Error("it still asks, for nobody")
	}
}

// The home moves while somebody waits, and the shard that is asked does not answer: the wait elapses, nothing worse.
func TestHomeMovesWhileSomebodyWaits(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(poll(50 * time.Millisecond))
	op := transfer(payer, payee, "t", 1)
	waits := s.start(r, op, 2*time.Second)
	s.move(payer, "s2")
	s.drain(r, op)
	if a := <-waits; a.err != nil || a.record.Status() == ledger.StatusRefunded {
		t.Errorf("answered %v, %v", a.record.Status(), a.err)
	}
	s.mustBe(r, op, 0, ledger.StatusCompleted, "", true)
}
