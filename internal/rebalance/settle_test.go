package rebalance

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// passes is a Pair of which each pass is prescribed; the last one is repeated.
type passes struct {
	Pair
	rows []int
	took []time.Duration
	made []time.Time
}

func (p *passes) Pass(context.Context) (int, error) {
	p.made = append(p.made, time.Now())
	i := min(len(p.made), len(p.rows)) - 1
	time.Sleep(p.took[i])
	return p.rows[i], nil
}

func (p *passes) Progress(context.Context) (Progress, error) { return Progress{}, nil }

func newTestMover(pair Pair) *mover {
	config := new(Config)
	config.setDefaults()
	return &mover{config: config, pair: pair, log: slog.New(slog.DiscardHandler), move: placement.Move{ID: "m"}}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		name   string
		rows   []int
		took   []time.Duration
		passes int
	}{
		{"small at once", []int{10}, []time.Duration{10 * ms}, 1},
		{"getting smaller", []int{90000, 20000, 400}, []time.Duration{9000 * ms, 2000 * ms, 50 * ms}, 3},
		{"as small as it gets, and short enough", []int{9000, 3000, 3000}, []time.Duration{900 * ms, 300 * ms, 300 * ms}, 3},
		{"few rows, but slow", []int{400, 400, 300}, []time.Duration{2000 * ms, 2000 * ms, 100 * ms}, 3},
		{
			"not short enough until it hurries", []int{9000, 9000, 9000, 2500, 400},
			[]time.Duration{3000 * ms, 3000 * ms, 3000 * ms, 1100 * ms, 90 * ms}, 5,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				pair := &passes{rows: c.rows, took: c.took}
				if err := newTestMover(pair).settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if len(pair.made) != c.passes {
					t.Errorf("made %d passes, not %d", len(pair.made), c.passes)
				}
			})
		})
	}
}

// A pass that takes too long and does not shrink ends the rests between passes, and is told.
func TestSettleHurries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const second = time.Second
		pair := &passes{rows: []int{9000, 9000, 9000, 100}, took: []time.Duration{2 * second, 2 * second, 2 * second, second / 10}}
		m := newTestMover(pair)
		if err := m.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rests []time.Duration
		for i := 1; i < len(pair.made); i++ {
			rests = append(rests, (pair.made[i].Sub(pair.made[i-1]) - 2*second).Round(second))
		}
		if !slices.Equal(rests, []time.Duration{6 * second, 0, 0}) {
			t.Errorf("rested for %v: a quarter of the time is for copying until it has to hurry", rests)
		}
		if m.report.status().LastError == "" {
			t.Error("nobody is told why it does not come on")
		}
	})
}

// Passes that do not get smaller for long are not what is to be hurried: it rests again, and tells it again.
func TestSettleGivesUpHurrying(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pair := new(passes)
		for range 2*hurries + 1 {
			pair.rows, pair.took = append(pair.rows, 9000), append(pair.took, 2*time.Second)
		}
		pair.rows, pair.took = append(pair.rows, 100), append(pair.took, time.Second/10)
		var told bytes.Buffer
		m := newTestMover(pair)
		m.log = slog.New(slog.NewTextHandler(&told, nil))
		if err := m.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		rests := 0
		for i := 1; i < len(pair.made); i++ {
			if pair.made[i].Sub(pair.made[i-1]) > 3*time.Second {
				rests++
			}
		}
		if warned := strings.Count(told.String(), "level=WARN"); rests != 1+hurries+1 || warned != 3 {
			t.Errorf("%d rests, %d warnings\n%s", rests, warned, told.String())
		}
	})
}

func TestReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r report
		r.note(placement.Move{ID: "m", Phase: placement.PhaseCopy})
		r.progress(Progress{Rows: 1000, Expected: 10000})
		time.Sleep(2 * time.Second)
		r.progress(Progress{Rows: 4000, Expected: 10000})
		if s := r.status(); s.RowsPerSecond != 1500 || s.ETA != 4*time.Second {
			t.Errorf("%v rows per second, %v to go", s.RowsPerSecond, s.ETA)
		}
		r.note(placement.Move{ID: "m", Phase: placement.PhaseCatchup})
		r.progress(Progress{Rows: 9000, Expected: 10000})
		if s := r.status(); s.ETA != 0 || len(s.Phases) != 2 {
			t.Errorf("%v to go, phases %v", s.ETA, s.Phases)
		}
	})
}
