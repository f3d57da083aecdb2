package admission

import "time"

// Stats is how a limiter stands.
type Stats struct {
	Limit   int // units of work that may be under way
	Under   int // that are
	Waiting int // calls

	LetIn, Refused int // calls, ever
}

// Stats returns how the limiter stands.
func (l *Limiter) Stats() Stats {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Limit: l.limit(now), Under: l.under, Waiting: len(l.waiting) - l.gone, LetIn: l.letIn, Refused: l.refused}
}
