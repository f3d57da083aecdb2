package simtest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/simtest"
)

func TestSimulatedShardConforms(t *testing.T) {
	t.Parallel()
	simtest.Conformance(t, func() simtest.Shard { return simtest.NewSimulatedShard(simtest.NoBug) })
}

// A suite that passes every shard would be worth nothing.
func TestConformanceFindsPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, bug := range []simtest.Bug{simtest.ForgetsKeys, simtest.ForgetsRefusals, simtest.RefundsAgain, simtest.SagaNotDurable} {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { removeFailFiles(t) })
			judge := &judge{T: t}
			done := make(chan struct{})
			go func() { // FailNow ends the goroutine
				defer close(done)
				simtest.Conformance(judge, func() simtest.Shard { return simtest.NewSimulatedShard(bug) })
			}()
			<-done
			if !judge.failed {
				t.Error("passed")
			}
			t.Log(judge.verdict)
		})
	}
}

// judge is a test that hopes to fail.
type judge struct {
	*testing.T
	failed  bool
	verdict string
}

var _ rapid.TB = (*judge)(nil)

func (j *judge) Errorf(format string, args ...any) {
	j.failed = true
	if j.verdict == "" {
		j.verdict = fmt.Sprintf(format, args...)
	}
}
func (j *judge) Logf(string, ...any)               {}
func (j *judge) Log(...any)                        {}
func (j *judge) Error(args ...any)                 { j.Errorf("%s", fmt.Sprint(args...)) }
func (j *judge) Fatalf(format string, args ...any) { j.Errorf(format, args...); j.FailNow() }
func (j *judge) Fatal(args ...any)                 { j.Error(args...); j.FailNow() }
func (j *judge) Fail()                             { j.failed = true }
func (j *judge) FailNow()                          { j.failed = true; runtime.Goexit() }
func (j *judge) Failed() bool                      { return j.failed }

// removeFailFiles removes what rapid keeps for repeating a failure: here a failure is no news.
func removeFailFiles(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("testdata", "rapid"))
	if err != nil {
		return
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "TestConformanceFindsPlantedBugs") {
			if err := os.RemoveAll(filepath.Join("testdata", "rapid", entry.Name())); err != nil {
				t.Error(err)
			}
		}
	}
	_ = os.Remove(filepath.Join("testdata", "rapid")) // if it is empty
}
