package rebalance

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/meter"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// metrics is what a rebalancer tells of moves. How many there are, in which phases, everybody knows from the registry.
type metrics struct {
	rows                   meter.Counter
	fenceSwitched          meter.Durations
	fenceLifted            meter.Durations
	errors, ended          map[placement.Phase]meter.Counter
	deadman                meter.Counter
	copied, passed, erased meter.Counter // of one move, by its shards
}

func newMetrics() metrics {
	measured := meter.Of("internal/rebalance")
	m := metrics{
		rows: measured.Counter("saldo.move.rows", "{row}",
			"Rows of moving slots, by kind: copied as they were, passed (copied again as they changed meanwhile), deleted afterwards."),
		deadman: measured.Counter("saldo.move.deadman", "{move}",
			"Moves that a coordinator ended because whoever moved them had left clients waiting.").With(),
		errors: make(map[placement.Phase]meter.Counter), ended: make(map[placement.Phase]meter.Counter),
	}
	pause := measured.Durations("saldo.move.fence.duration",
		"For how long the slots of a move stood still, by outcome: switched to the target, or lifted.", meter.Soon)
	m.fenceSwitched, m.fenceLifted = pause.With(meter.Attr("outcome", "switched")), pause.With(meter.Attr("outcome", "lifted"))
	errors := measured.Counter("saldo.move.errors", "{error}",
		"Errors that held up a move, by the phase that it was in.")
	for _, phase := range []placement.Phase{placement.PhasePlanned, placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup,
		placement.PhaseFence, placement.PhaseSwitched, placement.PhaseClean, placement.PhaseAborting} {
		m.errors[phase] = errors.With(meter.Attr("phase", phase))
	}
	ended := measured.Counter("saldo.move.ended", "{move}",
		"Moves that were brought to an end, by how: done or aborted.")
	for _, phase := range []placement.Phase{placement.PhaseDone, placement.PhaseAborted} {
		m.ended[phase] = ended.With(meter.Attr("outcome", phase))
	}
	return m
}

// of returns the metrics of one move.
func (m metrics) of(move placement.Move) metrics {
	rows := func(kind string) meter.Counter {
		return m.rows.With(meter.Attr("source", move.Source), meter.Attr("target", move.Target), meter.Attr("kind", kind))
	}
	m.copied, m.passed, m.erased = rows("copied"), rows("passed"), rows("deleted")
	return m
}

// worked counts the rows of a piece.
func (m *metrics) worked(point string, rows int) {
	switch point {
	case pointCopy:
		m.copied.Add(rows)
	case pointPass, pointFinal:
		m.passed.Add(rows)
	case pointClean:
		m.erased.Add(rows)
	}
}

func (m *metrics) switched(took time.Duration) { m.fenceSwitched.Record(context.Background(), took) }
func (m *metrics) lifted(took time.Duration)   { m.fenceLifted.Record(context.Background(), took) }

// observe shows how the moves of a rebalancer that leads stand, until stop is called.
func (r *Rebalancer) observe() (stop func()) {
	measured := meter.Of("internal/rebalance")
	age := measured.Gauge("saldo.move.phase.age", "s",
		"For how long a move has been in its phase, the longest of each; those that are paused are left out.")
	resting := measured.Gauge("saldo.move.resting", "{move}",
		"Moves that are left alone for a while: a shard knows a later leader than the registry.")
	return measured.Observe(func(observe meter.Observer) {
		longest := make(map[placement.Phase]time.Duration)
		for _, move := range r.Report().Moves {
			if n := len(move.Phases); n > 0 && !move.Move.Paused && !move.Move.Phase.Ended() {
				at := move.Phases[n-1]
				longest[at.Phase] = max(longest[at.Phase], time.Since(at.At))
			}
		}
		for phase, took := range longest {
			observe(age, took.Seconds(), meter.Attr("phase", phase))
		}
		r.mu.Lock()
		rests := len(r.resting)
		r.mu.Unlock()
		observe(resting, float64(rests))
	}, age, resting)
}
