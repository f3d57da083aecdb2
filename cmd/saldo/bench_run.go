package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

type benchRunCommand struct {
	Works []string `arg:"" name:"work" help:"Workloads, one after the other; saldo bench list tells which there are."`

	Connections []int         `name:"connections" short:"c" default:"64" help:"Callers, each with a connection and a call at a time; several: one measurement for each."`
	Duration    time.Duration `name:"duration" short:"d" default:"10s" help:"Of a measurement."`
	Warmup      time.Duration `name:"warmup" default:"2s" help:"Before it, with the same load."`
	Rate        float64       `name:"rate" help:"Transfers, reads or pages to ask for in a second, whatever the answers do (open loop); latencies count from when a call was due. Default: each connection asks again when it is answered."`
	Seed        uint64        `name:"seed" help:"Of who pays whom. Default: a random one."`
	Users       int           `name:"users" default:"10000" help:"With money; made before the first measurement, straight through the lanes."`
	Cross       []float64     `name:"cross" help:"Percent of transfers to another shard, in works that may have them; several: one measurement for each. Default: 100 in the work cross, 0 in others."`
	Batch       int           `name:"batch" default:"500" help:"Transfers in one call of the batch endpoint, 1 to 1000."`
	Zipf        float64       `name:"zipf" default:"1.1" help:"Exponent of the work zipf, above 1."`
	Depth       int64         `name:"depth" default:"1000000" help:"Entries of the long history; made before the first measurement."`
	PageSize    int           `name:"page-size" default:"50" help:"Entries of a page of it, 1 to 1000."`

	Shards       int               `name:"shards" default:"3" help:"Postgres servers." group:"A cluster of its own:"`
	Routers      int               `name:"routers" default:"1" help:"Processes." group:"A cluster of its own:"`
	Coordinators int               `name:"coordinators" default:"1" help:"Processes." group:"A cluster of its own:"`
	Postgres     map[string]string `name:"postgres" placeholder:"NAME=VALUE" help:"Settings of Postgres beyond those of saldo dev." group:"A cluster of its own:"`
	Service      map[string]string `name:"service" placeholder:"NAME=VALUE" help:"Environment of routers and coordinators, say SALDO_AUDIT=0." group:"A cluster of its own:"`
	Dir          string            `name:"dir" placeholder:"DIR" help:"Keep the data here, for a next run. Default: a temporary folder, which is removed." group:"A cluster of its own:"`

	Running bool     `name:"running" help:"Measure a cluster that runs, which gets users bench-… with money, instead of one of its own." group:"A cluster that runs:"`
	URL     []string `name:"url" placeholder:"URL" help:"Of its routers. Default: that of saldo dev." group:"A cluster that runs:"`
	target  `embed:"" group:"A cluster that runs:"`

	Audit bool `name:"audit" default:"true" negatable:"" help:"Read all shards afterwards and check that every cent is where it should be."`
	JSON  bool `name:"json" help:"Print the results as JSON, for machines."`
	Quiet bool `name:"quiet" short:"q" help:"Show no progress, on a terminal either."`
}

// Help says what it does and what comes out.
func (c *benchRunCommand) Help() string {
	return `Starts Postgres servers, etcd, routers and coordinators as saldo dev has them (durable: fsync, synchronous_commit and
full_page_writes are on), each service a process of its own, and removes all of it at the end. The programs router and
coordinator are looked for in SALDO_BIN_DIR, beside this program, and on PATH.

A transfer counts as done when its answer says COMPLETED. PENDING ones are counted as such and their ends awaited; every other
answer is counted under its code. Processor time is in seconds for a thousand transfers, reads or pages, by kind of process:
"load" is this one (with etcd, on a cluster of its own), "dev" is a saldo dev that runs.

Exits with 0 if the books are clean afterwards, 1 on any violation, 2 if something could not be done.`
}

// Validate is called by the flag parser.
func (c *benchRunCommand) Validate() error {
	for _, n := range c.Connections {
		if n < 1 {
			return fmt.Errorf("--connections is %d, not 1 or more", n)
		}
	}
	for _, percent := range c.Cross {
		if percent < 0 || percent > 100 {
			return fmt.Errorf("--cross is %g, not 0 to 100", percent)
		}
	}
	switch {
	case c.Users < 1:
		return fmt.Errorf("--users is %d, not 1 or more", c.Users)
	case c.Batch < 1 || c.Batch > 1000:
		return fmt.Errorf("--batch is %d, not 1 to 1000", c.Batch)
	case c.PageSize < 1 || c.PageSize > 1000:
		return fmt.Errorf("--page-size is %d, not 1 to 1000", c.PageSize)
	case c.Depth < 1:
		return fmt.Errorf("--depth is %d, not 1 or more", c.Depth)
	case !c.Running && c.Routers < 1:
		return errors.New("--routers is 0, and the load needs one")
	case !c.Running && len(c.URL) > 0:
		return errors.New("--url is that of a cluster that runs: say --running")
	}
	return nil
}

