package simtest_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/simtest"
)

// TestSwarm runs seeds 1 to SALDO_SIM_RUNS, or only SALDO_SIM_SEED.
func TestSwarm(t *testing.T) {
	t.Parallel()
	first, runs := uint64(1), environment(t, "SALDO_SIM_RUNS", 2000)
	if seed := environment(t, "SALDO_SIM_SEED", 0); seed != 0 {
		first, runs = seed, 1
	}
	var counts simtest.Counts
	steps, ending, began := 0, 0, time.Now()
	for seed := first; seed < first+runs; seed++ {
		run := simtest.Swarm(seed, simtest.NoBug)
		if run.Broken != nil {
			t.Fatalf("seed %d breaks a promise (SALDO_SIM_SEED=%d tries it again):\n%s", seed, seed, run.Broken.Story)
		}
		counts.Add(&run.Counts)
		steps, ending = steps+run.Steps, max(ending, run.Ending)
	}
	t.Logf("seeds %d to %d: %d steps with faults, all ended within %d steps without, %.2fs",
		first, first+runs-1, steps, ending, time.Since(began).Seconds())
	if runs < 1000 {
		return
	}
	for what, n := range counts {
		t.Logf("%9d times %v", n, simtest.Sometimes(what))
		if n == 0 {
			t.Errorf("never %v: the swarm shows nothing about it", simtest.Sometimes(what))
		}
	}
}

func TestSwarmFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, bug := range simtest.Bugs {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 2000; seed++ {
				if run := simtest.Swarm(seed, bug); run.Broken != nil {
					t.Logf("seed %d: after %d steps, %d of them tell it: %s", seed, run.Steps+run.Ending, run.Broken.Steps, run.Broken.Promise)
					return
				}
			}
			t.Error("no seed to 2000 finds it")
		})
	}
}

func environment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
