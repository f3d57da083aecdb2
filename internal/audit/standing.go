package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// doubt is a suspect about identity or ownership.
type doubt struct {
	check Name
	Violation
}

func (d doubt) is(other doubt) bool {
	return d.check == other.check && d.ID == other.ID && d.Shard == other.Shard
}

// standing compares what the shards say they are with a view. of returns a shard's word, and may be nil or return nil
// where there is none.
func (r *run) standing(view View, of func(*node) Standing) []doubt {
	words := make(map[ledger.ShardID]Standing)
	for _, n := range r.nodes {
		if !r.failed(n) {
			words[n.id] = of(n)
		}
	}
	return compareStanding(view, words)
}

// compareStanding is pure. Shards without a word are not judged.
func compareStanding(view View, words map[ledger.ShardID]Standing) []doubt {
	var doubts []doubt
	for _, id := range sortedKeys(words) {
		if problem := identityProblem(words[id].Identity(), view.Cluster, id); problem != "" {
			doubts = append(doubts, doubt{CheckIdentity, Violation{Shard: id, ID: "shard " + string(id), Problem: problem}})
		}
	}
	for slot := ledger.Slot(0); slot < placement.Slots; slot++ {
		doubts = append(doubts, slotDoubts(view.Map, words, slot)...)
	}
	return doubts
}

func identityProblem(is Identity, cluster string, id ledger.ShardID) string {
	switch {
	case is == Identity{} || is == Identity{Running: is.Running}:
		return "the database is not enrolled"
	case is.Cluster != cluster || is.Shard != id:
		return fmt.Sprintf("the database is shard %s of cluster %s, not shard %s of cluster %s", is.Shard, is.Cluster, id, cluster)
	case is.Slots != placement.Slots || is.Hash != placement.HashID:
		return fmt.Sprintf("the database was made for %d slots by %s, not %d by %s", is.Slots, is.Hash, placement.Slots, placement.HashID)
	case is.Timeline != is.Running:
		return fmt.Sprintf("the server is on timeline %d, adopted is %d", is.Running, is.Timeline)
	}
	return ""
}

func slotDoubts(m *placement.Map, words map[ledger.ShardID]Standing, slot ledger.Slot) []doubt {
	var doubts []doubt
	doubtful := func(shard ledger.ShardID, format string, args ...any) {
		doubts = append(doubts, doubt{CheckSlots, Violation{
			Shard: shard, ID: fmt.Sprintf("slot %d", slot), Problem: fmt.Sprintf(format, args...),
		}})
	}
	owner := m.Owner(slot)
	if owner == (placement.Owner{}) {
		doubtful("", "it has no owner in the map")
	} else if word, ok := words[owner.Shard]; ok && !ownedAs(word, slot, owner) {
		row, here := word.Slots()[slot]
		if here {
			doubtful(owner.Shard, "it is %s at epoch %d, but the map says owned at epoch %d", row.State, row.Epoch, owner.Epoch)
		} else {
			doubtful(owner.Shard, "it was never here, but the map says owned at epoch %d", owner.Epoch)
		}
	}
	for id, word := range words {
		if row := word.Slots()[slot]; id != owner.Shard && row.State == stateOwned {
			doubtful(id, "it is owned here at epoch %d, but the map says by %s at epoch %d", row.Epoch, cmp.Or(owner.Shard, "nobody"), owner.Epoch)
		}
	}
	slices.SortFunc(doubts, func(x, y doubt) int { return cmp.Compare(x.Shard, y.Shard) })
	return doubts
}

// checkStanding reports the doubts of round 1 that stay for as long as ownership may be in the air.
func (r *run) checkStanding(ctx context.Context, doubts []doubt) {
	if len(doubts) > 0 {
		doubts = r.settle(ctx, doubts)
	}
	for _, d := range doubts {
		r.violation(d.check, d.Violation)
	}
	unread := make(map[ledger.ShardID]bool)
	for _, n := range r.nodes {
		if n.first == nil {
			unread[n.id] = true
			r.unread(CheckIdentity, n)
			r.unread(CheckSlots, n)
			continue
		}
		r.cover(CheckIdentity, 1)
	}
	for slot := ledger.Slot(0); slot < placement.Slots; slot++ {
		if !unread[r.view.Map.Owner(slot).Shard] {
			r.cover(CheckSlots, 1)
		}
	}
}

// settle reads again until the doubts have vanished or patience is over, and returns those that never did, as they were
// read last. A doubt that cannot be read again is a gap.
func (r *run) settle(ctx context.Context, doubts []doubt) []doubt {
	for deadline := time.Now().Add(r.options.Patience); ; {
		r.progress("reading %d doubts about ownership again", len(doubts))
		pause(ctx, r.options.Pause)
		view, err := r.world.View(ctx)
		if err != nil {
			r.gap(CheckSlots, fmt.Sprintf("%d doubts such as %s: the map could not be read again: %v", len(doubts), doubts[0], err))
			return nil
		}
		fresh := r.look(ctx, append(view.Map.Shards(), view.Shards...))
		words := make(map[ledger.ShardID]Standing, len(fresh))
		for id, snapshot := range fresh {
			words[id] = snapshot
		}
		now := compareStanding(view, words)
		closeAll(fresh)

		over := time.Now().After(deadline) || ctx.Err() != nil
		var still []doubt
		for _, d := range doubts {
			i := slices.IndexFunc(now, d.is)
			switch silent := d.Shard != "" && words[d.Shard] == nil; {
			case i >= 0:
				still = append(still, now[i])
			case silent && over:
				r.gap(d.check, fmt.Sprintf("shard %s could not be read again: %s", d.Shard, d))
			case silent:
				still = append(still, d)
			}
		}
		if doubts = still; over || len(doubts) == 0 {
			return doubts
		}
	}
}

// look takes fresh snapshots of shards, one round. A shard that cannot be read is left out.
func (r *run) look(ctx context.Context, ids []ledger.ShardID) map[ledger.ShardID]Snapshot {
	fresh := make(map[ledger.ShardID]Snapshot)
	for _, id := range ids {
		if _, ok := fresh[id]; ok || id == "" {
			continue
		}
		if snapshot, err := r.world.Snapshot(ctx, id); err == nil {
			fresh[id] = snapshot
		}
	}
	return fresh
}

func closeAll(snapshots map[ledger.ShardID]Snapshot) {
	for _, s := range snapshots {
		s.Close()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
