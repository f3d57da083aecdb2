package main

import (
	"context"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/assembly"
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
	if err := assembly.Removable(ctx, view, known.ID, passwords, c.Lost); err != nil {
		return err
	}
	what := fmt.Sprintf("Shard %s leaves cluster %s for good: its id can never be used again.", known.ID, view.Config.UID)
	if err := c.ask(to, what, string(known.ID)); err != nil {
		return err
	}
	if err := assembly.Remove(ctx, etcd, known.ID, passwords, c.Lost); err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s is removed; its database is not needed any more: %s\n", known.ID, known.DSN)
	return nil
}
