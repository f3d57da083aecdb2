package cluster

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// viewOf is a founded cluster of a, b, c and d with 1024 slots each, and of e, which drains and has none.
func viewOf(t *testing.T, moves ...placement.Move) *View {
	t.Helper()
	shards := map[ledger.ShardID]Shard{"e": {ID: "e", State: ShardDraining}}
	for _, id := range []ledger.ShardID{"a", "b", "c", "d"} {
		shards[id] = Shard{ID: id, State: ShardActive}
	}
	m, err := placement.NewMap(9, placement.Found([]ledger.ShardID{"a", "b", "c", "d"}))
	if err != nil {
		t.Fatal(err)
	}
	return &View{Shards: shards, Map: m, Moves: moves, Revision: 9}
}

func moveOf(source, target ledger.ShardID, phase placement.Phase, slots ...ledger.Slot) placement.Move {
	return placement.Move{ID: "there", Source: source, Target: target, Slots: placement.NewSlotSet(slots...), Phase: phase}
}

func TestWhatForbidsAMove(t *testing.T) {
	t.Parallel()
	plan := moveOf("a", "b", "", 1, 2)
	plan.ID = "new"
	of := func(change func(*placement.Move)) placement.Move {
		move := plan
		change(&move)
		return move
	}
	for _, test := range []struct {
		name   string
		move   placement.Move
		there  placement.Move
		forbid string // "": nothing
	}{
		{"nothing else", plan, placement.Move{}, ""},
		{"no id", of(func(m *placement.Move) { m.ID = "" }), placement.Move{}, "move id"},
		{"no slots", of(func(m *placement.Move) { m.Slots = nil }), placement.Move{}, "no slots"},
		{"no such slot", of(func(m *placement.Move) { m.Slots = placement.NewSlotSet(1, placement.Slots) }), placement.Move{}, "slot 4096 is not one"},
		{"to itself", of(func(m *placement.Move) { m.Target = "a" }), placement.Move{}, `"a" is its source and its target`},
		{"unknown source", of(func(m *placement.Move) { m.Source = "x" }), placement.Move{}, `source "x": no such shard`},
		{"unknown target", of(func(m *placement.Move) { m.Target = "x" }), placement.Move{}, `target "x": no such shard`},
		{"draining target", of(func(m *placement.Move) { m.Target = "e" }), placement.Move{}, `"e" is draining`},
		{"another's slots", of(func(m *placement.Move) { m.Slots = placement.NewSlotSet(1, 2000) }), placement.Move{}, `slot 2000 is owned by "b", not by "a"`},
		{"id with a slash", of(func(m *placement.Move) { m.ID = "a/b" }), placement.Move{}, "slash"},
		{"id taken", of(func(m *placement.Move) { m.ID = "there" }), moveOf("c", "d", placement.PhaseDone, 2500), "is that of another move"},

		{"elsewhere", plan, moveOf("c", "d", placement.PhaseCopy, 2500), ""},
		{"source gets", plan, moveOf("c", "a", placement.PhaseCopy, 2500), ""},
		{"target gives", plan, moveOf("b", "c", placement.PhaseCopy, 1500), ""},
		{"same source", plan, moveOf("a", "c", placement.PhasePlanned, 3), "from the same source is under way (phase planned)"},
		{"same target", plan, moveOf("c", "b", placement.PhaseAborting, 2500), "to the same target is under way (phase aborting)"},
		{"same source, switched", plan, moveOf("a", "c", placement.PhaseSwitched, 3), "from the same source"},
		{"same slots", plan, moveOf("d", "c", placement.PhaseCopy, 2), "has some of these slots"},
		{"same source, only to be cleaned", plan, moveOf("a", "c", placement.PhaseClean, 3), ""},
		{"same target, only to be cleaned", plan, moveOf("c", "b", placement.PhaseClean, 2500), ""},
		{"on from where it came", plan, moveOf("c", "a", placement.PhaseClean, 2), ""},
		{"back to where it came from", plan, moveOf("b", "a", placement.PhaseClean, 2), `"b" still has the copy that move there left behind`},
		{"other slots came from there", plan, moveOf("b", "a", placement.PhaseClean, 3), ""},
		{"back when it is clean", plan, moveOf("b", "a", placement.PhaseDone, 2), ""},
		{"again after an abort", plan, moveOf("a", "b", placement.PhaseAborted, 1, 2), ""},
		{"a newer program's", plan, moveOf("c", "d", "novel", 2500), `phase "novel" that this program does not know`},
		{"unreadable", plan, placement.Move{ID: "there"}, "does not know"},
	} {
		view := viewOf(t)
		if test.there.ID != "" {
			view.Moves = []placement.Move{test.there}
		}
		move, err := newMove(test.move)
		if err == nil {
			err = view.checkPlan(move)
		}
		if test.forbid == "" && err != nil || test.forbid != "" && (err == nil || !strings.Contains(err.Error(), test.forbid)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.forbid)
		}
	}
	unfounded := viewOf(t)
	unfounded.Map, _ = placement.NewMap(9, nil)
	if err := unfounded.checkPlan(plan); err == nil || !strings.Contains(err.Error(), "no owners yet") {
		t.Errorf("unfounded: %v", err)
	}
}

