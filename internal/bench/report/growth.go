package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// The works of a growth run: what grows. Package growth names them, and what they grow in, alike.
const (
	growShards   = "shards"
	growAccounts = "accounts"
	growHistory  = "history"
)

var growthBlocks = map[string]block{
	"growth-machine": machine,
	"growth-rows":    func(_ *report, run *bench.Run) (string, error) { return rowsTable(run), nil },
	"growth-shards":  growthShards,
	"growth-books":   growthBooks,
	"growth-cpu":     growthCPU,
}

// step is one measurement of a growth run, at one size of what grows.
type step struct {
	size float64
	bench.Result
}

// postgres and client are the processor time of a transfer in µs. A thousand take as many seconds as one takes ms.
func (s step) postgres() float64 { return 1000 * s.Cost.CPU["postgres"] }
func (s step) client() float64   { return 1000 * s.Cost.CPU["load"] }

// cores is how many cores were busy.
func (s step) cores() float64 { return (s.postgres() + s.client()) * s.PerSecond / 1e6 }

// afterCheckpoint tells whether a measurement began with a checkpoint.
func afterCheckpoint(m bench.Result) bool { return m.Params["after_checkpoint"] != 0 }

// steps returns the measurements of a work, right after a checkpoint or long after one, the smallest first.
func steps(run *bench.Run, work string, checkpointed bool) []step {
	var found []step
	for _, m := range run.Results {
		if m.Work != work || afterCheckpoint(m) != checkpointed {
			continue
		}
		size := float64(m.Shards)
		switch work {
		case growAccounts:
			size = m.Params["accounts"]
		case growHistory:
			size = m.Params["entries"]
		}
		found = append(found, step{size, m})
	}
	slices.SortStableFunc(found, func(a, b step) int { return cmp.Compare(a.size, b.size) })
	return found
}

// linear is the rate at a number of shards if each did what one did alone.
func linear(steps []step, shards float64) float64 { return steps[0].PerSecond / steps[0].size * shards }

// growthShards is throughput against shards.
func growthShards(r *report, run *bench.Run) (string, error) {
	found := steps(run, growShards, false)
	if len(found) == 0 {
		return "Not in this run.\n", nil
	}
	t := newTable(0, "shards", "of a core for each", "callers", "transfers/s", "of linear", "p50 ms", "p99 ms",
		"CPU µs of Postgres", "CPU µs of the lanes and the load", "transfers in a commit", "periods with no slice left", "cores busy")
	for _, s := range found {
		t.row(number(s.size), measured(s.Params["cpu_slice"]), calling(s.Result), "**"+number(s.PerSecond)+"**",
			number(s.PerSecond/linear(found, s.size)), number(s.Latency.P50), number(s.Latency.P99),
			number(s.postgres()), number(s.client()), measured(s.Cost.BatchSize),
			fmt.Sprintf("%.0f %%", 100*s.Params["slice_used_up"]), number(s.cores()))
	}
	plot, err := shardsPlot(found)
	if err != nil {
		return "", err
	}
	return t.String() + "\n" + r.image("growth-shards.svg", "Throughput against shards", plot), nil
}

// growthBooks is what a transfer costs as accounts and entries grow.
func growthBooks(_ *report, run *bench.Run) (string, error) {
	t := newTable(0, "accounts", "entries", "callers", "checkpoint", "transfers/s", "p50 ms", "p99 ms", "CPU µs of Postgres",
		"CPU µs of the lanes and the load", "transfers in a commit", "WAL bytes of a transfer")
	for _, s := range slices.Concat(
		steps(run, growAccounts, false), steps(run, growAccounts, true), steps(run, growHistory, false),
	) {
		checkpoint := "long ago"
		if afterCheckpoint(s.Result) {
			checkpoint = "right before"
		}
		t.row(number(s.Params["accounts"]), number(s.Params["entries"]), calling(s.Result), checkpoint,
			"**"+number(s.PerSecond)+"**", number(s.Latency.P50), number(s.Latency.P99), number(s.postgres()), number(s.client()), measured(s.Cost.BatchSize),
			measured(s.Cost.WALBytes))
	}
	return t.String() + "\n" + books(run), nil
}

// growthCPU is what a transfer costs against all that grows.
func growthCPU(r *report, run *bench.Run) (string, error) {
	plot, err := cpuPlot(run)
	if err != nil || plot == nil {
		return "Not in this run.\n", err
	}
	return r.image("growth-cpu.svg", "Processor time of a transfer against shards, accounts and history", plot), nil
}
