package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// View is the cluster's config, shards, slots and moves as of one revision. It is immutable and safe for concurrent use.
type View struct {
	Config   ClusterConfig
	Shards   map[ledger.ShardID]Shard // not to be written
	Map      *placement.Map           // no slot has an owner until the cluster is founded, then each has one
	Revision int64                    // of etcd; a later view has a larger one

	// Moves are all that are recorded, sorted by id, ended ones too until they are forgotten; not to be written. A move
	// whose Phase is none of package placement's was written by a newer program: leave it alone. If this one cannot read
	// the record at all, the phase is empty.
	Moves []placement.Move
}

// Founded tells whether the slots have been spread.
func (v *View) Founded() bool { return v.Map.Complete() }

// Move returns a recorded move.
func (v *View) Move(id placement.MoveID) (placement.Move, bool) {
	byID := func(move placement.Move, id placement.MoveID) int { return cmp.Compare(move.ID, id) }
	i, ok := slices.BinarySearchFunc(v.Moves, id, byID)
	if !ok {
		return placement.Move{}, false
	}
	return v.Moves[i], true
}

// Active returns the ids of the shards that may get slots, sorted.
func (v *View) Active() []ledger.ShardID {
	var ids []ledger.ShardID
	for id, shard := range v.Shards {
		if shard.State == ShardActive {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Read reads a view, linearizably. The error is ErrNotInitialized or ErrMismatch where these apply.
func (c *Cluster) Read(ctx context.Context) (*View, error) {
	resp, err := c.client.Get(ctx, c.keys.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("read the cluster's keys: %w", err)
	}
	view, err := c.keys.view(records(resp), resp.Header.Revision, nil)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's keys: %w", err)
	}
	return view, nil
}

// record is one key's value and its ModRevision.
type record struct {
	value    string
	revision int64
}

func records(resp *clientv3.GetResponse) map[string]record {
	m := make(map[string]record, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		m[string(kv.Key)] = record{string(kv.Value), kv.ModRevision}
	}
	return m
}

// sameMapped tells whether two sets of keys make the same view.
func (k keys) sameMapped(a, b map[string]record) bool {
	unmapped := func(key string, _ record) bool { return !k.mapped(key) }
	a, b = maps.Clone(a), maps.Clone(b)
	maps.DeleteFunc(a, unmapped)
	maps.DeleteFunc(b, unmapped)
	return maps.Equal(a, b)
}

// view makes a view of all keys, or says why they make no sense, alone or after last, the view before it. It is pure.
func (k keys) view(all map[string]record, revision int64, last *View) (*View, error) {
	stored, ok := all[k.config()]
	if !ok {
		return nil, fmt.Errorf("%s: %w", k.config(), ErrNotInitialized)
	}
	config, err := parseConfig(stored.value)
	if err != nil {
		return nil, err
	}
	if last != nil && last.Config.UID != config.UID {
		return nil, fmt.Errorf("%w: the cluster was %s and is now %s", ErrMismatch, last.Config.UID, config.UID)
	}

	shards := make(map[ledger.ShardID]Shard)
	owners := make(map[ledger.Slot]placement.Owner)
	var moves []placement.Move
	for _, key := range slices.Sorted(maps.Keys(all)) { // shards/ before slots/; and the first problem is always the same
		if id, ok := strings.CutPrefix(key, k.shards()); ok {
			shard, err := parseShard(ledger.ShardID(id), all[key].value)
			if err != nil {
				return nil, err
			}
			shard.Revision = all[key].revision
			shards[shard.ID] = shard
		}
		if name, ok := strings.CutPrefix(key, k.slots()); ok {
			if err := parseChunk(name, all[key].value, owners); err != nil {
				return nil, err
			}
		}
		if id, ok := strings.CutPrefix(key, k.moves()); ok {
			moves = append(moves, parseMove(placement.MoveID(id), all[key]))
		}
	}
	if len(owners) == 0 && last != nil && last.Founded() {
		return nil, fmt.Errorf("all slots have lost their owners")
	}
	for slot := ledger.Slot(0); len(owners) > 0 && slot < placement.Slots; slot++ {
		owner, owned := owners[slot]
		_, known := shards[owner.Shard]
		switch {
		case !owned:
			return nil, fmt.Errorf("slot %d has no owner", slot)
		case !known:
			return nil, fmt.Errorf("slot %d is owned by shard %q, which is not registered", slot, owner.Shard)
		}
		if last == nil {
			continue
		}
		switch before := last.Map.Owner(slot); {
		case owner.Epoch < before.Epoch:
			return nil, fmt.Errorf("slot %d went back from epoch %d to %d", slot, before.Epoch, owner.Epoch)
		case owner.Epoch == before.Epoch && owner.Shard != before.Shard:
			return nil, fmt.Errorf("slot %d went from shard %q to %q and kept epoch %d", slot, before.Shard, owner.Shard, owner.Epoch)
		}
	}
	m, err := placement.NewMap(revision, owners)
	if err != nil {
		return nil, err
	}
	view := &View{Config: config, Shards: shards, Map: m, Moves: moves, Revision: revision}
	if err := view.checkMoves(); err != nil {
		return nil, err
	}
	return view, nil
}
