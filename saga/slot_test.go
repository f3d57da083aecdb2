package saga_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/saga"
)

// A slot that is refused, however many sagas wait for it and however long, holds up nobody else on its shard.
func TestRefusedSlotDelaysOnlyItsOwn(t *testing.T) {
	t.Parallel()
	const perPayee, perSlot = 64, 8
	for _, answer := range []placement.Answer{placement.EpochAhead, placement.Fenced, placement.Moved} {
		t.Run(string(answer), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("stuck", "a")
				w.user("other", "a")
				w.setFault(func(c call) fault {
					if c.what == "credit" && w.payeeOf(c.id) == "stuck" {
						return fault{before: refused("stuck", answer)}
					}
					return fault{}
				})
				w.open(repeat("stuck", 500)...)
				w.drive(saga.Config{Poll: often, PerPayee: perPayee, PerSlot: perSlot, PageSize: 100})
				time.Sleep(time.Second)
				for range 100 {
					w.open(append(repeat("stuck", 5), "other", "other")...)
					took := w.within(100*time.Millisecond, "a saga to another slot ends", func() bool { return w.leftTo("other") == 0 })
					if took > 50*time.Millisecond {
						t.Errorf("a saga to another slot took %v", took)
					}
				}
				before := w.count("credit")
				time.Sleep(time.Minute)
				if n := w.count("credit") - before; n > 60*perSlot {
					t.Errorf("the slot was asked %d times in a minute", n)
				}
				w.setFault(nil)
				w.within(10*time.Second, "all end when it answers", func() bool { return w.left() == 0 })
				w.check()
			})
		})
	}
}

// The payer's slot moves after the credit: the end is sent until it is done.
func TestRefusedHomeSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.nobody("nobody", "b")
		w.setFault(func(c call) fault {
			if c.what != "credit" {
				return fault{before: refused("payer", placement.Fenced)}
			}
			return fault{}
		})
		w.open(append(repeat("payee", 50), repeat("nobody", 50)...)...)
		w.drive(saga.Config{PerSlot: 16})
		time.Sleep(5 * time.Second)
		if w.left() != 100 {
			t.Errorf("%d are left", w.left())
		}
		if n := w.count("complete") + w.count("refund"); n > 300 {
			t.Errorf("%d ends were sent", n)
		}
		w.setFault(nil)
		w.within(10*time.Second, "all end when it answers", func() bool { return w.left() == 0 })
		w.check()
	})
}

// A home moves away with its sagas: whoever held them in memory does not send for them for ever, nor complain.
func TestSagasThatHaveMovedAreLetGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.user("slow", "b")
		w.setFault(func(c call) fault {
			return fault{before: ledger.Unavailable("down", errLost)}
		})
		w.open(append(repeat("payee", 20), repeat("slow", 20)...)...)
		stop := w.drive(saga.Config{Poll: often, PerPayee: 10, OldAge: 30 * time.Second, Sweep: time.Hour})
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		w.lives["payer"] = "elsewhere"
		here := w.queue
		w.queue = nil // as a home that no longer owns the slot
		w.mu.Unlock()
		time.Sleep(10 * time.Second) // the longest pause and more
		before := w.count("credit")
		time.Sleep(time.Minute)
		if n := w.count("credit") - before; n > 0 {
			t.Errorf("%d credits for sagas that have moved away", n)
		}
		if w.told("does not end") > 0 {
			t.Error("a person was told")
		}
		// It comes back, with those sagas: they stand in the queue anew.
		w.mu.Lock()
		w.lives["payer"] = "home"
		for _, p := range here {
			p.Cursor.Tx = w.nextTx
			w.queue = append(w.queue, p)
		}
		w.nextTx++
		w.fault = nil
		w.mu.Unlock()
		w.within(10*time.Second, "all end", func() bool { return w.left() == 0 })
		stop()
		w.check()
	})
}

// A saga stands in the queue a second time, behind the horizon, while it is under way: it is carried once.
func TestSagaThatIsSeenTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.setFault(func(c call) fault { return fault{slow: time.Second} })
		w.open(repeat("payee", 20)...)
		w.drive(saga.Config{Poll: often})
		time.Sleep(500 * time.Millisecond) // the credits are under way
		w.mu.Lock()
		for i := range w.queue {
			w.queue[i].Cursor.Tx = w.nextTx
		}
		w.nextTx++
		w.mu.Unlock()
		w.within(10*time.Second, "all end", func() bool { return w.left() == 0 })
		if n := w.count("credit"); n != 20 {
			t.Errorf("%d credits were sent", n)
		}
		w.check()
	})
}

// payeeOf is called by a fault, which holds the world's mutex.
func (w *world) payeeOf(id ledger.Identity) ledger.UserID {
	stored, _ := w.books["home"].Saga(id)
	return stored.Payee
}

func (w *world) leftTo(payee ledger.UserID) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.queue {
		if _, is := w.pending[p.Identity]; is && p.Payee == payee {
			n++
		}
	}
	return n
}
