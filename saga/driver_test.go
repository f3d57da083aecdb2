package saga_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/telemetry"
	"github.com/saldo-ledger/saldo/saga"
)

const (
	never = 1000 * time.Hour
	often = 5 * time.Millisecond // between polls
)

// Requests and replies are lost, runners die and start again, two of them run at once: every saga ends, once.
func TestEverySagaEndsOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				rng := rand.New(rand.NewPCG(seed, 1))
				for _, payee := range []ledger.UserID{"a1", "a2", "b1", "home1"} {
					w.user(payee, ledger.ShardID(strings.TrimRight(string(payee), "12")))
				}
				w.nobody("nobody", "b")
				lots := rand.New(rand.NewPCG(seed, 2)) // guarded by the world's mutex
				w.setFault(func(call) fault {
					switch lots.IntN(6) {
					case 0:
						return fault{before: errLost}
					case 1:
						return fault{after: errLost}
					case 2:
						return fault{slow: time.Duration(lots.IntN(int(3 * time.Second)))}
					}
					return fault{}
				})
				config := saga.Config{PageSize: 1 + rng.IntN(20), PerPayee: 1 + rng.IntN(40), StepTimeout: time.Second, Sweep: 10 * time.Second}
				for range 10 {
					var payees []ledger.UserID
					for range rng.IntN(30) {
						payees = append(payees, []ledger.UserID{"a1", "a2", "b1", "home1", "nobody"}[rng.IntN(5)])
					}
					_, commit := w.begin(payees...)
					stopOne := w.drive(config)
					stopOther := w.drive(config)
					time.Sleep(time.Duration(rng.IntN(int(time.Second))))
					commit()
					time.Sleep(time.Duration(rng.IntN(int(2 * time.Second))))
					stopOne()
					stopOther()
				}
				w.drive(config)
				w.within(10*time.Minute, "every saga ends", func() bool { return w.left() == 0 })
				w.check()
			})
		})
	}
}

// A runner is killed before and after each of its steps, with the reply lost or the request; the next one ends the saga.
func TestRestartAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, payee := range []ledger.UserID{"payee", "nobody"} {
		for _, done := range []bool{false, true} {
			for at := 1; at <= 2; at++ { // two steps each way
				for again := 0; again <= 2; again++ { // and the next runner is killed as well
					t.Run(fmt.Sprintf("%s done=%v at=%d again=%d", payee, done, at, again), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							w := newWorld(t)
							w.user("payee", "a")
							w.nobody("nobody", "a")
							w.open(payee)
							kill := func(n int) {
								var stop func()
								before := w.count("credit") + w.count("complete") + w.count("refund")
								killed := make(chan struct{})
								w.setFault(func(c call) fault {
									if c.n != before+n {
										return fault{}
									}
									f := fault{before: errLost, hook: func() { close(killed) }}
									if done {
										f.before, f.after = nil, errLost
									}
									return f
								})
								stop = w.drive(saga.Config{})
								select {
								case <-killed:
								case <-time.After(time.Minute): // the saga has ended before
								}
								stop()
							}
							kill(at)
							if again > 0 {
								kill(again)
							}
							w.setFault(nil)
							w.drive(saga.Config{})
							w.within(time.Second, "the saga ends", func() bool { return w.left() == 0 })
							w.check()
						})
					})
				}
			}
		}
	}
}

func TestRefusalLeadsToOneRefundWithItsCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.nobody("nobody", "a")
		ids := w.open("nobody")
		n := 0
		w.setFault(func(c call) fault {
			if n++; c.what == "refund" && n < 5 {
				return fault{after: errLost} // so it is sent again
			}
			return fault{}
		})
		w.drive(saga.Config{})
		w.drive(saga.Config{})
		w.within(time.Second, "the saga ends", func() bool { return w.left() == 0 })
		time.Sleep(2 * time.Second)
		stored, _ := w.books["home"].Saga(ids[0])
		if stored.State != ledger.SagaRefunded || stored.Cause != ledger.PayeeNotFound {
			t.Errorf("the saga is %v because of %q", stored.State, stored.Cause)
		}
		if account := w.books["home"].Account(ledger.AccountKey{User: "payer", Currency: "USD"}); account.Balance != funds || account.Version != 3 {
			t.Errorf("the payer has %+v, not all back by the third entry", account)
		}
		w.check()
	})
}

