package cluster

import (
	"context"
	"fmt"

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
	return c.changeShard(ctx, config, id, "readdress", func(shard *Shard) error {
		shard.DSN = dsn
		return nil
	})
}
