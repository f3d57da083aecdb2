package cluster

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// DrainShard makes a shard one that is to have no slots, or takes that back, and returns the shard as stored. Slots do not
// move by that: it is what planning goes by. A move to the shard that is under way goes on.
// The error is ErrNotRegistered, ErrMismatch or ErrNotInitialized where these apply.
func (c *Cluster) DrainShard(ctx context.Context, config ClusterConfig, id ledger.ShardID, draining bool) (Shard, error) {
	return c.changeShard(ctx, config, id, "drain", func(shard *Shard) error {
		shard.State = ShardActive
		if draining {
			shard.State = ShardDraining
		}
		return nil
	})
}

// SetWeight says how many slots a shard should have relative to the others, and returns the shard as stored. The errors are
// those of DrainShard.
func (c *Cluster) SetWeight(ctx context.Context, config ClusterConfig, id ledger.ShardID, weight int) (Shard, error) {
	return c.changeShard(ctx, config, id, "set the weight of", func(shard *Shard) error {
		shard.Weight = weight
		return checkWeight(weight)
	})
}

// Adopt notes that a shard's primary is now the server with this mark, on timeline to, after the one on timeline from (0: it
// was not known), and returns the shard as stored. Whoever calls it has seen that this server goes on from where the shard
// was; and writes the timeline to the shard's own tables afterwards.
//
// If to and mark are stored already, this is a repeat and nothing is changed. Of two servers that were promoted at once, to
// timelines of the same number, only one is adopted: each has a mark of its own.
// The error is ErrChanged if neither from nor the same is stored; else those of DrainShard.
func (c *Cluster) Adopt(ctx context.Context, config ClusterConfig, id ledger.ShardID, from, to int, mark string) (Shard, error) {
	return c.changeShard(ctx, config, id, "adopt the primary of", func(shard *Shard) error {
		switch {
		case from < 0 || to <= from:
			return fmt.Errorf("timeline %d cannot follow %d: they grow", to, from)
		case shard.Timeline == to && shard.Adoption == mark:
			return nil
		case shard.Timeline == to:
			return fmt.Errorf("%w: another server was adopted on timeline %d: this one is to be rewound or made anew", ErrChanged, to)
		case shard.Timeline != from:
			return fmt.Errorf("%w: the adopted timeline is %d, not %d", ErrChanged, shard.Timeline, from)
		}
		shard.Timeline, shard.Adoption = to, mark
		return nil
	})
}

// changeShard changes a shard's record from what it is now. what says in an error what was to be done to the shard.
func (c *Cluster) changeShard(
	ctx context.Context, config ClusterConfig, id ledger.ShardID, what string, change func(*Shard) error,
) (Shard, error) {
	key := c.keys.shard(id)
	for {
		got, err := c.client.Get(ctx, key)
		if err != nil {
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, err)
		}
		if len(got.Kvs) == 0 {
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, ErrNotRegistered)
		}
		shard, err := parseShard(id, string(got.Kvs[0].Value))
		if err != nil {
			return Shard{}, err
		}
		before := shard
		if err := change(&shard); err != nil {
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, err)
		}
		if shard == before {
			return shard, nil
		}
		value, err := json.Marshal(shard)
		if err != nil {
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, err)
		}
		resp, err := c.client.Txn(ctx).
			If(c.same(config), clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, string(value))).
			Else(clientv3.OpGet(c.keys.config())).
			Commit()
		if err != nil {
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, err)
		}
		if resp.Succeeded {
			return shard, nil
		}
		configs := resp.Responses[0].GetResponseRange()
		switch {
		case len(configs.Kvs) == 0:
			return Shard{}, fmt.Errorf("%s shard %q: %w", what, id, ErrNotInitialized)
		case string(configs.Kvs[0].Value) != config.raw:
			return Shard{}, fmt.Errorf("%s shard %q: %w: it is no longer cluster %s", what, id, ErrMismatch, config.UID)
		}
		// Somebody else changed the shard meanwhile: once more, from what it is now.
	}
}