func TestPlanMoveSeesWhatHasChanged(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(4)
	for i, test := range []struct {
		what   string
		change func()
	}{
		{"a shard came", func() { w.register(c, config, "s5") }},
		{"a shard drains", func() {
			if _, err := c.DrainShard(w.ctx, config, "s5", true); err != nil {
				t.Error(err)
			}
		}},
		{"a shard was removed", func() {
			if err := c.RemoveShard(w.ctx, w.read(c), "s5"); err != nil {
				t.Error(err)
			}
		}},
		{"a slot went", func() { w.rewrite(4000, placement.Owner{Shard: "s1", Epoch: 2}) }},
		{"a move was planned", func() { w.planned(c, "4095", "s4", "s3") }},
		{"another cluster", func() { w.put(w.keys.config(), strings.Replace(config.raw, config.UID, "other", 1)) }},
	} {
		view := w.read(c)
		test.change()
		move, err := c.PlanMove(w.ctx, view, placement.Move{ID: newMoveID(), Source: "s1", Target: "s2", Slots: placement.NewSlotSet(ledger.Slot(i))})
		if !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %+v, %v", test.what, move, err)
		}
	}
	w.put(w.keys.config(), config.raw)

	// What is not of interest, or forbids nothing.
	w.put(w.keys.move("old"), `{"id":"old","phase":"done","slots":"7"}`)
	view := w.read(c)
	w.delete(w.keys.move("old"))
	w.put(w.prefix+"live/router/r1", "x")
	move, err := c.PlanMove(w.ctx, view, placement.Move{ID: "mine", Source: "s1", Target: "s2", Slots: placement.SlotSet{9, 3, 9}, Cause: "x"})
	if err != nil || move.Slots.String() != "3,9" || move.Cause != "" {
		t.Errorf("planned %+v, %v", move, err)
	}
	again, err := c.PlanMove(w.ctx, view, placement.Move{ID: "mine", Source: "s1", Target: "s2", Slots: placement.SlotSet{3, 9}})
	if err != nil {
		t.Error(err)
	}
	w.same("planned again", again, move)
	if _, err := c.PlanMove(w.ctx, view, placement.Move{ID: "mine", Source: "s1", Target: "s2", Slots: placement.SlotSet{3}}); !errors.Is(err, ErrChanged) {
		t.Errorf("another journey under its id: %v", err)
	}
	blind := *w.read(c) // no record is overwritten, whatever a caller believes
	blind.Moves = nil
	if _, err := c.PlanMove(w.ctx, &blind, placement.Move{ID: "mine", Source: "s2", Target: "s1", Slots: placement.SlotSet{1500}}); !errors.Is(err, ErrChanged) {
		t.Errorf("over a record that was not seen: %v", err)
	}
}

func TestPlanMoveRace(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(8)
	view := w.read(c)
	var errs [7]error
	var all sync.WaitGroup
	for i := range errs {
		other := w.connect()
		all.Go(func() {
			target := ledger.ShardID([]string{"s2", "s3", "s4", "s5", "s6", "s7", "s8"}[i])
			_, errs[i] = other.PlanMove(w.ctx, view, placement.Move{ID: newMoveID(), Source: "s1", Target: target, Slots: placement.NewSlotSet(ledger.Slot(i))})
		})
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
	}
	if moves := w.read(c).Moves; won != 1 || len(moves) != 1 {
		t.Errorf("%d planned, %d moves", won, len(moves))
	}
}

