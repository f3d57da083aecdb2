package rebalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// mark tells the shards of the move. Until the source knows, the move cannot be aborted, so an abort that was asked for
// meanwhile is done here.
func (m *mover) mark(ctx context.Context) error {
	err := m.slots(ctx, pointMark, m.pair.Mark)
	if m.move.Cause != "" && (err == nil || errors.Is(err, ErrHalfMarked)) {
		if err := m.record(ctx, placement.PhaseCopy); err != nil {
			return err
		}
		return m.abort(ctx, errors.New(m.move.Cause), false)
	}
	if err != nil {
		return err
	}
	m.marked = true
	return m.record(ctx, placement.PhaseCopy)
}

// claim writes this mover's token to the slots, if it is not known to be there.
func (m *mover) claim(ctx context.Context) error {
	if m.marked {
		return nil
	}
	if err := m.slots(ctx, pointMark, m.pair.Mark); err != nil {
		return m.hopeless(ctx, err)
	}
	m.marked = true
	return nil
}

// hopeless aborts the move if trying again cannot help. It returns nil if it has.
func (m *mover) hopeless(ctx context.Context, err error) error {
	if errors.Is(err, ErrStale) {
		// A new primary may not know of the move; it is told, if it can be: else it would look like one that has lost a write,
		// until Restore.
		if failed := m.slots(ctx, pointMark, m.pair.Mark); failed != nil {
			m.log.WarnContext(ctx, "a move that is to be aborted could not be marked", "error", failed)
		}
	}
	if errors.Is(err, ErrMismatch) || errors.Is(err, ErrStale) {
		return m.abort(ctx, err, errors.Is(err, ErrMismatch))
	}
	return err
}

// copy copies what was there when the copy began.
func (m *mover) copy(ctx context.Context) error {
	if err := m.claim(ctx); err != nil || m.move.Phase != placement.PhaseCopy {
		return err
	}
	if err := m.chunks(ctx); err != nil {
		return m.hopeless(ctx, err)
	}
	return m.record(ctx, placement.PhaseCatchup)
}

// chunks copies until all is there that was when the copy began.
func (m *mover) chunks(ctx context.Context) error {
	for {
		n, _, err := m.rows(ctx, pointCopy, false, func(ctx context.Context) (int, error) {
			return m.pair.CopyChunk(ctx, m.config.ChunkRows)
		})
		if n == 0 || err != nil {
			return err
		}
		m.progress(ctx)
	}
}

// catchUp copies what has changed since, until little is left, and then tries the fence.
func (m *mover) catchUp(ctx context.Context) error {
	if err := m.claim(ctx); err != nil || m.move.Phase != placement.PhaseCatchup {
		return err
	}
	if !m.open {
		if err := m.slots(ctx, pointUnfence, m.pair.Unfence); err != nil {
			return err
		}
		m.open = true
	}
	if m.move.Paused {
		return m.sleep(ctx, m.config.Poll)
	}
	if err := m.compared(ctx); err != nil {
		return m.hopeless(ctx, err)
	}
	for pause := newPause(m.config.FenceBudget, time.Minute); ; {
		if err := m.claim(ctx); err != nil || m.move.Phase != placement.PhaseCatchup {
			return err
		}
		if err := m.settle(ctx); err != nil {
			return m.hopeless(ctx, err)
		}
		if err := m.fence(ctx); err != nil || m.move.Phase != placement.PhaseCatchup {
			return err
		}
		// It took too long. The slots are open again, and clients are not made to wait for the next attempt at once.
		if err := m.sleep(ctx, pause.NextBackOff()); err != nil {
			return err
		}
	}
}

// compared makes the target's copy complete and compares all history. A target that has failed over may lack some of it, or
// all.
func (m *mover) compared(ctx context.Context) error {
	if err := m.chunks(ctx); err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	for left := math.MaxInt; left > 0; {
		var err error
		if left, _, err = m.rows(ctx, pointVerify, false, m.pair.VerifyChunk); err != nil {
			return err
		}
	}
	return nil
}

// hurries is how many passes in a row are made without a rest when they do not get smaller. If that has not helped, it is
// not what keeps them from it: a transaction that does not end, somewhere on the source's server, is.
const hurries = 20

// settle makes passes until one is small, or as small as they get and still short enough for the fence.
func (m *mover) settle(ctx context.Context) error {
	vain := 0 // passes that were not smaller
	for previous := math.MaxInt; ; {
		n, took, err := m.rows(ctx, pointPass, true, m.pair.Pass)
		if err != nil {
			return err
		}
		m.progress(ctx)
		shrinks := n < previous-previous/4
		if n <= m.config.SmallPass && took <= m.config.FenceBudget/2 || !shrinks && took <= m.config.FenceBudget {
			return nil
		}
		if !shrinks {
			vain++
			m.fail(fmt.Errorf("a pass over %d rows took %v, too long for a fence, and they do not get fewer", n, took))
			if vain == 1 || vain%hurries == 0 {
				m.log.WarnContext(ctx, "what changes is not copied fast enough; is there a transaction that does not end, anywhere on "+
					"the source's server?", "rows", n, "took", took, "passes", vain, "rests", vain >= hurries)
			}
		}
		if previous = n; vain == 0 || vain >= hurries {
			if err := m.sleep(ctx, m.config.rest(took)); err != nil {
				return err
			}
		}
	}
}

