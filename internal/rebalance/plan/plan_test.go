package plan_test

import (
	"flag"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance/plan"
)

var update = flag.Bool("update", false, "rewrite the plans in testdata")

// even spreads the slots over shards as a new cluster does.
func even(ids ...ledger.ShardID) map[ledger.Slot]placement.Owner { return placement.Found(ids) }

// set changes who owns some slots.
func set(owners map[ledger.Slot]placement.Owner, slots string, id ledger.ShardID) map[ledger.Slot]placement.Owner {
	parsed, err := placement.ParseSlotSet(slots)
	if err != nil {
		panic(err)
	}
	for _, slot := range parsed {
		owners[slot] = placement.Owner{Shard: id, Epoch: owners[slot].Epoch + 1}
	}
	return owners
}

func shards(weights ...any) []plan.Shard {
	var list []plan.Shard
	for i := 0; i < len(weights); i += 2 {
		weight := weights[i+1].(int)
		list = append(list, plan.Shard{ID: ledger.ShardID(weights[i].(string)), Weight: max(weight, 1), Draining: weight == 0})
	}
	return list
}

func slots(text string) placement.SlotSet {
	parsed, err := placement.ParseSlotSet(text)
	if err != nil {
		panic(err)
	}
	return parsed
}

// cases are clusters and what is to be done about them; weight 0 stands for a draining shard.
var cases = []struct {
	name   string
	shards []plan.Shard
	owners map[ledger.Slot]placement.Owner
	change func(*plan.Input)
}{
	{name: "nothing to do", shards: shards("a", 1, "b", 1, "c", 1), owners: even("a", "b", "c")},
	{name: "one to two", shards: shards("a", 1, "b", 1), owners: even("a")},
	{name: "two to three", shards: shards("a", 1, "b", 1, "c", 1), owners: even("a", "b")},
	{name: "three to five", shards: shards("a", 1, "b", 1, "c", 1, "d", 1, "e", 1), owners: even("a", "b", "c")},
	{name: "five to two", shards: shards("a", 1, "b", 1, "c", 0, "d", 0, "e", 0), owners: even("a", "b", "c", "d", "e")},
	{name: "one drains while another joins", shards: shards("a", 1, "b", 0, "c", 1), owners: even("a", "b")},
	{name: "uneven weights", shards: shards("big", 3, "small", 1, "tiny", 1), owners: even("big", "small", "tiny")},
	{name: "a weight was raised", shards: shards("a", 2, "b", 1), owners: even("a", "b")},
	{name: "one hot slot moved by hand", shards: shards("a", 1, "b", 1), owners: set(even("a", "b"), "7", "b")},
	{
		name:   "one hot slot set apart by weight",
		shards: shards("a", 2048, "b", 2047, "hot", 1), owners: set(even("a", "b"), "7", "hot"),
	},
	{
		name: "slots moved by hand stay, others balance", shards: shards("a", 1, "b", 1), owners: set(even("a", "b"), "7-16", "b"),
		change: func(in *plan.Input) { in.Fixed = slots("7-16") },
	},
	{
		name: "fixed slots leave a draining shard", shards: shards("a", 1, "b", 0), owners: set(even("a"), "7-16", "b"),
		change: func(in *plan.Input) { in.Fixed = slots("7-16") },
	},
	{
		name: "slots on their way count where they go", shards: shards("a", 1, "b", 1), owners: even("a"),
		change: func(in *plan.Input) {
			in.Moving = map[ledger.Slot]ledger.ShardID{}
			for slot := ledger.Slot(3968); slot < 4096; slot++ {
				in.Moving[slot] = "b"
			}
		},
	},
	{
		name: "an older copy is in the way", shards: shards("a", 1, "b", 1), owners: even("a"),
		change: func(in *plan.Input) {
			in.Barred = map[ledger.ShardID]placement.SlotSet{"b": slots("1000-4095")}
		},
	},
	{
		name: "beside what the target has", shards: shards("a", 1, "b", 1),
		owners: set(even("a"), "0-99", "b"),
	},
}

