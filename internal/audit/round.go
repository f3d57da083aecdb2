package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// round is one snapshot of each shard, and who answers for each slot in it.
type round struct {
	view      View
	snapshots map[ledger.ShardID]Snapshot // of the shards that could be read
	// answers has the shard that answers for each slot; if none that could be read does, the one that the map says; "" if
	// several do, or none although that one was read.
	answers [placement.Slots]ledger.ShardID
	// unsettled has the slots that no snapshot shows as they truly were at some instant of the round: several shards answer,
	// or none although the owner was read, or one that the slot has left meanwhile, as another shard knows.
	unsettled map[ledger.Slot]bool
}

func newRound(view View, snapshots map[ledger.ShardID]Snapshot) *round {
	r := &round{view: view, snapshots: snapshots, unsettled: make(map[ledger.Slot]bool)}
	var (
		answering [placement.Slots]int
		epoch     [placement.Slots]ledger.Epoch // of who answers
		newest    [placement.Slots]ledger.Epoch
	)
	for id, snapshot := range snapshots {
		for slot, row := range snapshot.Slots() {
			newest[slot] = max(newest[slot], row.Epoch)
			if row.Answered() {
				answering[slot]++
				r.answers[slot], epoch[slot] = id, row.Epoch
			}
		}
	}
	for slot := range ledger.Slot(placement.Slots) {
		owner := view.Map.Owner(slot).Shard
		switch n := answering[slot]; {
		case n > 1:
			r.answers[slot] = ""
			r.unsettled[slot] = true
		case n == 0 && snapshots[owner] == nil:
			r.answers[slot] = owner
		case n == 0, epoch[slot] < newest[slot]:
			r.unsettled[slot] = true
		}
	}
	return r
}

// words returns what the shards say they are.
func (r *round) words() map[ledger.ShardID]Standing {
	words := make(map[ledger.ShardID]Standing, len(r.snapshots))
	for id, snapshot := range r.snapshots {
		words[id] = snapshot
	}
	return words
}

// where returns the shard to look for a user's rows at; "" if there is none.
func (r *round) where(user ledger.UserID) ledger.ShardID {
	slot := placement.SlotOf(user)
	return cmp.Or(r.answers[slot], r.view.Map.Owner(slot).Shard)
}

// settledBut tells whether no slot is unsettled but those of an earlier round, which may be nil.
func (r *round) settledBut(earlier *round) bool {
	for slot := range r.unsettled {
		if earlier == nil || !earlier.unsettled[slot] {
			return false
		}
	}
	return true
}

func (r *round) close() {
	if r != nil {
		closeAll(r.snapshots)
	}
}

// take takes a round, again until it has settled and the doubts that it began with have gone, or until patience is over: it
// returns the doubts that were there each time. What stayed in an earlier round is not waited for again.
func (r *run) take(ctx context.Context, view View, earlier *round, known []doubt) (*round, []doubt) {
	var (
		stayed   []doubt
		deadline time.Time // from the first reading's end, however long it took: what stayed was seen twice at least
	)
	for again := false; ; again = true {
		taken := newRound(view, r.open(ctx, view))
		stayed = slices.DeleteFunc(compareStanding(view, taken.words()), func(d doubt) bool {
			return slices.ContainsFunc(known, d.is) || again && !slices.ContainsFunc(stayed, d.is)
		})
		if len(stayed) == 0 && taken.settledBut(earlier) {
			return taken, nil
		}
		if !again {
			deadline = time.Now().Add(r.options.Patience)
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			if len(stayed) == 0 {
				r.gap(CheckSlots, "slots kept changing hands: some were seen on several shards, or on none")
			}
			return taken, stayed
		}
		if len(stayed) > 0 {
			r.progress("taking the snapshots again because of %d doubts about ownership", len(stayed))
		}
		r.pause(ctx)
		next, err := r.world.View(ctx)
		if err != nil {
			r.gap(CheckSlots, fmt.Sprintf("ownership was in doubt, and the map could not be read again: %v", err))
			return taken, nil
		}
		taken.close()
		view = next
	}
}

// open takes a snapshot of every shard of a view that has not failed, and returns when all are taken.
func (r *run) open(ctx context.Context, view View) map[ledger.ShardID]Snapshot {
	var (
		opening   sync.WaitGroup
		mu        sync.Mutex // guards snapshots
		snapshots = make(map[ledger.ShardID]Snapshot)
	)
	for _, id := range view.shards() {
		n := r.ensure(id)
		if r.failed(n) {
			continue
		}
		opening.Go(func() {
			r.progress("shard %s: taking a snapshot", id)
			snapshot, err := r.world.Snapshot(ctx, id)
			if err != nil {
				r.fail(n, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			snapshots[id] = snapshot
		})
	}
	opening.Wait()
	return snapshots
}
