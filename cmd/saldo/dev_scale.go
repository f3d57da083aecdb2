package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// devTarget is the cluster that `saldo dev` runs from a data directory.
type devTarget struct {
	Data string `name:"data" env:"SALDO_DATA" default:"${data}" help:"Data directory of the saldo dev that runs."`
}

// connect reaches the cluster and the door of the `saldo dev` that runs it. Close the cluster.
func (t *devTarget) connect(ctx context.Context) (*cluster.Cluster, *clusterFile, error) {
	target := target{Data: t.Data}
	found, err := target.find()
	if err != nil {
		return nil, nil, err
	}
	if found.file == nil || found.file.Control == nil {
		return nil, nil, fmt.Errorf("no saldo dev runs from %s: start it, or say where its data is with --data or SALDO_DATA", t.Data)
	}
	c, err := cluster.Connect(ctx, found.etcd)
	return c, found.file, err
}

type devAddShardCommand struct {
	devTarget `embed:""`
}

// Help says what happens.
func (c *devAddShardCommand) Help() string {
	return "Starts one more Postgres, makes it a shard, and shows how its share of the slots moves to it while the cluster serves. " +
		"That goes on if this is ended."
}

func (c *devAddShardCommand) Run(ctx context.Context, to streams) error {
	etcd, file, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	fmt.Fprintln(to.err, "starting a Postgres")
	added, err := file.Control.ask(ctx, http.MethodPost, "/shards")
	if err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s has joined\n", added.ID)
	// It is there when the registry that is watched has it and what is planned for it has moved.
	balanced := func(view *cluster.View) (bool, error) {
		steps, moving, err := unbalanced(view)
		_, known := view.Shards[added.ID]
		return known && len(steps) == 0 && moving == 0, err
	}
	if err := follow(ctx, etcd, file.passwords(c.Data), to, goal{done: balanced, left: slotsLeft}); err != nil {
		return fmt.Errorf("%w (slots go on moving: see `saldo move list`)", err)
	}
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s has its share: %d slots\n", added.ID, slotCounts(view)[added.ID])
	return nil
}

type devDrainCommand struct {
	devTarget `embed:""`
	ID        string `arg:"" help:"The shard."`
}

// Help says what happens.
func (c *devDrainCommand) Help() string {
	return "Moves all slots away from the shard while the cluster serves, showing how, then removes it from the cluster, stops its Postgres " +
		"and puts its data aside. If this is ended the slots go on moving; say it again to have the rest done."
}

func (c *devDrainCommand) Run(ctx context.Context, to streams) error {
	etcd, file, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	id := ledger.ShardID(c.ID)
	retired, err := isRetired(ctx, etcd, id)
	if err != nil {
		return err
	}
	if !retired {
		if id, err = drain(ctx, etcd, c.ID); err != nil {
			return err
		}
		if err := follow(ctx, etcd, file.passwords(c.Data), to, drained(id)); err != nil {
			return fmt.Errorf("%w (its slots go on moving; say `saldo dev drain %s` again to have the rest done)", err, id)
		}
		if err := assembly.Remove(ctx, etcd, id, file.passwords(c.Data), false); err != nil {
			return err
		}
	}
	aside, err := file.Control.ask(ctx, http.MethodDelete, "/shards/"+url.PathEscape(string(id)))
	if err != nil {
		return err
	}
	fmt.Fprintf(to.err, "shard %s is removed and its Postgres has stopped; its data is in %s\n", id, aside.Data)
	return nil
}

// isRetired tells whether a shard has been removed: by an earlier call that was cut off.
func isRetired(ctx context.Context, c *cluster.Cluster, id ledger.ShardID) (bool, error) {
	retired, err := c.Retired(ctx)
	return slices.Contains(retired, id), err
}