func TestPlans(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, c := range cases {
		in := plan.Input{Shards: c.shards, Owners: newMap(t, c.owners)}
		if c.change != nil {
			c.change(&in)
		}
		steps, err := plan.Make(in)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		fmt.Fprintf(&got, "%s\n", c.name)
		before := counts(in)
		do(&in, steps)
		after := counts(in)
		for _, shard := range c.shards {
			weight := fmt.Sprint("weight ", shard.Weight)
			if shard.Draining {
				weight = "draining"
			}
			fmt.Fprintf(&got, "  %s, %s: %d", shard.ID, weight, before[shard.ID])
			if before[shard.ID] != after[shard.ID] {
				fmt.Fprintf(&got, " to %d", after[shard.ID])
			}
			got.WriteString("\n")
		}
		for _, step := range steps {
			fmt.Fprintf(&got, "    %s\n", step)
		}
		if len(steps) == 0 {
			got.WriteString("    nothing\n")
		}
	}
	path := filepath.Join("testdata", "plans")
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the plans are not those in %s (run with -update and review the difference):\n%s", path, got.String())
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		shards []plan.Shard
		want   string
	}{
		{"all draining", shards("a", 0, "b", 0), "draining"},
		{"a weight of nothing", []plan.Shard{{ID: "a"}, {ID: "b", Weight: 1}}, "weight"},
		{"twice the same", shards("a", 1, "a", 1, "b", 1), "twice"},
		{"an owner that is not registered", shards("a", 1), "not registered"},
		{"no shard", nil, "not registered"},
	} {
		_, err := plan.Make(plan.Input{Shards: c.shards, Owners: newMap(t, even("a", "b"))})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if steps, err := plan.Make(plan.Input{Shards: shards("a", 0), Owners: newMap(t, nil)}); err != nil || len(steps) > 0 {
		t.Errorf("a shard that drains and has nothing: %v, %v", steps, err)
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	step := plan.Step{Source: "a", Target: "b", Slots: slots("1-5,9"), Drains: true}
	var got []string
	for _, part := range plan.Split(step, 4) {
		if part.Source != "a" || part.Target != "b" || !part.Drains {
			t.Errorf("a part is %v", part)
		}
		got = append(got, part.Slots.String())
	}
	if !slices.Equal(got, []string{"1-4", "5,9"}) {
		t.Errorf("the parts are %q", got)
	}
}

func TestPlansAreGood(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawCluster(t)
		steps, err := plan.Make(in)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := plan.Make(in); fmt.Sprint(again) != fmt.Sprint(steps) {
			t.Fatalf("twice the same, planned differently: %v and %v", steps, again)
		}
		before, wanted := counts(in), fewest(in)
		moved, distance := 0, distanceOf(in)
		for _, step := range steps {
			for _, slot := range step.Slots {
				if in.Owners.Owner(slot).Shard != step.Source {
					t.Fatalf("%v: slot %d is not the source's", step, slot)
				}
			}
			if i := slices.IndexFunc(in.Shards, func(s plan.Shard) bool { return s.ID == step.Target }); in.Shards[i].Draining {
				t.Fatalf("%v: its target drains", step)
			}
			for _, part := range plan.Split(step, rapid.IntRange(100, 900).Draw(t, "most")) {
				do(&in, []plan.Step{part})
				closer := distanceOf(in)
				if closer.Cmp(distance) >= 0 {
					t.Fatalf("%v does not improve: %v, was %v", part, closer, distance)
				}
				distance = closer
			}
			moved += len(step.Slots)
		}
		after := counts(in)
		if total(before) != total(after) {
			t.Fatalf("%d slots became %d", total(before), total(after))
		}
		if len(steps) > 0 && moved != wanted {
			t.Fatalf("%d slots move, %d would do", moved, wanted)
		}
		for _, s := range in.Shards {
			if s.Draining && after[s.ID] != 0 {
				t.Fatalf("%s drains and still has %d", s.ID, after[s.ID])
			}
			off := new(big.Rat).Sub(big.NewRat(int64(after[s.ID]), 1), share(in, s))
			limit := big.NewRat(1, 1)
			if c := off.Abs(off).Cmp(limit); c > 0 || c == 0 && len(steps) > 0 {
				t.Fatalf("%s has %d, %s off its share", s.ID, after[s.ID], off.FloatString(3))
			}
		}
		if rest, err := plan.Make(in); err != nil || len(rest) > 0 {
			t.Fatalf("after the plan another one: %v, %v", rest, err)
		}
	})
}

// What may not move does not, and what may is planned until nothing is left to plan.
func TestPlansKeepToWhatMayMove(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawCluster(t)
		id := rapid.Custom(func(t *rapid.T) ledger.ShardID {
			return in.Shards[rapid.IntRange(0, len(in.Shards)-1).Draw(t, "shard")].ID
		})
		in.Fixed = drawSlots(t, "fixed")
		in.Barred = map[ledger.ShardID]placement.SlotSet{id.Draw(t, "barred shard"): drawSlots(t, "barred")}
		in.Moving = map[ledger.Slot]ledger.ShardID{}
		for _, slot := range drawSlots(t, "moving") {
			in.Moving[slot] = id.Draw(t, "moving to")
		}
		distance := distanceOf(in)
		for round := 0; ; round++ {
			steps, err := plan.Make(in)
			if err != nil {
				t.Fatal(err)
			}
			if len(steps) == 0 {
				return
			}
			if round > 3 {
				t.Fatalf("planned %d times and still %v", round, steps)
			}
			for _, step := range steps {
				drains := slices.ContainsFunc(in.Shards, func(s plan.Shard) bool { return s.ID == step.Source && s.Draining })
				for _, slot := range step.Slots {
					_, moving := in.Moving[slot]
					if moving || in.Fixed.Contains(slot) && !drains || in.Barred[step.Target].Contains(slot) {
						t.Fatalf("%v moves slot %d, which may not", step, slot)
					}
				}
			}
			do(&in, steps)
			closer := distanceOf(in)
			if closer.Cmp(distance) >= 0 {
				t.Fatalf("%v do not improve", steps)
			}
			distance = closer
		}
	})
}

