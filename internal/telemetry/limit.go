package telemetry

import (
	"sync"
	"time"
)

// limit keeps a line from being said too often: a few times at once, then once a minute with the number of times that it was
// not. What is the same line is for the caller to say.
type limit struct {
	mu    sync.Mutex
	lines map[string]*line
}

type line struct {
	left   int       // times that it may be said now
	since  time.Time // when left was counted
	untold int
}

const (
	linesAtOnce = 5
	linesPer    = time.Minute
	linesKnown  = 1024
)

// say tells whether a line may be said now, and how often it was not since it was said last.
func (l *limit) say(key string, now time.Time) (ok bool, untold int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.lines[key]
	if known == nil {
		if l.lines == nil || len(l.lines) >= linesKnown {
			l.lines = make(map[string]*line)
		}
		known = &line{left: linesAtOnce, since: now}
		l.lines[key] = known
	}
	if minutes := int(now.Sub(known.since) / linesPer); minutes > 0 {
		known.left, known.since = min(known.left+minutes, linesAtOnce), known.since.Add(time.Duration(minutes)*linesPer)
	}
	if known.left == 0 {
		known.untold++
		return false, 0
	}
	untold = known.untold
	known.left, known.untold = known.left-1, 0
	return true, untold
}
