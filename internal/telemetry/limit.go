package telemetry

import (
	"sync"
	"time"
)

// limit keeps a line from being said too often: a few times at once, then once a minute with the number of times that it was
// not. What is the same line is for the caller to say: a message, and what it is about. Of lines with one message, whatever
// they are about, there are so many a minute, since that may be each of a million transfers.
type limit struct {
	mu       sync.Mutex
	messages map[string]*allowance
	lines    map[line]*allowance
}

type line struct{ message, about string }

const (
	linesAtOnce = 5
	linesOfOne  = 500 // of a message, about different things, in a minute
	linesPer    = time.Minute
	linesKnown  = 1024
)

// say tells whether a line may be said now, and how many like it were not since one was said last.
func (l *limit) say(message, about string, now time.Time) (ok bool, untold int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := of(&l.messages, message, linesOfOne, now)
	all.refill(linesOfOne, linesOfOne, now)
	if all.left == 0 { // before the line is remembered: a flood must not make us forget others
		all.untold++
		return false, 0
	}
	one := of(&l.lines, line{message, about}, linesAtOnce, now)
	one.refill(1, linesAtOnce, now)
	if one.left == 0 {
		one.untold++
		return false, 0
	}
	untold = all.untold + one.untold
	all.left, all.untold = all.left-1, 0
	one.left, one.untold = one.left-1, 0
	return true, untold
}

// allowance is how often something may be said.
type allowance struct {
	left   int       // times, now
	since  time.Time // when left was counted
	untold int
}

// of returns what is allowed for a key. Too many keys are forgotten all at once.
func of[K comparable](known *map[K]*allowance, key K, most int, now time.Time) *allowance {
	a := (*known)[key]
	if a == nil {
		if *known == nil || len(*known) >= linesKnown {
			*known = make(map[K]*allowance)
		}
		a = &allowance{left: most, since: now}
		(*known)[key] = a
	}
	return a
}

func (a *allowance) refill(eachMinute, most int, now time.Time) {
	if minutes := int(now.Sub(a.since) / linesPer); minutes > 0 {
		a.left, a.since = min(a.left+minutes*eachMinute, most), a.since.Add(time.Duration(minutes)*linesPer)
	}
}
