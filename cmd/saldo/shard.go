package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

type shardCommand struct {
	Add  shardAddCommand  `cmd:"" help:"Migrate a Postgres database and register it as a shard. Doing it again changes nothing."`
	List shardListCommand `cmd:"" help:"Show the shards of a cluster, what they own, and whether they answer."`
}

type shardAddCommand struct {
	target        `embed:""`
	ID            string `name:"id" required:"" help:"Of the shard, never to be used again: letters, digits and . _ - : + ~ @."`
	DSN           string `name:"dsn" required:"" help:"How routers and coordinators reach it. A password in it is used now and not stored."`
	OwnerDSN      string `name:"owner-dsn" env:"SALDO_OWNER_DSN" help:"How to log in to migrate, as a user who may create a schema and roles. Default: --dsn."`
	InitialShards int    `name:"initial-shards" env:"SALDO_INITIAL_SHARDS" help:"Of a cluster that is created by this: its slots are spread when so many shards are there. Default: the coordinator spreads them when no shard has joined for a while."`
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
	return assembly.Join(ctx, etcd, config, assembly.Database{
		ID: id, DSN: c.DSN, OwnerDSN: cmp.Or(c.OwnerDSN, c.DSN), Password: passwords(id),
	}, passwords, func(line string) { fmt.Fprintln(to.err, line) })
}

type shardListCommand struct {
	target `embed:""`
}

func (c *shardListCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if errors.Is(err, cluster.ErrNotInitialized) {
		fmt.Fprintln(to.err, "no cluster under this prefix yet: add a shard with `saldo shard add`")
		return nil
	}
	if err != nil {
		return err
	}
	slots := make(map[ledger.ShardID]int)
	for _, r := range view.Map.Ranges() {
		slots[r.Shard] += int(r.Last-r.First) + 1
	}
	table := tabwriter.NewWriter(to.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SHARD\tSTATE\tWEIGHT\tSLOTS\tANSWERS\tDSN")
	for _, id := range sortedIDs(view.Shards) {
		s := view.Shards[id]
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", id, s.State, s.Weight, slots[id], answers(ctx, view.Config.UID, s, passwords(id)), s.DSN)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !view.Founded() {
		fmt.Fprintln(to.err, "the cluster's slots are not spread yet: "+assembly.Founding(view))
	}
	return nil
}

func answers(ctx context.Context, uid string, s cluster.Shard, password string) string {
	opened, err := shard.Open(shard.Config{Cluster: uid, ID: s.ID, DSN: s.DSN, Password: password, Name: "saldo shard list"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return "no: " + err.Error()
	}
	defer opened.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := opened.Ping(ctx); err != nil {
		return "no"
	}
	return "yes"
}