// A payee's shard that is down, in whatever way, holds up its own sagas only; and all of them end when it is back, also
// those for which there was no room.
func TestDeadPayeeDelaysOnlyItsOwn(t *testing.T) {
	t.Parallel()
	const perPayee, pageSize = 64, 100
	for name, dead := range map[string]fault{"refuses": {before: errLost}, "hangs": {hangs: true}, "is slow": {slow: 9 * time.Second, before: errLost}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("dead", "a")
				w.user("alive", "b")
				w.setFault(func(c call) fault {
					if c.shard == "a" {
						return dead
					}
					return fault{}
				})
				w.open(repeat("dead", 300)...)
				w.drive(saga.Config{Poll: often, PerPayee: perPayee, PageSize: pageSize})
				time.Sleep(time.Second)
				// The queue's head is full of what cannot be done, and more is coming.
				for range 100 {
					w.open(append(repeat("dead", 5), "alive", "alive")...)
					if took := w.within(100*time.Millisecond, "a saga to another shard ends", func() bool { return w.left("b") == 0 }); took > 50*time.Millisecond {
						t.Errorf("a saga to another shard took %v", took)
					}
				}
				pagesBefore, _ := w.looked()
				creditsBefore := w.count("credit")
				time.Sleep(90 * time.Second)
				pages, _ := w.looked()
				// Polls, and 3 sweeps of 9 pages with a look beside each.
				if n := pages - pagesBefore; n > int(90*time.Second/often)+3*2*9+10 {
					t.Errorf("the queue was read %d times in 90 s with nothing to do", n)
				}
				if n := w.count("credit") - creditsBefore; n > 90*perPayee/2 {
					t.Errorf("the dead shard was asked %d times in 90 s", n)
				}
				if most := w.most["a"]; most != perPayee {
					t.Errorf("%d sagas at once toward the dead shard, not %d", most, perPayee)
				}
				w.setFault(nil)
				w.within(25*time.Second, "all end when it is back", func() bool { return w.left() == 0 })
				w.check()
			})
		})
	}
}

// What cannot be done because of the saga itself is no reason to slow the others toward the same shard.
func TestPoisonedSagaDelaysOnlyItself(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{"conflict": ledger.Conflict(), "impossible": fmt.Errorf("%w: test", ledger.ErrImpossible)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("poisoned", "a")
				w.user("healthy", "a")
				poisoned := w.open("poisoned")[0]
				w.setFault(func(c call) fault {
					if c.id == poisoned {
						return fault{before: err}
					}
					return fault{}
				})
				w.drive(saga.Config{Poll: often})
				time.Sleep(time.Minute)
				if n := w.count("credit"); n > 40 {
					t.Errorf("the poisoned credit was sent %d times in a minute", n)
				}
				if n := w.told("a saga does not end"); n < 1 || n > 3 {
					t.Errorf("a person was told %d times in a minute", n)
				}
				for range 20 {
					w.open("healthy")
					if took := w.within(6*time.Second, "a healthy saga ends", func() bool { return w.left("a") == 1 }); took > 20*time.Millisecond {
						t.Errorf("a healthy saga took %v", took)
					}
					time.Sleep(1300 * time.Millisecond)
				}
				w.setFault(nil)
				w.within(6*time.Second, "the poisoned one ends too", func() bool { return w.left() == 0 })
				w.check()
			})
		})
	}
}

