package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// block makes one generated part of the page.
type block func(*report, *bench.Run) (string, error)

var suiteBlocks = map[string]block{
	"machine":      machine,
	"rows":         rows,
	"measurements": measurements,
	"cost":         cost,
	"callers":      callers,
	"sizing":       sizing,
}

// machine is what must be known to read the figures.
func machine(_ *report, run *bench.Run) (string, error) {
	m := run.Machine
	t := newTable(2, "", "")
	t.row("measured", fmt.Sprintf("%s, commit %s, seed %d",
		run.At.UTC().Format(time.DateTime+" UTC"), cmp.Or(run.Commit, "unknown"), run.Seed))
	t.row("machine", fmt.Sprintf("%d × %s, %s GB of memory; a flush takes %s ms; load average before the run %s",
		m.CPUs, cmp.Or(m.CPU, "an unnamed core"), number(m.MemoryGB), number(m.FlushMS), number(m.LoadAvg)))
	software := []string{m.System, m.Kernel, m.Go, "Postgres " + m.Postgres}
	if m.Etcd != "" {
		software = append(software, "etcd "+m.Etcd)
	}
	t.row("versions", strings.Join(slices.DeleteFunc(software, func(s string) bool { return s == "" }), ", "))
	settings := make([]string, 0, len(run.Settings))
	for _, name := range slices.Sorted(maps.Keys(run.Settings)) {
		settings = append(settings, fmt.Sprintf("`%s = %s`", name, run.Settings[name]))
	}
	t.row("Postgres", strings.Join(settings, ", "))
	return t.String(), nil
}

// rows is what Saldo must reach.
func rows(r *report, run *bench.Run) (string, error) {
	plot, err := rowsPlot(run)
	if err != nil || plot == nil {
		return rowsTable(run), err
	}
	return rowsTable(run) + "\n" + r.image("rows.svg", "Throughput of Saldo and of what it is measured against", plot), nil
}

func rowsTable(run *bench.Run) string {
	t := newTable(2, "work", "against", "ours", "theirs", "ratio", "must be", "goal", "met")
	for _, row := range run.Rows {
		bound, goal, met := "≥ "+number(row.Floor), "", "yes"
		switch {
		case row.Ceiling != 0:
			bound = "≤ " + number(row.Ceiling)
		case row.Floor == 0:
			bound, met = "–", "–"
		}
		if row.Goal != 0 {
			goal = number(row.Goal)
		}
		if !row.Met {
			met = "**no**"
		}
		ratio := "–"
		if row.Theirs != 0 {
			ratio = "**" + number(row.Ratio) + "**"
		}
		t.row(row.Work, row.Against, number(row.Ours), measured(row.Theirs), ratio, bound, goal, met)
	}
	return t.String()
}

// measurements is what came out of each.
func measurements(_ *report, run *bench.Run) (string, error) {
	t := newTable(2, "work", "on", "callers", "per second", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "not done")
	for _, m := range merge(run.Results) {
		l := m.Latency
		t.row(work(m), m.Target, calling(m), "**"+number(m.PerSecond)+"**",
			number(l.P50), number(l.P99), number(l.P999), number(l.Max), failures(m))
	}
	return t.String() + "\n" + books(run), nil
}

// work names a measurement's work with whatever tells it from others.
func work(m bench.Result) string {
	var more []string
	for _, name := range slices.Sorted(maps.Keys(m.Params)) {
		more = append(more, strings.ReplaceAll(name, "_", " ")+" "+number(m.Params[name]))
	}
	if len(more) == 0 {
		return m.Work
	}
	return fmt.Sprintf("%s (%s)", m.Work, strings.Join(more, ", "))
}

// calling is how many call, and at which rate if not as fast as it goes.
func calling(m bench.Result) string {
	callers := number(float64(m.Callers))
	if m.Rate != 0 {
		return fmt.Sprintf("%s at %s/s", callers, number(m.Rate))
	}
	return callers
}

func failures(m bench.Result) string {
	var all []string
	for _, code := range slices.Sorted(maps.Keys(m.Errors)) {
		all = append(all, fmt.Sprintf("%s %s", number(float64(m.Errors[code])), code))
	}
	if m.Missed > 0 {
		all = append(all, number(float64(m.Missed))+" not sent in time")
	}
	return cmp.Or(strings.Join(all, ", "), "none")
}

// books is what the audits said.
func books(run *bench.Run) string {
	var clean int
	var wrong []string
	for _, m := range run.Results {
		switch {
		case m.Conserved == nil:
		case *m.Conserved:
			clean++
		default:
			wrong = append(wrong, fmt.Sprintf("%s on %s with %s callers", work(m), m.Target, calling(m)))
		}
	}
	switch {
	case len(wrong) > 0:
		return fmt.Sprintf("**The books were wrong** after: %s.\n", strings.Join(wrong, "; "))
	case clean > 0:
		return fmt.Sprintf("The books were checked after %d of %d measurements, and clean.\n", clean, len(run.Results))
	default:
		return "The books were not checked.\n"
	}
}

