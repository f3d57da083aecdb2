package wire

import (
	"context"
	"log/slog"
	"sync"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// RebalancerElection is the election of the coordinator that moves slots.
const RebalancerElection = "rebalancer"

// moveSlots moves slots while this process is elected to, and ends fences that whoever is elected has left standing, until
// ctx ends.
func moveSlots(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher, config Coordinator, passwords Passwords, log *slog.Logger) {
	shards := assembly.NewShards(w.Current, passwords, "saldo coordinator", log)
	defer shards.Close()
	registry := assembly.NewRegistry(c, w)
	options := rebalance.Config{
		Automatic: config.Rebalance == "auto", Retention: orNever(config.Retention),
		SlotsPerMove: config.MoveSlots, Share: config.MoveShare,
		At: failpoints(),
	}
	var running sync.WaitGroup
	running.Go(func() { rebalance.New(registry, shards, options, log).Watch(ctx) })
	err := c.Lead(ctx, RebalancerElection, config.Name, func(ctx context.Context, leadership cluster.Leadership) error {
		return rebalance.New(registry.Led(leadership), shards, options, log).Run(ctx, leadership.CreateRevision)
	})
	if ctx.Err() == nil {
		log.Error("no election for the rebalancer", "error", err)
	}
	running.Wait()
}
