package rebalancetest_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	rt "github.com/saldo-ledger/saldo/internal/rebalance/rebalancetest"
)

var (
	seed  = flag.Uint64("seed", 1, "of the stories")
	walks = flag.Int("walks", 60, "stories with several faults each")
	tell  = flag.Bool("tell", false, "tell every story")
)

// TestPlainMove: nothing goes wrong, and nobody waits for long.
func TestPlainMove(t *testing.T) {
	t.Parallel()
	end := rt.Play(t, rt.Story{Seed: *seed})
	const long = 150 * time.Millisecond
	if len(end.Broken) > 0 || end.Move.Phase != placement.PhaseDone || end.Move.FenceMillis == 0 || end.Slowest > long {
		t.Errorf("ended %+v, the slowest write took %v\n%s", end.Move, end.Slowest, strings.Join(end.Told, "\n"))
	}
}

// TestMismatch: a copy that is not like its source is given up, and kept for a while.
func TestMismatch(t *testing.T) {
	t.Parallel()
	end := rt.Play(t, rt.Story{Seed: *seed, Faults: []rt.Fault{{At: "before verify", Nth: 1, Kind: rt.Corrupt}}})
	move := end.Move
	told := strings.Contains(move.Cause, rebalance.ErrMismatch.Error())
	if len(end.Broken) > 0 || move.Phase != placement.PhaseAborted || !move.Evidence || !told {
		t.Fatalf("ended %+v\n%s", move, strings.Join(end.Told, "\n"))
	}
	if kept := move.EndedAt.Sub(*move.DecidedAt); kept < rt.Retention {
		t.Errorf("the copy was kept for %v", kept)
	}
}

// beginnings are what happens besides a fault, so that each point is come to, and those that sleep meet somebody.
var beginnings = []struct {
	name   string
	faults []rt.Fault
}{
	{"a plain move", nil},
	{"an aborted move", []rt.Fault{{At: "after copy", Nth: 2, Kind: rt.Abort}}},
	{"an early abort", []rt.Fault{{At: "before mark", Nth: 1, Kind: rt.Abort}}},
	{"an early abort without the target", []rt.Fault{
		{At: "before mark", Nth: 1, Kind: rt.Abort}, {At: "before mark", Nth: 2, Kind: rt.TargetDown, For: 4 * time.Second},
	}},
	{"a fence too long, then a slow switch", []rt.Fault{
		{At: "before final", Nth: 1, Kind: rt.Sleep, For: 1500 * time.Millisecond},
		{At: "before switch", Nth: 1, Kind: rt.Sleep, For: 1900 * time.Millisecond},
	}},
}

// TestOneFault plays one fault of each kind at each point, with SALDO_SIM_DEEP=1 after every beginning. Otherwise it plays
// a third of these stories, in turn, and of the others as many as it takes for each fault to happen.
func TestOneFault(t *testing.T) {
	t.Parallel()
	faults := everyFault()
	happened := make([]atomic.Bool, len(faults))
	play := func(t *testing.T, i, beginning int) {
		end := played(t, rt.Story{Seed: *seed, Faults: append([]rt.Fault{faults[i]}, beginnings[beginning].faults...)})
		if end.Happened > len(beginnings[beginning].faults) {
			happened[i].Store(true)
		}
	}
	chosen := func(i, beginning int) bool { return os.Getenv("SALDO_SIM_DEEP") != "" || (i+beginning)%3 == 0 }
	t.Run("with", func(t *testing.T) {
		for n, beginning := range beginnings {
			t.Run(beginning.name, func(t *testing.T) {
				t.Parallel()
				for i := range faults {
					if chosen(i, n) {
						play(t, i, n)
					}
				}
			})
		}
	})
	for i, fault := range faults {
		for n := range beginnings {
			if !happened[i].Load() && !chosen(i, n) {
				play(t, i, n)
			}
		}
		if !happened[i].Load() {
			t.Errorf("no story comes to where this happens: %v", fault)
		}
	}
}

// TestAutomatic balances and drains: a slot goes from one shard to another and back, as soon as its older copy is deleted.
func TestAutomatic(t *testing.T) {
	t.Parallel()
	end := rt.Play(t, rt.Story{Seed: *seed, Automatic: true})
	if len(end.Broken) > 0 || end.Moves != 2 {
		t.Errorf("%d moves, %q\n%s", end.Moves, end.Broken, strings.Join(end.Told, "\n"))
	}
	for _, point := range rebalance.Points {
		for _, kind := range []rt.Kind{rt.Crash, rt.Late, rt.Abort} {
			fault := rt.Fault{At: "before " + point, Nth: 2, Kind: kind, For: 4 * time.Second}
			played(t, rt.Story{Seed: *seed, Automatic: true, Faults: []rt.Fault{fault}})
		}
	}
}

