// Package load calls something as fast as it goes (closed loop) or at a rate (open loop), and sums up latencies and errors.
//
// What counts. Units and PerSecond are of the calls that ended while the count ran, so that calls which the count's ends
// cut in two add up to the truth. Latency and Errors are of the calls that began (in an open loop: were due) while it ran;
// those still under way at its end are waited for, so the slow ones are not forgotten. Latency is of calls without an error.
//
// What waits in an open loop. A call that is due while all callers are busy waits for one, and its latency counts from when
// it was due: whoever comes at a rate that is not kept up with does wait. Under Plan.Drop it is given up instead, and
// latency counts from when a call is sent: it is then of what was called alone, however much more was due than the callers
// could carry, and Missed says how much was never sent.
package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// Plan says how to call.
type Plan struct {
	Callers  int           // in a closed loop: that many calls at a time; in an open loop: at most
	Rate     float64       // calls per second of an open loop, whose latencies count from when a call was due; 0: closed
	Drop     bool          // in an open loop: give a call up that is due while all callers are busy (see the package's comment)
	Warmup   time.Duration // calls before the count begins
	Duration time.Duration
	Seed     uint64 // of an open loop's schedule

	// These may be nil.
	Progress func(done time.Duration, units int64) // called about once a second
	Begin    func()                                // called when the count begins, before the first call that counts
	End      func()                                // called when the count has ended
}

// Call makes one call for a caller (0 ≤ caller < Plan.Callers), its n-th (warm-up included), and returns how many units of
// work it did. An error is counted under its code: bench results say what was refused, they do not hide it. A call must
// end by itself: only the end of Run's context ends ctx.
type Call func(ctx context.Context, caller int, n int64) (units int, err error)

// Coded is an error with a stable code to count it under; others count as "error".
type Coded interface {
	error
	ErrorCode() string
}

// Run makes the calls. The Result has Units, Seconds, PerSecond, Latency, Errors and Missed, Callers and Rate. An error is
// the context's, or says what is wrong with the plan.
func Run(ctx context.Context, plan Plan, call Call) (bench.Result, error) {
	if plan.Callers < 1 || plan.Duration <= 0 || plan.Warmup < 0 || plan.Rate < 0 {
		return bench.Result{}, fmt.Errorf(
			"a load of %d callers at rate %g for %v after %v: callers and duration must be positive, rate and warm-up not negative",
			plan.Callers, plan.Rate, plan.Duration, plan.Warmup)
	}
	r := &run{plan: plan, call: call, start: time.Now()}
	r.begin.Store(math.MaxInt64)
	r.end.Store(math.MaxInt64)
	callers := make([]*caller, plan.Callers)
	for i := range callers {
		callers[i] = &caller{run: r, index: i, latency: hdr.NewPacked(1, mostMicros, digits)}
	}
	if plan.Warmup == 0 {
		r.beginCount()
	}
	var group sync.WaitGroup
	waiting, wake := context.WithCancel(ctx)
	for _, c := range callers {
		if plan.Rate > 0 {
			group.Go(func() { c.atRate(ctx, waiting) })
		} else {
			group.Go(func() { c.closed(ctx) })
		}
	}
	r.watch(ctx, callers)
	wake()
	group.Wait()
	if err := ctx.Err(); err != nil {
		return bench.Result{}, err
	}
	return r.sum(callers), nil
}

// Latencies are kept in microseconds with three digits; longer ones than ten minutes count as ten minutes.
const (
	mostMicros = int64(10 * time.Minute / time.Microsecond)
	digits     = 3
)

type run struct {
	plan   Plan
	call   Call
	start  time.Time
	begin  atomic.Int64 // of the count, in nanoseconds since start; not yet known: far away
	end    atomic.Int64
	ticket atomic.Int64 // of an open loop: the next call to be sent
}

func (r *run) now() int64 { return int64(time.Since(r.start)) }

func (r *run) beginCount() {
	if r.plan.Begin != nil {
		r.plan.Begin()
	}
	begin := r.now()
	r.end.Store(begin + int64(r.plan.Duration)) // before begin: whoever sees the begin sees the end
	r.begin.Store(begin)
}

