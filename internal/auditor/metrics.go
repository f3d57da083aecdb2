package auditor

import (
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/meter"
)

var (
	of = meter.Of("internal/auditor")

	violations = of.Gauge("saldo.audit.violations", "{violation}", "What is known to be wrong, by the check that found it.")
	clean      = of.Gauge("saldo.audit.clean", "", "1 if every check of what is new was made on every shard, and nothing is known to be wrong.")
	lastRun    = of.Gauge("saldo.audit.last_run.timestamp", "s", "When what is new was checked last on every shard, since 1970.")
	took       = of.Gauge("saldo.audit.round.duration", "s", "How long the latest round took.")
	covered    = of.Total("saldo.audit.covered", "{row}", "Rows and sums that were judged.")
	swept      = of.Gauge("saldo.audit.swept", "", "How far the sweep over all rows has come, of 1.")
	sweeps     = of.Total("saldo.audit.sweeps", "{sweep}", "Sweeps that have gone over all rows.")
)

// Observe shows the audit's state as metrics until stop is called.
func (a *Auditor) Observe() (stop func()) {
	return of.Observe(func(observe meter.Observer) {
		a.mu.Lock()
		counts := a.findings.counts()
		a.mu.Unlock()
		s := a.Status()
		for _, check := range audit.Names() {
			observe(violations, float64(counts[check]), meter.Attr("check", check))
		}
		observe(clean, meter.Is(s.Verdict() == audit.Clean))
		if !s.CompleteAt.IsZero() {
			observe(lastRun, float64(s.CompleteAt.UnixMilli())/1000)
		}
		observe(took, s.Took.Seconds())
		observe(covered, float64(s.Covered))
		observe(swept, s.Swept)
		observe(sweeps, float64(s.Sweeps))
	}, violations, clean, lastRun, took, covered, swept, sweeps)
}
