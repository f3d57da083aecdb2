package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// Watch ends, until ctx does, what keeps clients waiting because its mover is gone: slots that have been fenced for longer
// than Config.Deadman, and decisions that the shards have not been told: a switch for as long, an abort at once, since
// nobody may be about who would. It needs no leadership, and several at once are harmless: it decides by an Abort, which
// competes with Switch, and tells the shards what was decided.
func (r *Rebalancer) Watch(ctx context.Context) {
	tick := time.NewTicker(r.config.Deadman / 4)
	defer tick.Stop()
	seen := make(map[placement.MoveID]*sighting)
	var told time.Time // of a problem: a shard that is down is one as long as it is
	changed := r.registry.Changed()
	for {
		asking := false
		select {
		case <-ctx.Done():
			return
		case <-changed:
			changed = r.registry.Changed()
		case <-tick.C:
			asking = true
		}
		if err := r.watch(ctx, seen, asking); err != nil && ctx.Err() == nil && time.Since(told) > time.Minute {
			told = time.Now()
			r.log.WarnContext(ctx, "cannot look for slots that are fenced for too long, or end a fence; trying again", "error", err)
		}
	}
}

// sighting is a decision that the shards may not have been told yet.
type sighting struct {
	revision int64
	shards   int64 // the newest revision of their records: another primary may have lost what the one before was told
	since    time.Time
	told     bool // by this process
}

// watch looks once; asking: at the shards too.
func (r *Rebalancer) watch(ctx context.Context, seen map[placement.MoveID]*sighting, asking bool) error {
	view, err := r.view(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, move := range view.Moves {
		var patience time.Duration
		switch move.Phase {
		case placement.PhaseSwitched:
			patience = r.config.Deadman
		case placement.PhaseAborting:
		default:
			delete(seen, move.ID)
			continue
		}
		s, shards := seen[move.ID], newest(view, move)
		if s == nil || s.revision != move.Revision || s.shards != shards {
			s = &sighting{revision: move.Revision, shards: shards, since: time.Now()}
			seen[move.ID] = s
		}
		if !s.told && time.Since(s.since) >= patience {
			err := r.end(ctx, view, move)
			s.told = err == nil
			errs = append(errs, err)
		}
	}
	if !asking {
		return errors.Join(errs...)
	}
	looking, cancel := context.WithTimeout(ctx, r.config.Deadman)
	fenced, err := r.shards.Fenced(looking, view, r.config.Deadman)
	cancel()
	errs = append(errs, err)
	for _, id := range fenced {
		move, ok := find(view, id)
		switch {
		case ok:
			errs = append(errs, r.end(ctx, view, move))
		case id == "":
			errs = append(errs, errors.New("slots are fenced under no move, after a failover: the shard's doctor names them"))
		default:
			errs = append(errs, fmt.Errorf("slots are fenced for a move %s that the registry does not have: a person must look", id))
		}
	}
	return errors.Join(errs...)
}

// end aborts a move that was not decided about, and does at the shards what the registry says. A move that has ended long
// ago may be among those: the source's failover has lost what it was told then.
func (r *Rebalancer) end(ctx context.Context, view *View, move placement.Move) (failed error) {
	m := &mover{
		registry: r.registry, shards: r.shards, config: &r.config, move: move, metrics: r.metrics.of(move), tracer: r.tracer,
		log: r.log.With("move", move.ID, "source", move.Source, "target", move.Target, "deadman", true),
	}
	ctx, span := m.work(ctx, "end a fence")
	defer func() { endPart(ctx, span, failed) }()
	defer m.hangUp()
	r.metrics.deadman.Add(1)
	if move.Phase.Before() {
		var err error
		if m.pair, err = r.shards.Pair(view, move, m.token); err != nil {
			return fmt.Errorf("move %s: open the shards: %w", move.ID, err)
		}
		m.seen = view.Revision
		err = m.abort(ctx, fmt.Errorf("its slots were fenced for more than %v", r.config.Deadman), false)
		if err := m.switchLost(ctx, err); err != nil {
			return fmt.Errorf("move %s: %w", move.ID, err)
		}
	}
	// What was decided is read, with the epochs, and not concluded: the shards must get what the registry has.
	if err := m.read(ctx); err != nil {
		return fmt.Errorf("move %s: %w", move.ID, err)
	}
	var err error
	switch m.move.Phase {
	case placement.PhaseSwitched, placement.PhaseClean, placement.PhaseDone:
		if m.move.Phase != placement.PhaseSwitched && owns(view, move) > 0 {
			err = errors.New("its source lacks what it did since, and owns some of the slots again: a person must look")
		} else if err = m.slots(ctx, pointActivate, m.pair.Activate); err == nil {
			err = m.slots(ctx, pointTombstone, m.pair.Tombstone)
		}
	case placement.PhaseAborting:
		err = m.slots(ctx, pointRestore, m.pair.Restore)
		err = errors.Join(err, m.slots(ctx, pointDiscard, m.pair.Discard))
	case placement.PhaseAborted:
		if owns(view, move) < len(move.Slots) {
			err = errors.New("it was aborted, and its source does not own all of the slots any more: a person must look")
			break
		}
		move.Epochs = nil // they may have gone away and come back since
		m.holds = move.Holds(view.Map)
		err = m.slots(ctx, pointRestore, m.pair.Restore)
	default:
		return nil // it has gone on meanwhile
	}
	if err != nil {
		return fmt.Errorf("move %s: %w", move.ID, err)
	}
	m.log.WarnContext(ctx, "the shards of a move were told what was decided", "phase", m.move.Phase)
	return nil
}

// owns is how many of a move's slots its source owns.
func owns(view *View, move placement.Move) (n int) {
	for _, slot := range move.Slots {
		if view.Map.Owner(slot).Shard == move.Source {
			n++
		}
	}
	return n
}
