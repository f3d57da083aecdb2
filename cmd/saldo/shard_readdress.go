package main

import (
	"context"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/shard"
)

type shardReaddressCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"Of the shard."`
	DSN    string `name:"dsn" required:"" help:"How routers and coordinators reach it from now on. A password in it is used now and not stored."`
}

// Help says when.
func (c *shardReaddressCommand) Help() string {
	return "For a database that has moved as a whole to another host or port, a name that has changed, or another standby in the list of hosts. " +
		"What answers there must be the shard's primary, with all that the shard was known to have, and at the old address must be the same server, " +
		"or none. A server that was promoted or restored is accepted by `saldo shard adopt --dsn` instead. " +
		"Routers and coordinators follow within a moment. Doing it again changes nothing."
}

func (c *shardReaddressCommand) Run(ctx context.Context, to streams) error {
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
	if err := mayReaddress(ctx, etcd, view, known, c.DSN, passwords); err != nil {
		return fmt.Errorf("shard %s stays at %s: %w", known.ID, known.DSN, err)
	}
	now, err := etcd.Readdress(ctx, view.Config, known.ID, c.DSN)
	if err != nil {
		return err
	}
	if now.DSN == known.DSN {
		fmt.Fprintf(to.err, "shard %s: it is at %s already\n", known.ID, now.DSN)
		return nil
	}
	fmt.Fprintf(to.err, "shard %s: at %s from now on, was at %s\n", known.ID, now.DSN, known.DSN)
	return nil
}

// mayReaddress says what speaks against a shard being reached at another address. Two servers on one timeline may both be
// taken for the shard, so no guard would tell them apart: a copy of its files that was started elsewhere is one.
func mayReaddress(
	ctx context.Context, etcd *cluster.Cluster, view *cluster.View, known cluster.Shard, dsn string, passwords wire.Passwords,
) error {
	look := func(dsn string) (server *shard.Standing, refused, err error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return shard.LookFor(ctx, shard.Config{
			Cluster: view.Config.UID, ID: known.ID, DSN: dsn, Timeline: known.Timeline, Password: passwords(known.ID),
		})
	}
	server, refused, err := look(dsn)
	if err != nil {
		return fmt.Errorf("the new address does not answer: %w", err)
	}
	if refused != nil {
		return fmt.Errorf("what answers at the new address is not the shard's primary: %w "+
			"(one that was promoted or restored is accepted by `saldo shard adopt --dsn`)", refused)
	}
	losses, err := assembly.Losses(ctx, etcd, known.ID, server)
	if err != nil {
		return err
	}
	for _, loss := range losses {
		if loss.Current { // what a failover has lost was accepted when its server was adopted
			return fmt.Errorf("what answers at the new address lacks some of what the shard had: %s "+
				"(see Backup and restore in docs/OPERATIONS.md)", loss.Text)
		}
	}
	old, refused, err := look(known.DSN)
	if err == nil && refused == nil && !old.Started.Equal(server.Started) {
		return fmt.Errorf("another server answers there as the same shard: stop it first, or what is written to it would be lost")
	}
	return nil
}
