package admission

import (
	"context"
	"math"
	"sync"
	"time"
)

// Config of a Limiter.
type Config struct {
	Target   time.Duration // in which work that is let in should be done
	Always   int           // units of work that may be under way however long they take
	Patience time.Duration // for which a call waits for room; 0: not at all
	Waiting  int           // calls that may wait for room
}

// Limiter bounds the work under way at one place. It is safe for concurrent use.
type Limiter struct {
	config Config

	mu      sync.Mutex
	under   int           // units of work under way
	rate    float64       // units that get done in a second in which there is always work under way
	done    int           // units that are not in rate yet:
	since   time.Time     // they were done since then
	pending time.Duration // or, while no work is under way, in so long
	waiting []*waiter     // the newest is the last
	gone    int           // of waiting: those that have given up
	refused time.Time     // when a call was refused last
}

// waiter is a call that waits for room. Limiter.mu guards it.
type waiter struct {
	units int
	room  chan struct{} // closed when it is let in
	in    bool
	gone  bool // it has given up
}

// New returns a limiter that has seen no work yet.
func New(config Config) *Limiter { return &Limiter{config: config} }

const (
	// memory is how long the rate remembers: several group commits.
	memory = 100 * time.Millisecond
	// overload is how long a refusal means that more comes than gets done.
	overload = time.Second
)

// Enter lets a call with so many units of work in, at once or as soon as there is room, and tells whether it did. If so,
// Leave must be called with the same number when the work is done, well or not.
//
// A call is let in whole if there is any room: many small ones do not keep a large one out.
func (l *Limiter) Enter(ctx context.Context, units int) bool {
	in, w := l.enterOrWait(units)
	if w == nil {
		return in
	}
	patience := time.NewTimer(l.config.Patience)
	defer patience.Stop()
	select {
	case <-w.room:
		return true
	case <-patience.C:
	case <-ctx.Done():
	}
	return l.giveUp(w)
}

// Leave says that work which was let in is done.
func (l *Limiter) Leave(units int) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under -= units
	l.done += units
	l.measure(now)
	l.letIn(now)
}

// enterOrWait returns a waiter if the call has to wait.
func (l *Limiter) enterOrWait(units int) (in bool, w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.under < l.limit() {
		l.add(units)
		return true, nil
	}
	if l.config.Patience == 0 || len(l.waiting)-l.gone >= l.config.Waiting {
		l.refused = time.Now()
		return false, nil
	}
	w = &waiter{units: units, room: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	return false, w
}

// giveUp ends the waiting of a call, unless it was let in at the same moment.
func (l *Limiter) giveUp(w *waiter) (in bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.in {
		return true
	}
	w.gone = true
	l.gone++
	l.refused = time.Now()
	for len(l.waiting) > 0 && l.waiting[0].gone { // others are dropped when their turn comes
		l.oldest()
	}
	return false
}

// limit is how much work may be under way: what gets done in the target time.
func (l *Limiter) limit() int {
	return max(l.config.Always, int(l.rate*l.config.Target.Seconds()))
}

func (l *Limiter) add(units int) {
	if l.under == 0 {
		l.since = time.Now().Add(-l.pending)
	}
	l.under += units
}

// measure brings the rate up to date.
func (l *Limiter) measure(now time.Time) {
	l.pending = now.Sub(l.since)
	if l.pending < time.Millisecond {
		return // what a commit did comes all at once
	}
	weight := 1 - math.Exp(-l.pending.Seconds()/memory.Seconds())
	l.rate += weight * (float64(l.done)/l.pending.Seconds() - l.rate)
	l.done, l.since, l.pending = 0, now, 0
}

// letIn gives the room that there is to those who wait.
func (l *Limiter) letIn(now time.Time) {
	if len(l.waiting) == 0 {
		return
	}
	next := l.oldest
	if now.Sub(l.refused) < overload {
		next = l.newest
	}
	for limit := l.limit(); l.under < limit && len(l.waiting) > 0; {
		if w := next(); !w.gone {
			w.in = true
			l.add(w.units)
			close(w.room)
		}
	}
}

// oldest takes a call off those that wait.
func (l *Limiter) oldest() *waiter {
	w := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return l.taken(w)
}

func (l *Limiter) newest() *waiter {
	w := l.waiting[len(l.waiting)-1]
	l.waiting = l.waiting[:len(l.waiting)-1]
	return l.taken(w)
}

func (l *Limiter) taken(w *waiter) *waiter {
	if w.gone {
		l.gone--
	}
	return w
}
