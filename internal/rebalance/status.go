package rebalance

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// Status is how far a move has come, as its mover knows it. Other processes see what is durable: the record in the registry,
// and Pair.Progress.
type Status struct {
	Move     placement.Move
	Progress Progress
	Phases   []PhaseTime // that this mover has seen, in order

	RowsPerSecond float64       // over the time that this mover has copied, rests included
	ETA           time.Duration // until all that was there is copied; 0 if unknown, or done

	Fences    int           // attempts of this mover
	LastFence time.Duration // for which the last attempt held up clients

	Errors      int       // so far
	LastError   string    // empty if there was none
	LastErrorAt time.Time // of LastError
}

// PhaseTime is when a move was first seen in a phase.
type PhaseTime struct {
	Phase placement.Phase
	At    time.Time
}

// Report is what a rebalancer that leads is doing.
type Report struct {
	Moves   []Status // under way in this process, sorted by id
	Problem string   // why nothing could be planned, or a move is left alone; empty if there is no reason
}

// Report returns what the rebalancer is doing. It is empty where another process leads.
func (r *Rebalancer) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	var report Report
	for _, m := range r.running {
		report.Moves = append(report.Moves, m.report.status())
	}
	slices.SortFunc(report.Moves, func(a, b Status) int { return cmp.Compare(a.Move.ID, b.Move.ID) })
	problems := []error{r.problem}
	for _, id := range slices.Sorted(maps.Keys(r.resting)) {
		problems = append(problems, fmt.Errorf("move %s rests: %w", id, r.resting[id].cause))
	}
	if err := errors.Join(problems...); err != nil {
		report.Problem = err.Error()
	}
	return report
}

// report collects the status of one mover.
type report struct {
	mu    sync.Mutex // guards what follows
	state Status
	first sample // of the progress
	last  sample
}

// sample is how many rows had been copied at a time.
type sample struct {
	at   time.Time
	rows int64
}

func (r *report) note(move placement.Move) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Move = move
	if n := len(r.state.Phases); n == 0 || r.state.Phases[n-1].Phase != move.Phase {
		r.state.Phases = append(r.state.Phases, PhaseTime{Phase: move.Phase, At: time.Now()})
	}
}

func (r *report) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Errors++
	r.state.LastError, r.state.LastErrorAt = err.Error(), time.Now()
}

func (r *report) fenced(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Fences++
	r.state.LastFence = took
}

// due tells whether the progress should be read again.
func (r *report) due() bool {
	const often = 2 * time.Second
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.last.at) >= often
}

func (r *report) progress(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Progress = p
	r.last = sample{at: time.Now(), rows: p.Rows}
	if r.first.at.IsZero() {
		r.first = r.last
		return
	}
	if took := r.last.at.Sub(r.first.at).Seconds(); took > 0 {
		r.state.RowsPerSecond = float64(r.last.rows-r.first.rows) / took
	}
	r.state.ETA = 0
	if left := p.Expected - p.Rows; left > 0 && r.state.RowsPerSecond > 0 && r.state.Move.Phase == placement.PhaseCopy {
		r.state.ETA = time.Duration(float64(left) / r.state.RowsPerSecond * float64(time.Second))
	}
}

func (r *report) status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.state
	status.Phases = slices.Clone(status.Phases)
	return status
}
