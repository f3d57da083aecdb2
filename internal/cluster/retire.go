package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Retire makes sure that an id that no shard is registered under never will be: for a database that was to become a shard
// and is not wanted any more. Retiring it again changes nothing. The error is ErrRegistered if a shard is, and ErrMismatch
// if this is no longer the cluster that config was loaded from.
func (c *Cluster) Retire(ctx context.Context, config ClusterConfig, id ledger.ShardID) error {
	if _, err := ledger.ParseShardID(string(id)); err != nil {
		return fmt.Errorf("retire shard %q: %w", id, err)
	}
	value, err := json.Marshal(tombstone{ID: id, RetiredAt: now()})
	if err != nil {
		return fmt.Errorf("retire shard %q: %w", id, err)
	}
	key, retired := c.keys.shard(id), c.keys.tombstone(id)
	resp, err := c.client.Txn(ctx).
		If(
			c.same(config),
			clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
			clientv3.Compare(clientv3.CreateRevision(retired), "=", 0),
		).
		Then(clientv3.OpPut(retired, string(value))).
		Else(clientv3.OpGet(key, clientv3.WithCountOnly()), clientv3.OpGet(retired, clientv3.WithCountOnly())).
		Commit()
	switch {
	case err != nil:
		return fmt.Errorf("retire shard %q: %w", id, err)
	case resp.Succeeded:
		c.log.InfoContext(ctx, "shard id retired", "shard", id)
	case resp.Responses[0].GetResponseRange().Count > 0:
		return fmt.Errorf("retire shard %q: %w", id, ErrRegistered)
	case resp.Responses[1].GetResponseRange().Count == 0:
		return fmt.Errorf("retire shard %q: %w: it is no longer cluster %s", id, ErrMismatch, config.UID)
	}
	return nil
}
