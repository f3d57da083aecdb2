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
	for name, test := range map[string]struct {
		place
		always   int
		capacity int           // units in a second, if there is always as much under way as is let in
		most     time.Duration // p99 of what is accepted
		share    float64       // of the capacity that is accepted at least
	}{
		"many in a turn": {place{turn: time.Millisecond, unit: 400 * time.Microsecond, most: 512}, 16, 2300, 40 * time.Millisecond, 0.9},
		"one in a turn":  {place{turn: 0, unit: time.Millisecond, most: 1}, 16, 1000, 40 * time.Millisecond, 0.9},
		// The target is ten times as long as a turn, 100 ms.
		"turns take long": {place{turn: 10 * time.Millisecond, unit: 200 * time.Microsecond, most: 512}, 64, 4000, 150 * time.Millisecond, 0.75},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stop := test.work()
				defer stop()
				limiter := admission.New(admission.Config{Target: 25 * time.Millisecond, Always: test.always, Waiting: 3 * test.always / 4})
				offer(limiter, &test.place, 2, time.Second) // one by one

				calm := offer(limiter, &test.place, test.capacity/2, time.Second)
				if len(calm.refused) > 0 {
					t.Errorf("at half the capacity %d of %d calls are refused", len(calm.refused), test.capacity/2)
				}
				for _, times := range []int{2, 10} {
					over := offer(limiter, &test.place, times*test.capacity, time.Second)
					t.Logf("%2d times %4d/s: %4d accepted, p50 %v, p99 %v; %5d refused, p99 %v", times, test.capacity,
						len(over.accepted), over.accepted[len(over.accepted)/2], p99(over.accepted), len(over.refused), p99(over.refused))
					if least := int(test.share * float64(test.capacity)); len(over.accepted) < least {
						t.Errorf("at %d times the capacity %d are accepted, fewer than %d", times, len(over.accepted), least)
					}
					if p99(over.accepted) > test.most {
						t.Errorf("at %d times the capacity the p99 of accepted calls is %v, more than %v", times, p99(over.accepted), test.most)
					}
					if got := over.refused[len(over.refused)/2]; got > 0 {
						t.Errorf("at %d times the capacity a refusal takes %v", times, got)
					}
				}
				time.Sleep(8 * time.Second)
				after := offer(limiter, &test.place, test.capacity/2, time.Second)
				if len(after.refused) > 0 || p99(after.accepted) > p99(calm.accepted)*11/10 {
					t.Errorf("after the overload %d are refused, p99 is %v; before it was %v",
						len(after.refused), p99(after.accepted), p99(calm.accepted))
				}
			})
		})
	}
}

func TestABurstIsDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limiter := admission.New(admission.Config{Target: 25 * time.Millisecond, Always: 16, Waiting: 84})
		p := place{unit: time.Millisecond, most: 1}
		stop := p.work()
		defer stop()
		for range 3 {
			got := offer(limiter, &p, 1_000_000, 100*time.Microsecond) // 100 at once
			if len(got.refused) > 0 {
				t.Errorf("%d of a burst of 100 are refused", len(got.refused))
			}
		}
	})
}

func TestTheLimitFollowsThePlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limiter := admission.New(admission.Config{Target: 25 * time.Millisecond, Always: 16, Waiting: 12})
		p := place{unit: 200 * time.Microsecond, most: 1}
		stop := p.work()
		defer stop()
		for _, step := range []struct {
			unit     time.Duration
			accepted int // of 4,000 in half a second, about
			p99      time.Duration
		}{
			{200 * time.Microsecond, 2500, 40 * time.Millisecond},
			{2 * time.Millisecond, 250, 250 * time.Millisecond}, // of those that were let in when it was fast
			{2 * time.Millisecond, 250, 60 * time.Millisecond},
			{200 * time.Microsecond, 2500, 60 * time.Millisecond},
		} {
			p.unit = step.unit
			got := offer(limiter, &p, 8000, 500*time.Millisecond)
			if n := len(got.accepted); n < step.accepted*8/10 || n > step.accepted*13/10 || p99(got.accepted) > step.p99 {
				t.Errorf("at %v for a unit %d are accepted, p99 %v; want %d, %v", step.unit, n, p99(got.accepted), step.accepted, step.p99)
			}
		}
	})
}

