package load_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
)

// mustRun runs in a bubble, where time is exact and costs nothing.
func mustRun(t *testing.T, plan load.Plan, call load.Call) bench.Result {
	t.Helper()
	result, err := load.Run(t.Context(), plan, call)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func takes(d time.Duration) load.Call {
	return func(context.Context, int, int64) (int, error) {
		time.Sleep(d)
		return 1, nil
	}
}

func near(got, want float64) bool { return got > want*0.99 && got < want*1.01 }

func TestClosedLoopCountsWhatEndsWhileItCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// Each caller's calls end at 30 ms, 60 ms…: 66 of them after 1,000 ms and before 3,000 ms.
		r := mustRun(t, load.Plan{Callers: 4, Warmup: time.Second, Duration: 2 * time.Second}, takes(30*time.Millisecond))
		if r.Units != 4*66 || r.Seconds != 2 || r.PerSecond != 4*66/2. || r.Callers != 4 || len(r.Errors) != 0 || r.Missed != 0 {
			t.Errorf("%+v", r)
		}
		if l := r.Latency; !near(l.P50, 30) || !near(l.P99, 30) || !near(l.P999, 30) || l.Max != 30 {
			t.Errorf("%+v", l)
		}
	})
}

func TestUnitsAreWhatTheCallsSay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, load.Plan{Callers: 2, Duration: time.Second}, func(context.Context, int, int64) (int, error) {
			time.Sleep(300 * time.Millisecond)
			return 500, nil
		})
		if r.Units != 2*3*500 {
			t.Errorf("%d units", r.Units)
		}
	})
}

func TestACallUnderWayAtTheEndIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, load.Plan{Callers: 1, Duration: time.Second}, func(_ context.Context, _ int, n int64) (int, error) {
			if n == 5 {
				time.Sleep(5 * time.Second)
			}
			time.Sleep(30 * time.Millisecond)
			return 1, nil
		})
		if r.Units != 5 || r.Latency.Max != 5030 || !near(r.Latency.P99, 5030) || !near(r.Latency.P50, 30) {
			t.Errorf("%+v", r)
		}
	})
}

func TestEachCallerCountsItsCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		next := make([]int64, 3) // by caller, who is alone with his number
		plan := load.Plan{Callers: 3, Warmup: time.Second, Duration: time.Second}
		mustRun(t, plan, func(_ context.Context, caller int, n int64) (int, error) {
			if n != next[caller] {
				t.Errorf("call %d of caller %d, not %d", n, caller, next[caller])
			}
			next[caller]++
			time.Sleep(7 * time.Millisecond)
			return 1, nil
		})
	})
}

type coded string

func (c coded) Error() string     { return "failed" }
func (c coded) ErrorCode() string { return string(c) }

func TestErrorsAreCountedByCodeAndNotAsLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Callers: 1, Warmup: time.Second, Duration: 995 * time.Millisecond}
		r := mustRun(t, plan, func(_ context.Context, _ int, n int64) (int, error) {
			time.Sleep(10 * time.Millisecond)
			switch {
			case n < 99: // the warm-up
				return 0, coded("too_early")
			case n%4 == 0:
				return 0, fmt.Errorf("wrapped: %w", coded("overloaded"))
			case n%4 == 1:
				time.Sleep(100 * time.Millisecond)
				return 3, errors.New("without a code") // a part of the call's work was done
			}
			return 4, nil
		})
		// Calls 101 to 129 or so: rounds of 10 + 110 + 10 + 10 ms.
		if len(r.Errors) != 2 || r.Errors["overloaded"] < 6 || r.Errors["error"] < 6 || r.Latency.Max != 10 {
			t.Errorf("%+v", r)
		}
		if r.Units < 6*(3+4+4) {
			t.Errorf("%d units", r.Units)
		}
	})
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0.01, 0.5, 10, 1000} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			plan := load.Plan{Callers: 50, Rate: rate, Warmup: 2 * time.Second, Duration: 10 * time.Second, Seed: 7}
			r := mustRun(t, plan, takes(10*time.Millisecond))
			if units, want := float64(r.Units), 10*rate; units < 0.98*want-2 || units > 1.02*want+2 {
				t.Errorf("rate %g: %+v", rate, r)
			}
			if r.Missed != 0 || r.Rate != rate {
				t.Errorf("rate %g: %+v", rate, r)
			}
			if r.Units > 0 && r.Latency.Max != 10 {
				t.Errorf("rate %g: %+v", rate, r.Latency)
			}
			if took := time.Since(begun); took > 12010*time.Millisecond {
				t.Errorf("rate %g: it took %v", rate, took)
			}
		})
	}
}

func TestAnOpenLoopsScheduleIsTheSeeds(t *testing.T) {
	t.Parallel()
	schedule := func(seed uint64) (times []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			plan := load.Plan{Callers: 1, Rate: 10, Duration: 2 * time.Second, Seed: seed}
			mustRun(t, plan, func(context.Context, int, int64) (int, error) {
				times = append(times, time.Since(begun))
				return 1, nil
			})
		})
		return times
	}
	one, again, other := fmt.Sprint(schedule(1)), fmt.Sprint(schedule(1)), fmt.Sprint(schedule(2))
	if one != again || one == other {
		t.Errorf("%s\n%s\n%s", one, again, other)
	}
}