// purse is what each user has: enough for every payment of any run.
const purse ledger.Amount = 1 << 40

func (c *benchRunCommand) Run(ctx context.Context, to streams) error {
	wire.TuneMemory() // the load shares the processors with what it measures
	var works []work.HTTPWork
	for _, name := range c.Works {
		w, err := work.HTTPWorkNamed(name)
		if err != nil {
			return err
		}
		works = append(works, w)
	}
	progress := newProgress(to.err, c.Quiet)
	run, report, err := c.measure(ctx, works, progress)
	progress.clear()
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(to.out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(run)
	} else {
		err = printRun(to.out, run)
	}
	if err != nil {
		return fmt.Errorf("print the results: %w", err)
	}
	if report == nil {
		return nil
	}
	if code := report.ExitCode(); code != 0 {
		fmt.Fprintln(to.err)
		return errors.Join(report.WriteTable(to.err), wire.ExitCode(code))
	}
	if !c.JSON {
		fmt.Fprintf(to.out, "\naudit: clean\n")
	}
	return nil
}

// measure does all the works on one cluster. The report is nil if none was asked for.
func (c *benchRunCommand) measure(ctx context.Context, works []work.HTTPWork, progress progress) (
	run *bench.Run, report *audit.Report, err error,
) {
	s, err := c.stand(ctx, progress)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		progress.say("stopping")
		err = errors.Join(err, s.Close())
	}()
	run = &bench.Run{
		Suite: "run", At: time.Now().UTC().Truncate(time.Second), Commit: commit(), Seed: cmp.Or(c.Seed, rand.Uint64N(1<<32)),
	}
	if run.Machine, run.Settings, err = s.Describe(ctx); err != nil {
		return nil, nil, err
	}
	options, err := c.prepare(ctx, s, works)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range works {
		for _, share := range c.shares(w) {
			options.Cross = share
			for _, connections := range c.Connections {
				result, err := c.one(ctx, s, w, options, connections, run.Seed, progress)
				if err != nil {
					return nil, nil, err
				}
				run.Results = append(run.Results, result)
			}
		}
	}
	if c.Audit {
		if report, err = s.Audit(ctx); err != nil {
			return nil, nil, err
		}
		clean := report.ExitCode() == 0
		for i := range run.Results {
			run.Results[i].Conserved = &clean
		}
	}
	return run, report, nil
}

// stand is the cluster to measure on.
func (c *benchRunCommand) stand(ctx context.Context, progress progress) (*stand.Stand, error) {
	if !c.Running {
		return stand.Start(ctx, stand.Options{
			Shards: c.Shards, Routers: c.Routers, Coordinators: c.Coordinators, Dir: c.Dir, Postgres: c.Postgres,
			Services: c.Service, Progress: progress.say,
		})
	}
	found, err := c.find()
	if err != nil {
		return nil, err
	}
	running := stand.Running{Etcd: found.etcd, Passwords: found.passwords, URLs: c.URL, Progress: progress.say}
	if file := found.file; file != nil {
		running.Dir, running.Processes = c.Data, map[string][]int{"dev": {file.PID}}
		running.Postmasters = make(map[ledger.ShardID]int)
		for _, s := range file.Shards {
			running.Postmasters[s.ID] = s.PID
		}
		if len(running.URLs) == 0 {
			running.URLs = []string{file.HTTP}
		}
	}
	if len(running.URLs) == 0 {
		return nil, errors.New("where are the routers? say --url, or the data directory of a saldo dev that runs with --data")
	}
	return stand.Attach(ctx, running)
}

// prepare makes what the works need.
func (c *benchRunCommand) prepare(ctx context.Context, s *stand.Stand, works []work.HTTPWork) (
	options work.HTTPOptions, err error,
) {
	options = work.HTTPOptions{Batch: c.Batch, Zipf: c.Zipf, PageSize: c.PageSize}
	if slices.ContainsFunc(works, func(w work.HTTPWork) bool { return !w.Deep }) {
		if options.Users, err = s.Seed(ctx, c.Users, purse); err != nil {
			return options, err
		}
	}
	if slices.ContainsFunc(works, func(w work.HTTPWork) bool { return w.Deep }) {
		options.Depth = c.Depth
		options.Deep, err = s.Deepen(ctx, c.Depth)
	}
	return options, err
}

