package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

type shardCommand struct {
	Add       shardAddCommand       `cmd:"" help:"Migrate a Postgres database and register it as a shard. Doing it again changes nothing."`
	List      shardListCommand      `cmd:"" help:"Show the shards of a cluster, what they own, and whether they answer."`
	Drain     shardDrainCommand     `cmd:"" help:"Have all slots move away from a shard."`
	Activate  shardActivateCommand  `cmd:"" help:"Take a drain back: the shard gets slots again."`
	Weight    shardWeightCommand    `cmd:"" help:"Say how many slots a shard should have, relative to the others."`
	Remove    shardRemoveCommand    `cmd:"" help:"Forget a shard that has been drained."`
	Adopt     shardAdoptCommand     `cmd:"" help:"Accept a shard's new primary, after a failover or a restore."`
	Doctor    shardDoctorCommand    `cmd:"" help:"Look at the shards' servers, and find and mend what a failover or a restore has lost."`
	Readdress shardReaddressCommand `cmd:"" help:"Say where a shard's database is from now on."`
	Migrate   shardMigrateCommand   `cmd:"" help:"Bring the shards' tables to this program's version, before it is rolled out."`
}

type shardAddCommand struct {
	target        `embed:""`
	ID            string `name:"id" required:"" help:"Of the shard, never to be used again: letters, digits and . _ - : + ~ @."`
	DSN           string `name:"dsn" required:"" help:"How routers and coordinators reach it. A password in it is used now and not stored."`
	OwnerDSN      string `name:"owner-dsn" env:"SALDO_OWNER_DSN" help:"How to log in to migrate, as a user who may create a schema and roles. Default: --dsn."`
	owner         `embed:""`
	Weight        int `name:"weight" default:"1" help:"How many slots it should have, relative to the others."`
	InitialShards int `name:"initial-shards" env:"SALDO_INITIAL_SHARDS" help:"Of a cluster that is created by this: its slots are spread when so many shards are there. Default: the coordinator spreads them when no shard has joined for a while."`
}

// Validate is called by the flag parser.
func (c *shardAddCommand) Validate() error {
	if c.Weight < 1 {
		return fmt.Errorf("--weight is %d, not 1 or more", c.Weight)
	}
	return nil
}

// Help says what happens next.
func (c *shardAddCommand) Help() string {
	return "The database is looked at first: one that is not empty, or is another shard, is left as it is. " +
		"A shard that joins a cluster whose slots are spread owns none at first. Where the coordinators run with --rebalance=auto " +
		"its share moves to it; elsewhere `saldo rebalance` does that."
}

func (c *shardAddCommand) Run(ctx context.Context, to streams) error {
	id, err := ledger.ParseShardID(c.ID)
	if err != nil {
		return err
	}
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	config, created, err := etcd.Init(ctx, c.InitialShards)
	if err != nil {
		return err
	}
	if created {
		fmt.Fprintf(to.err, "created cluster %s\n", config.UID)
	}
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	ownerPasswords, err := c.passwords(c.OwnerDSN, passwords)
	if err != nil {
		return err
	}
	err = assembly.Join(ctx, etcd, config, assembly.Database{
		ID: id, DSN: c.DSN, OwnerDSN: cmp.Or(c.OwnerDSN, c.DSN), Password: ownerPasswords(id), Weight: c.Weight,
	}, passwords, func(line string) { fmt.Fprintln(to.err, line) })
	if known, ok := view.Shards[id]; ok && err == nil {
		fmt.Fprintf(to.err, "shard %s: it was registered already, on %s\n", id, known.RegisteredAt.Format(time.RFC3339))
	}
	return err
}

// owner is the password of the user whom --owner-dsn names.
type owner struct {
	OwnerPasswordFile string `name:"owner-password-file" env:"SALDO_OWNER_PASSWORD_FILE" placeholder:"FILE" help:"Holds the password of the user of --owner-dsn. Default: the services' own."`
}

// passwords are the owner's where ownerDSN names one and a file holds them, else those of the services.
func (o owner) passwords(ownerDSN string, services wire.Passwords) (wire.Passwords, error) {
	if ownerDSN == "" || o.OwnerPasswordFile == "" {
		return services, nil
	}
	return (&wire.Postgres{PasswordFile: o.OwnerPasswordFile}).Passwords()
}

type shardWeightCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"The shard."`
	Weight int    `arg:"" help:"At least 1. A shard of weight 2 should have twice as many slots as one of weight 1."`
}

// Help says what happens next.
func (c *shardWeightCommand) Help() string {
	return "Slots move by it where the coordinators run with --rebalance=auto, and elsewhere when you say `saldo rebalance`."
}

func (c *shardWeightCommand) Run(ctx context.Context, to streams) error {
	etcd, view, known, err := c.shard(ctx, c.ID)
	if err != nil {
		return err
	}
	defer etcd.Close()
	if _, err := etcd.SetWeight(ctx, view.Config, known.ID, c.Weight); err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s: weight %d, was %d\n", known.ID, c.Weight, known.Weight)
	return nil
}

// shardOf returns a registered shard.
func shardOf(view *cluster.View, id string) (cluster.Shard, error) {
	known, ok := view.Shards[ledger.ShardID(id)]
	if !ok {
		return known, fmt.Errorf("the cluster has no shard %q: it has %v", id, sortedIDs(view.Shards))
	}
	return known, nil
}

// errNotFounded says what a cluster waits for whose slots are not spread yet.
func errNotFounded(view *cluster.View) error { return assembly.NotFounded(view) }

// slotCounts is how many slots each shard owns.
func slotCounts(view *cluster.View) map[ledger.ShardID]int { return assembly.Owned(view) }
