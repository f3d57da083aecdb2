package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"text/tabwriter"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/growth"
)

type benchGrowthCommand struct {
	Shards        []int   `name:"shards" default:"1,2,4,8" help:"Numbers of shards; none: leave this part out." group:"How cost grows with shards:"`
	Slice         float64 `name:"slice" default:"0.1" help:"Of a core, for the Postgres of each of them." group:"How cost grows with shards:"`
	ShardAccounts int     `name:"shard-accounts" default:"10000" help:"On each of them." group:"How cost grows with shards:"`
	ShardCallers  int     `name:"shard-callers" default:"128" help:"For each of them." group:"How cost grows with shards:"`

	Accounts []int `name:"accounts" default:"10000,100000,1000000,10000000" help:"Numbers of accounts on one shard; none: leave this part out." group:"How cost grows with accounts and history:"`

	Entries         []int64 `name:"entries" default:"1000000,10000000,50000000" help:"Numbers of entries on one shard; none: leave this part out." group:"How cost grows with accounts and history:"`
	HistoryAccounts int     `name:"history-accounts" default:"100000" help:"That the entries are spread over." group:"How cost grows with accounts and history:"`
	Callers         int     `name:"callers" default:"256" help:"On the one shard." group:"How cost grows with accounts and history:"`

	Duration time.Duration     `name:"duration" short:"d" default:"12s" help:"Of a measurement."`
	Warmup   time.Duration     `name:"warmup" default:"4s" help:"Before it, with the same load."`
	Seed     uint64            `name:"seed" help:"Of who pays whom. Default: a random one."`
	Audited  int64             `name:"audited" default:"200000" help:"The most entries of books that are audited after their measurement: an audit reads all of them."`
	Postgres map[string]string `name:"postgres" placeholder:"NAME=VALUE" default:"shared_buffers=4GB;max_wal_size=64GB;checkpoint_timeout=1h" help:"Settings of Postgres beyond those of saldo dev. Default, so that the books fit and no checkpoint is due: ${default}"`
	Out      string            `name:"out" short:"o" placeholder:"FILE" help:"Write the raw results there too, as JSON."`
	Quiet    bool              `name:"quiet" short:"q" help:"Show no progress, on a terminal either."`
}

// Help says what is measured, and what it needs.
func (c *benchGrowthCommand) Help() string {
	return `Makes transfers between any two users of one shard, straight on the lanes of this process, while shards, accounts or
entries grow, each time on Postgres servers of its own, and sets the largest against the smallest.

While shards grow, each Postgres is held to a slice of a core by a cgroup, so that the shards are what the work waits for. That
needs root, and cgroup v1 with the cpu controller or v2. The groups are removed afterwards. Choose the slice so that all shards,
and this process beside them, fit into the cores. Latencies of held servers tell mostly how they were held.

Ten million accounts or fifty million entries need 20 to 40 GB on the disk of TMPDIR (default /var/tmp), one after the other.

Exits with 0 if what was audited is clean, 1 on any violation, 2 if something could not be done.`
}

func (c *benchGrowthCommand) Run(ctx context.Context, to streams) error {
	wire.TuneMemory() // the lanes run in this process, and are to run as in a router
	progress := newProgress(to.err, c.Quiet)
	run, err := growth.Run(ctx, growth.Options{
		Shards: c.Shards, Slice: c.Slice, ShardAccounts: c.ShardAccounts, ShardCallers: c.ShardCallers,
		Accounts: c.Accounts, Entries: c.Entries, HistoryAccounts: c.HistoryAccounts, Callers: c.Callers,
		Warmup: c.Warmup, Duration: c.Duration, Seed: cmp.Or(c.Seed, rand.Uint64N(1<<32)),
		Audited: c.Audited, Postgres: c.Postgres, Progress: progress.say,
	})
	progress.clear()
	if err != nil {
		return err
	}
	run.Commit = commit()
	if c.Out != "" {
		if err := writeRun(c.Out, run); err != nil {
			return err
		}
	}
	if err := printGrowth(to.out, run); err != nil {
		return fmt.Errorf("print the results: %w", err)
	}
	for _, r := range run.Results {
		if r.Conserved != nil && !*r.Conserved {
			return wire.ExitCode(1)
		}
	}
	return nil
}

// printGrowth prints a run for people.
func printGrowth(to io.Writer, run *bench.Run) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORK\tSHARDS\tACCOUNTS\tENTRIES\tCALLERS\tPER SECOND\tPOSTGRES CPU µs\tLOAD CPU µs\tBATCH\tWAL BYTES\tSLICE USED UP\tNOT DONE\tBOOKS")
	for _, r := range run.Results {
		books := "not audited"
		if r.Conserved != nil {
			books = map[bool]string{true: "clean", false: "WRONG"}[*r.Conserved]
		}
		cost := r.Cost
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%d\t%.0f\t%.1f\t%.1f\t%.0f\t%.0f\t%.2f\t%s\t%s\n",
			r.Work, r.Shards, r.Params["accounts"], r.Params["entries"],
			r.Callers, r.PerSecond, 1000*cost.CPU["postgres"], 1000*cost.CPU["load"], cost.BatchSize, cost.WALBytes,
			r.Params["slice_used_up"], notDone(r), books)
	}
	fmt.Fprintln(table)
	for _, row := range run.Rows {
		met := map[bool]string{true: "met", false: "NOT MET"}[row.Met]
		bound := fmt.Sprintf("at least %g", row.Floor)
		if row.Ceiling != 0 {
			bound = fmt.Sprintf("at most %g", row.Ceiling)
		}
		fmt.Fprintf(table, "%s: %.4g against %.4g of %s: %.3f, to be %s: %s\n",
			row.Work, row.Ours, row.Theirs, row.Against, row.Ratio, bound, met)
	}
	return table.Flush()
}
