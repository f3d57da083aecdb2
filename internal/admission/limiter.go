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
	Waiting  int           // calls that may wait for room
	Patience time.Duration // for which a call waits, at least; or four times the target
}

// Limiter bounds the work under way at one place. It is safe for concurrent use.
type Limiter struct {
	config Config

	mu    sync.Mutex
	under int // units of work under way

	// How fast work gets done.
	rate    float64       // units in a second in which there is always work under way
	done    int           // units that are not in rate yet:
	since   time.Time     // they were done since then
	pending time.Duration // or, while no work is under way, in so long
	alone   time.Duration // what a call takes that is alone
	begun   time.Time     // when the work under way began after there was none
	calls   int           // that were let in since begun

	waiting []*waiter     // the oldest is the first
	gone    int           // of waiting: those that have given up
	shut    time.Time     // until then nobody waits
	shutFor time.Duration // how long that was

	letIn, refused int // calls, ever
}

// waiter is a call that waits for room. Limiter.mu guards it.
type waiter struct {
	units    int
	patience time.Duration
	room     chan struct{} // closed when it is let in
	in       bool
	gone     bool // it has given up
}

// New returns a limiter that has seen no work yet.
func New(config Config) *Limiter { return &Limiter{config: config} }

const (
	// memory is how long the rate remembers: several group commits.
	memory = 100 * time.Millisecond
	// slow is how many times longer than a call that is alone the target is, if it is longer than Config.Target. A commit
	// then costs a fifth of the time for what it is alone, and the rest for what is in it.
	slow = 10
	// slowest times Config.Target is the longest target, whatever a call takes that is alone.
	slowest = 10
	// patience times the target is how long a call waits for room.
	patience = 4
	// minShut and maxShut are how long nobody waits.
	minShut, maxShut = 500 * time.Millisecond, 8 * time.Second
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
	timer := time.NewTimer(w.patience)
	defer timer.Stop()
	select {
	case <-w.room:
		return true
	case <-timer.C:
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
	for limit := l.limit(now); l.under < limit && len(l.waiting) > 0; {
		if w := l.oldest(); !w.gone {
			w.in = true
			l.add(now, w.units)
			close(w.room)
		}
	}
}

// enterOrWait returns a waiter if the call has to wait.
func (l *Limiter) enterOrWait(units int) (in bool, w *waiter) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.under < l.limit(now):
		l.add(now, units)
		return true, nil
	case now.Before(l.shut):
		l.refused++
		return false, nil
	case len(l.waiting)-l.gone >= l.config.Waiting:
		l.shutOut(now)
		l.refused++
		return false, nil
	}
	w = &waiter{units: units, patience: max(l.config.Patience, patience*l.target()), room: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	return false, w
}

// shutOut begins a time in which nobody waits.
func (l *Limiter) shutOut(now time.Time) {
	if now.Sub(l.shut) > l.shutFor {
		l.shutFor = minShut
	} else {
		l.shutFor = min(2*l.shutFor, maxShut)
	}
	l.shut = now.Add(l.shutFor)
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
	l.refused++
	for len(l.waiting) > 0 && l.waiting[0].gone { // others are dropped when their turn comes
		l.oldest()
	}
	return false
}

// oldest takes a call off those that wait.
func (l *Limiter) oldest() *waiter {
	w := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	if w.gone {
		l.gone--
	}
	return w
}

// limit is how much work may be under way: what gets done in the target time.
func (l *Limiter) limit(now time.Time) int {
	limit := max(l.config.Always, int(l.rate*l.target().Seconds()))
	if now.Before(l.shut) {
		return (limit + 1) / 2
	}
	return limit
}

func (l *Limiter) target() time.Duration {
	return max(l.config.Target, min(slow*l.alone, slowest*l.config.Target))
}

func (l *Limiter) add(now time.Time, units int) {
	if l.under == 0 {
		l.since, l.begun, l.calls = now.Add(-l.pending), now, 0
	}
	l.under += units
	l.calls++
	l.letIn++
}

// measure brings the rate up to date, and what a call takes that is alone.
func (l *Limiter) measure(now time.Time) {
	l.pending = now.Sub(l.since)
	if l.pending >= time.Millisecond { // what a commit did comes all at once
		weight := 1 - math.Exp(-l.pending.Seconds()/memory.Seconds())
		l.rate += weight * (float64(l.done)/l.pending.Seconds() - l.rate)
		l.done, l.since, l.pending = 0, now, 0
	}
	if l.under == 0 && l.calls == 1 {
		if took := now.Sub(l.begun); l.alone == 0 || took < l.alone {
			l.alone = took
		} else {
			l.alone += (took - l.alone) / 16 // one that took long by chance says little
		}
	}
}
