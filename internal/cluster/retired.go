package cluster

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Retired returns the ids of the shards that have been removed, sorted.
func (c *Cluster) Retired(ctx context.Context) ([]ledger.ShardID, error) {
	resp, err := c.client.Get(ctx, c.keys.retired(), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("look up the retired shards: %w", err)
	}
	var ids []ledger.ShardID
	for _, kv := range resp.Kvs { // in the order of their keys
		ids = append(ids, ledger.ShardID(strings.TrimPrefix(string(kv.Key), c.keys.retired())))
	}
	return ids, nil
}
