package rebalance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// mover takes one move through its phases. It belongs to the goroutine of run.
type mover struct {
	registry Registry
	shards   Shards
	config   *Config
	log      *slog.Logger
	token    int64
	cleaned  func(ledger.ShardID) chan struct{}

	move    placement.Move   // as it was last read or written
	holds   []placement.Hold // its slots, as the registry last told
	changed <-chan struct{}  // closed if the registry may tell otherwise by now
	pair    Pair             // nil if there is none open
	seen    int64            // the revision of the view that pair was opened from
	marked  bool             // the slots carry this mover's token, and nothing of this mover is on its way to them
	open    bool             // the slots are not fenced
	lifts   int              // fences that this mover has lifted
	copied  time.Time        // when this mover had copied again what a target had lost after the switch
	closed  time.Time        // when this mover began to fence them
	report  report           // for people
	metrics metrics
	tracer  trace.Tracer // nil if nothing is traced
}

// shardTimeout bounds what changes slots at a shard; copyTimeout what copies, compares or deletes a piece. passTimeout is
// only there so that nothing lasts for ever: the first pass after a long copy has much to do, and bounds its own pieces.
const (
	shardTimeout = 5 * time.Second
	copyTimeout  = 10 * time.Minute
	passTimeout  = 12 * time.Hour
	askTimeout   = time.Second // of a target, before an abort
)

// errEnded: nothing is left to do, or not now.
var errEnded = errors.New("the move has ended, or rests")

// run returns nil when the move has ended, or waits for a person; ErrNotLeading or ErrTokenLost if another leader has come.
// All other errors are tried again.
func (m *mover) run(ctx context.Context) (err error) {
	ctx, span := m.work(ctx, "move")
	defer func() { endPart(ctx, span, err) }()
	defer m.hangUp()
	pause, changes := newPause(m.config.MinPause, m.config.MaxPause), 0
	for {
		err := m.step(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			pause.Reset()
			changes = 0
			continue
		case errors.Is(err, errEnded):
			return nil
		case errors.Is(err, ErrNotLeading), errors.Is(err, ErrTokenLost):
			return fmt.Errorf("move %s: %w", m.move.ID, err)
		case errors.Is(err, ErrChanged), errors.Is(err, ErrShardChanged):
			// Clients may wait for what somebody has decided.
			if changes++; changes == 1 {
				continue
			}
		default:
			// Whatever it was, the next attempt asks the registry what is to be done, and the shards anew.
			m.hangUp()
			m.fail(err)
			m.log.WarnContext(ctx, "a move is held up; trying again", "phase", m.move.Phase, "error", err)
		}
		_ = m.sleep(ctx, pause.NextBackOff()) // the next step looks for itself
	}
}

// step reads what the registry says and does what is to be done in that phase.
func (m *mover) step(ctx context.Context) error {
	if err := m.read(ctx); err != nil {
		return err
	}
	if m.move.Phase.Ended() || m.config.rests(m.move) {
		return errEnded
	}
	ctx, span := m.part(ctx, string(m.move.Phase))
	err := m.switchLost(ctx, m.goOn(ctx))
	endPart(ctx, span, err)
	return err
}

// switchLost returns ErrChanged in place of ErrSwitchLost if it is not the registry but this mover that was behind.
func (m *mover) switchLost(ctx context.Context, err error) error {
	if !errors.Is(err, ErrSwitchLost) {
		return err
	}
	revision := m.move.Revision
	if failed := m.read(ctx); failed != nil {
		return failed
	}
	if m.move.Revision != revision {
		return ErrChanged
	}
	return err
}