// kinds are the kinds of processes in the order of a request's way.
func kinds(run *bench.Run, of func(bench.Cost) map[string]float64) []string {
	var found []string
	for _, m := range run.Results {
		found = slices.AppendSeq(found, maps.Keys(of(m.Cost)))
	}
	slices.Sort(found)
	found = slices.Compact(found)
	way := []string{"load", "router", "coordinator", "postgres"}
	slices.SortStableFunc(found, func(a, b string) int {
		return cmp.Compare(uint(slices.Index(way, a)), uint(slices.Index(way, b))) // -1, not found, is the last
	})
	return found
}

func cpu(c bench.Cost) map[string]float64    { return c.CPU }
func memory(c bench.Cost) map[string]float64 { return c.RSSBytes }

// cost is what a thousand units took.
func cost(_ *report, run *bench.Run) (string, error) {
	processes, resident := kinds(run, cpu), kinds(run, memory)
	heads := []string{"work", "on", "callers"}
	for _, kind := range processes {
		heads = append(heads, "CPU s, "+kind)
	}
	heads = append(heads, "CPU s, all", "commits", "units in a commit", "WAL bytes of a unit", "table bytes of a unit")
	for _, kind := range resident {
		heads = append(heads, "peak MiB, "+kind)
	}
	t := newTable(2, heads...)
	for _, m := range merge(run.Results) {
		c := m.Cost
		cells := []string{work(m), m.Target, calling(m)}
		for _, kind := range processes {
			cells = append(cells, measured(c.CPU[kind]))
		}
		cells = append(cells, measured(sum(c.CPU)), measured(c.Commits), measured(c.BatchSize),
			measured(c.WALBytes), measured(c.TableBytes))
		for _, kind := range resident {
			cells = append(cells, measured(c.RSSBytes[kind]/(1<<20)))
		}
		t.row(cells...)
	}
	return t.String(), nil
}

func sum(of map[string]float64) (all float64) {
	for _, kind := range slices.Sorted(maps.Keys(of)) { // in one order: the sum of floats depends on it
		all += of[kind]
	}
	return all
}

// callers is how throughput and latency go with the number of callers.
func callers(r *report, run *bench.Run) (string, error) {
	plot, err := callersPlot(run)
	if err != nil {
		return "", err
	}
	if plot == nil {
		return "No work was measured with several numbers of callers.\n", nil
	}
	return r.image("callers.svg", "Throughput and latency against callers", plot), nil
}

// sizing is what one core of each kind carries, and what is stored, at the best rate of each work.
func sizing(_ *report, run *bench.Run) (string, error) {
	processes := slices.DeleteFunc(kinds(run, cpu), func(kind string) bool { return kind == "load" })
	heads := []string{"work", "on"}
	for _, kind := range processes {
		heads = append(heads, "per second and core of "+kind)
	}
	heads = append(heads, "per second and core of all these", "GB of tables for a million", "GB of WAL for a million")
	t := newTable(2, heads...)
	for _, m := range best(merge(run.Results)) {
		served := maps.Clone(m.Cost.CPU)
		delete(served, "load")
		cells := []string{work(m), m.Target}
		all := sum(served)
		for _, kind := range processes {
			if served[kind] < idle*all {
				served[kind] = 0
			}
			cells = append(cells, perCore(served[kind]))
		}
		if m.Target == "lanes" { // which are in the load's process
			all = 0
		}
		cells = append(cells, perCore(all), measured(m.Cost.TableBytes/1000), measured(m.Cost.WALBytes/1000))
		t.row(cells...)
	}
	return t.String(), nil
}

// idle is the share of processor time up to which a process has no part in the work.
const idle = 0.03

// perCore is how many units a core does in a second if a thousand take that many seconds of it.
func perCore(seconds float64) string {
	if seconds == 0 {
		return "–"
	}
	return number(1000 / seconds)
}

// best returns, of each work that was stored by Saldo, the measurement with the highest rate.
func best(results []bench.Result) []bench.Result {
	var found []bench.Result
	for _, m := range results {
		if m.Cost.TableBytes == 0 || (m.Target != "http" && m.Target != "lanes") {
			continue
		}
		same := func(other bench.Result) bool { return other.Target == m.Target && work(other) == work(m) }
		switch i := slices.IndexFunc(found, same); {
		case i < 0:
			found = append(found, m)
		case found[i].PerSecond < m.PerSecond:
			found[i] = m
		}
	}
	return found
}