// What a view says of moves that make no sense, alone and beside the slots.
func TestMovesOfAView(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(4) // 1024 slots each
	resp, err := w.raw.Get(w.ctx, w.prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	decided := time.Now()
	put := func(all map[string]record, id placement.MoveID, source, target ledger.ShardID, phase placement.Phase, slots ...ledger.Slot) {
		move := moveOf(source, target, phase, slots...)
		move.ID = id
		if !phase.Before() {
			move.DecidedAt = &decided
			for range slots {
				move.Epochs = append(move.Epochs, 2)
			}
		}
		value, err := json.Marshal(move)
		if err != nil {
			t.Fatal(err)
		}
		all[w.keys.move(id)] = record{string(value), 7}
	}
	for _, test := range []struct {
		what    string
		change  func(map[string]record)
		problem string // "": none
	}{
		{"under way", func(all map[string]record) { put(all, "m", "s1", "s2", "copy", 1, 2) }, ""},
		{"switched", func(all map[string]record) { put(all, "m", "s4", "s1", "switched", 1, 2) }, ""},
		{"aborting", func(all map[string]record) { put(all, "m", "s1", "s2", "aborting", 1, 2) }, ""},
		{"to be cleaned, and gone on", func(all map[string]record) { put(all, "m", "s4", "s3", "clean", 1, 2) }, ""},
		{"no slots", func(all map[string]record) { put(all, "m", "s1", "s2", "copy") }, ""}, // unreadable
		{"to itself", func(all map[string]record) { put(all, "m", "s1", "s1", "copy", 1) }, `"s1" is its source and its target`},
		{"from nowhere", func(all map[string]record) { put(all, "m", "s9", "s1", "switched", 1) }, `move m: source "s9": no such shard`},
		{"to nowhere", func(all map[string]record) { put(all, "m", "s1", "s9", "planned", 1) }, `move m: target "s9": no such shard`},
		{"clean to nowhere", func(all map[string]record) { put(all, "m", "s1", "s9", "clean", 1) }, `target "s9"`},
		{"undecided", func(all map[string]record) { put(all, "m", "s1", "s2", "fence", 2000) }, `slot 2000 is owned by "s2", not by "s1"`},
		{"aborting", func(all map[string]record) { put(all, "m", "s2", "s1", "aborting", 1) }, `slot 1 is owned by "s1", not by "s2"`},
		{"switched", func(all map[string]record) { put(all, "m", "s1", "s2", "switched", 1) }, `slot 1 is owned by "s1", not by "s2"`},
		{"switched, and who knows when", func(all map[string]record) {
			put(all, "m", "s4", "s1", "switched", 1)
			all[w.keys.move("m")] = record{strings.Replace(all[w.keys.move("m")].value, "decided_at", "decided", 1), 7}
		}, "was never decided"},
		{"switched, and who knows to what", func(all map[string]record) {
			put(all, "m", "s4", "s1", "switched", 1, 2)
			all[w.keys.move("m")] = record{strings.Replace(all[w.keys.move("m")].value, "2*2", "2*3", 1), 7}
		}, "2 slots and 3 epochs"},
		{"two of one slot", func(all map[string]record) {
			put(all, "m", "s1", "s2", "copy", 1, 2, 3)
			put(all, "n", "s1", "s3", "planned", 3, 4)
		}, "moves m and n both have slot 3"},
		{"two, one of them only to be cleaned", func(all map[string]record) {
			put(all, "m", "s1", "s2", "copy", 1, 2, 3)
			put(all, "n", "s4", "s1", "clean", 3, 4)
		}, ""},
		{"unfounded", func(all map[string]record) {
			for chunk := range chunks {
				delete(all, w.keys.chunk(chunk))
			}
			put(all, "m", "s1", "s2", "copy", 1)
		}, `slot 1 is owned by "", not by "s1"`},

		{"done long ago", func(all map[string]record) { put(all, "m", "s9", "s9", "done", 1) }, ""},
		{"aborted long ago", func(all map[string]record) { put(all, "m", "s9", "s8", "aborted", 1) }, ""},
		{"a newer program's", func(all map[string]record) {
			put(all, "m", "s9", "s9", "novel", 1)
			put(all, "n", "s1", "s2", "copy", 1)
		}, ""},
		{"unreadable", func(all map[string]record) { all[w.keys.move("m")] = record{`{"id":"m","phase":"copy","slots":`, 7} }, ""},
		{"another id's", func(all map[string]record) {
			all[w.keys.move("m")] = record{`{"id":"n","phase":"copy","slots":"1"}`, 7}
		}, ""},
	} {
		all := records(resp)
		test.change(all)
		view, err := w.keys.view(all, 9, nil)
		if test.problem != "" {
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%s: %v, want %q", test.what, err, test.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if move, ok := view.Move("m"); !ok || move.ID != "m" || move.Revision != 7 {
			t.Errorf("%s: %+v", test.what, move)
		}
	}

	// A watcher's map goes on beside a record that nobody here can read, and stands still for one that it cannot be true.
	watcher := w.watch(c)
	w.put(w.keys.move("m"), "not json")
	w.eventually(5*time.Second, "seen", func() bool { return len(watcher.Current().Moves) == 1 })
	if move := watcher.Current().Moves[0]; move.ID != "m" || move.Phase != "" || watcher.Status().Problem != "" {
		t.Errorf("%+v, %s", move, watcher.Status().Problem)
	}
	w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
	w.eventually(5*time.Second, "followed", func() bool { return watcher.Current().Map.Owner(7).Epoch == 2 })
	w.put(w.keys.move("m"), `{"id":"m","source":"s1","target":"s2","slots":"7","phase":"copy"}`)
	w.eventually(5*time.Second, "a problem", func() bool { return strings.Contains(watcher.Status().Problem, "move m: in phase") })
	w.delete(w.keys.move("m"))
	w.eventually(5*time.Second, "none any more", func() bool { return watcher.Status().Problem == "" && len(watcher.Current().Moves) == 0 })
}
