package main

import (
	"context"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

type shardDrainCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"The shard."`
	Wait   bool   `name:"wait" help:"Until it is empty and can be removed, showing how its slots move. The drain goes on if this is ended."`
}

// Help says what happens next.
func (c *shardDrainCommand) Help() string {
	return "The elected coordinator moves the shard's slots to the others, whatever its --rebalance says, while money moves. " +
		"When all have gone and the copies that they leave behind are deleted, after the coordinator's --retention, " +
		"`saldo shard remove` forgets the shard. `saldo shard activate` takes a drain back."
}

func (c *shardDrainCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	id, err := drain(ctx, etcd, c.ID)
	if err != nil {
		return err
	}
	if !c.Wait {
		fmt.Fprintf(to.err, "shard %s drains: see `saldo shard list`, or wait with --wait\n", id)
		return nil
	}
	if err := follow(ctx, etcd, passwords, to, drained(id)); err != nil {
		return fmt.Errorf("%w (the drain goes on)", err)
	}
	fmt.Fprintf(to.err, "shard %s is empty: `saldo shard remove %s` forgets it\n", id, id)
	return nil
}

// drain says that a shard is to have no slots.
func drain(ctx context.Context, c *cluster.Cluster, text string) (ledger.ShardID, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return "", err
	}
	known, err := shardOf(view, text)
	if err != nil {
		return "", err
	}
	return known.ID, assembly.Drain(ctx, c, view, known.ID)
}

// drained is reached when a shard can be removed.
func drained(id ledger.ShardID) goal {
	done := func(view *cluster.View) (bool, error) {
		known, ok := view.Shards[id]
		switch {
		case !ok:
			return false, fmt.Errorf("shard %s has been removed meanwhile", id)
		case known.State != cluster.ShardDraining:
			return false, fmt.Errorf("the drain of shard %s has been taken back meanwhile", id)
		}
		for _, move := range view.Moves {
			if !move.Phase.Ended() && (move.Source == id || move.Target == id) {
				return false, nil
			}
		}
		return slotCounts(view)[id] == 0, nil
	}
	return goal{done: done, left: func(view *cluster.View) int { return slotCounts(view)[id] }}
}

type shardActivateCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"The shard."`
}

// Help says what happens next.
func (c *shardActivateCommand) Help() string {
	return "Moves that are under way go on. What has moved away comes back as the shard's weight says."
}

func (c *shardActivateCommand) Run(ctx context.Context, to streams) error {
	etcd, view, known, err := c.shard(ctx, c.ID)
	if err != nil {
		return err
	}
	defer etcd.Close()
	if _, err := etcd.DrainShard(ctx, view.Config, known.ID, false); err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s is active\n", known.ID)
	return nil
}
