package routing_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/routing"
)

func handover(after time.Duration) func(*routing.Config) {
	return func(c *routing.Config) { c.Handover = after }
}

// No coordinator is there: a router ends what it has begun.
func TestRouterCarriesWhatItBegins(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(handover(long), poll(never))
	nobody := s.usersOn("s2", 2)[1]
	op, refunded, later := transfer(payer, payee, "t", 5), transfer(payer, nobody, "nobody", 7), transfer(payer, payee, "later", 11)
	s.mustBe(r, op, long, ledger.StatusCompleted, "", false)
	s.mustBe(r, op, 0, ledger.StatusCompleted, "", true)
	s.mustBe(r, refunded, long, ledger.StatusRefunded, ledger.PayeeNotFound, false)
	s.mustBe(r, refunded, 0, ledger.StatusRefunded, ledger.PayeeNotFound, true)
	s.mustBe(r, later, 0, ledger.StatusPending, "", false) // nobody waits, and yet it is carried
	eventually(t, "it ends", func() bool {
		found, err := r.Find(s.ctx, later.Identity)
		return err == nil && found.Status() == ledger.StatusCompleted
	})
	if n := s.spies["s1"].looks.Load(); n != 0 {
		t.Errorf("%d queries for what the router knows", n)
	}

	var steps []step
	for i := range 50 {
		steps = append(steps, step{transfer(payer, payee, ledger.TxID(fmt.Sprint(i)), 1), "COMPLETED"},
			step{transfer(payee, payer, ledger.TxID(fmt.Sprint(i)), 1), "COMPLETED"},
			step{transfer(payer, nobody, ledger.TxID(fmt.Sprint("n", i)), 1), "REFUNDED payee_not_found"})
	}
	steps = append(steps, step{steps[0].op, "COMPLETED again"}, step{steps[2].op, "REFUNDED payee_not_found again"})
	s.mustAnswer(r, long, steps...)
	s.mustHave(r, payer, 1_000_000-5-11)
	s.mustHave(r, payee, 1_000_000+5+11)
	s.mustBeConserved()
	if s.log.errors() > 0 {
		t.Error("a person was told")
	}
}

// By an old map, of either end.
func TestRouterCarriesToWhereSlotsHaveMoved(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	r := s.router(handover(long), poll(never))
	payer, payee := s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
	s.create(r, 100, payer, payee)
	s.move(payee, "s3")
	s.mustBe(r, transfer(payer, payee, "1", 1), long, ledger.StatusCompleted, "", false)
	credited := false
	s.spies["s3"].before(func(op ledger.Operation) error { // the home moves while the credit is under way
		if op.Step == ledger.StepCredit && !credited {
			credited = true
			s.move(payer, "s2")
		}
		return nil
	})
	s.mustBe(r, transfer(payer, payee, "2", 1), long, ledger.StatusCompleted, "", false)
	s.mustHave(r, payer, 98)
	s.mustHave(r, payee, 102)
	s.mustBeConserved()
}

// What the router cannot end it leaves in the queue, whether it is told so or waits in vain.
func TestRouterLeavesWhatItCannotEnd(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(handover(500*time.Millisecond), poll(50*time.Millisecond))
	s.spies["s2"].before(func(op ledger.Operation) error {
		switch op.TxID {
		case "lost":
			return ledger.Unknown(errLost)
		case "slow":
			time.Sleep(time.Second)
		}
		return nil
	})
	began := time.Now()
	s.mustBe(r, transfer(payer, payee, "lost", 1), time.Second, ledger.StatusPending, "", false)
	if took := time.Since(began); took < time.Second || took > long {
		t.Errorf("it waited for %v", took)
	}
	credits := s.spies["s2"].submits.Load() + 1
	s.mustBe(r, transfer(payer, payee, "slow", 1), 100*time.Millisecond, ledger.StatusPending, "", false)
	eventually(t, "the slow credit is under way", func() bool { return s.spies["s2"].submits.Load() == credits })
	waits := s.start(r, transfer(payer, payee, "lost", 1), long) // a repeat only waits
	if n := s.spies["s2"].submits.Load() - credits; n != 0 {
		t.Errorf("%d steps for a saga that was left", n)
	}
	s.spies["s2"].before(nil)
	s.drain(r, transfer(payer, payee, "lost", 1))
	s.drain(r, transfer(payer, payee, "slow", 1))
	if a := <-waits; a.err != nil || a.record.Status() != ledger.StatusCompleted {
		t.Errorf("the repeat is answered %v after %v, %v", a.record.Status(), a.took, a.err)
	}
	s.mustHave(r, payee, 1_000_002)
	s.mustBeConserved()
}

func TestCloseEndsCarrying(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(handover(never), poll(never))
	stuck := make(chan struct{})
	s.spies["s2"].before(func(ledger.Operation) error { <-stuck; return errLost })
	waits := s.start(r, transfer(payer, payee, "t", 1), never)
	time.AfterFunc(100*time.Millisecond, func() { close(stuck) })
	r.Close()
	if a := <-waits; a.err != nil || a.record.Status() != ledger.StatusPending || a.took > long {
		t.Errorf("answered %v after %v, %v", a.record.Status(), a.took, a.err)
	}
	s.mustBe(r, transfer(payer, payee, "later", 1), never, ledger.StatusPending, "", false)
}