// A server that takes half of the calls makes all of them late: what is not said here is coordinated omission.
func TestOpenLoopCountsLatencyFromWhenACallWasDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, load.Plan{Callers: 1, Rate: 100, Duration: 10 * time.Second}, takes(20*time.Millisecond))
		if r.Units < 498 || r.Units > 500 || r.Missed < 498 || r.Missed > 502 {
			t.Errorf("%d units, %d missed", r.Units, r.Missed)
		}
		if r.Latency.Max < 4900 || r.Latency.Max > 5100 || r.Latency.P50 < 2400 || r.Latency.P50 > 2600 {
			t.Errorf("%+v", r.Latency)
		}
	})
}

// What finds no free caller is not sent later, and what is sent did not wait.
func TestOpenLoopDropsWhatFindsNoFreeCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Callers: 2, Rate: 1000, Drop: true, Warmup: time.Second, Duration: 10 * time.Second}
		r := mustRun(t, plan, takes(20*time.Millisecond))
		if r.Units < 900 || r.Units > 1000 || r.Missed < 9000 || r.Missed > 9100 {
			t.Errorf("%d units, %d missed", r.Units, r.Missed)
		}
		if l := r.Latency; !near(l.P50, 20) || !near(l.P99, 20) || l.Max != 20 {
			t.Errorf("%+v", l)
		}
		plan.Rate = 50
		if r := mustRun(t, plan, takes(20*time.Millisecond)); r.Units < 498 || r.Missed != 0 || r.Latency.Max != 20 {
			t.Errorf("with callers enough: %+v", r)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Callers: 1, Rate: 100, Drop: true, Duration: 10 * time.Second}
		r := mustRun(t, plan, func(_ context.Context, _ int, n int64) (int, error) {
			if n == 0 {
				time.Sleep(5 * time.Second)
			}
			time.Sleep(time.Millisecond)
			return 1, nil
		})
		if r.Units > 502 || r.Missed < 450 || !near(r.Latency.P99, 1) {
			t.Errorf("what was due during a long call came later: %+v", r)
		}
	})
}

// Calls that the warm-up could not send do not stand in the way of those that count.
func TestOpenLoopForgetsWhatTheWarmUpOwes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Callers: 1, Rate: 100, Warmup: 10 * time.Second, Duration: 2 * time.Second}
		r := mustRun(t, plan, takes(20*time.Millisecond))
		if r.Latency.Max < 900 || r.Latency.Max > 1100 || r.Units < 98 || r.Missed < 98 || r.Missed > 102 {
			t.Errorf("%+v", r)
		}
	})
}

func TestBeginEndAndProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var said []string
		say := func(what string) { said = append(said, fmt.Sprintf("%s at %v", what, time.Since(begun))) }
		mustRun(t, load.Plan{
			Callers: 1, Warmup: time.Second, Duration: 2500 * time.Millisecond,
			Begin: func() {
				say("begin")
				time.Sleep(500 * time.Millisecond) // to read meters
			},
			End:      func() { say("end") },
			Progress: func(done time.Duration, units int64) { say(fmt.Sprintf("%v: %d", done, units)) },
		}, takes(400*time.Millisecond))
		want := "[begin at 1s 1s: 3 at 2.5s 2s: 5 at 3.5s end at 4s]"
		if got := fmt.Sprint(said); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 0.001, 100} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			plan := load.Plan{Callers: 3, Rate: rate, Warmup: time.Minute, Duration: time.Minute}
			_, err := load.Run(ctx, plan, takes(30*time.Millisecond))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 1100*time.Millisecond {
				t.Errorf("rate %g: %v after %v", rate, err, time.Since(begun))
			}
		})
	}
}

func TestRunRefusesAPlanThatCountsNothing(t *testing.T) {
	t.Parallel()
	for _, plan := range []load.Plan{
		{Duration: time.Second},
		{Callers: 1},
		{Callers: 1, Duration: time.Second, Rate: -1},
		{Callers: 1, Duration: time.Second, Warmup: -1},
	} {
		if _, err := load.Run(t.Context(), plan, takes(0)); err == nil {
			t.Errorf("%+v was run", plan)
		}
	}
}

func BenchmarkOverhead(b *testing.B) {
	for _, plan := range []load.Plan{{Callers: 64, Duration: time.Second}, {Callers: 1024, Duration: time.Second}} {
		b.Run(fmt.Sprint(plan.Callers), func(b *testing.B) {
			var units int64
			for b.Loop() {
				r, err := load.Run(b.Context(), plan, func(context.Context, int, int64) (int, error) { return 1, nil })
				if err != nil {
					b.Fatal(err)
				}
				units += r.Units
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(units), "ns/call")
		})
	}
}
