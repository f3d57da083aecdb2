package assembly

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// Database is what is a shard, or is to become one.
type Database struct {
	ID       ledger.ShardID
	DSN      string // how the services reach it; it is stored without a password
	OwnerDSN string // of a user who may create a schema and roles
	Password string // where the DSNs have none
	Weight   int    // of the shard, if it is new; 0 means 1
}

// Passwords returns the password of a shard; "" leaves it to the environment, as for libpq.
type Passwords = func(id ledger.ShardID) string

// Form makes the databases shards of the cluster under c, which it creates and founds if need be, and returns it as it is
// then. One that is registered at another address is registered anew. Doing it again changes nothing. say gets a line for
// each thing done, from several goroutines.
func Form(ctx context.Context, c *cluster.Cluster, databases []Database, say func(string)) (*cluster.View, error) {
	config, _, err := c.Init(ctx, len(databases))
	if err != nil {
		return nil, err
	}
	if err := Readdress(ctx, c, config, databases); err != nil {
		return nil, err
	}
	passwords := make(map[ledger.ShardID]string)
	for _, d := range databases {
		passwords[d.ID] = d.Password
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, d := range databases {
		group.Go(func() error {
			return Join(groupCtx, c, config, d, func(id ledger.ShardID) string { return passwords[id] }, say)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	view, err := c.Read(ctx)
	if err != nil || view.Founded() {
		return view, err
	}
	// An earlier attempt with more shards was cut off.
	if _, err := c.Found(ctx, view); err != nil {
		return nil, err
	}
	return c.Read(ctx)
}

// Join migrates, enrolls and registers a database, and founds the cluster if that is due. Doing it again changes nothing.
// A database that is something else, or an id that was used before, is refused before anything is changed.
func Join(
	ctx context.Context, c *cluster.Cluster, config cluster.ClusterConfig, d Database, passwords Passwords, say func(string),
) error {
	if err := mayJoin(ctx, c, config, d); err != nil {
		return fmt.Errorf("shard %s: %w", d.ID, err)
	}
	applied, err := shard.Migrate(ctx, d.OwnerDSN, d.Password)
	if err != nil {
		return fmt.Errorf("shard %s: %w", d.ID, err)
	}
	if err := shard.Enroll(ctx, d.OwnerDSN, d.Password, config.UID, d.ID); err != nil {
		return err
	}
	enrolled, err := shard.Examine(ctx, d.OwnerDSN, d.Password)
	if err != nil {
		return fmt.Errorf("shard %s: %w", d.ID, err)
	}
	if _, err := c.Register(ctx, config, cluster.Shard{ID: d.ID, DSN: d.DSN, Weight: d.Weight, Timeline: enrolled.Timeline}); err != nil {
		return err
	}
	say(fmt.Sprintf("shard %s: %d migrations applied, registered", d.ID, applied))
	if _, err := c.FoundIfDue(ctx); err != nil {
		return err
	}
	view, err := c.Read(ctx)
	if err != nil {
		return err
	}
	if !view.Founded() {
		say("the cluster's slots are not spread yet: " + Founding(view))
		return nil
	}
	if err := Activate(ctx, view, passwords); err != nil {
		say(fmt.Sprintf("not every shard could be told its slots; a coordinator will do it: %v", err))
	}
	return nil
}

// mayJoin says what speaks against a database becoming a shard. It changes nothing.
func mayJoin(ctx context.Context, c *cluster.Cluster, config cluster.ClusterConfig, d Database) error {
	found, err := shard.Examine(ctx, d.OwnerDSN, d.Password)
	if err != nil {
		return err
	}
	if err := found.Joins(config.UID, d.ID); err != nil {
		return err
	}
	retired, err := c.Retired(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(retired, d.ID) {
		return cluster.ErrRetired
	}
	// Another database under a registered id would be enrolled for nothing.
	view, err := c.Read(ctx)
	if err != nil {
		return err
	}
	if known, ok := view.Shards[d.ID]; ok && found.Shard == "" {
		return fmt.Errorf("%w, %s, and this database is empty: register it under a new id", cluster.ErrRegistered, known.DSN)
	}
	return nil
}

// Founding says what a cluster waits for whose slots are not spread yet.
func Founding(view *cluster.View) string {
	if n := view.Config.InitialShards; n > 0 {
		return fmt.Sprintf("%d of %d shards are there", len(view.Active()), n)
	}
	return "a coordinator does that when no shard has joined for a while"
}

// Readdress tells the cluster where databases are that it knows at another address.
func Readdress(ctx context.Context, c *cluster.Cluster, config cluster.ClusterConfig, databases []Database) error {
	view, err := c.Read(ctx)
	if err != nil {
		return err
	}
	for _, d := range databases {
		if known, ok := view.Shards[d.ID]; ok && known.DSN != d.DSN {
			if _, err := c.Readdress(ctx, config, d.ID, d.DSN); err != nil {
				return err
			}
		}
	}
	return nil
}

// Activate makes every shard of a founded cluster enforce its first ownership, and those that it can reach if it cannot
// reach all. Doing it again changes nothing.
func Activate(ctx context.Context, view *cluster.View, passwords Passwords) error {
	var errs []error
	for id, s := range view.Shards {
		errs = append(errs, shard.Found(ctx, s.DSN, passwords(id), view.Config.UID, id, view.Map))
	}
	return errors.Join(errs...)
}
