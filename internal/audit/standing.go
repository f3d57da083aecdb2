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
	since time.Time // of a fence, which is another one when it is there again
	Violation
}

func (d doubt) is(other doubt) bool {
	return d.check == other.check && d.ID == other.ID && d.Shard == other.Shard && d.since.Equal(other.since)
}

// compareStanding compares what the shards say they are with a view. It is pure. Shards without a word are not judged.
func compareStanding(view View, words map[ledger.ShardID]Standing) []doubt {
	var (
		doubts   []doubt
		underWay = view.underWay()
		stuck    = make(map[Violation]placement.SlotSet) // by the move, and what its slots are
		fences   = make(map[Violation]time.Time)         // the first of those slots' fences
	)
	for _, id := range sortedKeys(words) {
		if problem := identityProblem(words[id].Identity(), view.Cluster, id); problem != "" {
			v := Violation{Shard: id, ID: "shard " + string(id), Problem: problem}
			doubts = append(doubts, doubt{check: CheckIdentity, Violation: v})
		}
	}
	founded := isFounded(view, words)
	for slot := range ledger.Slot(placement.Slots) {
		owner := view.Map.Owner(slot)
		name := fmt.Sprintf("slot %d", slot)
		if founded && owner == (placement.Owner{}) {
			doubts = append(doubts, doubt{check: CheckSlots, Violation: Violation{ID: name, Problem: "it has no owner in the map"}})
		}
		for _, id := range sortedKeys(words) {
			row := words[id].Slots()[slot]
			_, going := underWay[row.Move]
			switch problem, ofMove := slotProblem(owner, id, row, going); {
			case ofMove:
				v := Violation{Shard: id, ID: "move " + string(row.Move), Problem: problem}
				stuck[v] = append(stuck[v], slot)
				if first := fences[v]; row.State == stateFenced && (first.IsZero() || row.FencedAt.Before(first)) {
					fences[v] = row.FencedAt
				}
			case problem != "":
				v := Violation{Shard: id, ID: name, Problem: "it is " + problem}
				doubts = append(doubts, doubt{check: CheckSlots, Violation: v})
			}
		}
	}
	ofMoves := make([]doubt, 0, len(stuck))
	for v, slots := range stuck {
		since := fences[v]
		v.Problem = fmt.Sprintf("slots %s are %s", slots, v.Problem)
		if !since.IsZero() {
			v.Problem += "; fenced since " + since.UTC().Format(time.RFC3339)
		}
		ofMoves = append(ofMoves, doubt{CheckMoves, since, v})
	}
	slices.SortFunc(ofMoves, func(x, y doubt) int {
		return cmp.Or(cmp.Compare(x.ID, y.ID), cmp.Compare(x.Shard, y.Shard), cmp.Compare(x.Problem, y.Problem))
	})
	return append(doubts, ofMoves...)
}

// isFounded tells whether slots were ever given to anybody: all get their owners in one transaction.
func isFounded(view View, words map[ledger.ShardID]Standing) bool {
	for _, word := range words {
		if len(word.Slots()) > 0 {
			return true
		}
	}
	return len(view.Map.Shards()) > 0
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

// slotProblem says what is wrong with what a shard says of a slot, and whether it is a move's: then it is how things stand
// for a moment, while the registry or one of the shards is ahead of the other. going tells whether the registry has the
// move under way. The zero row means that the slot was never here.
func slotProblem(owner placement.Owner, id ledger.ShardID, row Slot, going bool) (problem string, ofMove bool) {
	ofMove = row.Move != ""
	behind := ofMove && row.Epoch < owner.Epoch
	switch mine := id == owner.Shard; {
	case mine && row == Slot{}:
		return fmt.Sprintf("unknown here, but the map says owned at epoch %d", owner.Epoch), false
	case mine && row.State == stateFenced && row.Epoch == owner.Epoch:
		return fmt.Sprintf("fenced at epoch %d", row.Epoch), ofMove
	case mine && (row.State != stateOwned || row.Epoch != owner.Epoch):
		return fmt.Sprintf("%s at epoch %d, but the map says owned at epoch %d", row.State, row.Epoch, owner.Epoch),
			behind && row.State != "moved"
	case !mine && (row.Answered() || row.Epoch > owner.Epoch):
		return fmt.Sprintf("%s here at epoch %d, but the map says owned by %s at epoch %d",
			row.State, row.Epoch, cmp.Or(owner.Shard, "nobody"), owner.Epoch), behind
	case row.Copy && !ofMove:
		return row.State + " here under no move", false
	case ofMove && !going:
		return fmt.Sprintf("%s under this move, which the registry does not have under way", row.State), true
	}
	return "", false
}

// checkStanding reports the doubts of both rounds that stayed for as long as ownership may be in the air.
func (r *run) checkStanding(doubts []doubt) {
	for _, d := range doubts {
		r.violation(d.check, d.Violation)
	}
	for _, n := range r.nodes {
		switch {
		case n.first != nil:
			r.cover(CheckIdentity, 1)
		case r.failed(n):
			r.unread(CheckIdentity, n)
			r.unread(CheckSlots, n)
		}
	}
	if !isFounded(r.first.view, r.first.words()) {
		r.gap(CheckSlots, "the cluster's slots are not spread yet")
		return
	}
	for slot := range ledger.Slot(placement.Slots) {
		if owner := r.first.view.Map.Owner(slot).Shard; owner == "" || r.first.snapshots[owner] != nil {
			r.cover(CheckSlots, 1)
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

// unchanged tells whether a user's slot has the same owner as in an earlier view, and that shard says so too, in a snapshot
// of those.
func unchanged(last, view View, snapshots map[ledger.ShardID]Snapshot, user ledger.UserID) bool {
	slot := placement.SlotOf(user)
	owner := view.Map.Owner(slot)
	snapshot, ok := snapshots[owner.Shard]
	if !ok || last.Map.Owner(slot) != owner {
		return false
	}
	row := snapshot.Slots()[slot]
	return row.State == stateOwned && row.Epoch == owner.Epoch
}

func closeAll(snapshots map[ledger.ShardID]Snapshot) {
	for _, s := range snapshots {
		s.Close()
	}
}

// pause waits before what is in doubt is looked at again.
func (r *run) pause(ctx context.Context) {
	begun := time.Now()
	select {
	case <-time.After(r.options.Pause):
	case <-ctx.Done():
	}
	r.report.Waited += time.Since(begun)
}
