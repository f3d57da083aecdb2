package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
)

// removedDir is where the data of shards that have been removed is kept, for whoever wants to look at it.
const removedDir = "removed"

// devShard is what the folder of a shard is called, sN.
var devShard = regexp.MustCompile(`^s([1-9][0-9]{0,8})$`)

// shardIDs returns which shards to start: those of the cluster that is kept here, and of a new one as many as were asked
// for. A folder beside them is of a shard whose joining, or whose removal, was cut off.
func (d *dev) shardIDs(ctx context.Context) ([]ledger.ShardID, error) {
	view, err := d.cluster.Read(ctx)
	if errors.Is(err, cluster.ErrNotInitialized) {
		view, err = &cluster.View{}, nil
	}
	if err != nil {
		return nil, err
	}
	ids := sortedIDs(view.Shards)
	for _, id := range ids {
		if exists, err := local.Exists(d.shardDir(id)); err != nil || !exists {
			return nil, errors.Join(err, fmt.Errorf("shard %s of this cluster has lost its data, %s: bring it back, "+
				"or choose another data directory with --data or SALDO_DATA", id, d.shardDir(id)))
		}
	}
	if view.Map == nil || !view.Founded() {
		for n := range d.Shards {
			ids = append(ids, nthShard(n+1))
		}
	}
	folders, err := shardFolders(d.Data)
	if err != nil {
		return nil, err
	}
	retired, err := d.cluster.Retired(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range folders {
		if !slices.Contains(retired, id) {
			ids = append(ids, id)
		} else if err := d.putAside(id); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(ids, func(a, b ledger.ShardID) int { return shardNumber(a) - shardNumber(b) })
	return slices.Compact(ids), nil
}

// addShard starts one more Postgres and makes it a shard. Slots move to it when the rebalancer sees it.
func (d *dev) addShard(ctx context.Context) (part shardPart, err error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	id, err := d.nextShardID(ctx)
	if err != nil {
		return part, err
	}
	server, err := d.startPostgres(ctx, id)
	if err != nil {
		return part, err
	}
	database := d.database(id, server)
	join := func() error {
		return assembly.Join(ctx, d.cluster, d.config, database, d.password, func(line string) { d.log.Info(line) })
	}
	if err := errors.Join(join(), d.writeFile()); err != nil {
		return part, fmt.Errorf("%w (its Postgres runs; the next start of saldo dev tries again)", err)
	}
	d.say("  %s: Postgres on port %d has joined", id, server.Port())
	return d.part(id, server), nil
}

// nextShardID returns the first id beyond all that were ever used.
func (d *dev) nextShardID(ctx context.Context) (ledger.ShardID, error) {
	view, err := d.cluster.Read(ctx)
	if err != nil {
		return "", err
	}
	used, err := d.cluster.Retired(ctx)
	if err != nil {
		return "", err
	}
	used = append(used, sortedIDs(view.Shards)...)
	for _, dir := range []string{d.Data, filepath.Join(d.Data, removedDir)} {
		folders, err := shardFolders(dir)
		if err != nil {
			return "", err
		}
		used = append(used, folders...)
	}
	return shardAfter(used), nil
}

// shardAfter returns the first id beyond all of these.
func shardAfter(used []ledger.ShardID) ledger.ShardID {
	last := 0
	for _, id := range used {
		last = max(last, shardNumber(id))
	}
	return nthShard(last + 1)
}

// setShardAside stops the Postgres of a shard that has been removed from the cluster and puts its data aside. It returns
// where that is.
func (d *dev) setShardAside(ctx context.Context, id ledger.ShardID) (shardPart, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	retired, err := d.cluster.Retired(ctx)
	if err != nil {
		return shardPart{}, err
	}
	if !slices.Contains(retired, id) {
		return shardPart{}, fmt.Errorf("shard %s has not been removed from the cluster: `saldo dev drain %s` does it", id, id)
	}
	if server, ok := d.server(id); ok {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if err := server.Stop(stopping); err != nil {
			return shardPart{}, err
		}
		d.mu.Lock()
		delete(d.postgres, id)
		d.mu.Unlock()
	}
	exists, err := local.Exists(d.shardDir(id))
	if err == nil && exists {
		err = d.putAside(id)
	}
	d.say("  %s: removed", id)
	return shardPart{ID: id, Data: filepath.Join(d.Data, removedDir, string(id))}, errors.Join(err, d.writeFile())
}

func (d *dev) putAside(id ledger.ShardID) error {
	aside := filepath.Join(d.Data, removedDir)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return fmt.Errorf("put the data of shard %s aside: %w", id, err)
	}
	if err := os.Rename(d.shardDir(id), filepath.Join(aside, string(id))); err != nil {
		return fmt.Errorf("put the data of shard %s aside: %w", id, err)
	}
	return nil
}

func (d *dev) shardDir(id ledger.ShardID) string { return filepath.Join(d.Data, string(id)) }

// shardFolders returns the shards that have a folder in dir.
func shardFolders(dir string) ([]ledger.ShardID, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var ids []ledger.ShardID
	for _, entry := range entries {
		if entry.IsDir() && devShard.MatchString(entry.Name()) {
			ids = append(ids, ledger.ShardID(entry.Name()))
		}
	}
	return ids, nil
}

func nthShard(n int) ledger.ShardID { return ledger.ShardID(fmt.Sprintf("s%d", n)) }

// shardNumber is N of sN, 0 of any other id.
func shardNumber(id ledger.ShardID) int {
	match := devShard.FindStringSubmatch(string(id))
	if match == nil {
		return 0
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		return 0 // nine digits are a number
	}
	return n
}
