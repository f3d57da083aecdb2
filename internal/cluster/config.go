package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// ClusterConfig is what a cluster is created with. It never changes.
type ClusterConfig struct {
	UID           string    `json:"uid"`            // random; each shard stores it too
	Slots         int       `json:"slots"`          // placement.Slots
	Hash          string    `json:"hash"`           // placement.HashID
	InitialShards int       `json:"initial_shards"` // the slots are spread when so many are active; 0: not said
	CreatedAt     time.Time `json:"created_at"`

	raw string // as stored, for compares
}

var (
	// ErrNotInitialized: there is no cluster under this prefix. Nobody has called Init.
	ErrNotInitialized = errors.New("no cluster under this prefix: it has to be initialized first")
	// ErrMismatch: the cluster was made with other slots or another hash than this program has, or is another cluster than
	// before. Going on would send users to shards that do not have their money.
	ErrMismatch = errors.New("the cluster does not fit")
)

// Init creates the cluster, unless it is there. It returns the config as stored, which may be another process's, with
// another InitialShards, and whether this call created it. initialShards of 0 leaves the founding to RunFounder's settle
// time. The error is ErrMismatch if a cluster is there that LoadConfig would refuse.
func (c *Cluster) Init(ctx context.Context, initialShards int) (config ClusterConfig, created bool, err error) {
	if initialShards < 0 || initialShards > placement.Slots {
		return ClusterConfig{}, false, fmt.Errorf("initialize the cluster: %d initial shards is not 0 to %d", initialShards, placement.Slots)
	}
	uid, err := uuid.NewRandom()
	if err != nil {
		return ClusterConfig{}, false, fmt.Errorf("initialize the cluster: %w", err)
	}
	value, err := json.Marshal(ClusterConfig{
		UID:           uid.String(),
		Slots:         placement.Slots,
		Hash:          placement.HashID,
		InitialShards: initialShards,
		CreatedAt:     time.Now().UTC().Truncate(time.Millisecond),
	})
	if err != nil {
		return ClusterConfig{}, false, fmt.Errorf("initialize the cluster: %w", err)
	}
	key := c.keys.config()
	resp, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value)), clientv3.OpGet(key)).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return ClusterConfig{}, false, fmt.Errorf("initialize the cluster: %w", err)
	}
	stored := resp.Responses[len(resp.Responses)-1].GetResponseRange().Kvs[0]
	config, err = parseConfig(string(stored.Value))
	if err != nil {
		return ClusterConfig{}, false, fmt.Errorf("initialize the cluster: %w", err)
	}
	return config, resp.Succeeded, nil
}

// LoadConfig reads the config. The error is ErrNotInitialized or ErrMismatch where these apply.
func (c *Cluster) LoadConfig(ctx context.Context) (ClusterConfig, error) {
	resp, err := c.client.Get(ctx, c.keys.config())
	if err != nil {
		return ClusterConfig{}, fmt.Errorf("load the cluster's config: %w", err)
	}
	if len(resp.Kvs) == 0 {
		return ClusterConfig{}, fmt.Errorf("load the cluster's config at %s: %w", c.keys.config(), ErrNotInitialized)
	}
	config, err := parseConfig(string(resp.Kvs[0].Value))
	if err != nil {
		return ClusterConfig{}, fmt.Errorf("load the cluster's config: %w", err)
	}
	return config, nil
}

// parseConfig also checks that the config is one this program can work with.
func parseConfig(value string) (ClusterConfig, error) {
	config := ClusterConfig{raw: value}
	if err := json.Unmarshal([]byte(value), &config); err != nil {
		return ClusterConfig{}, fmt.Errorf("config %.200q: %w", value, err)
	}
	switch {
	case config.UID == "":
		return ClusterConfig{}, fmt.Errorf("config %.200q: no uid", value)
	case config.Slots != placement.Slots || config.Hash != placement.HashID:
		return ClusterConfig{}, fmt.Errorf("%w: cluster %s has %d slots by hash %q, this program has %d by %q",
			ErrMismatch, config.UID, config.Slots, config.Hash, placement.Slots, placement.HashID)
	case config.InitialShards < 0 || config.InitialShards > placement.Slots:
		return ClusterConfig{}, fmt.Errorf("config %.200q: bad initial_shards", value)
	}
	return config, nil
}

// same compares with the stored config: it holds in a Txn if this is still the same cluster.
func (c *Cluster) same(config ClusterConfig) clientv3.Cmp {
	return clientv3.Compare(clientv3.Value(c.keys.config()), "=", config.raw)
}
