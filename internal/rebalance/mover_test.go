package rebalance

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// records is a Registry of one move; who leads is said by leads.
type records struct {
	Registry
	leads error
	cause string // of an abort

	mu      sync.Mutex // guards what follows
	view    *View
	changed chan struct{}
}

func newRecords(t *testing.T, phase placement.Phase) *records {
	t.Helper()
	move := placement.Move{ID: "m", Source: "a", Target: "b", Slots: slots("1-2"), Phase: phase, Revision: 7}
	return &records{view: newView(t, nil, move), changed: make(chan struct{})}
}

func (r *records) View(context.Context) (*View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view, nil
}

func (r *records) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

func (r *records) Leads(context.Context) error  { return r.leads }
func (r *records) Forget(context.Context) error { return nil }

// change makes the view another one and tells it.
func (r *records) change(change func(*View)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	view := *r.view
	view.Revision++
	view.Moves, view.Shards = slices.Clone(view.Moves), slices.Clone(view.Shards)
	change(&view)
	close(r.changed)
	r.view, r.changed = &view, make(chan struct{})
}

func (r *records) Advance(_ context.Context, move placement.Move, to placement.Phase, _ int64) (placement.Move, error) {
	move.Phase = to
	return move, nil
}

func (r *records) Abort(_ context.Context, move placement.Move, cause string) (placement.Move, error) {
	r.cause, move.Phase, move.Epochs = cause, placement.PhaseAborting, placement.Epochs{2, 2}
	return move, nil
}

// script is a Pair of which some methods are prescribed.
type script struct {
	Pair
	mark   func(ctx context.Context) error
	pass   func(ctx context.Context) (int, error)
	final  func(ctx context.Context) (int, error)
	opened int

	activated func() (bool, error)
}

func (s *script) Mark(ctx context.Context, _ []placement.Hold) error {
	if s.mark == nil {
		return nil
	}
	return s.mark(ctx)
}

func (s *script) Pass(ctx context.Context) (int, error) {
	if s.pass == nil {
		return 0, nil
	}
	return s.pass(ctx)
}

func (s *script) Activated(context.Context) (bool, error) {
	if s.activated == nil {
		return false, nil
	}
	return s.activated()
}

func (s *script) Final(ctx context.Context) (int, error)          { return s.final(ctx) }
func (s *script) CopyChunk(context.Context, int) (int, error)     { return 0, nil }
func (s *script) VerifyChunk(context.Context) (int, error)        { return 0, nil }
func (s *script) Fence(context.Context, []placement.Hold) error   { return nil }
func (s *script) Unfence(context.Context, []placement.Hold) error { return nil }
func (s *script) Progress(context.Context) (Progress, error)      { return Progress{}, nil }
func (s *script) Close()                                          {}

// opens is the Shards that have one pair.
type opens struct {
	Shards
	pair *script
	left placement.SlotSet
}

func (o *opens) Pair(*View, placement.Move, int64) (Pair, error) {
	o.pair.opened++
	return o.pair, nil
}

func (o *opens) Uncleaned(_ context.Context, _ *View, id ledger.ShardID) (placement.SlotSet, error) {
	if id == "b" {
		return o.left, nil
	}
	return nil, nil
}

func (o *opens) Copies(context.Context, *View, ledger.ShardID) ([]placement.MoveID, error) {
	return nil, nil
}

func scripted(r *records, pair *script) *mover {
	m := newTestMover(nil)
	m.registry, m.shards, m.move = r, &opens{pair: pair}, r.view.Moves[0]
	return m
}

// What lasts is cut off when the move's record changes, or that of one of its shards, and its end is waited for by a Mark.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*View){
		"aborted":    func(v *View) { v.Moves[0].Phase, v.Moves[0].Revision = placement.PhaseAborting, 8 },
		"a failover": func(v *View) { v.Shards[1].Revision = v.Revision },
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRecords(t, placement.PhaseCatchup)
			m := scripted(r, &script{pass: func(ctx context.Context) (int, error) {
				time.Sleep(time.Minute)
				r.change(func(*View) {}) // something else
				time.Sleep(time.Minute)
				r.change(change)
				<-ctx.Done()
				return 0, ctx.Err()
			}})
			began := time.Now()
			err := m.step(t.Context())
			if took := time.Since(began); !errors.Is(err, ErrChanged) || took > 3*time.Minute || m.marked {
				t.Errorf("%s: %v after %v, marked: %v", name, err, took, m.marked)
			}
			if err := m.read(t.Context()); err != nil || (m.pair.(*script).opened == 2) != (name == "a failover") {
				t.Errorf("%s: %v, opened %d pairs", name, err, m.pair.(*script).opened)
			}
		})
	}
}

