// Package suite sets measurements against each other: what Saldo must reach, as a table (rows.go), and how it is measured.
//
// How a row comes about. The sides of a group's rows are measured in turns, A B A B…, in short rounds on the same servers
// with the same settings, so that whatever else the machine does, and tables that grow, meet all of them; a side's figure is
// the median of its rounds. A baseline that has a number of callers to choose is measured with each of them, and the best
// counts. Every server writes a checkpoint before the first group, and the next one is not due before the end. The baselines
// have databases of their own on those servers; Saldo's audit reads the rest at the end.
//
// It refuses to know how a load is made (package load), what it consists of (work, baseline) or how it is shown (report).
package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// Options say what to run. Zero values mean the defaults.
type Options struct {
	Full     bool           // all that is worth showing, in less than ten minutes; else the rows, in less than three
	Only     *regexp.Regexp // of a row's work and what it is against; nil: all
	Seed     uint64
	Commit   string          // of the source, if it is known
	Progress func(string)    // what is being done; may be nil
	Log      func(string)    // what came out of a measurement; may be nil
	Row      func(bench.Row) // called for each row as soon as it is known; may be nil

	pace *pace // of tests
}

// pace is how long things take.
type pace struct {
	warmup, duration time.Duration // of one measurement
	rounds           int           // odd, so that a median is one of them
	users            int           // on each shard
	depth            int64         // of the long history
	sweep            bool          // find out with how many callers a baseline is best; else they are known
	also             bool          // measure what is in no row, too
}

var (
	quick = pace{warmup: 300 * time.Millisecond, duration: 1200 * time.Millisecond, rounds: 3, users: 10_000, depth: 100_000}
	full  = pace{warmup: 400 * time.Millisecond, duration: 2 * time.Second, rounds: 5, users: 10_000, depth: 1_000_000,
		sweep: true, also: true}
)

// Run starts servers, measures, and stops them. Whether rows are met is theirs to tell; an error says that something could
// not be measured, or that the books are wrong: then the results come with it, and say which ones.
func Run(ctx context.Context, options Options) (*bench.Run, error) {
	r := &run{Options: options, pace: quick}
	if options.Full {
		r.pace = full
	}
	if options.pace != nil {
		r.pace = *options.pace
	}
	if r.Progress == nil {
		r.Progress = func(string) {}
	}
	if r.Log == nil {
		r.Log = func(string) {}
	}
	if r.Row == nil {
		r.Row = func(bench.Row) {}
	}
	groups := r.selected()
	if len(groups) == 0 {
		var names []string
		for _, g := range table(r.pace) {
			for _, row := range g.rows {
				names = append(names, row.name())
			}
		}
		return nil, fmt.Errorf("no row matches %s; there are:\n%s", options.Only, strings.Join(names, "\n"))
	}
	err := r.measureAll(ctx, groups)
	if err != nil && !errors.Is(err, errWrong) {
		return nil, err
	}
	return &r.result, err
}

// run is one run of the suite.
type run struct {
	Options
	pace    pace
	measure func(context.Context, side) (bench.Result, error)
	result  bench.Run
}

// selected returns the groups with the rows that are wanted.
func (r *run) selected() (groups []group) {
	for _, g := range table(r.pace) {
		if r.Only != nil {
			g.rows = slices.DeleteFunc(g.rows, func(row row) bool { return !r.Only.MatchString(row.name()) })
			g.also = nil
		}
		if len(g.rows) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

func (r *run) measureAll(ctx context.Context, groups []group) (err error) {
	r.result = bench.Run{Suite: "quick", At: time.Now().UTC().Truncate(time.Second), Commit: r.Commit, Seed: r.Seed}
	if r.Full {
		r.result.Suite = "full"
	}
	b, err := newBed(ctx, r, groups)
	if err != nil {
		return err
	}
	defer func() {
		r.Progress("stopping")
		err = errors.Join(err, b.close())
	}()
	r.measure = b.measure
	if r.result.Machine, r.result.Settings, err = b.stand.Describe(ctx); err != nil {
		return err
	}
	for _, g := range groups {
		if err := r.measureGroup(ctx, g); err != nil {
			return fmt.Errorf("measure %s: %w", g.name, err)
		}
	}
	r.Progress("checking the books")
	return b.check(ctx, r.result.Results)
}

// measureGroup measures the sides of a group in turns.
func (r *run) measureGroup(ctx context.Context, g group) error {
	measured := make(map[side][]bench.Result)
	for round := range r.pace.rounds {
		for _, s := range g.sides() {
			for _, s := range r.tries(s) {
				result, err := r.one(ctx, fmt.Sprintf("%s, round %d of %d", g.name, round+1, r.pace.rounds), s)
				if err != nil {
					return err
				}
				measured[s] = append(measured[s], result)
			}
		}
	}
	for _, s := range g.sides() {
		for _, s := range r.tries(s) {
			r.result.Results = append(r.result.Results, middle(measured[s]))
		}
	}
	for _, s := range g.also {
		result, err := r.one(ctx, g.name, s)
		if err != nil {
			return err
		}
		r.result.Results = append(r.result.Results, result)
	}
	for _, row := range g.rows {
		figures := row.compare(r.best(measured, row.ours), r.best(measured, row.theirs))
		r.result.Rows = append(r.result.Rows, figures)
		r.Row(figures)
	}
	return nil
}

// counts are the numbers of callers that a baseline is tried with, the most first (their connections serve for the fewer,
// too), and the one that is usually best on two cores.
var counts = map[string]struct {
	try  []int
	best int
}{
	"function": {try: []int{64, 32, 8, 1}, best: 64},
	"2pc":      {try: []int{128, 64, 32}, best: 32},
	"insert":   {try: []int{4, 3, 2, 1}, best: 3},
	"copy":     {try: []int{4, 3, 2, 1}, best: 3},
}

// tries are a side with the numbers of callers that are to be tried.
func (r *run) tries(s side) []side {
	if s.callers != 0 {
		return []side{s}
	}
	callers := []int{counts[s.target].best}
	if r.pace.sweep {
		callers = counts[s.target].try
	}
	var tries []side
	for _, s.callers = range callers {
		tries = append(tries, s)
	}
	return tries
}

// best are the rounds of a side with as many callers as were best.
func (r *run) best(measured map[side][]bench.Result, s side) (best []bench.Result) {
	for _, s := range r.tries(s) {
		if rounds := measured[s]; median(rounds, perSecond) > median(best, perSecond) || best == nil {
			best = rounds
		}
	}
	return best
}

func (r *run) one(ctx context.Context, when string, s side) (bench.Result, error) {
	r.Progress(when + ": " + s.String())
	result, err := r.measure(ctx, s)
	if err != nil {
		return result, fmt.Errorf("%s: %w", s, err)
	}
	r.Log(fmt.Sprintf("%s: %s: %.0f/s, p50 %.2f ms, p99 %.2f ms%s",
		when, s, result.PerSecond, result.Latency.P50, result.Latency.P99, notDone(result)))
	return result, nil
}

func notDone(result bench.Result) string {
	if len(result.Errors) == 0 && result.Missed == 0 {
		return ""
	}
	return fmt.Sprintf(", not done: %v, not sent: %d", result.Errors, result.Missed)
}

// middle is the round whose throughput is the median.
func middle(rounds []bench.Result) bench.Result {
	sorted := slices.Clone(rounds)
	slices.SortFunc(sorted, func(x, y bench.Result) int { return cmp.Compare(x.PerSecond, y.PerSecond) })
	return sorted[len(sorted)/2]
}
