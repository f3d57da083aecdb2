package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

type registryCommand struct {
	Rebuild registryRebuildCommand `cmd:"" help:"Write the registry in etcd by what the shards say, where it was lost or has lost its latest decisions."`
}

type registryRebuildCommand struct {
	target       `embed:""`
	confirmation `embed:""`
	Shards       map[string]string `name:"shard" placeholder:"ID=DSN" mapsep:"none" help:"A shard that the registry does not have, and how routers and coordinators reach it. Say it again for each. A password in it is used now and not stored."`
	Retired      []string          `name:"retired" placeholder:"ID" help:"A shard that was removed."`
}

// Help says when, and what decides.
func (c *registryRebuildCommand) Help() string {
	return "After etcd was lost, or restored from a backup that is older than the latest move of slots. Stop routers and coordinators first. " +
		"Each shard knows which slots it owns, and at which epoch: the highest one counts. What would have to be guessed is refused, and nothing is " +
		"written then. Where the registry is right, nothing is changed. Shards that were restored are adopted afterwards."
}

func (c *registryRebuildCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if errors.Is(err, cluster.ErrNotInitialized) {
		view, err = nil, nil
	}
	if err != nil {
		return err
	}
	addresses, retired, err := c.addresses(view)
	if err != nil {
		return err
	}
	gone, err := etcd.Retired(ctx)
	if err != nil {
		return err
	}
	claims := make(map[ledger.ShardID]*shard.Claims)
	uid := ""
	for _, id := range slices.Sorted(maps.Keys(addresses)) {
		var known cluster.Shard
		if view != nil {
			known = view.Shards[id]
		}
		claims[id], err = shard.ReadClaims(ctx, addresses[id], passwords(id), known.Timeline)
		switch {
		case err != nil:
			return fmt.Errorf("shard %s: %w", id, err)
		case claims[id].Shard != id:
			return fmt.Errorf("the database at %s is shard %s, not %s", addresses[id], claims[id].Shard, id)
		case known.Adoption != "" && claims[id].Timeline == known.Timeline && claims[id].Mark != known.Adoption:
			return fmt.Errorf("shard %s: another server was adopted on timeline %d than the one at %s: name that one's address with "+
				"`saldo shard readdress`", id, known.Timeline, addresses[id])
		case uid != "" && claims[id].Cluster != uid:
			return fmt.Errorf("shard %s is of cluster %s, and the others are of %s", id, claims[id].Cluster, uid)
		}
		uid = claims[id].Cluster
	}
	if err := unnamed(claims, slices.Concat(retired, gone)); err != nil {
		return err
	}
	rebuilt, lost, err := assembly.Rebuild(view, claims, time.Now().UTC().Truncate(time.Millisecond))
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	rebuilt.UID, rebuilt.Retired = uid, retired
	for _, id := range slices.Sorted(maps.Keys(addresses)) {
		if view == nil || view.Shards[id].ID == "" {
			rebuilt.Shards = append(rebuilt.Shards, cluster.Shard{
				ID: id, DSN: addresses[id], Timeline: claims[id].Adopted, Adoption: claims[id].Mark,
			})
		}
	}
	changed := changedSlots(view, rebuilt)
	if changed+len(rebuilt.Shards)+len(retired)+len(rebuilt.Moves)+len(rebuilt.Forget)+len(lost) == 0 {
		fmt.Fprintf(to.err, "the registry of cluster %s says what its %d shards say: nothing to do\n", uid, len(claims))
		return nil
	}
	what := fmt.Sprintf("Cluster %s: %d shards are registered, %d retired, %d slots get another owner or epoch in the registry, "+
		"%d records of moves are written and %d forgotten. No router or coordinator may run.",
		uid, len(rebuilt.Shards), len(retired), changed, len(rebuilt.Moves), len(rebuilt.Forget))
	for _, id := range slices.Sorted(maps.Keys(claims)) {
		for _, host := range claims[id].Silent {
			what += fmt.Sprintf("\nshard %s: a host of its address does not answer: if it was the primary, start it first: %s", id, host)
		}
	}
	word := "rebuild"
	if len(lost) > 0 {
		what, word = what+"\n"+strings.Join(lost, "\n"), "lose"
		if c.Yes {
			return fmt.Errorf("nothing was written: what would be lost is not decided by --yes: do it without, and type %s: %s",
				word, strings.Join(lost, "; "))
		}
	}
	if err := c.ask(to, what, word); err != nil {
		return err
	}
	if err := etcd.Rebuild(ctx, view, *rebuilt); err != nil {
		return err
	}
	fmt.Fprintln(to.err, what)
	for _, id := range slices.Sorted(maps.Keys(claims)) {
		if s := claims[id]; s.Adopted != s.Timeline {
			fmt.Fprintf(to.err, "shard %s is on timeline %d, which is not adopted: `saldo shard adopt %s`\n", id, s.Timeline, id)
		}
	}
	return nil
}

// addresses returns where all shards are that are to be, and which ones are to be forgotten.
func (c *registryRebuildCommand) addresses(view *cluster.View) (map[ledger.ShardID]string, []ledger.ShardID, error) {
	addresses := make(map[ledger.ShardID]string)
	if view != nil {
		for id, known := range view.Shards {
			addresses[id] = known.DSN
		}
	}
	for text, dsn := range c.Shards {
		id, err := ledger.ParseShardID(text)
		if err != nil {
			return nil, nil, err
		}
		if known, ok := addresses[id]; ok {
			return nil, nil, fmt.Errorf("shard %s is registered at %s: say `saldo shard readdress` if it is elsewhere", id, known)
		}
		addresses[id] = dsn
	}
	var retired []ledger.ShardID
	for _, text := range c.Retired {
		id, err := ledger.ParseShardID(text)
		if err != nil {
			return nil, nil, err
		}
		if _, ok := c.Shards[text]; ok {
			return nil, nil, fmt.Errorf("shard %s is said to be there and to be removed", id)
		}
		delete(addresses, id)
		retired = append(retired, id)
	}
	if len(addresses) == 0 {
		return nil, nil, errors.New("the registry is empty: name every shard with --shard ID=DSN")
	}
	return addresses, retired, nil
}

// unnamed refuses to forget that an id was used: a shard that gets it again would be taken for the one that slots went to.
func unnamed(claims map[ledger.ShardID]*shard.Claims, retired []ledger.ShardID) error {
	var errs []error
	said := make(map[ledger.ShardID]bool)
	for _, by := range slices.Sorted(maps.Keys(claims)) {
		for _, id := range claims[by].Others {
			if claims[id] == nil && !slices.Contains(retired, id) && !said[id] {
				said[id] = true
				errs = append(errs, fmt.Errorf("shard %s knows of a shard %s: name it with --retired if it was removed, else with --shard", by, id))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	return nil
}

// changedSlots is about how many slots the registry says something else now.
func changedSlots(view *cluster.View, rebuilt *cluster.Rebuilt) (n int) {
	for slot, owner := range rebuilt.Owners {
		if view == nil || view.Map.Owner(slot) != owner {
			n++
		}
	}
	return n
}