// Clients wait for each fence: a move whose fence is too long again and again is given up.
func TestGivesUpFencing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, fences, marks := newRecords(t, placement.PhaseCatchup), 0, 0
		m := scripted(r, &script{
			final: func(ctx context.Context) (int, error) {
				fences++
				<-ctx.Done()
				return 0, ctx.Err()
			},
			mark: func(context.Context) error { marks++; return nil },
		})
		if err := m.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.move.Phase != placement.PhaseAborting || fences != mostLifts || marks != fences || r.cause == "" {
			t.Errorf("in phase %s after %d fences and %d marks: %q", m.move.Phase, fences, marks, r.cause)
		}
	})
}

// A source that is another server than the one that was marked is marked before the abort: it must not look as if it had
// lost a write.
func TestMarksBeforeItAborts(t *testing.T) {
	t.Parallel()
	r, marks := newRecords(t, placement.PhaseCatchup), 0
	m := scripted(r, &script{
		pass: func(context.Context) (int, error) { return 0, ErrStale },
		mark: func(context.Context) error { marks++; return nil },
	})
	if err := m.step(t.Context()); err != nil || m.move.Phase != placement.PhaseAborting || marks != 2 {
		t.Errorf("%v, in phase %s after %d marks", err, m.move.Phase, marks)
	}
}

// A registry that counts anew, from a backup, stops the moves whose shards know better, and says so; no others.
func TestTokenLostByTheLeader(t *testing.T) {
	t.Parallel()
	for _, leads := range []error{nil, ErrNotLeading} {
		synctest.Test(t, func(t *testing.T) {
			r := newRecords(t, placement.PhaseMark)
			r.leads = leads
			lost := func(context.Context) error { return ErrTokenLost }
			rebalancer := New(r, &opens{pair: &script{mark: lost}}, Config{}, slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			reported := make(chan Report, 1)
			time.AfterFunc(30*time.Second, func() { reported <- rebalancer.Report() })
			switch err := rebalancer.Run(ctx, 1); {
			case leads != nil:
				if !errors.Is(err, ErrTokenLost) {
					t.Errorf("deposed, it ended with %v", err)
				}
			case !errors.Is(err, context.DeadlineExceeded):
				t.Errorf("leading, it ended with %v", err)
			default:
				if report := <-reported; report.Problem == "" {
					t.Error("nobody is told")
				}
			}
		})
	}
}

// A drain that waits for older copies says so.
func TestNothingToPlan(t *testing.T) {
	t.Parallel()
	r := newRecords(t, placement.PhaseDone)
	r.view.Shards[0].Draining = true
	shards := &opens{left: slots("0-4095")}
	planned, err := New(r, shards, Config{}, slog.New(slog.DiscardHandler)).plan(t.Context(), r.view)
	if planned || err == nil {
		t.Errorf("planned: %v, %v", planned, err)
	}
}

// A move whose target was activated is not aborted, whatever the registry says: it was set back. Unless it says otherwise by
// now; and a target that does not answer keeps nobody from it.
func TestAbortAfterALostSwitch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		activated func(r *records) (bool, error)
		want      error
	}{
		{"it was activated", func(*records) (bool, error) { return true, nil }, ErrSwitchLost},
		{"it was switched just now", func(r *records) (bool, error) {
			r.change(func(v *View) { v.Moves[0].Phase, v.Moves[0].Revision = placement.PhaseSwitched, 8 })
			return true, nil
		}, ErrChanged},
		{"it is down", func(*records) (bool, error) { return false, errors.New("down") }, nil},
		{"it was not", func(*records) (bool, error) { return false, nil }, nil},
	} {
		for by, abort := range map[string]func(r *records, pair *script) error{
			"the dead man": func(r *records, pair *script) error {
				watching := New(r, &opens{pair: pair}, Config{}, slog.New(slog.DiscardHandler))
				return watching.end(t.Context(), r.view, r.view.Moves[0])
			},
			"the mover": func(r *records, pair *script) error {
				r.view.Moves[0].Cause = "a person said so"
				return scripted(r, pair).step(t.Context())
			},
		} {
			r := newRecords(t, placement.PhaseCatchup)
			pair := &script{activated: func() (bool, error) { return c.activated(r) }}
			if err := abort(r, pair); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", c.name, by, err)
			}
			if (r.cause != "") != (c.want == nil) {
				t.Errorf("%s, %s: aborted because of %q", c.name, by, r.cause)
			}
		}
	}
}
