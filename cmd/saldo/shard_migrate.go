package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

type shardMigrateCommand struct {
	target   `embed:""`
	ID       string `arg:"" optional:"" help:"Of the shard. Default: all of them, one after the other."`
	OwnerDSN string `name:"owner-dsn" env:"SALDO_OWNER_DSN" help:"How to log in at the one shard that is named, as the user who migrated it first. Default: the shard's address."`
	owner    `embed:""`
}

// Help says when.
func (c *shardMigrateCommand) Help() string {
	return "The first step of an upgrade: the tables of each shard become those that this program has. The programs of the version before go on " +
		"working with them. A shard whose tables are newer is left alone, and named. Doing it again changes nothing."
}

// Validate is called by the flag parser.
func (c *shardMigrateCommand) Validate() error {
	if c.OwnerDSN != "" && c.ID == "" {
		return errors.New("--owner-dsn is of one shard: name it")
	}
	return nil
}

func (c *shardMigrateCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	ids := sortedIDs(view.Shards)
	if c.ID != "" {
		known, err := shardOf(view, c.ID)
		if err != nil {
			return err
		}
		ids = []ledger.ShardID{known.ID}
	}
	owners, err := c.passwords(c.OwnerDSN, passwords)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		known := view.Shards[id]
		from, now, err := migrate(ctx, view.Config.UID, known, cmp.Or(c.OwnerDSN, known.DSN), owners(id))
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("shard %s: %w", id, err))
		case from == now:
			fmt.Fprintf(to.err, "shard %s: its tables have version %d already\n", id, now)
		default:
			fmt.Fprintf(to.err, "shard %s: its tables have version %d, had %d\n", id, now, from)
		}
	}
	return errors.Join(errs...)
}

// migrate brings the tables of a registered shard to this program's version, at its primary: an old one that is back may be
// named first by the address.
func migrate(ctx context.Context, uid string, known cluster.Shard, dsn, password string) (from, to int64, err error) {
	primary, err := shard.FindPrimary(ctx, dsn, password, known.Timeline)
	if err != nil {
		return 0, 0, err
	}
	dsn = primary.DSN
	found, err := shard.Examine(ctx, dsn, password)
	if err == nil {
		err = found.Joins(uid, known.ID)
	}
	if err == nil && found.Shard == "" {
		err = fmt.Errorf("%w: it is empty: a shard is made by `saldo shard add`", shard.ErrUnfit)
	}
	if err == nil {
		_, err = shard.Migrate(ctx, dsn, password)
	}
	if err != nil {
		return 0, 0, err
	}
	to, err = shard.SchemaVersion()
	return found.Schema, to, err
}
