package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// fence is what clients wait for: from Fence to Activate. It returns nil when the target owns the slots, and also when there
// was no time for that: then the phase is PhaseCatchup, and the slots are open.
func (m *mover) fence(ctx context.Context) (err error) {
	ctx, span := m.part(ctx, "fence slots")
	defer func() { endPart(ctx, span, err) }()
	if err := m.record(ctx, placement.PhaseFence); err != nil {
		return err
	}
	m.open, m.closed = false, time.Now()
	if err := m.slots(ctx, pointFence, m.pair.Fence); errors.Is(err, ErrBusy) {
		m.open = true // nothing was done
		return m.reopened(ctx, err)
	} else if err != nil {
		return m.lift(ctx, err)
	}
	if err := m.final(ctx); err != nil {
		return m.lift(ctx, err)
	}
	if err := m.decide(ctx); err != nil {
		return err
	}
	// Whatever happens from here on, the target is to own the slots.
	return m.tell(ctx)
}

// final copies the last of what changed, within the budget.
func (m *mover) final(ctx context.Context) (err error) {
	const attempts = 10
	ctx, span := m.part(ctx, pointFinal)
	defer func(ctx context.Context) { endPart(ctx, span, err) }(ctx)
	ctx, cancel := context.WithTimeout(ctx, m.config.FenceBudget)
	defer cancel()
	return m.shard(ctx, pointFinal, m.config.FenceBudget, attempts, func(ctx context.Context) error {
		n, err := m.pair.Final(ctx)
		m.metrics.worked(pointFinal, n)
		return err
	})
}

// lift opens the slots again. Switch was not sent for this fence, and nobody else can have sent one: they would have written
// their own token first, and Unfence would find it.
func (m *mover) lift(ctx context.Context, cause error) error {
	if errors.Is(cause, ErrMismatch) || errors.Is(cause, ErrStale) {
		return m.hopeless(ctx, cause)
	}
	// Also when this process has been told to stop: nobody else would do it as soon.
	lifting, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.config.Deadman)
	defer cancel()
	var err error
	for pause := newPause(20*time.Millisecond, time.Second); lifting.Err() == nil; sleep(lifting, pause.NextBackOff()) {
		if err = m.slots(lifting, pointUnfence, m.pair.Unfence); err == nil || errors.Is(err, ErrTokenLost) || errors.Is(err, ErrSwitchLost) || ctx.Err() != nil {
			break
		}
	}
	m.report.fenced(time.Since(m.closed))
	m.metrics.lifted(time.Since(m.closed))
	switch {
	case errors.Is(err, ErrTokenLost) || errors.Is(err, ErrSwitchLost) || ctx.Err() != nil:
		return errors.Join(cause, err)
	case err != nil:
		return m.abort(ctx, fmt.Errorf("%w; the fence could not be lifted: %w", cause, err), false)
	}
	m.open = true
	return m.reopened(ctx, cause)
}

// mostLifts is how often a fence is lifted before the move is given up: clients have waited each time.
const mostLifts = 8

// reopened goes back to catching up.
func (m *mover) reopened(ctx context.Context, cause error) error {
	m.fail(fmt.Errorf("not fenced: %w", cause))
	m.log.WarnContext(ctx, "the slots are open again; catching up", "after", time.Since(m.closed), "cause", cause)
	m.closed = time.Time{}
	m.marked = false // the final pass may have been cut off and still be on its way; Mark waits for it
	if err := m.record(ctx, placement.PhaseCatchup); err != nil {
		return err
	}
	if m.lifts++; m.lifts == mostLifts {
		return m.abort(ctx, fmt.Errorf("its fence was lifted %d times; the last time: %w", m.lifts, cause), false)
	}
	return nil
}

// decide sends Switch until the registry has answered. Once it was sent, only the registry knows, also when an answer says
// that another process leads: an earlier Switch may have come through. If a shard has another primary by now, no Switch for
// this fence can: the final pass was with the one before, and the fence is taken back at the new one.
func (m *mover) decide(ctx context.Context) (err error) {
	ctx, span := m.part(ctx, pointSwitch)
	defer func() { endPart(ctx, span, err) }()
	seen := m.seen
	m.marked = false // before these slots are opened again the target is asked whether it was given them; Mark waits for that
	for pause := newPause(20*time.Millisecond, time.Second); ; {
		move := m.move
		err := m.config.at(pointSwitch, func() error {
			ctx, cancel := context.WithTimeout(ctx, registryTimeout)
			defer cancel()
			switched, err := m.registry.Switch(ctx, move, seen)
			if err == nil {
				m.note(switched)
			}
			return err
		})
		if err == nil {
			m.holds = m.move.Holds(nil)
			return nil
		}
		if errors.Is(err, ErrNotLeading) || errors.Is(err, ErrShardChanged) || ctx.Err() != nil {
			return fmt.Errorf("switch: %w", err)
		}
		m.fail(fmt.Errorf("switch: %w", err))
		sleep(ctx, pause.NextBackOff())
		switch err := m.read(ctx); {
		case errors.Is(err, errEnded):
			return err
		case m.move.Phase == placement.PhaseSwitched:
			return err
		case err != nil && m.pair != nil:
		case m.seen != seen || m.pair == nil:
			return ErrShardChanged
		case m.move.Phase != placement.PhaseFence: // in it, it may have been paused; that is for later
			return ErrChanged
		}
	}
}
