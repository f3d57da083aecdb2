package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Readdress says where a registered shard's Postgres is to be found from now on, and returns the shard as stored. It is
// for a database that has moved as a whole; whether the right one is there is checked by the shard's own guard, in each
// transaction. The error is ErrNotRegistered, ErrMismatch or ErrNotInitialized where these apply.
func (c *Cluster) Readdress(ctx context.Context, config ClusterConfig, id ledger.ShardID, dsn string) (Shard, error) {
	dsn, err := StripDSN(dsn)
	if err != nil {
		return Shard{}, fmt.Errorf("readdress shard %q: %w", id, err)
	}
	key := c.keys.shard(id)
	for {
		got, err := c.client.Get(ctx, key)
		if err != nil {
			return Shard{}, fmt.Errorf("readdress shard %q: %w", id, err)
		}
		if len(got.Kvs) == 0 {
			return Shard{}, fmt.Errorf("readdress shard %q: %w", id, ErrNotRegistered)
		}
		shard, err := parseShard(id, string(got.Kvs[0].Value))
		if err != nil || shard.DSN == dsn {
			return shard, err
		}
		shard.DSN = dsn
		value, err := json.Marshal(shard)
		if err != nil {
			return Shard{}, fmt.Errorf("readdress shard %q: %w", id, err)
		}
		resp, err := c.client.Txn(ctx).
			If(c.same(config), clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value))).
			Else(clientv3.OpGet(c.keys.config())).
			Commit()
		if err != nil {
			return Shard{}, fmt.Errorf("readdress shard %q: %w", id, err)
		}
		if resp.Succeeded {
			return shard, nil
		}
		configs := resp.Responses[0].GetResponseRange()
		switch {
		case len(configs.Kvs) == 0:
			return Shard{}, fmt.Errorf("readdress shard %q: %w", id, ErrNotInitialized)
		case string(configs.Kvs[0].Value) != config.raw:
			return Shard{}, fmt.Errorf("readdress shard %q: %w: it is no longer cluster %s", id, ErrMismatch, config.UID)
		}
		// Somebody else changed the shard meanwhile: once more, from what it is now.
	}
}
