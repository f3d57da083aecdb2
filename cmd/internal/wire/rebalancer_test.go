package wire

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
)

// A shard that joins gets its share where that is automatic, one that drains is emptied in any case; and whoever leads.
func TestCoordinatorsMoveSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.register("s1", "")
	w.register("s2", "")
	if _, err := w.c.FoundIfDue(w.ctx); err != nil {
		t.Fatal(err)
	}
	view, err := w.c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := assembly.Activate(w.ctx, view, w.passwords); err != nil {
		t.Fatal(err)
	}
	mover := func(name, mode string) (stop func()) {
		config := Coordinator{
			Name: name, Settle: 500 * time.Millisecond, Poll: 50 * time.Millisecond, Postgres: postgres,
			Etcd: Etcd{Endpoints: w.endpoints, Prefix: w.prefix}, Rebalance: mode, MoveSlots: 1024, MoveShare: 1,
		}
		return w.background(func(ctx context.Context) error {
			return RunCoordinator(ctx, config, Process{Passwords: w.passwords, Log: w.log}, nil)
		})
	}
	slots := func() map[ledger.ShardID]int {
		view, err := w.c.Read(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		n := make(map[ledger.ShardID]int)
		for _, r := range view.Map.Ranges() {
			n[r.Shard] += int(r.Last-r.First) + 1
		}
		return n
	}
	// A router is there from the beginning, and follows.
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	r := routing.New(m, routing.Config{}, w.log)
	t.Cleanup(r.Close)
	w.background(func(ctx context.Context) error { return m.run(ctx, duties{}) })
	users := make([]ledger.UserID, 20)
	for i := range users {
		users[i] = ledger.UserID(fmt.Sprint("user-", i))
		w.eventually(long, string(users[i])+" is created", func() bool {
			_, _, err := r.CreateUser(w.ctx, ledger.User{ID: users[i], Name: "u"})
			return err == nil
		})
	}

	stop := mover("by hand", "manual")
	w.register("s3", "")
	time.Sleep(2 * time.Second)
	if n := slots(); n["s3"] != 0 {
		t.Errorf("slots have moved by themselves: %v", n)
	}
	if _, err := w.c.DrainShard(w.ctx, w.config, "s2", true); err != nil {
		t.Fatal(err)
	}
	w.eventually(long, "s2 is empty", func() bool { return slots()["s2"] == 0 })
	stop()
	if _, err := w.c.SetWeight(w.ctx, w.config, "s3", 3); err != nil {
		t.Fatal(err)
	}
	mover("by itself", "auto")
	w.eventually(long, "s3 has its share", func() bool { n := slots(); return n["s1"] == 1024 && n["s3"] == 3072 })
	w.eventually(long, "all copies are deleted", func() bool {
		view, err := w.c.Read(w.ctx)
		return err == nil && !slices.ContainsFunc(view.Moves, func(move placement.Move) bool { return !move.Phase.Ended() })
	})
	if view, err = w.c.Read(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.c.RemoveShard(w.ctx, view, "s2"); err != nil {
		t.Error(err)
	}
	for _, user := range users {
		if stored, err := r.User(w.ctx, user); err != nil || stored.ID != user {
			t.Errorf("%s: %+v, %v", user, stored, err)
		}
	}
	w.eventually(long, "s2 is closed", func() bool { _, open := m.Shard("s2"); return !open })
	shards := assembly.NewShards(func() *cluster.View { return view }, w.passwords, "test", w.log)
	defer shards.Close()
	for _, id := range []ledger.ShardID{"s1", "s3"} {
		if left, err := shards.Uncleaned(w.ctx, assembly.RebalanceView(view), id); err != nil || len(left) > 0 {
			t.Errorf("%s still has copies of %v: %v", id, left, err)
		}
	}
}
