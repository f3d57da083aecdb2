package rebalance

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
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
	for {
		n, _, err := m.rows(ctx, pointCopy, false, func(ctx context.Context) (int, error) {
			return m.pair.CopyChunk(ctx, m.config.ChunkRows)
		})
		if err != nil {
			return m.hopeless(ctx, err)
		}
		if n == 0 {
			return m.record(ctx, placement.PhaseCatchup)
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
	if err := m.settle(ctx); err != nil {
		return m.hopeless(ctx, err)
	}
	for left := math.MaxInt; left > 0; {
		var err error
		left, _, err = m.rows(ctx, pointVerify, false, m.pair.VerifyChunk)
		if err != nil {
			return m.hopeless(ctx, err)
		}
	}
	for pause := newPause(m.config.FenceBudget, time.Minute); ; {
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

// settle makes passes until one is small, or as small as they get and still short enough for the fence.
func (m *mover) settle(ctx context.Context) error {
	hurried := false
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
			if !hurried {
				m.log.WarnContext(ctx, "what changes is not copied fast enough; going on without rests", "rows", n, "took", took)
			}
			m.report.fail(fmt.Errorf("a pass over %d rows took %v, too long for a fence, and they do not get fewer", n, took))
			hurried = true
		}
		if previous = n; !hurried {
			sleep(ctx, m.config.rest(took))
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
	if err := m.slots(ctx, pointActivate, m.pair.Activate); err != nil {
		return err
	}
	if !m.closed.IsZero() {
		took := time.Since(m.closed)
		m.move.FenceMillis = max(1, took.Milliseconds())
		m.report.fenced(took)
		m.log.InfoContext(ctx, "the target owns the slots", "slots", len(m.move.Slots), "fence_ms", m.move.FenceMillis)
		m.closed = time.Time{}
	}
	if err := m.slots(ctx, pointTombstone, m.pair.Tombstone); err != nil {
		return err
	}
	return m.record(ctx, placement.PhaseClean)
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

// clean deletes the copy that is left, when it has been kept for long enough.
func (m *mover) clean(ctx context.Context, to placement.Phase) error {
	at := m.move.Source
	if to == placement.PhaseAborted {
		at = m.move.Target
	}
	if kept := m.config.keeps(m.move); kept > 0 {
		if err := m.sleep(ctx, kept); err != nil {
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
	for {
		n, _, err := m.rows(ctx, pointClean, false, func(ctx context.Context) (int, error) {
			return m.pair.CleanChunk(ctx, m.config.ChunkRows)
		})
		if err != nil {
			return err
		}
		if n == 0 {
			return m.record(ctx, to)
		}
	}
}
