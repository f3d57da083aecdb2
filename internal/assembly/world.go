package assembly

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// World is a cluster as the audit sees it: the registry in etcd, and each shard at the address it has there.
type World struct {
	cluster   *cluster.Cluster
	passwords Passwords

	mu   sync.Mutex
	view *cluster.View // of the latest look
	open map[ledger.ShardID]*shard.Shard
}

// NewWorld returns a world that uses c. Close it before c.
func NewWorld(c *cluster.Cluster, passwords Passwords) *World {
	return &World{cluster: c, passwords: passwords, open: make(map[ledger.ShardID]*shard.Shard)}
}

// View implements audit.World.
func (w *World) View(ctx context.Context) (audit.View, error) {
	view, err := w.cluster.Read(ctx)
	if err != nil {
		return audit.View{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = view
	return audit.View{
		Cluster: view.Config.UID, Shards: slices.Sorted(maps.Keys(view.Shards)), Map: view.Map, Moves: view.Moves,
	}, nil
}

// Snapshot implements audit.World.
func (w *World) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	s, err := w.shard(id)
	if err != nil {
		return nil, err
	}
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}

func (w *World) shard(id ledger.ShardID) (*shard.Shard, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.open[id]; ok {
		return s, nil
	}
	known, ok := w.view.Shards[id]
	if !ok {
		return nil, fmt.Errorf("shard %s is not registered", id)
	}
	s, err := shard.Open(shard.Config{
		Cluster: w.view.Config.UID, ID: id, DSN: known.DSN, Timeline: known.Timeline, Password: w.passwords(id), Name: "saldo",
	}, slog.New(slog.DiscardHandler))
	if err == nil {
		w.open[id] = s
	}
	return s, err
}

// Close ends the connections to the shards.
func (w *World) Close() {
	for _, s := range w.open {
		s.Close()
	}
}
