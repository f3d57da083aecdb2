package simtest_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/simtest"
)

var update = flag.Bool("update", false, "rewrite the stories in testdata/planted")

// plantedScope is no bug's own: every bug has to show itself among all that this scope can do.
func plantedScope(bug simtest.Bug) simtest.Scope {
	scope := simtest.Scope{
		Name: "planted", Shards: 2, Coordinators: 2,
		Users:     []simtest.User{{ID: "alice", Shard: 0, Balance: 10}, {ID: "bob", Shard: 1, Late: true}},
		Transfers: []ledger.Transfer{simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("alice", "t2", "bob", 5)},
		Budget:    simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1, Seconds: 1, Repeats: 1},
		Bug:       bug,
	}
	if bug == simtest.GivesUp {
		// What never ends is known only after all else that might happen. One saga is enough for that.
		scope.Transfers = scope.Transfers[:1]
	}
	return scope
}

// promises are what each planted bug breaks.
var promises = map[simtest.Bug]string{
	simtest.ForgetsKeys:     "exactly once",
	simtest.TimeoutRefuses:  "exactly once",
	simtest.ForgetsRefusals: "exactly once",
	simtest.RefundsAgain:    "exactly once",
	simtest.SagaNotDurable:  "conserved",
	simtest.GivesUp:         "always ends",
}

func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	for _, bug := range simtest.Bugs {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			report := simtest.Explore(plantedScope(bug))
			if report.Broken == nil {
				t.Fatalf("not found in %d states", report.States)
			}
			t.Logf("found after %d states, %d edges, %v; the story has %d steps",
				report.States, report.Edges, report.Elapsed, report.Broken.Steps)
			if !strings.HasPrefix(report.Broken.Promise, promises[bug]) {
				t.Errorf("broke %q, want %q", report.Broken.Promise, promises[bug])
			}
			golden(t, filepath.Join("testdata", "planted", string(bug)+".story"), report.Broken.Story)
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the story is not the one in %s (run with -update and review the difference):\n%s", path, got)
	}
}