// TestAfterItsEnd: a shard fails over when the move has ended, and has lost what it was told, but not the move's mark.
func TestAfterItsEnd(t *testing.T) {
	t.Parallel()
	slow := rt.Fault{At: "after copy", Nth: 1, Kind: rt.Sleep, For: 1500 * time.Millisecond}
	abort := rt.Fault{At: "after copy", Nth: 2, Kind: rt.Abort}
	for _, faults := range [][]rt.Fault{
		{slow, {At: "after record done", Nth: 1, Kind: rt.SourceFails, For: 7 * time.Second}},
		{slow, abort, {At: "after record aborted", Nth: 1, Kind: rt.SourceFails, For: time.Second}},
		{slow, abort, {At: "after record aborted", Nth: 1, Kind: rt.TargetFails, For: time.Second}},
	} {
		if end := played(t, rt.Story{Seed: *seed, Faults: faults}); end.Happened != len(faults) {
			t.Errorf("%v: only %d of it happened", faults, end.Happened)
		}
	}
}

// TestManyFaults plays random walks. A failure's seed plays the walk again: -seed N -walks 1.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	faults := everyFault()
	for i := range *walks {
		random := rand.New(rand.NewPCG(*seed+uint64(i), 1))
		story, failed := rt.Story{Seed: *seed + uint64(i)}, false
		for range 2 + random.IntN(3) {
			fault := faults[random.IntN(len(faults))]
			fault.Nth = 1 + random.IntN(2)
			if fails := fault.Kind == rt.SourceFails || fault.Kind == rt.TargetFails; fails && failed {
				continue // what both have lost nobody has
			} else if fails {
				failed = true
			}
			story.Faults = append(story.Faults, fault)
		}
		played(t, story)
	}
}

func everyFault() []rt.Fault {
	var faults []rt.Fault
	for _, point := range rebalance.Points {
		if point == "plan" {
			continue // stories plan their own moves
		}
		for _, fault := range []rt.Fault{
			{At: "before ", Kind: rt.Lost},
			{At: "before ", Kind: rt.Refused},
			{At: "before ", Kind: rt.Late, For: time.Second},
			{At: "before ", Kind: rt.Late, For: 8 * time.Second},
			{At: "before ", Kind: rt.Crash},
			{At: "after ", Kind: rt.Crash},
			{At: "before ", Kind: rt.Sleep, For: 3 * time.Second},
			{At: "before ", Kind: rt.Sleep, For: 12 * time.Second},
			{At: "after ", Kind: rt.Sleep, For: 12 * time.Second},
			{At: "before ", Kind: rt.Depose},
			{At: "before ", Kind: rt.Abort},
			{At: "after ", Kind: rt.Abort},
			{At: "before ", Kind: rt.Pause, For: 15 * time.Second},
			{At: "before ", Kind: rt.SourceDown, For: 8 * time.Second},
			{At: "before ", Kind: rt.TargetDown, For: 8 * time.Second},
			{At: "before ", Kind: rt.SourceFails, For: 100 * time.Millisecond},
			{At: "after ", Kind: rt.SourceFails, For: 10 * time.Second},
			{At: "before ", Kind: rt.TargetFails, For: 100 * time.Millisecond},
			{At: "after ", Kind: rt.TargetFails, For: 10 * time.Second},
		} {
			if fault.For == 10*time.Second && (point == "clean" || point == "record done" || point == "record aborted") {
				continue // longer than a copy is kept: it may be the only one
			}
			fault.At += point
			fault.Nth = 1
			faults = append(faults, fault)
		}
	}
	for _, point := range rt.Inside {
		faults = append(faults,
			rt.Fault{At: point, Nth: 1, Kind: rt.Crash},
			rt.Fault{At: point, Nth: 1, Kind: rt.Lost},
			rt.Fault{At: point, Nth: 1, Kind: rt.Late, For: 8 * time.Second},
			rt.Fault{At: point, Nth: 1, Kind: rt.Sleep, For: 3 * time.Second},
			rt.Fault{At: point, Nth: 1, Kind: rt.Sleep, For: 12 * time.Second},
		)
	}
	return faults
}

func played(t *testing.T, story rt.Story) rt.End {
	t.Helper()
	end := rt.Play(t, story)
	if len(end.Broken) > 0 || *tell {
		t.Errorf("%v\n%s\n%s", story, strings.Join(end.Broken, "\n"), strings.Join(end.Told, "\n"))
	}
	return end
}
