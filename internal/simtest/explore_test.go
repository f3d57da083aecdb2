package simtest_test

import (
	"os"
	"sync"
	"testing"

	"github.com/saldo-ledger/saldo/internal/simtest"
)

func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var counts simtest.Counts
	t.Run("scope", func(t *testing.T) {
		for _, scope := range scopes {
			t.Run(scope.Name, func(t *testing.T) {
				t.Parallel()
				if os.Getenv("SALDO_SIM_DEEP") != "" {
					scope.Budget = scope.deep
				}
				report := simtest.Explore(scope.Scope)
				t.Logf("%d states, %d edges, %d states of shards, %.2fs; the farthest world is %d steps away, "+
					"every world ends within %d steps once faults stop",
					report.States, report.Edges, report.Books, report.Elapsed.Seconds(), report.Depth, report.Longest)
				if report.Broken != nil {
					t.Errorf("a promise is broken:\n%s", report.Broken.Story)
				}
				mu.Lock()
				defer mu.Unlock()
				counts.Add(&report.Counts)
			})
		}
	})
	for what, n := range counts {
		t.Logf("%9d times %v", n, simtest.Sometimes(what))
		if n == 0 {
			t.Errorf("never %v: the exploration shows nothing about it", simtest.Sometimes(what))
		}
	}
}
