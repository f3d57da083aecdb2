package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/suite"
)

type benchCompareCommand struct {
	Quick bool   `name:"quick" xor:"length" help:"What must be reached, in less than three minutes. This is the default."`
	Full  bool   `name:"full" xor:"length" help:"All that is shown in docs/PERFORMANCE.md, in less than ten."`
	Only  string `name:"only" placeholder:"REGEXP" help:"Only the rows that match: WORK / AGAINST."`
	Out   string `name:"out" placeholder:"FILE" help:"Write all results to FILE, as JSON."`
	Check bool   `name:"check" help:"Exit with 1 if something is not reached."`
	Seed  uint64 `name:"seed" help:"Of who pays whom. Default: a random one."`
	Quiet bool   `name:"quiet" short:"q" help:"Say nothing but the rows."`
}

// Help says what it does and what comes out.
func (c *benchCompareCommand) Help() string {
	return `Sets Saldo against what people would use instead, and against what Postgres can do at all, on a cluster of its own
with durable settings, which it starts and removes. Both sides of a row are measured in turns, in short rounds, on the same
servers; a figure is the median of the rounds. Everything shares the processors of this machine: ratios matter.

Prints a line of JSON for each row as soon as it is known. A row is met if its ratio is at least the floor and at most the
ceiling, and if nothing failed; a row with neither only shows where we stand. The programs router and coordinator are looked
for as for saldo bench run.

Exits with 0 if everything was measured and the books are right afterwards, with 2 if not; with --check, with 1 if a row is
not met.`
}

func (c *benchCompareCommand) Run(ctx context.Context, to streams) error {
	wire.TuneMemory() // the lanes run in this process, and are to run as in a router
	only, err := regexp.Compile(c.Only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	progress, rows := newProgress(to.err, c.Quiet), json.NewEncoder(to.out)
	missed := 0
	options := suite.Options{
		Full: c.Full, Seed: cmp.Or(c.Seed, rand.Uint64N(1<<32)), Commit: commit(), Progress: progress.say,
		Row: func(row bench.Row) {
			progress.clear()
			if !row.Met {
				missed++
			}
			err = cmp.Or(err, rows.Encode(row))
		},
	}
	if c.Only != "" {
		options.Only = only
	}
	if !c.Quiet {
		options.Log = func(text string) {
			progress.clear()
			fmt.Fprintln(to.err, text)
		}
		options.Log(fmt.Sprintf("seed %d", options.Seed))
	}
	run, runErr := suite.Run(ctx, options)
	progress.clear()
	if c.Out != "" && run != nil {
		err = cmp.Or(err, writeRun(c.Out, run))
	}
	if err := cmp.Or(runErr, err); err != nil {
		return err
	}
	if c.Check && missed > 0 {
		fmt.Fprintf(to.err, "%d of %d rows are not met\n", missed, len(run.Rows))
		return wire.ExitCode(1)
	}
	return nil
}

func writeRun(file string, run *bench.Run) error {
	content, err := json.MarshalIndent(run, "", " ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(file, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}