// goOn does what is to be done in the move's phase.
func (m *mover) goOn(ctx context.Context) error {
	if open := m.move.Phase == placement.PhaseCopy || m.move.Phase == placement.PhaseCatchup; open && m.move.Cause != "" {
		return m.abort(ctx, errors.New(m.move.Cause), false)
	}
	switch m.move.Phase {
	case placement.PhasePlanned:
		return m.record(ctx, placement.PhaseMark)
	case placement.PhaseMark:
		return m.mark(ctx)
	case placement.PhaseCopy:
		return m.copy(ctx)
	case placement.PhaseCatchup:
		return m.catchUp(ctx)
	case placement.PhaseFence:
		// Somebody was inside the fence and it is not known how far: no Switch can come through after this.
		return m.record(ctx, placement.PhaseCatchup)
	case placement.PhaseSwitched:
		return m.tell(ctx)
	case placement.PhaseClean:
		return m.clean(ctx, placement.PhaseDone)
	case placement.PhaseAborting:
		return m.takeBack(ctx)
	}
	return fmt.Errorf("phase %q is not one that this version knows", m.move.Phase)
}

// read asks the registry for the move and its slots.
func (m *mover) read(ctx context.Context) error {
	changed := m.registry.Changed()
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	view, err := m.registry.View(ctx)
	if err != nil {
		return fmt.Errorf("read the cluster: %w", err)
	}
	move, ok := find(view, m.move.ID)
	if !ok {
		return errEnded
	}
	m.note(move)
	m.changed, m.holds = changed, move.Holds(view.Map)
	if m.pair != nil && newest(view, move) > m.seen {
		m.hangUp() // a connection may lead to a deposed primary
	}
	if m.pair == nil {
		if m.pair, err = m.shards.Pair(view, move, m.token); err != nil {
			return fmt.Errorf("open the shards: %w", err)
		}
		m.seen = view.Revision
	}
	return nil
}

// newest is the larger of the revisions of a move's shards' records.
func newest(view *View, move placement.Move) int64 {
	source, _ := view.Shard(move.Source)
	target, _ := view.Shard(move.Target)
	return max(source.Revision, target.Revision)
}

func find(view *View, id placement.MoveID) (placement.Move, bool) {
	for _, move := range view.Moves {
		if move.ID == id {
			return move, true
		}
	}
	return placement.Move{}, false
}

func (m *mover) note(move placement.Move) {
	m.move = move
	m.report.note(move)
}

func (m *mover) fail(err error) {
	m.report.fail(err)
	m.metrics.errors[m.move.Phase].Add(1)
}

// hangUp closes the pair. What is known of the shards is not known of those that are connected to next.
func (m *mover) hangUp() {
	m.marked, m.open = false, false
	if m.pair != nil {
		m.pair.Close()
		m.pair = nil
	}
}

