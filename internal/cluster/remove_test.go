package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestWhatKeepsAShard(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		id    ledger.ShardID
		there placement.Move
		keeps string // "": nothing
	}{
		{"nothing", "e", placement.Move{}, ""},
		{"not there", "x", placement.Move{}, "no such shard"},
		{"active", "a", placement.Move{}, "it is active: drain it first"},
		{"with slots", "d", placement.Move{}, "it still owns 1024 slots"},
		{"a move to it", "e", moveOf("a", "e", placement.PhasePlanned, 1), "move there to it is not done (phase planned)"},
		{"a move from it", "e", moveOf("e", "a", placement.PhaseSwitched, 1), "move there from it is not done (phase switched)"},
		{"its copy", "e", moveOf("e", "a", placement.PhaseClean, 1), "wait until its copy was cleaned"},
		{"an aborted copy on it", "e", moveOf("a", "e", placement.PhaseAborting, 1), "move there to it is not done (phase aborting)"},
		{"a newer program's move", "e", moveOf("a", "b", "novel", 1), "does not know"},
		{"a move of others", "e", moveOf("a", "b", placement.PhaseFence, 1), ""},
		{"a move that is done", "e", moveOf("e", "b", placement.PhaseDone, 1), ""},
		{"a move that was aborted", "e", moveOf("b", "e", placement.PhaseAborted, 1), ""},
	} {
		view := viewOf(t)
		view.Shards["d"] = Shard{ID: "d", State: ShardDraining}
		if test.there.ID != "" {
			view.Moves = []placement.Move{test.there}
		}
		err := view.checkRemoval(test.id)
		if test.keeps == "" && err != nil || test.keeps != "" && (err == nil || !strings.Contains(err.Error(), test.keeps)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.keeps)
		}
	}
}

func TestRemoveShard(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	watcher := w.watch(w.connect())
	w.register(c, config, "s3")
	drain := func(draining bool) {
		t.Helper()
		if _, err := c.DrainShard(w.ctx, config, "s3", draining); err != nil {
			t.Fatal(err)
		}
	}
	drain(true)
	for _, test := range []struct {
		what         string
		change, undo func()
	}{
		{"it does not drain any more", func() { drain(false) }, func() { drain(true) }},
		{"it drains anew", func() { drain(false); drain(true) }, func() {}},
		{"it got a slot", func() { w.rewrite(7, placement.Owner{Shard: "s3", Epoch: 2}) },
			func() { w.rewrite(7, placement.Owner{Shard: "s1", Epoch: 3}) }},
		{"a move came", func() { w.planned(c, "7") }, func() {}},
		{"another cluster", func() { w.put(w.keys.config(), strings.Replace(config.raw, config.UID, "other", 1)) },
			func() { w.put(w.keys.config(), config.raw) }},
		{"it is gone without a tombstone", func() { w.delete(w.keys.shard("s3")) },
			func() { w.register(c, config, "s3"); drain(true) }},
	} {
		view := w.read(c)
		test.change()
		if err := c.RemoveShard(w.ctx, view, "s3"); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", test.what, err)
		}
		if test.undo(); w.read(c).Shards["s3"].State != ShardDraining {
			t.Errorf("%s: %+v", test.what, w.read(c).Shards)
		}
	}

	view := w.read(c)
	if err := c.RemoveShard(w.ctx, view, "s3"); err != nil {
		t.Fatal(err)
	}
	var stone struct {
		ID        string    `json:"id"`
		RetiredAt time.Time `json:"retired_at"`
	}
	if err := json.Unmarshal([]byte(w.get(w.keys.tombstone("s3"))), &stone); err != nil {
		t.Error(err)
	}
	if stone.ID != "s3" || time.Since(stone.RetiredAt) > time.Minute {
		t.Errorf("tombstone %+v", stone)
	}
	w.eventually(5*time.Second, "a watcher sees it", func() bool { return len(watcher.Current().Shards) == 2 })
	if err := c.RemoveShard(w.ctx, view, "s3"); err != nil {
		t.Errorf("removed again: %v", err)
	}
	if err := c.RemoveShard(w.ctx, w.read(c), "s3"); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("removed once more: %v", err)
	}
	for _, dsn := range []string{"postgres://saldo@s3/saldo", "postgres://saldo@s33/saldo"} {
		if _, err := c.Register(w.ctx, config, Shard{ID: "s3", DSN: dsn}); !errors.Is(err, ErrRetired) {
			t.Errorf("a retired id at %s: %v", dsn, err)
		}
	}

	// The whole way: drained, moved away, cleaned, removed.
	if _, err := c.DrainShard(w.ctx, config, "s1", true); err != nil {
		t.Fatal(err)
	}
	if move := w.read(c).Moves[0]; move.Phase != placement.PhasePlanned {
		t.Fatal(move)
	} else if _, err := c.AbortMove(w.ctx, move, "test"); err != nil {
		t.Fatal(err)
	}
	move := w.advanced(led, w.planned(c, "0-2047"), placement.PhaseFence)
	move, err := led.SwitchMove(w.ctx, move, anySeen)
	for _, phase := range []placement.Phase{placement.PhaseClean, placement.PhaseDone} {
		if removal := c.RemoveShard(w.ctx, w.read(c), "s1"); err != nil || removal == nil || errors.Is(removal, ErrChanged) {
			t.Fatalf("removed before %s: %v, %v", phase, removal, err)
		}
		move, err = led.AdvanceMove(w.ctx, move, phase, anySeen)
	}
	if err := errors.Join(err, c.RemoveShard(w.ctx, w.read(c), "s1")); err != nil {
		t.Error(err)
	}
	w.eventually(5*time.Second, "a watcher sees it", func() bool { return len(watcher.Current().Shards) == 1 })
	if problem := watcher.Status().Problem; problem != "" {
		t.Error(problem)
	}
}

// A shard is not removed while a move to it is planned, and no move is planned to one that is removed.
func TestRemoveAgainstPlan(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(2)
	planner, remover := w.connect(), w.connect()
	for round := range 20 {
		id := ledger.ShardID("x" + string(rune('a'+round)))
		w.register(c, config, string(id))
		atPlan := w.read(c) // it is active here, and drains only in the other's view
		if _, err := c.DrainShard(w.ctx, config, id, true); err != nil {
			t.Fatal(err)
		}
		atRemoval := w.read(c)
		if round%2 == 0 { // no more than what the two compare with each other's keys keeps them apart
			shards := maps.Clone(atRemoval.Shards)
			shards[id] = atPlan.Shards[id]
			undrained := *atRemoval
			undrained.Shards = shards
			atPlan = &undrained
		}
		var planned placement.Move
		var planErr, removeErr error
		var all sync.WaitGroup
		all.Go(func() {
			move := placement.Move{ID: newMoveID(), Source: "s1", Target: id, Slots: placement.NewSlotSet(1)}
			planned, planErr = planner.PlanMove(w.ctx, atPlan, move)
		})
		all.Go(func() { removeErr = remover.RemoveShard(w.ctx, atRemoval, id) })
		all.Wait()
		if (planErr == nil) == (removeErr == nil) || !errors.Is(cmp.Or(planErr, removeErr), ErrChanged) {
			t.Fatalf("round %d: plan %v, removal %v", round, planErr, removeErr)
		}
		w.read(c)
		if planErr == nil {
			if _, err := c.AbortMove(w.ctx, planned, "test"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
