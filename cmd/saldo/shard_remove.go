package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

type shardRemoveCommand struct {
	target       `embed:""`
	confirmation `embed:""`
	ID           string `arg:"" help:"The shard."`
	Lost         bool   `name:"lost" help:"Its database is gone for good, so do not ask it what it still holds."`
}

// Help says when that can be done.
func (c *shardRemoveCommand) Help() string {
	return "The shard must drain, own no slot, take part in no move, and its database must say so too: no slot, no copy that is not deleted yet, " +
		"no transfer that has not ended. Its id can never be used again. Its database is left as it is; delete it when you like."
}

func (c *shardRemoveCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	known, err := shardOf(view, c.ID)
	if err != nil {
		return err
	}
	if err := removable(ctx, view, known.ID, passwords, c.Lost); err != nil {
		return err
	}
	what := fmt.Sprintf("Shard %s leaves cluster %s for good: its id can never be used again.", known.ID, view.Config.UID)
	if err := c.ask(to, what, string(known.ID)); err != nil {
		return err
	}
	if err := remove(ctx, etcd, known.ID, passwords, c.Lost); err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s is removed; its database is not needed any more: %s\n", known.ID, known.DSN)
	return nil
}

// remove forgets a shard that nothing keeps in the cluster.
func remove(ctx context.Context, c *cluster.Cluster, id ledger.ShardID, passwords wire.Passwords, lost bool) error {
	for {
		view, err := c.Read(ctx)
		if err != nil {
			return err
		}
		// The database is asked after the registry was read, and the registry must not have changed when it is written.
		if err := removable(ctx, view, id, passwords, lost); err != nil {
			return err
		}
		if err := c.RemoveShard(ctx, view, id); !errors.Is(err, cluster.ErrChanged) {
			return err
		}
	}
}

// removable says what keeps a shard in the cluster.
func removable(ctx context.Context, view *cluster.View, id ledger.ShardID, passwords wire.Passwords, lost bool) error {
	if slots := slotCounts(view)[id]; slots > 0 {
		return fmt.Errorf("shard %s still owns %d slots: drain it with `saldo shard drain %s --wait`", id, slots, id)
	}
	for _, move := range view.Moves {
		if !move.Phase.Ended() && (move.Source == id || move.Target == id) {
			return fmt.Errorf("shard %s takes part in move %s, which is in phase %s: wait with `saldo shard drain %s --wait`", id, move.ID, move.Phase, id)
		}
	}
	if view.Shards[id].State != cluster.ShardDraining {
		return fmt.Errorf("shard %s is %s and may get slots at any time: drain it with `saldo shard drain %s`", id, view.Shards[id].State, id)
	}
	if lost {
		return nil
	}
	left, err := shard.FindLeft(ctx, shard.Config{
		Cluster: view.Config.UID, ID: id, DSN: view.Shards[id].DSN, Timeline: view.Shards[id].Timeline, Password: passwords(id),
	})
	switch {
	case err != nil:
		return fmt.Errorf("shard %s cannot be asked what it still holds: %w (if its database is gone for good, say --lost)", id, err)
	case left.Slots > 0:
		return fmt.Errorf("the database of shard %s still holds %d slots, though the registry does not know of them: run `saldo audit`, and look before you remove it", id, left.Slots)
	case left.Uncleaned > 0:
		return fmt.Errorf("the database of shard %s still holds a copy of %d slots, though no move is to delete it: run `saldo audit`, and look before you remove it", id, left.Uncleaned)
	case left.Sagas > 0:
		return fmt.Errorf("the database of shard %s holds %d transfers that have not ended: run `saldo audit`, and look before you remove it", id, left.Sagas)
	}
	return nil
}