// record writes the next phase.
func (m *mover) record(ctx context.Context, to placement.Phase) error {
	move := m.move
	if now := time.Now().UTC(); to.Ended() {
		move.EndedAt = &now
	}
	err := m.config.at(pointRecord+string(to), func() error {
		ctx, cancel := context.WithTimeout(ctx, registryTimeout)
		defer cancel()
		move, err := m.registry.Advance(ctx, move, to, m.seen)
		if err == nil {
			m.note(move)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("record phase %s: %w", to, err)
	}
	m.metrics.ended[to].Add(1)
	m.log.InfoContext(ctx, "a move has come on", "phase", to)
	return nil
}

// abort gives the slots to the source. What the target has is kept for a while if it is evidence. The target is asked first:
// one that owns the slots shows that the registry was set back behind a switch. One that does not answer is not waited for,
// since clients of the source may be waiting.
func (m *mover) abort(ctx context.Context, cause error, evidence bool) error {
	move := m.move
	move.Evidence = evidence
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	activated, err := m.pair.Activated(asking)
	cancel()
	if err == nil && activated {
		return fmt.Errorf("abort, because of %q: %w", cause, ErrSwitchLost)
	}
	err = m.config.at(pointAbort, func() error {
		ctx, cancel := context.WithTimeout(ctx, registryTimeout)
		defer cancel()
		move, err := m.registry.Abort(ctx, move, cause.Error())
		if err == nil {
			m.note(move)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("abort, because of %q: %w", cause, err)
	}
	m.fail(cause)
	m.log.ErrorContext(ctx, "a move is aborted", "cause", cause, "copy_kept", evidence)
	return nil
}

// shard does something at a shard. While the shard's lock cannot be had it tries again, so often.
func (m *mover) shard(
	ctx context.Context, point string, timeout time.Duration, attempts int, effect func(context.Context) error,
) error {
	var err error
	for pause := newPause(20*time.Millisecond, time.Second); ; {
		err = m.config.at(point, func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			return effect(ctx)
		})
		if attempts--; !errors.Is(err, ErrBusy) || attempts <= 0 || ctx.Err() != nil {
			break
		}
		sleep(ctx, pause.NextBackOff())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", point, err)
	}
	return nil
}

// slots does something that changes the state of slots.
func (m *mover) slots(ctx context.Context, point string, effect func(context.Context, []placement.Hold) error) error {
	const attempts = 10 // some 3 s
	ctx, span := m.part(ctx, point)
	err := m.shard(ctx, point, shardTimeout, attempts, func(ctx context.Context) error { return effect(ctx, m.holds) })
	endPart(ctx, span, err)
	return err
}

// rows copies, compares or deletes a piece, and then rests, so that it takes its share of the time and no more. hurried: it
// does not rest. It returns ErrChanged, early, if the move was paused or aborted or one of its shards has another primary.
func (m *mover) rows(
	ctx context.Context, point string, hurried bool, effect func(context.Context) (int, error),
) (n int, took time.Duration, err error) {
	if err := m.unchanged(ctx); err != nil {
		return 0, 0, err
	}
	timeout := copyTimeout
	if point == pointPass {
		timeout = passTimeout
	}
	began := time.Now()
	working, stop := m.whileUnchanged(ctx)
	err = m.shard(working, point, timeout, 10, func(ctx context.Context) (err error) {
		n, err = effect(ctx)
		return err
	})
	if stop(); err != nil {
		m.marked = false // what was cut off may still be done; Mark waits for it
		if ctx.Err() == nil && errors.Is(context.Cause(working), ErrChanged) {
			return 0, 0, ErrChanged
		}
	}
	took = time.Since(began)
	m.metrics.worked(point, n)
	if err == nil && n > 0 && !hurried {
		sleep(ctx, m.config.rest(took))
		err = ctx.Err()
	}
	return n, took, err
}

// whileUnchanged returns a context that ends with the cause ErrChanged when the move's record has changed, or that of one of
// its shards. stop ends it and waits for whoever looks.
func (m *mover) whileUnchanged(ctx context.Context) (working context.Context, stop func()) {
	working, cancel := context.WithCancelCause(ctx)
	changed, id, revision, seen := m.changed, m.move.ID, m.move.Revision, m.seen
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-working.Done():
				return
			case <-changed:
			}
			changed = m.registry.Changed()
			asking, done := context.WithTimeout(working, registryTimeout)
			view, err := m.registry.View(asking)
			done()
			if err != nil {
				return // the piece is ended as it is, and then it is looked again
			}
			if move, ok := find(view, id); !ok || move.Revision != revision || newest(view, move) > seen {
				cancel(ErrChanged)
				return
			}
		}
	})
	return working, func() {
		cancel(nil)
		looking.Wait()
	}
}

// unchanged returns ErrChanged if the move's record is not the one that this mover goes by, since it was paused or aborted,
// or if the shards are connected to anew.
func (m *mover) unchanged(ctx context.Context) error {
	select {
	case <-m.changed:
	default:
		return nil
	}
	revision, seen := m.move.Revision, m.seen
	if err := m.read(ctx); err != nil {
		return err
	}
	if m.move.Revision != revision || m.seen != seen {
		return ErrChanged
	}
	return nil
}

// sleep returns ErrChanged, early, if the move's record has changed meanwhile.
func (m *mover) sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for changed := m.changed; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-changed:
			switch err := m.unchanged(ctx); {
			case errors.Is(err, ErrChanged):
				return err
			case err != nil:
				changed = nil // the registry does not answer now; it is asked again after the pause
			default:
				changed = m.changed
			}
		}
	}
}

func sleep(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