// A long queue to a shard that is back costs reads in proportion to its length, and what is new does not wait for it.
func TestLongQueueIsReadInProportion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("dead", "a")
		w.user("alive", "b")
		w.setFault(func(c call) fault {
			if c.shard == "a" {
				return fault{before: errLost}
			}
			return fault{}
		})
		const n, perPayee, pageSize = 3000, 100, 100
		for range n / 50 {
			w.open(repeat("dead", 50)...)
		}
		w.drive(saga.Config{Poll: 20 * time.Millisecond, PerPayee: perPayee, PageSize: pageSize})
		worst := time.Duration(0)
		newOne := func() {
			w.open("alive")
			worst = max(worst, w.within(time.Minute, "a saga to another shard ends", func() bool { return w.left("b") == 0 }))
		}
		for range 40 * 20 { // through two sweeps
			time.Sleep(50 * time.Millisecond)
			newOne()
		}
		if worst > 50*time.Millisecond {
			t.Errorf("a new saga to another shard took %v while the queue was swept", worst)
		}
		w.setFault(nil)
		_, rowsBefore := w.looked()
		began := time.Now()
		worst = 0
		for w.left() > 0 {
			newOne()
			time.Sleep(100 * time.Millisecond)
		}
		_, rows := w.looked()
		t.Logf("%d sagas ended in %v with %d rows read, worst new one %v", n, time.Since(began), rows-rowsBefore, worst)
		if rows-rowsBefore > 6*n {
			t.Errorf("%d rows were read to end %d sagas", rows-rowsBefore, n)
		}
		if worst > 50*time.Millisecond {
			t.Errorf("a new saga to another shard took %v while the queue was worked off", worst)
		}
		w.check()
	})
}

func TestTwoDriversOnOneHome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.nobody("nobody", "a")
		w.drive(saga.Config{PageSize: 7})
		w.drive(saga.Config{PageSize: 11})
		for range 20 {
			w.open(append(repeat("payee", 20), repeat("nobody", 20)...)...)
			time.Sleep(100 * time.Millisecond)
		}
		w.within(2*time.Second, "all end", func() bool { return w.left() == 0 })
		w.check()
	})
}

// Transactions become visible in another order than that of their ids.
func TestLateTransactionIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.drive(saga.Config{Poll: often, Sweep: never, PageSize: 3})
		time.Sleep(10 * time.Second)
		_, commitFirst := w.begin(repeat("payee", 5)...)
		_, commitSecond := w.begin(repeat("payee", 5)...)
		w.open(repeat("payee", 5)...)
		time.Sleep(2 * time.Second)
		if w.left() != 10 {
			t.Fatalf("%d left: the visible ones were not ended", w.left())
		}
		commitSecond()
		w.within(100*time.Millisecond, "the second transaction's end", func() bool { return w.left() == 5 })
		time.Sleep(10 * time.Second)
		commitFirst()
		w.within(100*time.Millisecond, "the first transaction's end", func() bool { return w.left() == 0 })
		// From then on what has been seen is not read again.
		time.Sleep(2 * time.Second)
		pagesBefore, rowsBefore := w.looked()
		time.Sleep(10 * time.Second)
		pages, rows := w.looked()
		if rows != rowsBefore || pages-pagesBefore > int(10*time.Second/often)+1 {
			t.Errorf("%d rows were read in %d pages with nothing to do", rows-rowsBefore, pages-pagesBefore)
		}
		w.check()
	})
}

func TestPollFindsWhatIsNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.drive(saga.Config{Sweep: never})
		time.Sleep(10100 * time.Millisecond)
		w.open("payee")
		w.within(550*time.Millisecond, "the poll finds it", func() bool { return w.left() == 0 })

		// The home cannot be read for a while; nothing that came meanwhile is forgotten.
		w.mu.Lock()
		w.lookErr = errLost
		w.mu.Unlock()
		w.open("payee")
		time.Sleep(time.Minute)
		w.mu.Lock()
		w.lookErr = nil
		w.mu.Unlock()
		w.within(550*time.Millisecond, "the poll finds it when the home is back", func() bool { return w.left() == 0 })
		w.check()
	})
}

// Two durable outcomes contradict each other. A person is told, once a sweep, and nothing is done about it meanwhile, also
// if an old transaction keeps the saga in sight of every look.
func TestContradictionIsToldOncePerSweep(t *testing.T) {
	t.Parallel()
	for name, contradict := range map[string]func(w *world, p saga.Pending){
		"credited and refunded": func(w *world, p saga.Pending) {
			w.apply("home", ledger.Operation{Transfer: p.Transfer, Step: ledger.StepRefund, Cause: ledger.PayeeNotFound})
		},
		"refused and completed": func(w *world, p saga.Pending) {
			w.lives[p.Payee] = "b" // where nobody knows the payee
			if _, err := w.book("home").Complete(p.Identity); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("payee", "a")
				w.user("other", "a")
				_, commitOld := w.begin() // holds the horizon back
				w.open("payee")
				w.mu.Lock()
				contradict(w, w.queue[0]) // and yet the row says pending
				w.mu.Unlock()
				w.drive(saga.Config{Poll: often, PerPayee: 2})
				for range 100 {
					w.open("other", "other", "other", "other")
					for range 10 {
						time.Sleep(10 * time.Millisecond)
					}
				}
				if n := w.told("contradict"); n != 1 {
					t.Errorf("a person was told %d times before the next sweep", n)
				}
				if n := w.count("credit") - 400; n > 2 {
					t.Errorf("it was credited %d times before the next sweep", n)
				}
				time.Sleep(55 * time.Second) // two sweeps
				if n := w.told("contradict"); n != 3 {
					t.Errorf("a person was told %d times in three sweeps", n)
				}
				if w.left() != 1 {
					t.Errorf("%d sagas are left", w.left())
				}
				commitOld()
			})
		})
	}
}