func TestWhatIsMeasured(t *testing.T) {
	t.Parallel()
	const target = 100 * time.Millisecond
	for name, test := range map[string]struct {
		calls, units int
		takes, pause time.Duration
		last         time.Duration // that one more call takes
		room         int
	}{
		"nothing":                      {room: 1},
		"time without work is no time": {calls: 1000, units: 1, takes: time.Millisecond, pause: 20 * time.Millisecond, room: 100},
		"calls of many units":          {calls: 100, units: 50, takes: 10 * time.Millisecond, pause: time.Second, room: 500},
		"less than can be measured":    {calls: 10_000, units: 1, takes: 100 * time.Microsecond, pause: time.Second, room: 1000},
		// Ten times as long is the target.
		"alone, a call takes long": {calls: 100, units: 1, takes: 50 * time.Millisecond, pause: time.Second, room: 10},
		"alone, one does not":      {calls: 100, units: 1, takes: 50 * time.Millisecond, pause: time.Second, last: 10 * time.Millisecond, room: 3},
		"alone, too long":          {calls: 100, units: 1, takes: 2 * time.Second, pause: time.Second, room: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				limiter := admission.New(admission.Config{Target: target, Always: 1})
				call := func(takes time.Duration) {
					if !limiter.Enter(t.Context(), test.units) {
						t.Fatal("alone, and refused")
					}
					time.Sleep(takes)
					limiter.Leave(test.units)
				}
				for range test.calls {
					call(test.takes)
					time.Sleep(test.pause)
				}
				if test.last > 0 {
					call(test.last)
				}
				room := 0
				for limiter.Enter(t.Context(), 1) {
					room++
				}
				if room < test.room*98/100 || room > test.room*102/100 {
					t.Errorf("there is room for %d, want %d", room, test.room)
				}
			})
		})
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	const patience = time.Second
	// begin fills a limiter with two units, and lets calls wait that say their names when they come in.
	begin := func(t *testing.T, names ...string) (limiter *admission.Limiter, in chan string) {
		limiter = admission.New(admission.Config{Target: 1, Always: 2, Patience: patience, Waiting: 4})
		for range 2 {
			if !limiter.Enter(t.Context(), 1) {
				t.Fatal("refused though there is room")
			}
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
	refused := func(t *testing.T, limiter *admission.Limiter) {
		t.Helper()
		begun := time.Now()
		if limiter.Enter(t.Context(), 1) || time.Since(begun) > 0 {
			t.Errorf("not refused at once, but let in or refused after %v", time.Since(begun))
		}
	}
	cases := map[string]func(t *testing.T){
		"the oldest first": func(t *testing.T) {
			limiter, in := begin(t, "a", "b", "c", "d")
			for _, want := range []string{"a", "b", "c", "d"} {
				limiter.Leave(1)
				next(t, in, want)
			}
		},
		"nobody, when the waiting room is full": func(t *testing.T) {
			limiter, in := begin(t, "a", "b", "c", "d")
			refused(t, limiter)
			limiter.Leave(1) // there is room for one in all
			limiter.Leave(1)
			next(t, in, "a")
			refused(t, limiter)
			for _, want := range []string{"b", "c", "d"} {
				limiter.Leave(1)
				next(t, in, want)
			}
			refused(t, limiter) // though nobody waits
			limiter.Leave(1)
			if !limiter.Enter(t.Context(), 1) {
				t.Error("refused though there is room")
			}
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
		"who has gone takes no place in the waiting room": func(t *testing.T) {
			limiter, in := begin(t, "a", "b", "c", "d")
			for range 4 {
				<-in
			}
			go func() {
				if limiter.Enter(context.Background(), 1) {
					in <- "e"
				}
			}()
			synctest.Wait()
			limiter.Leave(1)
			next(t, in, "e")
		},
		"a large call is let in whole": func(t *testing.T) {
			limiter, in := begin(t)
			for name, units := range map[string]int{"large": 500} {
				go func() {
					if limiter.Enter(context.Background(), units) {
						in <- name
					}
				}()
			}
			synctest.Wait()
			limiter.Leave(1)
			next(t, in, "large")
			limiter.Leave(1)
			limiter.Leave(499)
			if !limiter.Enter(t.Context(), 1) {
				t.Error("refused though there is room")
			}
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, run)
		})
	}
}

func TestHowLongNobodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limiter := admission.New(admission.Config{Target: 1, Always: 1, Patience: time.Millisecond, Waiting: 1})
		if !limiter.Enter(t.Context(), 1) {
			t.Fatal("refused though there is room")
		}
		waits := func() bool { // or is refused at once
			begun := time.Now()
			limiter.Enter(context.Background(), 1)
			return time.Since(begun) > 0
		}
		shut := func() (long time.Duration) {
			go waits()
			synctest.Wait()
			begun := time.Now()
			for !waits() {
				time.Sleep(time.Millisecond)
			}
			return time.Since(begun).Round(10 * time.Millisecond)
		}
		for _, want := range []time.Duration{500, 1000, 2000, 4000, 8000, 8000} {
			if got := shut(); got != want*time.Millisecond {
				t.Errorf("for %v nobody waits, want %v", got, want*time.Millisecond)
			}
		}
		time.Sleep(9 * time.Second)
		if got := shut(); got != 500*time.Millisecond {
			t.Errorf("after a while for %v nobody waits", got)
		}
	})
}