// watch begins and ends the count in time, and tells the progress.
func (r *run) watch(ctx context.Context, callers []*caller) {
	if r.plan.Warmup > 0 {
		if !sleep(ctx, r.plan.Warmup) {
			return
		}
		r.beginCount()
	}
	for {
		done := time.Duration(r.now() - r.begin.Load())
		if rest := r.plan.Duration - done; rest <= time.Second {
			if sleep(ctx, rest) && r.plan.End != nil {
				r.plan.End()
			}
			return
		}
		if !sleep(ctx, time.Second) {
			return
		}
		if r.plan.Progress != nil {
			var units int64
			for _, c := range callers {
				units += c.units.Load()
			}
			r.plan.Progress(done+time.Second, units)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// due is when an open loop's call is to be sent: at a random moment of its own 1/Rate of a second, which depends on
// nothing but the seed.
func (r *run) due(ticket int64) int64 {
	moment := rand.New(rand.NewPCG(r.plan.Seed, uint64(ticket))).Float64()
	return int64((float64(ticket) + moment) / r.plan.Rate * float64(time.Second))
}

// caller makes calls one after the other. What it counts is its own until Run sums up, but for units, which watch reads.
type caller struct {
	*run
	index   int
	n       int64
	units   atomic.Int64
	latency *hdr.PackedHistogram
	longest int64            // nanoseconds
	failed  map[string]int64 // calls by code
	sent    int64            // of an open loop: calls that were due while the count ran
}

func (c *caller) closed(ctx context.Context) {
	for ctx.Err() == nil {
		now := c.now()
		if now >= c.end.Load() {
			return
		}
		c.one(ctx, now)
	}
}

// atRate waits for the next call's time on a context of its own, which ends with the count.
func (c *caller) atRate(ctx, waiting context.Context) {
	for {
		due := c.due(c.ticket.Add(1) - 1)
		wait := due - c.now()
		if wait > 0 && !sleep(waiting, time.Duration(wait)) {
			return
		}
		now := c.now()
		if end := c.end.Load(); due >= end || now >= end || ctx.Err() != nil {
			return
		}
		from := due
		if c.plan.Drop {
			if wait < 0 { // a caller who was free would have had it before
				continue
			}
			from = now
		}
		switch begin := c.begin.Load(); {
		case due >= begin:
			c.sent++
		case now >= begin:
			continue // what the warm-up owes is not asked of the count
		}
		c.one(ctx, from)
	}
}

// one makes a call whose latency counts from from.
func (c *caller) one(ctx context.Context, from int64) {
	units, err := c.call(ctx, c.index, c.n)
	c.n++
	now := c.now()
	begin, end := c.begin.Load(), c.end.Load()
	if now >= begin && now < end {
		c.units.Add(int64(units))
	}
	switch {
	case from < begin:
	case err != nil:
		if c.failed == nil {
			c.failed = make(map[string]int64)
		}
		c.failed[code(err)]++
	default:
		// It can only refuse what is out of range.
		_ = c.latency.RecordValue(min((now-from)/int64(time.Microsecond), mostMicros))
		c.longest = max(c.longest, now-from)
	}
}

func code(err error) string {
	var coded Coded
	if errors.As(err, &coded) {
		return coded.ErrorCode()
	}
	return "error"
}

func (r *run) sum(callers []*caller) bench.Result {
	result := bench.Result{Callers: r.plan.Callers, Rate: r.plan.Rate, Seconds: r.plan.Duration.Seconds()}
	latency := hdr.New(1, mostMicros, digits)
	var longest, sent int64
	for _, c := range callers {
		result.Units += c.units.Load()
		c.latency.MergeInto(latency)
		longest, sent = max(longest, c.longest), sent+c.sent
		for code, n := range c.failed {
			if result.Errors == nil {
				result.Errors = make(map[string]int64)
			}
			result.Errors[code] += n
		}
	}
	if r.plan.Rate > 0 {
		result.Missed = r.dueBefore(r.end.Load()) - r.dueBefore(r.begin.Load()) - sent
	}
	result.PerSecond = float64(result.Units) / result.Seconds
	millis := func(percentile float64) float64 { return float64(latency.ValueAtPercentile(percentile)) / 1000 }
	result.Latency = bench.Latency{P50: millis(50), P99: millis(99), P999: millis(99.9), Max: float64(longest) / 1e6}
	return result
}

// dueBefore is how many of an open loop's calls are due before a moment.
func (r *run) dueBefore(moment int64) int64 {
	ticket := int64(float64(moment) / float64(time.Second) * r.plan.Rate)
	for ticket > 0 && r.due(ticket-1) >= moment {
		ticket--
	}
	for r.due(ticket) < moment {
		ticket++
	}
	return ticket
}
