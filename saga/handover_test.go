package saga_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/saga"
)

// A saga is left to who began it for a time, and not much longer; also when its driver has just begun itself, and when an
// old transaction stays open.
func TestYoungSagasAreLeft(t *testing.T) {
	t.Parallel()
	for name, ran := range map[string]time.Duration{"a new driver": 0, "a driver that runs": 10 * time.Second} {
		for _, open := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.user("payee", "a")
					commit := func() {}
					if open {
						_, commit = w.begin("payee", "payee", "payee", "payee")
					}
					w.drive(saga.Config{Handover: time.Second, Poll: 100 * time.Millisecond, PageSize: 3, Sweep: never})
					time.Sleep(ran)
					for range 50 {
						began := time.Now()
						w.open("payee", "payee", "payee", "payee")
						time.Sleep(time.Second - time.Since(began))
						if n := w.count("credit"); n != 0 {
							t.Fatalf("%d credits were sent within a second", n)
						}
						w.within(300*time.Millisecond, "then they are ended", func() bool { return w.count("complete") == 4 })
						w.mu.Lock()
						w.calls = nil
						w.mu.Unlock()
					}
					commit()
					w.within(300*time.Millisecond, "what is old when it is committed is ended", func() bool { return w.left() == 0 })
					w.check()
				})
			})
		}
	}
}

// What others end in time costs a driver nothing.
func TestCarriedSagasAreNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.user("payee", "a")
		w.drive(saga.Config{Handover: time.Second})
		for range 100 {
			w.open(repeat("payee", 20)...)
			carry(w, time.Second)
			time.Sleep(30 * time.Millisecond)
			w.mu.Lock()
			w.queue = nil // carry takes all of it
			w.mu.Unlock()
		}
		time.Sleep(5 * time.Second)
		if _, rows := w.looked(); rows != 0 || w.left() != 0 {
			t.Errorf("%d rows were read, %d sagas are left", rows, w.left())
		}
	})
}
