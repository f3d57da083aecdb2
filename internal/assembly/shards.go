package assembly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/shard"
)

// Shards are the shards of a cluster as the rebalancer uses them, each at the address that the registry has for it.
type Shards struct {
	current   func() *cluster.View
	passwords Passwords
	name      string
	log       *slog.Logger

	mu      sync.Mutex
	open    map[ledger.ShardID]*looker
	closing sync.WaitGroup // those that were open
}

var _ rebalance.Shards = (*Shards)(nil)

// looker is a shard that is open for small questions.
type looker struct {
	*shard.Shard
	config shard.Config
}

// NewShards returns the shards of the cluster that current shows. name, of this process, is shown in pg_stat_activity.
// Close ends them.
func NewShards(current func() *cluster.View, passwords Passwords, name string, log *slog.Logger) *Shards {
	return &Shards{current: current, passwords: passwords, name: name, log: log, open: make(map[ledger.ShardID]*looker)}
}

// Pair implements rebalance.Shards.
func (s *Shards) Pair(view *rebalance.View, move placement.Move, token int64) (rebalance.Pair, error) {
	source, err := s.config(view, move.Source)
	if err != nil {
		return nil, err
	}
	target, err := s.config(view, move.Target)
	if err != nil {
		return nil, err
	}
	pair, err := shard.OpenPair(shard.PairConfig{
		Source: source, Target: target, MoveID: move.ID, Slots: move.Slots, Token: token,
		Fenced: move.Fenced || move.Phase == placement.PhaseFence, // an older program writes the phase alone
	}, s.log)
	if err != nil {
		return nil, err
	}
	return pair, nil
}

// Fenced implements rebalance.Shards. It asks all shards at once.
func (s *Shards) Fenced(ctx context.Context, view *rebalance.View, longer time.Duration) ([]placement.MoveID, error) {
	var (
		mu     sync.Mutex
		moves  []placement.MoveID
		errs   []error
		asking sync.WaitGroup
	)
	for _, known := range view.Shards {
		asking.Go(func() {
			var found []placement.MoveID
			opened, err := s.shard(view, known.ID)
			if err == nil {
				found, err = opened.Fenced(ctx, longer)
			}
			mu.Lock()
			defer mu.Unlock()
			moves = append(moves, found...)
			if err != nil {
				errs = append(errs, fmt.Errorf("shard %s: %w", known.ID, err))
			}
		})
	}
	asking.Wait()
	return moves, errors.Join(errs...)
}

// Uncleaned implements rebalance.Shards.
func (s *Shards) Uncleaned(ctx context.Context, view *rebalance.View, id ledger.ShardID) (placement.SlotSet, error) {
	opened, err := s.shard(view, id)
	if err != nil {
		return nil, err
	}
	slots, err := opened.Uncleaned(ctx)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", id, err)
	}
	return slots, nil
}

// Copies implements rebalance.Shards.
func (s *Shards) Copies(ctx context.Context, view *rebalance.View, id ledger.ShardID) ([]placement.MoveID, error) {
	opened, err := s.shard(view, id)
	if err != nil {
		return nil, err
	}
	moves, err := opened.Copies(ctx)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", id, err)
	}
	return moves, nil
}

// config says how the view's shard is reached. What this process has heard of the cluster may be older than the view.
func (s *Shards) config(view *rebalance.View, id ledger.ShardID) (shard.Config, error) {
	known, ok := view.Shard(id)
	if !ok {
		return shard.Config{}, fmt.Errorf("shard %s is not registered", id)
	}
	return shard.Config{
		Cluster: s.current().Config.UID, ID: id, DSN: known.Address, Timeline: known.Timeline,
		Password: s.passwords(id), Name: s.name, ReadConns: 1,
	}, nil
}

// shard opens a shard, or opens it anew if it has another address or primary now, and forgets those that are gone.
func (s *Shards) shard(view *rebalance.View, id ledger.ShardID) (*looker, error) {
	config, err := s.config(view, id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if opened, ok := s.open[id]; ok && opened.config == config {
		return opened, nil
	}
	for id, opened := range s.open {
		if now, err := s.config(view, id); err != nil || now != opened.config {
			delete(s.open, id)
			s.closing.Go(opened.Close)
		}
	}
	opened, err := shard.Open(config, s.log)
	if err != nil {
		return nil, err
	}
	s.open[id] = &looker{Shard: opened, config: config}
	return s.open[id], nil
}

// Close ends the connections to the shards. Pairs are closed by whoever has them.
func (s *Shards) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, opened := range s.open {
		s.closing.Go(opened.Close)
	}
	s.closing.Wait()
}
