package auditor

import (
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
)

// Status is how the audit stands.
type Status struct {
	Running    bool          // here
	Findings   []Finding     // what is known to be wrong, the oldest first
	Gaps       []string      // why the latest look at what is new was not complete
	Rounds     int64         // that have ended, sweeps' steps too
	Covered    int64         // rows and sums that were judged
	RoundAt    time.Time     // when what is new was looked at last; zero: not yet
	CompleteAt time.Time     // and when it was, on every shard
	Took       time.Duration // of the latest round
	Swept      float64       // how far the sweep has come, of 1
	Sweeps     int64         // that have gone all the way round
	SweptAt    time.Time     // when the latest one had
}

// Verdict is what it comes to.
func (s Status) Verdict() audit.Verdict {
	switch {
	case len(s.Findings) > 0:
		return audit.Violations
	case len(s.Gaps) > 0 || s.CompleteAt.IsZero():
		return audit.Incomplete
	}
	return audit.Clean
}

// Status returns how the audit stands.
func (a *Auditor) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Gaps, s.Findings = slices.Clone(s.Gaps), a.findings.list()
	return s
}
