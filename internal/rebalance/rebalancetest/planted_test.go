package rebalancetest_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	rt "github.com/saldo-ledger/saldo/internal/rebalance/rebalancetest"
)

// planted are the shortest of the stories of TestOneFault that show each bug, and a promise that is broken.
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
	{rt.ActivatesEarly, "one owner", []rt.Fault{{At: "inside pass", Nth: 4, Kind: rt.Abort}}}, // in the final one, mostly
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
	{rt.IgnoresAdoption, "one owner", []rt.Fault{
		// The new primary has lost the fence as well, and clients go on there while the old one's rows are switched.
		{At: "before switch", Nth: 1, Kind: rt.SourceFails, For: time.Second},
		{At: "before switch", Nth: 1, Kind: rt.Sleep, For: 1900 * time.Millisecond},
	}},
	{rt.CleansBlindly, "acknowledged", []rt.Fault{
		{At: "before clean", Nth: 1, Kind: rt.TargetFails, For: 10 * time.Second},
	}},
	{rt.KeepsFinal, "acknowledged", []rt.Fault{
		{At: "after final", Nth: 1, Kind: rt.Crash},
		{At: "after unfence", Nth: 2, Kind: rt.Sleep, For: 1500 * time.Millisecond},
		{At: "before activate", Nth: 1, Kind: rt.TargetFails, For: 800 * time.Millisecond},
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
				if !slices.ContainsFunc(end.Broken, func(b string) bool { return strings.HasPrefix(b, p.promise) }) {
					t.Errorf("broke %q, want %q", end.Broken, p.promise)
				}
				return
			}
			t.Error("not found")
		})
	}
}
