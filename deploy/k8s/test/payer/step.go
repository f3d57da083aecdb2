package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// step is what one step of the check was like for those who pay.
type step struct {
	took    []time.Duration // from when a transfer was due to its acknowledgement
	pending int             // answers that said PENDING
	resent  int             // requests that Go's client sent again, since their connection was closed before any answer
	unsent  int             // transfers that were due while all callers waited
	failed  map[string]int  // requests that got neither an outcome nor PENDING, by what they got instead
}

func newStep() step { return step{failed: make(map[string]int)} }

func (p *payer) note(change func(*step)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.step)
}

// failed counts a request, and logs the first ones of each kind.
func (p *payer) failed(kind, why string) {
	var n int
	p.note(func(s *step) { s.failed[kind]++; n = s.failed[kind] })
	if n <= 5 {
		p.log.Warn("a request failed", "kind", kind, "why", why)
	}
}

// endStep begins a new step and returns the one before in a line.
func (p *payer) endStep() string {
	p.mu.Lock()
	last := p.step
	p.step = newStep()
	p.mu.Unlock()
	return last.String()
}

// String is for people and for scripts: failed is the number of requests that failed.
func (s step) String() string {
	slices.Sort(s.took)
	at := func(share float64) time.Duration {
		if len(s.took) == 0 {
			return 0
		}
		return s.took[int(share*float64(len(s.took)-1))].Round(time.Millisecond)
	}
	failed := 0
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(s.failed)) {
		failed += s.failed[kind]
		kinds = append(kinds, fmt.Sprintf("%d %s", s.failed[kind], kind))
	}
	line := fmt.Sprintf("completed=%d failed=%d pending=%d resent=%d unsent=%d p50=%v p99=%v longest=%v",
		len(s.took), failed, s.pending, s.resent, s.unsent, at(0.5), at(0.99), at(1))
	if failed > 0 {
		line += " (" + strings.Join(kinds, ", ") + ")"
	}
	return line
}
