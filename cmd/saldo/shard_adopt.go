package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

type shardAdoptCommand struct {
	target   `embed:""`
	ID       string `arg:"" help:"Of the shard."`
	OwnerDSN string `name:"owner-dsn" env:"SALDO_OWNER_DSN" help:"How to log in at the new primary itself, as the user who migrated. Default: the shard's address."`
	owner    `embed:""`
	DSN      string `name:"dsn" help:"How routers and coordinators reach the shard from now on. Default: as before."`
}

// Help says when.
func (c *shardAdoptCommand) Help() string {
	return "After a failover the new primary accepts nothing until this was done. First make sure that the old primary is down. " +
		"It says what is known to be lost, and `saldo shard doctor` what that has torn. Doing it again changes nothing."
}

func (c *shardAdoptCommand) Run(ctx context.Context, to streams) error {
	id, err := ledger.ParseShardID(c.ID)
	if err != nil {
		return err
	}
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	known, ok := view.Shards[id]
	if !ok {
		return fmt.Errorf("shard %s: %w", id, cluster.ErrNotRegistered)
	}
	if passwords, err = c.passwords(c.OwnerDSN, passwords); err != nil {
		return err
	}
	server, fenced, lost, err := assembly.Adopt(ctx, etcd, view, id, cmp.Or(c.OwnerDSN, c.DSN, known.DSN), passwords(id))
	if err != nil {
		return err
	}
	if c.DSN != "" {
		if _, err := etcd.Readdress(ctx, view.Config, id, c.DSN); err != nil {
			return err
		}
	}
	if known.Timeline == server.Timeline {
		fmt.Fprintf(to.out, "shard %s: its primary on timeline %d is adopted already\n", id, server.Timeline)
	} else {
		fmt.Fprintf(to.out, "shard %s: its primary on timeline %d is adopted; before it was the one on timeline %d\n",
			id, server.Timeline, known.Timeline)
	}
	if len(fenced) > 0 {
		slots := make(placement.SlotSet, len(fenced))
		for i, hold := range fenced {
			slots[i] = hold.Slot
		}
		fmt.Fprintf(to.out, "shard %s: FENCED: it took %d slots for its own that the registry gives to another shard or to it anew: %v\n",
			id, len(slots), slots)
		fmt.Fprintln(to.err, "a move that is not forgotten ends that; what `saldo shard doctor` still counts after that needs a person")
	}
	for _, loss := range lost {
		fmt.Fprintf(to.out, "shard %s: LOST: %s\n", id, loss)
	}
	if len(lost) > 0 {
		fmt.Fprintln(to.err, "see what that has torn with `saldo shard doctor`, and mend it with --redrive")
	} else {
		fmt.Fprintln(to.err, "no loss is known; if the standby was asynchronous, have `saldo shard doctor` look")
	}
	return nil
}
