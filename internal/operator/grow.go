package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// retiresClaims tells whether claims are the operator's to mark: CloudNativePG's are its own.
func (p *pass) retiresClaims() bool {
	return p.cluster.Spec.Postgres.Mode != v1alpha1.ModeCloudNativePG
}

// grow has every shard that is to serve be there, joined and active, and makes those that are missing.
func (p *pass) grow(ctx context.Context) error {
	var errs []error
	for _, id := range p.plan.create {
		if err := p.engine.make(ctx, id, p.registry.Cluster); err != nil {
			errs = append(errs, err)
			continue
		}
		p.event(id, "ShardCreated", "Create", "shard %s is being made", id)
		p.scale("Creating", "shard %s is being made", id)
	}
	for _, m := range append(p.part(keep), p.part(leave)...) {
		if err := p.exists(ctx, m); err != nil {
			errs = append(errs, err)
			continue
		}
		if m.part == keep {
			p.serve(ctx, m)
		}
	}
	return errors.Join(errs...)
}

// exists has a shard's Postgres run, on the volume that it has.
func (p *pass) exists(ctx context.Context, m member) error {
	r, ok := p.running[m.id]
	claims := make(map[ledger.ShardID]bool)
	claim := p.claims[m.id]
	claims[m.id] = claim != nil
	switch {
	case ok && r.deleting && r.recreate:
		if err := p.engine.release(ctx, r); err != nil {
			return err
		}
		p.event(m.id, "ShardRecreated", "Recreate", "%s goes, to be made anew on its volume", r.object.GetName())
		p.scale("Creating", "what runs shard %s is made anew", m.id)
		return nil
	case ok && r.deleting && !p.retiresClaims():
		p.note(m.id, "%s was deleted by somebody", r.object.GetName())
		p.block("ShardDeleted", "%s was deleted by somebody while shard %s may own slots. A finalizer keeps it, and its volumes, which would go with "+
			"it: take a backup, and drain the shard with `saldo shard drain %s`", r.object.GetName(), m.id, m.id)
	case ok && r.deleting:
		p.note(m.id, "%s was deleted by somebody", r.object.GetName())
		p.block("ShardDeleted", "%s was deleted by somebody while shard %s may own slots. It runs on, but nobody starts it again when it "+
			"stops. To have it made anew on its volume, with a pause of seconds: kubectl annotate %s/%s %s=true",
			r.object.GetName(), m.id, p.kind(), r.object.GetName(), annotationRecreate)
	case !ok && !p.engine.keepsRows(claims, m.id):
		p.note(m.id, "what ran it is gone")
		p.block("ShardLost", "shard %s owns %d slots, and what ran it is gone with its volume: bring %s back from a backup; nothing is made "+
			"in its place", m.id, m.Slots, p.kind()+"/"+objectName(p.cluster, m.id))
		return nil
	case !ok:
		if err := p.engine.make(ctx, m.id, p.registry.Cluster); err != nil {
			return err
		}
		p.event(m.id, "ShardRecreated", "Recreate", "what runs shard %s was gone, and is made anew on its volume", m.id)
		p.scale("Creating", "what runs shard %s is made anew", m.id)
		return nil
	}
	if claim == nil || !p.retiresClaims() {
		return nil
	}
	if claim.DeletionTimestamp != nil {
		p.note(m.id, "claim %s was deleted by somebody", claim.Name)
		p.block("ClaimDeleted", "claim %s was deleted by somebody while shard %s may own slots. It is kept by a finalizer, and its pod runs on, but "+
			"cannot be started again: drain the shard, or take a backup, now", claim.Name, m.id)
	}
	if err := protectClaim(ctx, p.Client, claim); err != nil {
		return fmt.Errorf("protect claim %s: %w", claim.Name, err)
	}
	return nil
}

func (p *pass) kind() string {
	if p.cluster.Spec.Postgres.Mode == v1alpha1.ModeCloudNativePG {
		return "clusters.postgresql.cnpg.io"
	}
	return "statefulset"
}

// serve has a shard be registered and active.
func (p *pass) serve(ctx context.Context, m member) {
	r := p.running[m.id]
	switch {
	case !m.registered && r.deleting:
	case m.registered && m.Draining:
		if err := p.ledger.Activate(ctx, m.id); err != nil {
			p.note(m.id, "%v", err)
			p.scale("Activating", "the drain of shard %s is being taken back", m.id)
			return
		}
		p.event(m.id, "DrainCancelled", "Activate", "shard %s is to stay: its drain was taken back", m.id)
		p.scale("Activating", "the drain of shard %s was taken back", m.id)
	case m.registered:
	case r.object == nil || !r.ready:
		p.scale("Creating", "shard %s waits for its Postgres", m.id)
	default:
		p.scale("Joining", "shard %s is being migrated and registered", m.id)
		if err := p.ledger.Join(ctx, m.id, p.dsn(m.id)); err != nil {
			p.note(m.id, "%v", err)
			if errors.As(err, new(*Refusal)) { // it stays so until something else changes
				p.block("NotJoined", "shard %s: %v", m.id, err)
			}
			return
		}
		p.event(m.id, "ShardJoined", "Join", "shard %s is registered", m.id)
	}
}

// renew gives shards the template of today: one after the other, and none while another one does not serve.
func (p *pass) renew(ctx context.Context) error {
	for _, m := range append(p.part(keep), p.part(leave)...) {
		r, ok := p.running[m.id]
		if !ok || r.current || r.deleting {
			continue
		}
		if waits := p.notServing(m.id); waits != "" && r.ready {
			p.scale("Renewing", "shard %s is to get another template, and waits for shard %s", m.id, waits)
			return nil
		}
		p.scale("Renewing", "shard %s gets another template, and is started again", m.id)
		if err := p.engine.update(ctx, r); err != nil {
			return err
		}
		p.event(m.id, "ShardRenewed", "Update", "%s gets another template", r.object.GetName())
		return nil
	}
	return nil
}

// notServing returns a shard other than one that does not serve; "" if there is none.
func (p *pass) notServing(but ledger.ShardID) ledger.ShardID {
	for _, m := range append(p.part(keep), p.part(leave)...) {
		_, answers := p.answers[m.id]
		if m.id != but && m.registered && (!answers || !p.running[m.id].ready) {
			return m.id
		}
	}
	return ""
}
