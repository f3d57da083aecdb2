package rebalance

import (
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance/plan"
)

func slots(text string) placement.SlotSet {
	set, err := placement.ParseSlotSet(text)
	if err != nil {
		panic(err)
	}
	return set
}

// newView has the slots 0-2047 at a and the others at b, but for those that were given to others.
func newView(t *testing.T, given map[string]ledger.ShardID, moves ...placement.Move) *View {
	t.Helper()
	owners := placement.Found([]ledger.ShardID{"a", "b"})
	for text, id := range given {
		for _, slot := range slots(text) {
			owners[slot] = placement.Owner{Shard: id, Epoch: 2}
		}
	}
	m, err := placement.NewMap(7, owners)
	if err != nil {
		t.Fatal(err)
	}
	return &View{Revision: 7, Map: m, Shards: []Shard{{ID: "a", Weight: 1}, {ID: "b", Weight: 1}}, Moves: moves}
}

func TestPropose(t *testing.T) {
	t.Parallel()
	move := func(phase placement.Phase, why, set string) placement.Move {
		return placement.Move{ID: "m", Source: "a", Target: "b", Slots: slots(set), Phase: phase, Why: why}
	}
	all := map[string]ledger.ShardID{"0-4095": "a"}
	for _, c := range []struct {
		name      string
		view      *View
		uncleaned map[ledger.ShardID]placement.SlotSet
		want      string
	}{
		{"balanced", newView(t, nil), nil, ""},
		{"all on one", newView(t, all), nil, "a -> b: 2048 slots (2048-4095)"},
		{
			"some are on their way", newView(t, all, move(placement.PhaseCopy, WhyRebalance, "4000-4095")), nil,
			"a -> b: 1952 slots (2048-3999)",
		},
		{
			"some come back", newView(t, all, move(placement.PhaseAborting, WhyRebalance, "4000-4095")), nil,
			"a -> b: 2048 slots (1952-3999)",
		},
		{
			"some came back", newView(t, all, move(placement.PhaseAborted, WhyRebalance, "4000-4095")), nil,
			"a -> b: 2048 slots (2048-4095)",
		},
		{
			"an older copy, by the record",
			newView(t, map[string]ledger.ShardID{"0-2047": "b"}, move(placement.PhaseClean, WhyRebalance, "3000-4095")), nil,
			"b -> a: 2048 slots (952-2999)",
		},
		{
			"an older copy, by the shard", newView(t, map[string]ledger.ShardID{"0-2047": "b"}),
			map[ledger.ShardID]placement.SlotSet{"a": slots("3000-4095")}, "b -> a: 2048 slots (952-2999)",
		},
		{
			"moved by hand",
			newView(t, map[string]ledger.ShardID{"100-199": "b"}, move(placement.PhaseDone, "it is hot", "100-199")), nil,
			"b -> a: 100 slots (2048-2147)",
		},
		{
			"moved by hand, and on", newView(t, nil, move(placement.PhaseDone, "it was hot", "100-199")), nil, "",
		},
	} {
		steps, err := Propose(c.view, c.uncleaned)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := ""
		for _, step := range steps {
			got += step.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestBusyAndTired(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	ended := func(id placement.MoveID, phase placement.Phase, ago time.Duration) placement.Move {
		at := now.Add(-ago)
		return placement.Move{ID: id, Source: "a", Target: "b", Phase: phase, EndedAt: &at}
	}
	underway := func(phase placement.Phase, source, target ledger.ShardID) placement.Move {
		return placement.Move{ID: "u", Source: source, Target: target, Phase: phase}
	}
	step := plan.Step{Source: "a", Target: "b"}
	for _, c := range []struct {
		name        string
		moves       []placement.Move
		busy, tired bool
	}{
		{name: "nothing"},
		{name: "the source gives already", moves: []placement.Move{underway(placement.PhaseCopy, "a", "c")}, busy: true},
		{name: "the target takes already", moves: []placement.Move{underway(placement.PhaseAborting, "c", "b")}, busy: true},
		{name: "the other way round", moves: []placement.Move{underway(placement.PhaseCopy, "b", "a")}},
		{name: "only to be cleaned", moves: []placement.Move{underway(placement.PhaseClean, "a", "b")}},
		{name: "to be aborted, and its source is away", moves: []placement.Move{
			{ID: "u", Source: "c", Target: "b", Phase: placement.PhaseMark, Cause: "a person said so"},
		}},
		{name: "being marked", moves: []placement.Move{underway(placement.PhaseMark, "c", "b")}, busy: true},
		{name: "aborted just now", moves: []placement.Move{ended("1", placement.PhaseAborted, 30*time.Second)}, tired: true},
		{name: "aborted a while ago", moves: []placement.Move{ended("1", placement.PhaseAborted, 2*time.Minute)}},
		{
			name: "aborted twice", tired: true,
			moves: []placement.Move{
				ended("1", placement.PhaseAborted, time.Hour), ended("2", placement.PhaseAborted, 90*time.Second),
			},
		},
		{
			name: "aborted before it worked",
			moves: []placement.Move{
				ended("1", placement.PhaseAborted, time.Hour), ended("2", placement.PhaseDone, 30*time.Minute),
				ended("3", placement.PhaseAborted, 90*time.Second),
			},
		},
	} {
		view := newView(t, nil, c.moves...)
		if got := busy(view, step); got != c.busy {
			t.Errorf("%s: busy is %v", c.name, got)
		}
		if got := tired(view, step, now); got != c.tired {
			t.Errorf("%s: tired is %v", c.name, got)
		}
	}
}