// drawCluster draws shards, one of which at least does not drain, and who owns the slots.
func drawCluster(t *rapid.T) plan.Input {
	n := rapid.IntRange(1, 6).Draw(t, "shards")
	var in plan.Input
	for i := range n {
		in.Shards = append(in.Shards, plan.Shard{
			ID:       ledger.ShardID(fmt.Sprintf("s%d", i)),
			Weight:   rapid.OneOf(rapid.Just(1), rapid.IntRange(1, 5), rapid.IntRange(1, 5000)).Draw(t, "weight"),
			Draining: i > 0 && rapid.IntRange(0, 3).Draw(t, "drains") == 0,
		})
	}
	owners := make(map[ledger.Slot]placement.Owner)
	slot := 0
	for slot < placement.Slots {
		end := min(placement.Slots, slot+rapid.OneOf(rapid.IntRange(1, 3), rapid.IntRange(1, 2000)).Draw(t, "run"))
		if len(owners) > 1000 && slot < 3000 {
			end = 3000 // few draws
		}
		id := in.Shards[rapid.IntRange(0, n-1).Draw(t, "owner")].ID
		for ; slot < end; slot++ {
			owners[ledger.Slot(slot)] = placement.Owner{Shard: id, Epoch: 1}
		}
	}
	in.Owners = newMap(t, owners)
	return in
}

func drawSlots(t *rapid.T, label string) placement.SlotSet {
	first := rapid.IntRange(0, placement.Slots-1).Draw(t, label)
	size := rapid.IntRange(0, min(800, placement.Slots-first)).Draw(t, label+" size")
	var slots []ledger.Slot
	for i := range size {
		slots = append(slots, ledger.Slot(first+i))
	}
	return placement.NewSlotSet(slots...)
}

func newMap(t interface{ Fatal(...any) }, owners map[ledger.Slot]placement.Owner) *placement.Map {
	m, err := placement.NewMap(1, owners)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func counts(in plan.Input) map[ledger.ShardID]int {
	n := make(map[ledger.ShardID]int)
	for slot := range ledger.Slot(placement.Slots) {
		id := in.Owners.Owner(slot).Shard
		if target, moving := in.Moving[slot]; moving {
			id = target
		}
		n[id]++
	}
	return n
}

func total(counts map[ledger.ShardID]int) (sum int) {
	for n := range maps.Values(counts) {
		sum += n
	}
	return sum
}

// do gives the steps' slots to their targets.
func do(in *plan.Input, steps []plan.Step) {
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = in.Owners.Owner(slot)
	}
	for _, step := range steps {
		for _, slot := range step.Slots {
			owners[slot] = placement.Owner{Shard: step.Target, Epoch: owners[slot].Epoch + 1}
		}
	}
	in.Owners, _ = placement.NewMap(in.Owners.Revision()+1, owners)
}

// share is what a shard should have, exactly.
func share(in plan.Input, shard plan.Shard) *big.Rat {
	if shard.Draining {
		return new(big.Rat)
	}
	weights := 0
	for _, s := range in.Shards {
		if !s.Draining {
			weights += s.Weight
		}
	}
	return big.NewRat(int64(placement.Slots*shard.Weight), int64(weights))
}

// distanceOf is how far the shards are from their shares, all together.
func distanceOf(in plan.Input) *big.Rat {
	sum, n := new(big.Rat), counts(in)
	for _, s := range in.Shards {
		off := new(big.Rat).Sub(big.NewRat(int64(n[s.ID]), 1), share(in, s))
		sum.Add(sum, off.Abs(off))
	}
	return sum
}

// fewest is the number of slots that must move at least until every shard has its share, rounded down or up: the larger of
// what some have too many and others too few.
func fewest(in plan.Input) int {
	tooMany, tooFew, n := 0, 0, counts(in)
	for _, s := range in.Shards {
		exact := share(in, s)
		down := int(new(big.Int).Quo(exact.Num(), exact.Denom()).Int64())
		up := down
		if !exact.IsInt() {
			up++
		}
		tooMany += max(0, n[s.ID]-up)
		tooFew += max(0, down-n[s.ID])
	}
	return max(tooMany, tooFew)
}
