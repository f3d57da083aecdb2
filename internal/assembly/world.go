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
	open map[ledger.ShardID]opened
}

// opened is a shard, where it was opened.
type opened struct {
	*shard.Shard
	as cluster.Shard
}

// NewWorld returns a world that uses c. Close it before c.
func NewWorld(c *cluster.Cluster, passwords Passwords) *World {
	return &World{cluster: c, passwords: passwords, open: make(map[ledger.ShardID]opened)}
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
	return w.SnapshotOf(ctx, id, audit.Part{})
}

// SnapshotOf opens a snapshot of a part of a shard, taken before it returns.
func (w *World) SnapshotOf(ctx context.Context, id ledger.ShardID, part audit.Part) (audit.Marked, error) {
	s, err := w.shard(id)
	if err != nil {
		return nil, err
	}
	snapshot, err := s.SnapshotOf(ctx, part)
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}

// shard opens a shard, and opens it anew if it has another address or another primary by now.
func (w *World) shard(id ledger.ShardID) (*shard.Shard, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.view.Shards[id]
	if !ok {
		return nil, fmt.Errorf("shard %s is not registered", id)
	}
	if s, ok := w.open[id]; ok {
		if s.as.DSN == known.DSN && s.as.Timeline == known.Timeline {
			return s.Shard, nil
		}
		s.Close()
		delete(w.open, id)
	}
	s, err := shard.Open(shard.Config{
		Cluster: w.view.Config.UID, ID: id, DSN: known.DSN, Timeline: known.Timeline, Password: w.passwords(id), Name: "saldo",
	}, slog.New(slog.DiscardHandler))
	if err == nil {
		w.open[id] = opened{s, known}
	}
	return s, err
}

// Close ends the connections to the shards.
func (w *World) Close() {
	for _, s := range w.open {
		s.Close()
	}
}
