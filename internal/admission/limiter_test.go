package admission_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/admission"
)

// place does work in turns, as a group commit does: each takes some time, and some more for each unit in it.
type place struct {
	turn, unit time.Duration
	most       int // units in a turn
	queue      chan chan struct{}
}

// work runs the place until stop is called.
func (p *place) work() (stop func()) {
	p.queue = make(chan chan struct{}, 1_000_000)
	go func() {
		for done := range p.queue {
			turn := []chan struct{}{done}
			for len(turn) < p.most && len(p.queue) > 0 {
				turn = append(turn, <-p.queue)
			}
			time.Sleep(p.turn + time.Duration(len(turn))*p.unit)
			for _, done := range turn {
				close(done)
			}
		}
	}()
	return func() { close(p.queue) }
}

func (p *place) do() {
	done := make(chan struct{})
	p.queue <- done
	<-done
}

// outcome is what became of the calls of an open loop.
type outcome struct {
	accepted, refused []time.Duration // how long they took, sorted
}

// offer makes calls at a rate, whatever becomes of them, and waits for all.
func offer(limiter *admission.Limiter, p *place, perSecond int, during time.Duration) (o outcome) {
	var (
		mu    sync.Mutex
		calls sync.WaitGroup
	)
	for range int(during.Seconds() * float64(perSecond)) {
		calls.Go(func() {
			begun := time.Now()
			in := limiter.Enter(context.Background(), 1)
			if in {
				p.do()
				limiter.Leave(1)
			}
			mu.Lock()
			defer mu.Unlock()
			if took := time.Since(begun); in {
				o.accepted = append(o.accepted, took)
			} else {
				o.refused = append(o.refused, took)
			}
		})
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	calls.Wait()
	slices.Sort(o.accepted)
	slices.Sort(o.refused)
	return o
}

func p99(sorted []time.Duration) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*99/100]
}

func TestAcceptedWorkStaysFastWhateverIsOffered(t *testing.T) {
	t.Parallel()
	config := admission.Config{Target: 25 * time.Millisecond, Always: 16, Patience: 25 * time.Millisecond, Waiting: 10_000}
	for name, p := range map[string]place{
		"many in a turn": {turn: time.Millisecond, unit: 400 * time.Microsecond, most: 512},
		"one in a turn":  {turn: 0, unit: time.Millisecond, most: 1},
		"turns too long": {turn: 30 * time.Millisecond, unit: 500 * time.Microsecond, most: 512},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stop := p.work()
				defer stop()
				limiter := admission.New(config)
				// Two turns should fit into the target time: one is waited for, and one is the call's own.
				units := min(p.most, max(config.Always, int((config.Target-2*p.turn)/p.unit))/2)
				turn := p.turn + time.Duration(units)*p.unit
				if p.most == 1 {
					units, turn = 1, p.unit
				}
				capacity := int(float64(units) / turn.Seconds())

				calm := offer(limiter, &p, capacity/2, time.Second)
				if len(calm.refused) > 0 {
					t.Errorf("at half the capacity %d of %d calls are refused", len(calm.refused), capacity/2)
				}
				for _, times := range []int{2, 10} {
					over := offer(limiter, &p, times*capacity, time.Second)
					t.Logf("%2d times %4d/s: %4d accepted, p99 %v; %5d refused, p99 %v",
						times, capacity, len(over.accepted), p99(over.accepted), len(over.refused), p99(over.refused))
					if len(over.accepted) < capacity*9/10 {
						t.Errorf("at %d times the capacity of %d only %d are accepted", times, capacity, len(over.accepted))
					}
					if most := max(config.Target, 2*turn) + config.Patience; p99(over.accepted) > most {
						t.Errorf("at %d times the capacity the p99 of accepted calls is %v, more than %v", times, p99(over.accepted), most)
					}
					if p99(over.refused) > config.Patience {
						t.Errorf("at %d times the capacity a refusal takes %v", times, p99(over.refused))
					}
				}
				time.Sleep(time.Second)
				after := offer(limiter, &p, capacity/2, time.Second)
				if len(after.refused) > 0 || p99(after.accepted) > 2*p99(calm.accepted) {
					t.Errorf("after the overload %d are refused, p99 is %v; before it was %v",
						len(after.refused), p99(after.accepted), p99(calm.accepted))
				}
			})
		})
	}
}

func TestLimitFollowsThePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := admission.Config{Target: 25 * time.Millisecond, Always: 16, Patience: 25 * time.Millisecond, Waiting: 10_000}
		limiter := admission.New(config)
		p := place{unit: 200 * time.Microsecond, most: 1}
		stop := p.work()
		defer stop()
		for _, step := range []struct {
			unit     time.Duration
			accepted int // of 4,000 in half a second, about
			p99      time.Duration
		}{
			{200 * time.Microsecond, 2500, 50 * time.Millisecond},
			{2 * time.Millisecond, 250, 300 * time.Millisecond}, // of those that were let in when it was fast
			{2 * time.Millisecond, 250, 80 * time.Millisecond},
			{200 * time.Microsecond, 2500, 80 * time.Millisecond},
		} {
			p.unit = step.unit
			got := offer(limiter, &p, 8000, 500*time.Millisecond)
			if n := len(got.accepted); n < step.accepted*8/10 || n > step.accepted*13/10 || p99(got.accepted) > step.p99 {
				t.Errorf("at %v for a unit %d are accepted, p99 %v; want %d, %v", step.unit, n, p99(got.accepted), step.accepted, step.p99)
			}
		}
	})
}

func TestTimeWithoutWorkSaysNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limiter := admission.New(admission.Config{Target: 100 * time.Millisecond, Always: 1})
		for range 1000 { // one after the other, at 1,000 a second of work, with long pauses
			if !limiter.Enter(t.Context(), 1) {
				t.Fatal("alone, and refused")
			}
			time.Sleep(time.Millisecond)
			limiter.Leave(1)
			time.Sleep(20 * time.Millisecond)
		}
		if got := enterAll(t, limiter); got < 99 || got > 101 {
			t.Errorf("there is room for %d, want 100", got)
		}
	})
}

// enterAll returns how many single calls are let in.
func enterAll(t *testing.T, limiter *admission.Limiter) (n int) {
	for limiter.Enter(t.Context(), 1) {
		n++
	}
	return n
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	const patience = time.Second
	// begin fills a limiter with one unit, and lets calls wait that say their names when they come in.
	begin := func(t *testing.T, names ...string) (limiter *admission.Limiter, in chan string) {
		limiter = admission.New(admission.Config{Always: 1, Patience: patience, Waiting: 4})
		if !limiter.Enter(t.Context(), 1) {
			t.Fatal("the first is refused")
		}
		in = make(chan string, 10)
		for _, name := range names {
			go func() {
				if limiter.Enter(context.Background(), 1) {
					in <- name
				} else {
					in <- name + " refused"
				}
			}()
			synctest.Wait()
		}
		return limiter, in
	}
	next := func(t *testing.T, in chan string, want string) {
		t.Helper()
		if got := <-in; got != want {
			t.Errorf("next is %q, want %q", got, want)
		}
	}
	cases := map[string]func(t *testing.T){
		"the oldest first": func(t *testing.T) {
			limiter, in := begin(t, "a", "b", "c")
			for _, want := range []string{"a", "b", "c"} {
				limiter.Leave(1)
				next(t, in, want)
			}
		},
		"the newest first while calls are refused": func(t *testing.T) {
			limiter, in := begin(t, "a", "b", "c", "d")
			if limiter.Enter(t.Context(), 1) {
				t.Fatal("one more than may wait is let in")
			}
			for _, want := range []string{"d", "c"} {
				limiter.Leave(1)
				next(t, in, want)
			}
			next(t, in, "a refused")
			next(t, in, "b refused")
		},
		"no longer than its patience": func(t *testing.T) {
			begun := time.Now()
			_, in := begin(t, "a")
			next(t, in, "a refused")
			if took := time.Since(begun); took != patience {
				t.Errorf("that took %v", took)
			}
		},
		"no longer than its context": func(t *testing.T) {
			limiter, in := begin(t)
			begun := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				in <- map[bool]string{true: "let in", false: "refused"}[limiter.Enter(ctx, 1)]
			}()
			synctest.Wait()
			cancel()
			next(t, in, "refused")
			if took := time.Since(begun); took != 0 {
				t.Errorf("that took %v", took)
			}
			limiter.Leave(1)
			if !limiter.Enter(t.Context(), 1) {
				t.Error("who has gone takes room")
			}
		},
		"a large call is let in whole": func(t *testing.T) {
			limiter, in := begin(t)
			go func() {
				if limiter.Enter(context.Background(), 500) {
					in <- "large"
				}
			}()
			synctest.Wait()
			limiter.Leave(1)
			next(t, in, "large")
			go func() {
				if limiter.Enter(context.Background(), 1) {
					in <- "small"
				}
			}()
			synctest.Wait()
			limiter.Leave(500)
			next(t, in, "small")
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, run)
		})
	}
}
