package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// tidy ends what ran shards that have left.
func (p *pass) tidy(ctx context.Context) error {
	var errs []error
	for _, m := range p.part(gone) {
		p.scale("Retiring", "what ran shard %s, which has left, is being ended", m.id)
		if claim := p.claims[m.id]; claim != nil && p.retiresClaims() {
			if err := retireClaim(ctx, p.Client, claim, p.now()); err != nil {
				errs = append(errs, fmt.Errorf("mark claim %s: %w", claim.Name, err))
				continue
			}
		}
		if err := p.engine.retire(ctx, p.running[m.id]); err != nil {
			errs = append(errs, err)
			continue
		}
		if !p.running[m.id].deleting {
			p.event(m.id, "ShardRetired", "Retire", "shard %s has left; what ran it is ended, and its volume is kept", m.id)
		}
	}
	return errors.Join(errs...)
}

// shrink empties shards that are to leave, and has the registry forget those that are empty.
func (p *pass) shrink(ctx context.Context) error {
	others := slices.ContainsFunc(p.plan.members, func(m member) bool { return m.part != leave && m.registered && !m.Draining })
	for _, m := range p.part(leave) {
		switch {
		case !m.registered:
			// Whoever is joining it now is refused from then on, or has been faster, and then it drains.
			p.scale("Retiring", "shard %s was never registered, and is not needed any more", m.id)
			if err := p.ledger.Retire(ctx, m.id); err != nil {
				p.note(m.id, "%v", err)
			}
		case !p.registry.Founded:
			p.scale("Founding", "shard %s is to leave as soon as the cluster is founded", m.id)
		case !m.Draining && !others:
			p.scale("Draining", "shard %s is to leave, and waits for another one that takes its slots", m.id)
		case !m.Draining:
			p.scale("Draining", "shard %s is to leave: it has %d slots", m.id, m.Slots)
			if err := p.ledger.Drain(ctx, m.id); err != nil {
				p.note(m.id, "%v", err)
				continue
			}
			p.event(m.id, "ShardDraining", "Drain", "shard %s is to leave: its %d slots move to the others", m.id, m.Slots)
		case m.Slots > 0 || m.Moves > 0:
			p.scale("Draining", "shard %s has %d slots, and %d moves that have not ended (each keeps the copy it has left behind for a while)",
				m.id, m.Slots, m.Moves)
		default:
			p.scale("Removing", "shard %s is empty, and is being removed from the registry", m.id)
			if err := p.ledger.Remove(ctx, m.id); err != nil {
				p.note(m.id, "%v", err)
				p.block("NotRemoved", "shard %s: %v", m.id, err)
				continue
			}
			p.event(m.id, "ShardRemoved", "Remove", "shard %s is empty and was removed from the registry; its id is never used again", m.id)
		}
	}
	return nil
}

// remove lets go of a LedgerCluster that somebody has deleted, if no shard of it is registered. What ran those that never
// were is ended.
func (p *pass) remove(ctx context.Context) error {
	var errs []error
	for _, m := range p.plan.members {
		switch {
		case m.part == leave && m.registered:
			p.block("HoldsMoney", "it was deleted by somebody while its shards hold money (shard %s owns %d slots). They run on. To let them go on "+
				"without it: kubectl annotate ledgercluster/%s %s=true", m.id, m.Slots, p.cluster.Name, annotationRelease)
			return nil
		case m.part == leave:
			p.scale("Retiring", "shard %s was never registered, and is not needed any more", m.id)
			if err := p.ledger.Retire(ctx, m.id); err != nil {
				p.note(m.id, "%v", err)
			}
		}
	}
	errs = append(errs, p.tidy(ctx))
	if len(p.running) == 0 {
		errs = append(errs, p.letGo(ctx))
	}
	return errors.Join(errs...)
}

// release lets shards run on without a LedgerCluster, as somebody has said. It needs no registry: nothing is ended.
func (p *pass) release(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	for _, r := range p.running {
		if err := p.engine.release(ctx, r); err != nil {
			return err
		}
	}
	for _, claim := range p.claims {
		if err := unfinalize(ctx, p.Client, claim); err != nil {
			return fmt.Errorf("take the finalizer off claim %s: %w", claim.Name, err)
		}
	}
	p.event("", "Released", "Release", "its shards go on without it")
	return p.letGo(ctx)
}

func (p *pass) letGo(ctx context.Context) error {
	if err := unfinalize(ctx, p.Client, p.cluster); err != nil {
		return fmt.Errorf("take the finalizer off: %w", err)
	}
	p.released = true
	return nil
}
