package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Rebuilt is what a registry is to say that was lost, or lost its latest decisions: what the shards' own tables say.
type Rebuilt struct {
	UID     string                          // of the cluster that the shards are of; written where there is none
	Owners  map[ledger.Slot]placement.Owner // of every slot
	Shards  []Shard                         // to be registered, with their Timeline and Adoption
	Retired []ledger.ShardID                // to be forgotten, for ever
	Moves   []placement.Move                // to stand in place of the records of their ids
	Forget  []placement.MoveID              // records that are contradicted
}

// mostOps is how many writes etcd takes in one Txn unless it was told otherwise.
const mostOps = 128

// Rebuild writes a registry anew, in one Txn: into an empty prefix if view is nil, else over what view has. The error is
// ErrChanged if something was written there meanwhile. It refuses what would make no view.
func (c *Cluster) Rebuild(ctx context.Context, view *View, r Rebuilt) error {
	var (
		compares []clientv3.Cmp
		ops      []clientv3.Op
		all      = make(map[string]record) // as they will be
	)
	put := func(key, value string) {
		ops = append(ops, clientv3.OpPut(key, value))
		all[key] = record{value: value}
	}
	begun := now()
	if view == nil {
		value, err := json.Marshal(ClusterConfig{UID: r.UID, Slots: placement.Slots, Hash: placement.HashID, CreatedAt: begun})
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		compares = append(compares, clientv3.Compare(clientv3.CreateRevision(c.keys.config()), "=", 0))
		for _, kept := range []string{c.keys.shards(), c.keys.retired(), c.keys.slots(), c.keys.moves()} {
			compares = append(compares, clientv3.Compare(clientv3.CreateRevision(kept).WithPrefix(), "=", 0))
		}
		put(c.keys.config(), string(value))
	} else {
		if view.Config.UID != r.UID {
			return fmt.Errorf("rebuild the registry: %w: it is cluster %s, the shards are of %s", ErrMismatch, view.Config.UID, r.UID)
		}
		compares = append(compares, c.same(view.Config))
		for _, kept := range []string{c.keys.shards(), c.keys.retired(), c.keys.slots(), c.keys.moves()} {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(kept).WithPrefix(), "<", view.Revision+1))
		}
		got, err := c.client.Get(ctx, c.keys.prefix, clientv3.WithPrefix(), clientv3.WithRev(view.Revision))
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		all = records(got)
	}
	for _, s := range r.Shards {
		fresh, err := newShard(s, begun)
		if err != nil {
			return fmt.Errorf("rebuild the registry: shard %q: %w", s.ID, err)
		}
		value, err := json.Marshal(fresh)
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		put(c.keys.shard(s.ID), string(value))
	}
	for _, id := range r.Retired {
		value, err := json.Marshal(tombstone{ID: id, RetiredAt: begun})
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		put(c.keys.tombstone(id), string(value))
		ops = append(ops, clientv3.OpDelete(c.keys.shard(id)))
		delete(all, c.keys.shard(id))
	}
	for chunk := range chunks {
		value, err := formatChunk(chunk, r.Owners)
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		put(c.keys.chunk(chunk), value)
	}
	for _, move := range r.Moves {
		value, err := json.Marshal(move)
		if err != nil {
			return fmt.Errorf("rebuild the registry: %w", err)
		}
		put(c.keys.move(move.ID), string(value))
	}
	for _, id := range r.Forget {
		ops = append(ops, clientv3.OpDelete(c.keys.move(id)))
		delete(all, c.keys.move(id))
	}
	if _, err := c.keys.view(all, 1, nil); err != nil {
		return fmt.Errorf("rebuild the registry: nothing was written, since it would make no sense: %w", err)
	}
	if len(ops) > mostOps {
		return fmt.Errorf("rebuild the registry: %d writes are more than the %d that one transaction of etcd takes",
			len(ops), mostOps)
	}
	resp, err := c.client.Txn(ctx).If(compares...).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("rebuild the registry: %w", err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("rebuild the registry: %w", ErrChanged)
	}
	c.log.InfoContext(ctx, "the registry was rebuilt", "cluster", r.UID)
	return nil
}