// progress notes how far the copy has come, from time to time.
func (m *mover) progress(ctx context.Context) {
	if !m.report.due() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	if progress, err := m.pair.Progress(ctx); err == nil {
		m.report.progress(progress)
	}
}

// tell does at the shards what Switch has decided.
func (m *mover) tell(ctx context.Context) error {
	if err := m.activate(ctx); err != nil {
		return err
	}
	if !m.closed.IsZero() {
		took := time.Since(m.closed)
		m.move.FenceMillis = max(1, took.Milliseconds())
		m.report.fenced(took)
		m.metrics.switched(took)
		trace.SpanFromContext(ctx).SetAttributes(tracing.FenceMillis.Int64(m.move.FenceMillis))
		m.log.InfoContext(ctx, "the target owns the slots", "slots", len(m.move.Slots), "fence_ms", m.move.FenceMillis)
		m.closed = time.Time{}
	}
	if err := m.slots(ctx, pointTombstone, m.pair.Tombstone); err != nil {
		return err
	}
	return m.record(ctx, placement.PhaseClean)
}

// activate makes the target own the slots. One that has failed over may have lost the last pass, or more: then it is copied
// again what it lacks, from what the source has under its fence or behind its tombstone.
func (m *mover) activate(ctx context.Context) error {
	err := m.slots(ctx, pointActivate, m.pair.Activate)
	var refused *placement.OwnershipError // it does not even know of the move
	if !errors.Is(err, ErrNotFinal) && !errors.As(err, &refused) {
		return err
	}
	m.fail(err)
	m.log.ErrorContext(ctx, "the target has lost some of the copy that it was given the slots with; copying it again", "error", err)
	if err := m.slots(ctx, pointMark, m.pair.Mark); err != nil {
		return err
	}
	m.marked = true
	if err := m.chunks(ctx); err != nil {
		return err
	}
	if _, _, err := m.rows(ctx, pointPass, true, m.pair.Pass); err != nil {
		return err
	}
	if _, _, err := m.rows(ctx, pointFinal, true, m.pair.Final); err != nil {
		return err
	}
	m.copied = time.Now()
	return m.slots(ctx, pointActivate, m.pair.Activate)
}

// takeBack does at the shards what Abort has decided. The source must know even if the target cannot be reached.
func (m *mover) takeBack(ctx context.Context) error {
	restored := m.slots(ctx, pointRestore, m.pair.Restore)
	discarded := m.slots(ctx, pointDiscard, m.pair.Discard)
	if err := errors.Join(restored, discarded); err != nil {
		return err
	}
	return m.clean(ctx, placement.PhaseAborted)
}

// clean deletes the copy that is left, when it has been kept for long enough. Each shard may have failed over meanwhile and
// have lost what it was told: it is told again, over new connections. If the target had to be copied to again, the source's
// rows are kept for as long again. Only then they are deleted; and each piece only while the target owns the slots, or has
// owned them.
func (m *mover) clean(ctx context.Context, to placement.Phase) error {
	at := m.move.Source
	if to == placement.PhaseAborted {
		at = m.move.Target
	}
	for told := to == placement.PhaseAborted; ; told = true {
		kept := max(m.config.keeps(m.move), time.Until(m.copied.Add(m.config.Retention)))
		if told && kept <= 0 {
			break
		}
		if err := m.sleep(ctx, kept); err != nil {
			return err
		}
		if err := m.tellAgain(ctx, to); err != nil {
			return err
		}
	}
	cleaner := m.cleaned(at)
	select {
	case cleaner <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-cleaner }()
	if err := m.delete(ctx); err != nil {
		return err
	}
	return m.record(ctx, to)
}

// tellAgain tells the shards what was decided, over new connections.
func (m *mover) tellAgain(ctx context.Context, to placement.Phase) error {
	revision := m.move.Revision
	m.hangUp()
	if err := m.read(ctx); err != nil {
		return err
	}
	if m.move.Revision != revision {
		return ErrChanged
	}
	if to == placement.PhaseAborted {
		return errors.Join(m.slots(ctx, pointRestore, m.pair.Restore), m.slots(ctx, pointDiscard, m.pair.Discard))
	}
	if err := m.activate(ctx); err != nil {
		return err
	}
	return m.slots(ctx, pointTombstone, m.pair.Tombstone)
}

// delete deletes the copy that is left.
func (m *mover) delete(ctx context.Context) error {
	for {
		n, _, err := m.rows(ctx, pointClean, false, func(ctx context.Context) (int, error) {
			return m.pair.CleanChunk(ctx, m.config.ChunkRows)
		})
		if n == 0 || err != nil {
			return err
		}
	}
}

// tidy deletes the copy that a move which has ended has left again, after a failover. It gives up at an error: it is looked
// again after a while.
func (m *mover) tidy(ctx context.Context) error {
	defer m.hangUp()
	err := m.read(ctx)
	if err == nil && m.move.Phase == placement.PhaseAborted {
		err = m.slots(ctx, pointDiscard, m.pair.Discard)
	}
	if err == nil {
		err = m.delete(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		m.log.ErrorContext(ctx, "a copy that a move has left cannot be deleted; trying again in a while", "error", err)
	default:
		m.log.WarnContext(ctx, "a copy that a move has left was deleted: a failover had brought it back")
	}
	return nil
}
