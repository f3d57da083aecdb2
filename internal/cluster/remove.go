package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// tombstone is what stays of a removed shard, so that its id is never used again.
type tombstone struct {
	ID        ledger.ShardID `json:"id"`
	RetiredAt time.Time      `json:"retired_at"`
}

// RemoveShard forgets a shard that drains and has no slot, and retires its id. The caller has seen, after it had read the
// view, that the shard's own tables say the same: nothing about slots and moves may have changed since the view.
// Removing it again with the same view changes nothing. The error is ErrChanged or ErrNotRegistered where these apply; any
// other one but etcd's says what keeps the shard.
func (c *Cluster) RemoveShard(ctx context.Context, view *View, id ledger.ShardID) error {
	if err := view.checkRemoval(id); err != nil {
		return fmt.Errorf("remove shard %q: %w", id, err)
	}
	value, err := json.Marshal(tombstone{ID: id, RetiredAt: now()})
	if err != nil {
		return fmt.Errorf("remove shard %q: %w", id, err)
	}
	key, retired := c.keys.shard(id), c.keys.tombstone(id)
	resp, err := c.client.Txn(ctx).
		If(
			c.same(view.Config),
			clientv3.Compare(clientv3.CreateRevision(key), ">", 0),
			clientv3.Compare(clientv3.ModRevision(key), "<", view.Revision+1),
			clientv3.Compare(clientv3.ModRevision(c.keys.slots()).WithPrefix(), "<", view.Revision+1),
			clientv3.Compare(clientv3.ModRevision(c.keys.moves()).WithPrefix(), "<", view.Revision+1),
		).
		Then(clientv3.OpDelete(key), clientv3.OpDelete(c.keys.positions(id)), clientv3.OpPut(retired, string(value))).
		Else(clientv3.OpGet(retired, clientv3.WithCountOnly())).
		Commit()
	switch {
	case err != nil:
		return fmt.Errorf("remove shard %q: %w", id, err)
	case resp.Succeeded:
		c.log.InfoContext(ctx, "shard removed", "shard", id)
	case resp.Responses[0].GetResponseRange().Count == 0:
		return fmt.Errorf("remove shard %q: %w", id, ErrChanged)
	}
	return nil
}

// checkRemoval says what keeps a shard in the cluster.
func (v *View) checkRemoval(id ledger.ShardID) error {
	shard, ok := v.Shards[id]
	switch {
	case !ok:
		return ErrNotRegistered
	case shard.State != ShardDraining:
		return fmt.Errorf("it is %s: drain it first", shard.State)
	}
	owned := 0
	for _, r := range v.Map.Ranges() {
		if r.Shard == id {
			owned += int(r.Last-r.First) + 1
		}
	}
	if owned > 0 {
		return fmt.Errorf("it still owns %d slots: wait until they have moved away", owned)
	}
	for _, move := range v.Moves {
		switch {
		case !known(move.Phase):
			return strange(move)
		case move.Phase.Ended():
		case move.Source == id:
			return fmt.Errorf("move %s from it is not done (phase %s): wait until its copy was cleaned", move.ID, move.Phase)
		case move.Target == id:
			return fmt.Errorf("move %s to it is not done (phase %s): wait until it is", move.ID, move.Phase)
		}
	}
	return nil
}