// shares are those of transfers to another shard that a work is to be measured with.
func (c *benchRunCommand) shares(w work.HTTPWork) []float64 {
	switch {
	case w.Cross && len(c.Cross) > 0:
	case w.Name == "cross":
		return []float64{1}
	default:
		return []float64{0}
	}
	var shares []float64
	for _, percent := range c.Cross {
		shares = append(shares, percent/100)
	}
	return shares
}

func (c *benchRunCommand) one(
	ctx context.Context, s *stand.Stand, w work.HTTPWork, options work.HTTPOptions, connections int, seed uint64, progress progress,
) (bench.Result, error) {
	what := fmt.Sprintf("%s, %d connections", w.Name, connections)
	progress.say(what + ": warming up")
	return work.MeasureHTTP(ctx, s, w, options, load.Plan{
		Callers: connections, Rate: c.Rate, Warmup: c.Warmup, Duration: c.Duration, Seed: seed,
		Progress: func(done time.Duration, units int64) {
			progress.say(fmt.Sprintf("%s: %v of %v, %.0f/s", what, done.Round(time.Second), c.Duration, float64(units)/done.Seconds()))
		},
	})
}

// commit is of the source, "" if unknown.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var revision, changed string
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			revision = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			changed = "+changes"
		}
	}
	return revision + changed
}

// printRun prints a run for people.
func printRun(to io.Writer, run *bench.Run) error {
	m := run.Machine
	fmt.Fprintf(to, "seed %d, %d cores, load average %.1f, a flush takes %.2f ms, Postgres %s\n\n",
		run.Seed, m.CPUs, m.LoadAvg, m.FlushMS, m.Postgres)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WORK\tCONNECTIONS\tPER SECOND\tP50 MS\tP99 MS\tP99.9 MS\tMAX MS\tNOT DONE")
	for _, r := range run.Results {
		l := r.Latency
		fmt.Fprintf(table, "%s\t%d\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t%s\n",
			workOf(r), r.Callers, r.PerSecond, l.P50, l.P99, l.P999, l.Max, notDone(r))
	}
	kinds := make(map[string]bool)
	for _, r := range run.Results {
		for kind := range r.Cost.CPU {
			kinds[kind] = true
		}
	}
	fmt.Fprintf(table, "\nFOR A THOUSAND\tCONNECTIONS")
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(table, "\t%s CPU S", strings.ToUpper(kind))
	}
	fmt.Fprintln(table, "\tCOMMITS\tWAL KB\tTABLE KB\tROUTER MB")
	for _, r := range run.Results {
		fmt.Fprintf(table, "%s\t%d", workOf(r), r.Callers)
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			fmt.Fprint(table, "\t", measured("%.3f", r.Cost.CPU[kind]))
		}
		// Bytes for one are kilobytes for a thousand.
		fmt.Fprintf(table, "\t%s\t%s\t%s\t%s\n", measured("%.1f", r.Cost.Commits), measured("%.0f", r.Cost.WALBytes),
			measured("%.0f", r.Cost.TableBytes), measured("%.0f", r.Cost.RSSBytes["router"]/1e6))
	}
	return table.Flush()
}

// measured is a figure, or a dash for what is none.
func measured(format string, figure float64) string {
	if figure == 0 {
		return "-"
	}
	return fmt.Sprintf(format, figure)
}

func workOf(r bench.Result) string {
	var more []string
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		more = append(more, strings.ReplaceAll(name, "_", " ")+" "+strconv.FormatFloat(r.Params[name], 'f', -1, 64))
	}
	if r.Rate > 0 {
		more = append(more, fmt.Sprintf("%g/s asked for", r.Rate))
	}
	return fmt.Sprintf("%s (%s)", r.Work, strings.Join(more, ", "))
}

func notDone(r bench.Result) string {
	var all []string
	for _, code := range slices.Sorted(maps.Keys(r.Errors)) {
		all = append(all, fmt.Sprintf("%d %s", r.Errors[code], code))
	}
	if r.Missed > 0 {
		all = append(all, fmt.Sprintf("%d not sent in time", r.Missed))
	}
	return cmp.Or(strings.Join(all, ", "), "-")
}
