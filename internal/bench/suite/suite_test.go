package suite

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(programs{m}) }

// programs builds the services, which the cluster to measure on runs.
type programs struct{ *testing.M }

func (p programs) Run() int {
	if flag.Parse(); testing.Short() {
		return p.M.Run()
	}
	dir, err := os.MkdirTemp("", "saldo-suite-test-*")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir, "../../../cmd/router", "../../../cmd/coordinator")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("build the services: %v\n%s", err, out)
		return 1
	}
	os.Setenv("SALDO_BIN_DIR", dir)
	return p.M.Run()
}

func results(perSecond ...float64) (rounds []bench.Result) {
	for _, x := range perSecond {
		rounds = append(rounds, bench.Result{PerSecond: x})
	}
	return rounds
}

func TestARowComparesMedians(t *testing.T) {
	t.Parallel()
	ours, theirs := side{target: "lanes"}, side{target: "function"}
	full, failing := results(30, 10, 20), results(30, 10, 20)
	full[1].Errors = map[string]int64{"overloaded": 3, "pending": 1}
	failing[1].Errors = map[string]int64{"overloaded": 3, "outcome_unknown": 1}
	for name, c := range map[string]struct {
		row                 row
		ours, theirs        []bench.Result
		figure, ratio, more float64
		met                 bool
	}{
		"above its floor":      {row{floor: 1.9}, results(30, 10, 20), results(9, 11, 10), 20, 2, 10, true},
		"at its floor":         {row{floor: 2}, results(30, 10, 20), results(9, 11, 10), 20, 2, 10, true},
		"below its floor":      {row{floor: 2.1}, results(30, 10, 20), results(9, 11, 10), 20, 2, 10, false},
		"below its ceiling":    {row{ceiling: 2.1}, results(20), results(10), 20, 2, 10, true},
		"above its ceiling":    {row{ceiling: 1.9}, results(20), results(10), 20, 2, 10, false},
		"they did nothing":     {row{floor: 1}, results(20), results(0), 20, 0, 0, false},
		"we did nothing":       {row{ceiling: 1}, results(0), results(10), 0, 0, 10, false},
		"we failed":            {row{floor: 1}, failing, results(10), 20, 2, 10, false},
		"we were full":         {row{floor: 1}, full, results(10), 20, 2, 10, true},
		"no bound":             {row{}, results(5), results(10), 5, 0.5, 10, true},
		"no bound, we failed":  {row{}, failing, results(10), 20, 2, 10, false},
		"we did nothing, once": {row{ceiling: 3}, results(20, 0, 30), results(10), 20, 2, 10, false},
	} {
		c.row.ours, c.row.theirs, c.row.figure = ours, theirs, perSecond
		got := c.row.compare(c.ours, c.theirs)
		if got.Ours != c.figure || got.Theirs != c.more || got.Ratio != c.ratio || got.Met != c.met {
			t.Errorf("%s: %+v", name, got)
		}
	}
	alone := row{ours: ours, ceiling: 256, figure: routerMemory}
	got := alone.compare([]bench.Result{{Cost: bench.Cost{RSSBytes: map[string]float64{"router": 100 << 20}}}}, nil)
	if got.Ours != 100 || got.Ratio != 100 || !got.Met {
		t.Errorf("%+v", got)
	}
	if got := alone.compare([]bench.Result{{}}, nil); got.Met {
		t.Errorf("what was not measured is met: %+v", got)
	}
}

func TestTheTableSaysWhatMustBeReached(t *testing.T) {
	t.Parallel()
	var names []string
	for _, g := range table(full) {
		for _, row := range g.rows {
			names = append(names, row.name())
			if row.against == "copy" { // it shows a limit
				row.floor++
			}
			if (row.floor > 0) == (row.ceiling > 0) || row.figure == nil || row.goal != 0 && row.goal <= row.floor {
				t.Errorf("%s: floor %g, ceiling %g, goal %g", row.name(), row.floor, row.ceiling, row.goal)
			}
		}
		sides := g.sides()
		for _, s := range slices.Concat(sides, g.also) {
			if _, baseline := counts[s.target]; s.callers == 0 && !baseline {
				t.Errorf("%s: with how many callers?", s)
			}
		}
		for _, s := range g.also {
			if slices.Contains(sides, s) {
				t.Errorf("%s is measured twice", s)
			}
		}
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) || len(names) != 15 {
		t.Errorf("%d rows:\n%s", len(names), strings.Join(names, "\n"))
	}
	for _, g := range table(quick) {
		if len(g.also) > 0 {
			t.Errorf("quick measures more than rows: %v", g.also)
		}
	}
}

func TestOnlyLeavesOutWhatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	r := run{Options: Options{Only: regexp.MustCompile("insert|2pc")}, pace: full}
	var sides []string
	for _, g := range r.selected() {
		for _, s := range slices.Concat(g.sides(), g.also) {
			sides = append(sides, s.work+" on "+s.target)
		}
	}
	if got, want := strings.Join(sides, ", "), "same on lanes, same on insert, cross on http, cross on 2pc"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	_, err := Run(t.Context(), Options{Only: regexp.MustCompile("no such row")})
	if err == nil || !strings.Contains(err.Error(), "lanes, same shard, 64 callers / function") {
		t.Errorf("%v", err)
	}
}

