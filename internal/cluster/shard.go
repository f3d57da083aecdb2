package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// ShardState says what may happen to a shard's slots.
type ShardState string

const (
	ShardActive   ShardState = "active"   // gets slots and keeps them
	ShardDraining ShardState = "draining" // serves what it has until all of it has moved away
)

// Shard is a shard as the cluster knows it.
type Shard struct {
	ID           ledger.ShardID `json:"id"`
	State        ShardState     `json:"state"`
	DSN          string         `json:"dsn"`    // without any secret
	Weight       int            `json:"weight"` // its share of the slots, relative to the other shards', at least 1
	RegisteredAt time.Time      `json:"registered_at"`

	// Timeline is that of the primary which was adopted last, by Postgres's count; 0 if that is not known.
	Timeline int `json:"timeline,omitempty"`
	// Adoption is the mark of the server that was adopted: another one may be on a timeline of the same number. Empty if the
	// primary is the one that was registered.
	Adoption string `json:"adoption,omitempty"`

	Revision int64 `json:"-"` // of the record, in a View
}

// maxWeight is far above what 4096 slots can tell apart, and sums of weights stay small.
const maxWeight = 1_000_000

var (
	// ErrRetired: a shard of this id was removed. Ids are never used again.
	ErrRetired = errors.New("the shard id was used by a shard that has been removed: choose a new id")
	// ErrRegistered: the shard id is taken by a shard at another address.
	ErrRegistered = errors.New("the shard id is registered with another dsn")
	// ErrNotRegistered: the cluster has no shard of this id.
	ErrNotRegistered = errors.New("no such shard is registered")
)

// Register makes a shard known to the cluster that config was loaded from, and returns it as stored. Its Postgres must be
// migrated and carry the cluster's uid by now.
//
// The secrets in the dsn are taken off first (see StripDSN). State and RegisteredAt are set here; a Weight of 0 means 1.
// Registering again with the same dsn changes nothing and returns what is stored, with its own state, weight and timeline.
// The error is ErrRegistered, ErrRetired, ErrMismatch or ErrNotInitialized where these apply.
func (c *Cluster) Register(ctx context.Context, config ClusterConfig, shard Shard) (Shard, error) {
	shard, err := newShard(shard, time.Now())
	if err != nil {
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, err)
	}
	value, err := json.Marshal(shard)
	if err != nil {
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, err)
	}
	key, tombstone := c.keys.shard(shard.ID), c.keys.tombstone(shard.ID)
	resp, err := c.client.Txn(ctx).
		If(
			c.same(config),
			clientv3.Compare(clientv3.CreateRevision(tombstone), "=", 0),
			clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
		).
		Then(clientv3.OpPut(key, string(value))).
		Else(clientv3.OpGet(c.keys.config()), clientv3.OpGet(tombstone, clientv3.WithCountOnly()), clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, err)
	}
	if resp.Succeeded {
		return shard, nil
	}
	configs, tombstones, records := resp.Responses[0].GetResponseRange(), resp.Responses[1].GetResponseRange(), resp.Responses[2].GetResponseRange()
	switch {
	case len(configs.Kvs) == 0:
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, ErrNotInitialized)
	case string(configs.Kvs[0].Value) != config.raw:
		return Shard{}, fmt.Errorf("register shard %q: %w: it is no longer cluster %s", shard.ID, ErrMismatch, config.UID)
	case tombstones.Count > 0:
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, ErrRetired)
	}
	stored, err := parseShard(shard.ID, string(records.Kvs[0].Value))
	if err != nil {
		return Shard{}, fmt.Errorf("register shard %q: %w", shard.ID, err)
	}
	if stored.DSN != shard.DSN {
		return Shard{}, fmt.Errorf("register shard %q at %q: %w, %q: register a new Postgres under a new id; nothing was changed",
			shard.ID, shard.DSN, ErrRegistered, stored.DSN)
	}
	return stored, nil
}

// newShard checks a shard that is to be registered and fills in the rest.
func newShard(shard Shard, now time.Time) (Shard, error) {
	if _, err := ledger.ParseShardID(string(shard.ID)); err != nil {
		return shard, err
	}
	dsn, err := StripDSN(shard.DSN)
	if err != nil {
		return shard, err
	}
	if shard.Weight == 0 {
		shard.Weight = 1
	}
	if err := checkWeight(shard.Weight); err != nil {
		return shard, err
	}
	if shard.Timeline < 0 {
		return shard, fmt.Errorf("timeline %d is below 0", shard.Timeline)
	}
	shard.DSN, shard.State, shard.RegisteredAt = dsn, ShardActive, now.UTC().Truncate(time.Millisecond)
	return shard, nil
}

func checkWeight(weight int) error {
	if weight < 1 || weight > maxWeight {
		return fmt.Errorf("weight %d is not 1 to %d", weight, maxWeight)
	}
	return nil
}

func parseShard(id ledger.ShardID, value string) (Shard, error) {
	var shard Shard
	if err := json.Unmarshal([]byte(value), &shard); err != nil {
		return Shard{}, fmt.Errorf("shard %q: %w", id, err)
	}
	if _, err := ledger.ParseShardID(string(id)); err != nil {
		return Shard{}, fmt.Errorf("shard %q: %w", id, err)
	}
	switch {
	case shard.ID != id:
		return Shard{}, fmt.Errorf("shard %q: its record says %q", id, shard.ID)
	case shard.State != ShardActive && shard.State != ShardDraining:
		return Shard{}, fmt.Errorf("shard %q: unknown state %q", id, shard.State)
	case shard.DSN == "":
		return Shard{}, fmt.Errorf("shard %q: no dsn", id)
	case shard.Weight < 1:
		return Shard{}, fmt.Errorf("shard %q: weight %d", id, shard.Weight)
	case shard.Timeline < 0:
		return Shard{}, fmt.Errorf("shard %q: timeline %d", id, shard.Timeline)
	}
	return shard, nil
}
