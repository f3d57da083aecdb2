package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// Watch ends, until ctx does, what keeps clients waiting because its mover is gone: slots that have been fenced for longer
// than Config.Deadman, and decisions that the shards have not been told for as long. It needs no leadership, and several
// at once are harmless: it decides by an Abort, which competes with Switch, and tells the shards what was decided.
func (r *Rebalancer) Watch(ctx context.Context) {
	tick := time.NewTicker(r.config.Deadman / 4)
	defer tick.Stop()
	seen := make(map[placement.MoveID]*sighting)
	var told time.Time // of a problem: a shard that is down is one as long as it is
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.watch(ctx, seen); err != nil && ctx.Err() == nil && time.Since(told) > time.Minute {
			told = time.Now()
			r.log.WarnContext(ctx, "cannot look for slots that are fenced for too long, or end a fence; trying again", "error", err)
		}
	}
}

// sighting is a decision that the shards may not have been told yet.
type sighting struct {
	revision int64
	since    time.Time
	told     bool // by this process
}

// watch looks once.
func (r *Rebalancer) watch(ctx context.Context, seen map[placement.MoveID]*sighting) error {
	view, err := r.view(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, move := range view.Moves {
		if move.Phase != placement.PhaseSwitched && move.Phase != placement.PhaseAborting {
			delete(seen, move.ID)
			continue
		}
		s := seen[move.ID]
		if s == nil || s.revision != move.Revision {
			seen[move.ID] = &sighting{revision: move.Revision, since: time.Now()}
		} else if !s.told && time.Since(s.since) >= r.config.Deadman {
			err := r.end(ctx, move)
			s.told = err == nil
			errs = append(errs, err)
		}
	}
	looking, cancel := context.WithTimeout(ctx, r.config.Deadman)
	fenced, err := r.shards.Fenced(looking, view, r.config.Deadman)
	cancel()
	errs = append(errs, err)
	for _, id := range fenced {
		move, ok := find(view, id)
		if !ok {
			errs = append(errs, fmt.Errorf("slots are fenced for a move %s that the registry does not have: a person must look", id))
			continue
		}
		errs = append(errs, r.end(ctx, move))
	}
	return errors.Join(errs...)
}

// end aborts a move that was not decided about, and does at the shards what the registry says.
func (r *Rebalancer) end(ctx context.Context, move placement.Move) error {
	m := &mover{
		registry: r.registry, shards: r.shards, config: &r.config, move: move,
		log: r.log.With("move", move.ID, "source", move.Source, "target", move.Target, "deadman", true),
	}
	defer m.hangUp()
	if move.Phase.Before() {
		if err := m.abort(ctx, fmt.Errorf("its slots were fenced for more than %v", r.config.Deadman), false); err != nil {
			return fmt.Errorf("move %s: %w", move.ID, err)
		}
	}
	// What was decided is read, with the epochs, and not concluded: the shards must get what the registry has.
	if err := m.read(ctx); err != nil {
		return fmt.Errorf("move %s: %w", move.ID, err)
	}
	var err error
	switch m.move.Phase {
	case placement.PhaseSwitched:
		if err = m.slots(ctx, pointActivate, m.pair.Activate); err == nil {
			err = m.slots(ctx, pointTombstone, m.pair.Tombstone)
		}
	case placement.PhaseAborting:
		err = m.slots(ctx, pointRestore, m.pair.Restore)
		err = errors.Join(err, m.slots(ctx, pointDiscard, m.pair.Discard))
	default:
		return nil // it has gone on meanwhile
	}
	if err != nil {
		return fmt.Errorf("move %s: %w", move.ID, err)
	}
	m.log.WarnContext(ctx, "the shards of a move were told what was decided", "phase", m.move.Phase)
	return nil
}