// rates is a run whose measurements are made up: what a side does by itself, a little more with each round.
func rates(of map[side]float64, pace pace) (r *run, asked *[]side) {
	r = &run{Options: Options{Log: func(string) {}, Progress: func(string) {}, Row: func(bench.Row) {}}, pace: pace}
	asked = new([]side)
	r.measure = func(_ context.Context, s side) (bench.Result, error) {
		rate, ok := of[s]
		if !ok {
			return bench.Result{}, errors.New("nobody should ask")
		}
		*asked = append(*asked, s)
		of[s]++
		return bench.Result{Target: s.target, Callers: s.callers, PerSecond: rate}, nil
	}
	return r, asked
}

func TestSidesAreMeasuredInTurns(t *testing.T) {
	t.Parallel()
	a, b, c := side{target: "lanes", callers: 1}, side{target: "insert", callers: 3}, side{target: "lanes", callers: 2}
	r, asked := rates(map[side]float64{a: 100, b: 50, c: 7}, pace{rounds: 3})
	g := group{rows: []row{{ours: a, theirs: side{target: "insert"}, figure: perSecond, floor: 1}}, also: []side{c}}
	if err := r.measureGroup(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if want := []side{a, b, a, b, a, b, c}; !slices.Equal(*asked, want) {
		t.Errorf("%v, not %v", *asked, want)
	}
	if row := r.result.Rows[0]; row.Ours != 101 || row.Theirs != 51 {
		t.Errorf("%+v", row)
	}
	var rates []float64
	for _, result := range r.result.Results {
		rates = append(rates, result.PerSecond)
	}
	if !slices.Equal(rates, []float64{101, 51, 7}) {
		t.Errorf("%v", rates)
	}
}

func TestABaselineHasAsManyCallersAsAreBestForIt(t *testing.T) {
	t.Parallel()
	lane, of := side{target: "lanes", callers: 1}, func(callers int) side { return side{target: "insert", callers: callers} }
	r, asked := rates(map[side]float64{lane: 100, of(1): 10, of(2): 40, of(3): 30, of(4): 20}, pace{rounds: 3, sweep: true})
	g := group{rows: []row{{ours: lane, theirs: side{target: "insert"}, figure: perSecond, floor: 1}}}
	if err := r.measureGroup(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if turn := []side{lane, of(4), of(3), of(2), of(1)}; !slices.Equal(*asked, slices.Repeat(turn, 3)) {
		t.Errorf("%v", *asked)
	}
	if row := r.result.Rows[0]; row.Theirs != 41 {
		t.Errorf("%+v", row)
	}
	var callers []int
	for _, result := range r.result.Results {
		if result.Target == "insert" {
			callers = append(callers, result.Callers)
		}
	}
	slices.Sort(callers)
	if !slices.Equal(callers, []int{1, 2, 3, 4}) {
		t.Errorf("%v", callers)
	}
}

// A whole run in small: that everything works, not how fast.
func TestRun(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs Postgres and etcd, which -short leaves out")
	}
	var rows []bench.Row
	result, err := Run(t.Context(), Options{
		Only: regexp.MustCompile("idle|insert|copy|2pc|balance"), Seed: 7, Commit: "abc", Log: func(text string) { t.Log(text) },
		Row:  func(row bench.Row) { rows = append(rows, row) },
		pace: &pace{warmup: 20 * time.Millisecond, duration: 250 * time.Millisecond, rounds: 1, users: 300},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 5 || !slices.Equal(rows, result.Rows) {
		t.Errorf("%+v", rows)
	}
	for _, row := range rows {
		if row.Ours <= 0 || row.Theirs <= 0 || row.Ratio <= 0 {
			t.Errorf("%+v", row)
		}
	}
	targets := map[string]int{}
	for _, r := range result.Results {
		targets[r.Target]++
		failed := r.Target != "2pc" && row{figure: perSecond}.failed(r)
		commits, wrong := r.Cost.Commits*float64(r.Units)/1000, r.Cost.Commits <= 0
		if r.Work == "balance" {
			wrong = commits > float64(2*r.Shards) // a coordinator seals each shard's position once a second
		}
		if r.Units <= 0 || failed || wrong || r.Cost.RSSBytes["postgres"] <= 0 {
			t.Errorf("%+v", r)
		}
		judged := r.Target != "insert" && r.Target != "copy"
		if (r.Conserved != nil) != judged || judged && !*r.Conserved {
			t.Errorf("the books after %+v: %v", r, r.Conserved)
		}
	}
	for target, want := range map[string]int{
		"lanes": 2, "function": 1, "insert": 1, "copy": 1, "2pc": 1, "http": 2, oneByOne: 1,
	} {
		if targets[target] != want {
			t.Errorf("%d results of %s, not %d", targets[target], target, want)
		}
	}
	if result.Seed != 7 || result.Commit != "abc" || result.Machine.Postgres == "" || result.Settings["fsync"] != "on" ||
		result.Settings["full_page_writes"] != "on" || result.Settings["synchronous_commit"] != "on" {
		t.Errorf("%+v, %+v", result.Machine, result.Settings)
	}
}
