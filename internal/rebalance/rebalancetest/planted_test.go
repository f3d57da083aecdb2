package rebalancetest_test

import (
	"strings"
	"testing"
	"time"

	rt "github.com/saldo-ledger/saldo/internal/rebalance/rebalancetest"
)

// planted are the shortest of the stories of TestOneFault that show each bug, and the promise that is broken first.
var planted = []struct {
	bug     rt.Bug
	promise string
	faults  []rt.Fault
}{
	{rt.NoTokens, "one owner", []rt.Fault{
		// The first mover wakes up and goes on with its second fence while the second mover is inside its own.
		{At: "before final", Nth: 1, Kind: rt.Depose},
		{At: "before final", Nth: 1, Kind: rt.Sleep, For: 1500 * time.Millisecond},
		{At: "before switch", Nth: 1, Kind: rt.Sleep, For: 1900 * time.Millisecond},
	}},
	{rt.UnfencesAfterSwitch, "one owner", []rt.Fault{{At: "before switch", Nth: 1, Kind: rt.Lost}}},
	{rt.ActivatesEarly, "one owner", []rt.Fault{{At: "after record fence", Nth: 1, Kind: rt.Abort}}},
	{rt.DiscardLeavesNothing, "nothing is left", []rt.Fault{
		{At: "before mark", Nth: 1, Kind: rt.Abort},
		{At: "inside mark", Nth: 1, Kind: rt.Late, For: 8 * time.Second},
		{At: "before mark", Nth: 2, Kind: rt.TargetDown, For: 4 * time.Second},
	}},
	{rt.AbortsUnmarked, "no false alarm", []rt.Fault{
		{At: "before record mark", Nth: 1, Kind: rt.SourceDown, For: 8 * time.Second},
		{At: "before mark", Nth: 1, Kind: rt.Abort},
	}},
	{rt.AbortKeepsEpoch, "one owner", []rt.Fault{
		{At: "before mark", Nth: 1, Kind: rt.Late, For: 8 * time.Second},
		{At: "after copy", Nth: 2, Kind: rt.Abort},
	}},
}

func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	for _, p := range planted {
		t.Run(string(p.bug), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(10) {
				played(t, rt.Story{Seed: seed, Faults: p.faults}) // it is the bug that breaks the promise, not the story
				end := rt.Play(t, rt.Story{Seed: seed, Bug: p.bug, Faults: p.faults})
				if len(end.Broken) == 0 {
					continue
				}
				t.Logf("found with seed %d:\n%s", seed, strings.Join(end.Told, "\n"))
				if !strings.HasPrefix(end.Broken[0], p.promise) {
					t.Errorf("broke %q, want %q", end.Broken[0], p.promise)
				}
				return
			}
			t.Error("not found")
		})
	}
}