// Each is told, though the log does not repeat itself.
func TestEveryContradictionIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		ids := w.open(slices.Repeat([]ledger.UserID{"payee"}, 30)...)
		w.mu.Lock()
		for _, p := range w.queue {
			w.apply("home", ledger.Operation{Transfer: p.Transfer, Step: ledger.StepRefund, Cause: ledger.PayeeNotFound})
		}
		w.mu.Unlock()
		log, err := telemetry.NewLogger(w, "text", "info")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		saga.NewDriver(w, w, saga.Config{Poll: often, Handover: -1}, log.With("home", "home")).Run(ctx)
		for _, id := range ids {
			if n := w.told(fmt.Sprintf("contradict each other\" home=home initiator=%s tx_id=%s ", id.Initiator, id.TxID)); n != 1 {
				t.Errorf("%v is told %d times", id, n)
			}
		}
	})
}

func TestOldSagaIsToldToAPerson(t *testing.T) {
	t.Parallel()
	for name, dead := range map[string]fault{"refuses": {before: errLost}, "hangs": {hangs: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.user("payee", "a")
				w.open("payee")
				w.setFault(func(call) fault { return dead })
				w.drive(saga.Config{})
				time.Sleep(55 * time.Second)
				if n := w.told("a saga does not end"); n != 0 {
					t.Errorf("a person was told %d times of a young saga", n)
				}
				time.Sleep(25 * time.Second)
				if n := w.told("a saga does not end"); n != 1 {
					t.Errorf("a person was told %d times of an old saga", n)
				}
				time.Sleep(time.Hour)
				if n := w.told("a saga does not end"); n < 5 || n > 60 {
					t.Errorf("a person was told %d times in an hour", n)
				}
			})
		})
	}
}

// Whatever hangs, Run returns when its context ends, and leaves nothing behind (synctest waits for every goroutine).
func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"hangs": {hangs: true}, "refuses": {before: errLost}} {
		for _, after := range []time.Duration{0, 5 * time.Second, 30 * time.Second} { // in a step, in a pause
			t.Run(fmt.Sprint(name, " ", after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.user("payee", "a")
					w.open(repeat("payee", 100)...)
					w.setFault(func(call) fault { return f })
					stop := w.drive(saga.Config{PerPayee: 50, MinPause: time.Minute, MaxPause: time.Hour})
					time.Sleep(after)
					began := time.Now()
					stop()
					if took := time.Since(began); took > 10*time.Millisecond {
						t.Errorf("it took %v", took)
					}
					if w.left() != 100 {
						t.Errorf("%d are left", w.left())
					}
				})
			})
		}
	}
}

// What is new does not try for itself whether a shard that did not answer a moment ago is back.
func TestNewSagasSpareADeadShard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.open("payee")
		w.setFault(func(call) fault { return fault{before: errLost} })
		w.drive(saga.Config{Poll: often})
		time.Sleep(time.Minute)
		n := w.count("credit")
		w.within(10*time.Second, "it was tried again", func() bool { return w.count("credit") > n })
		time.Sleep(10 * time.Millisecond)
		n = w.count("credit")
		w.open(repeat("payee", 100)...)
		time.Sleep(2 * time.Second)
		if got := w.count("credit") - n; got != 0 {
			t.Errorf("%d credits were sent", got)
		}
		w.setFault(nil)
		w.within(10*time.Second, "all end when it is back", func() bool { return w.left() == 0 })
		w.check()
	})
}
