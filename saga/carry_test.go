package saga_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/saga"
)

// begun returns the sagas of the world's queue, as who has begun them knows them.
func (w *world) begun() []ledger.Saga {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sagas []ledger.Saga
	for _, p := range w.queue {
		sagas = append(sagas, ledger.Saga{Transfer: p.Transfer})
	}
	return sagas
}

func carry(w *world, limit time.Duration) map[ledger.Identity]ledger.Saga {
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	ended := make(map[ledger.Identity]ledger.Saga)
	for _, s := range saga.Carry(ctx, w, w.begun()) {
		ended[s.Identity] = s
	}
	return ended
}

func refused(user ledger.UserID, answer placement.Answer) error {
	return &placement.OwnershipError{Refusals: []placement.Refusal{{Slot: placement.SlotOf(user), Answer: answer}}}
}

func TestCarryEndsWhatAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.nobody("nobody", "b")
		w.user("dead", "c")
		ids := w.open("payee", "nobody", "dead", "payee")
		w.setFault(func(c call) fault {
			if c.shard == "c" {
				return fault{before: errLost}
			}
			return fault{}
		})
		ended := carry(w, time.Second)
		want := map[ledger.Identity]ledger.Saga{
			ids[0]: {State: ledger.SagaCompleted}, ids[1]: {State: ledger.SagaRefunded, Cause: ledger.PayeeNotFound},
			ids[3]: {State: ledger.SagaCompleted},
		}
		for _, id := range ids {
			if got := ended[id]; got.State != want[id].State || got.Cause != want[id].Cause {
				t.Errorf("%v: %v because of %q, want %v because of %q", id, got.State, got.Cause, want[id].State, want[id].Cause)
			}
		}
		if credits, ends := w.count("credit"), w.count("complete")+w.count("refund"); credits != 4 || ends != 3 {
			t.Errorf("%d credits and %d ends were sent", credits, ends)
		}
		w.setFault(nil)
		w.drive(saga.Config{})
		w.within(time.Second, "what was left ends", func() bool { return w.left() == 0 })
		w.check()
	})
}

// Whatever is lost, nothing is said to have ended that has not, and a driver ends the rest.
func TestCarryClaimsNothing(t *testing.T) {
	t.Parallel()
	for _, payee := range []ledger.UserID{"payee", "nobody"} {
		for at := 1; at <= 2; at++ {
			for _, f := range []fault{{before: errLost}, {after: errLost}, {hangs: true}, {before: ledger.Conflict()}} {
				t.Run(fmt.Sprintf("%s at=%d %+v", payee, at, f), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						w := newWorld(t)
						w.user("payee", "a")
						w.nobody("nobody", "a")
						w.open(payee)
						w.setFault(func(c call) fault {
							if c.n == at {
								return f
							}
							return fault{}
						})
						if ended := carry(w, time.Second); len(ended) != 0 {
							t.Errorf("it says that %v have ended", ended)
						}
						if n := w.count("credit") + w.count("complete") + w.count("refund"); n != at {
							t.Errorf("%d steps were sent, not %d", n, at)
						}
						w.drive(saga.Config{})
						w.within(time.Second, "a driver ends it", func() bool { return w.left() == 0 })
						w.check()
					})
				})
			}
		}
	}
}

// While a slot moves the step is sent again; no longer than there is time.
func TestCarryWaitsForASlotThatMoves(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"credit", "complete"} {
		for _, returns := range []bool{true, false} {
			t.Run(fmt.Sprint(what, " returns=", returns), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.user("payee", "a")
					w.user("other", "a")
					w.open("payee", "other")
					began := time.Now()
					w.setFault(func(c call) fault {
						if c.what == what && (!returns || time.Since(began) < 300*time.Millisecond) {
							return fault{before: refused("payee", placement.Fenced)}
						}
						return fault{}
					})
					want, limit := 0, time.Second
					if returns {
						want, limit = 2, 700*time.Millisecond
					}
					if ended := carry(w, time.Second); len(ended) != want {
						t.Errorf("%d have ended", len(ended))
					}
					if took := time.Since(began); took > limit+5*time.Millisecond {
						t.Errorf("it took %v", took)
					}
					if n := w.count(what); n > 2*25 {
						t.Errorf("it was sent %d times", n)
					}
					w.setFault(nil)
					w.drive(saga.Config{})
					w.within(time.Second, "all end", func() bool { return w.left() == 0 })
					w.check()
				})
			})
		}
	}
}

// Who has begun sagas carries them, two drivers work on the same queue without waiting for that, and much is lost.
func TestCarryBesideDrivers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("a1", "a")
				w.user("b1", "b")
				w.nobody("nobody", "b")
				lots := rand.New(rand.NewPCG(seed, 3)) // guarded by the world's mutex
				w.setFault(func(c call) fault {
					switch lots.IntN(8) {
					case 0:
						return fault{before: errLost}
					case 1:
						return fault{after: errLost}
					case 2:
						return fault{before: refused("a1", placement.Fenced)}
					case 3:
						return fault{slow: time.Duration(lots.IntN(int(time.Second)))}
					}
					return fault{}
				})
				var ids []ledger.Identity
				for range 10 {
					ids = append(ids, w.open("a1", "b1", "nobody", "a1", "b1", "a1")...)
				}
				w.drive(saga.Config{Poll: often, Sweep: 5 * time.Second})
				w.drive(saga.Config{Poll: often, Sweep: 5 * time.Second})
				ended := carry(w, 5*time.Second)
				w.within(10*time.Minute, "every saga ends", func() bool { return w.left() == 0 })
				for _, id := range ids {
					stored, _ := w.books["home"].Saga(id)
					if told, ok := ended[id]; ok && (told.State != stored.State || told.Cause != stored.Cause) {
						t.Errorf("%v is %v because of %q, and was said to be %v because of %q", id, stored.State, stored.Cause, told.State, told.Cause)
					}
				}
				w.check()
			})
		})
	}
}
