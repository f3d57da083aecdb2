package suite

import (
	"fmt"
	"math"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// side is one side of a row: a workload on a target.
type side struct {
	target  string  // "lanes", "http", oneByOne or a baseline
	work    string  // of package work, or the same for a baseline
	callers int     // 0: as many as are best for it
	load    float64 // 0: as fast as it goes; else the share of what the target can do that is asked for (open loop)
}

func (s side) String() string {
	text := fmt.Sprintf("%s on %s, %d callers", s.work, s.target, s.callers)
	if s.load != 0 {
		text += fmt.Sprintf(" at %g of what it can do", s.load)
	}
	return text
}

// row is what Saldo must reach: a figure of ours, against the same figure of theirs unless theirs is nothing.
type row struct {
	work, against string
	ours, theirs  side
	figure        func(bench.Result) float64
	floor         float64 // the ratio must be at least this, or
	ceiling       float64 // at most this; with neither the row only shows where we stand
	goal          float64
}

func (r row) name() string { return r.work + " / " + r.against }

// group is rows that share sides, or belong side by side.
type group struct {
	name string
	rows []row
	also []side // that are in no row
}

// sides returns the sides of the rows, each once, in their order.
func (g group) sides() (sides []side) {
	for _, row := range g.rows {
		for _, s := range []side{row.ours, row.theirs} {
			if s != (side{}) && !slices.Contains(sides, s) {
				sides = append(sides, s)
			}
		}
	}
	return sides
}

func perSecond(r bench.Result) float64    { return r.PerSecond }
func p50(r bench.Result) float64          { return r.Latency.P50 }
func p99(r bench.Result) float64          { return r.Latency.P99 }
func routerMemory(r bench.Result) float64 { return r.Cost.RSSBytes["router"] / (1 << 20) }

// notYet are the codes of what was honestly not done, and so is not in a figure: a queue was full, or a call waited too long
// for its turn, or was answered before its transfer had ended.
var notYet = []string{string(ledger.CodeOverloaded), string(ledger.CodeUnavailable), "pending"}

// oneByOne is HTTP through a router that reads each balance by a query of its own, through the same pool.
const oneByOne = "http-one-by-one"

var lanes1024 = side{target: "lanes", work: "same", callers: 1024}

// table is what Saldo must reach on a machine of two cores that it shares with the load and all servers.
func table(p pace) []group {
	var (
		function    = side{target: "function", work: "same"}
		lanes64     = side{target: "lanes", work: "same", callers: 64}
		insert      = side{target: "insert", work: "same"}
		copied      = side{target: "copy", work: "same"}
		http64      = side{target: "http", work: "same", callers: 64}
		http256     = side{target: "http", work: "same", callers: 256}
		http1024    = side{target: "http", work: "same", callers: 1024}
		batches     = side{target: "http", work: "batch", callers: 8}
		hotLanes    = side{target: "lanes", work: "hot-payee", callers: 1024}
		hotFunction = side{target: "function", work: "hot-payee", callers: 64}
		cross       = side{target: "http", work: "cross", callers: 256}
		twoPhase    = side{target: "2pc", work: "cross"}
		balance     = side{target: "http", work: "balance", callers: 256}
		balanceEach = side{target: oneByOne, work: "balance", callers: 256}
		unloaded    = side{target: "http", work: "same", callers: 1024, load: 0.25}
		overloaded  = side{target: "http", work: "same", callers: 1024, load: 2}
	)
	const (
		same, http, crossing = "lanes, same shard, ", "HTTP single transfers, ", "cross-shard transfers completed, 256 connections"
		bestFunction         = "function, best of its client counts"
	)
	depth := humanize.Comma(p.depth)
	groups := []group{
		{name: "an idle lane", rows: []row{
			{work: "one idle lane: latency of a single transfer, ms", against: "function, 1 client",
				ours:   side{target: "lanes", work: "same", callers: 1},
				theirs: side{target: "function", work: "same", callers: 1}, figure: p50, ceiling: 3},
		}},
		{name: "transfers within a shard", rows: []row{
			{work: same + "1,024 callers", against: bestFunction,
				ours: lanes1024, theirs: function, figure: perSecond, floor: 3, goal: 5},
			{work: same + "64 callers", against: bestFunction, ours: lanes64, theirs: function, figure: perSecond, floor: 1.8},
			{work: same + "1,024 callers", against: "insert", ours: lanes1024, theirs: insert, figure: perSecond, floor: 0.65},
			{work: same + "1,024 callers", against: "copy", ours: lanes1024, theirs: copied, figure: perSecond},
			{work: http + "64 connections", against: bestFunction, ours: http64, theirs: function, figure: perSecond, floor: 1.1},
			{work: http + "256 connections", against: bestFunction,
				ours: http256, theirs: function, figure: perSecond, floor: 1.4, goal: 2},
			{work: "HTTP batches of 500, transfers", against: http + "256 connections",
				ours: batches, theirs: http256, figure: perSecond, floor: 2.5},
		}, also: []side{{target: "lanes", work: "same", callers: 256}, http1024}},
		{name: "a hot account", rows: []row{
			{work: "lanes, one hot account, 1,024 callers", against: "function, 64 callers",
				ours: hotLanes, theirs: hotFunction, figure: perSecond, floor: 15},
		}, also: []side{
			{target: "lanes", work: "hot-payer", callers: 1024}, {target: "function", work: "hot-payer", callers: 64},
			{target: "http", work: "hot-payee", callers: 256},
		}},
		{name: "transfers between shards", rows: []row{
			{work: crossing, against: "2pc, best of its client counts", ours: cross, theirs: twoPhase, figure: perSecond, floor: 4},
			{work: crossing, against: "same shard over HTTP, 256 connections",
				ours: cross, theirs: http256, figure: perSecond, floor: 0.4, goal: 0.5},
		}, also: []side{
			{target: "http", work: "cross", callers: 64}, {target: "http", work: "cross", callers: 1024},
			{target: "2pc-unlogged", work: "cross", callers: 64},
		}},
		{name: "reads", rows: []row{
			{work: "HTTP balance reads, 256 connections", against: "HTTP, one query for each read, the same pool",
				ours: balance, theirs: balanceEach, figure: perSecond, floor: 2},
		}, also: []side{
			{target: "http", work: "balance", callers: 64}, {target: oneByOne, work: "balance", callers: 64},
			{target: "read", work: "balance", callers: 256}, {target: "read", work: "balance", callers: 64},
		}},
		{name: "a long history", rows: []row{
			{work: "history page at depth " + depth + ", ms", against: "its first page",
				ours:   side{target: "http", work: "history-last", callers: 8},
				theirs: side{target: "http", work: "history-first", callers: 8}, figure: p50, ceiling: 1.5},
		}},
		{name: "too much to do", rows: []row{
			{work: "router's memory under 1,024 connections, MiB", ours: http1024, figure: routerMemory, ceiling: 256},
			{work: "p99 of accepted transfers at twice the capacity, 1,024 connections, ms", against: "the same at a quarter of it",
				ours: overloaded, theirs: unloaded, figure: p99, ceiling: 4},
		}},
	}
	if !p.also {
		for i := range groups {
			groups[i].also = nil
		}
	}
	return groups
}

// compare makes a row's figures from the rounds of its sides. It is not met if one of ours failed.
func (r row) compare(ours, theirs []bench.Result) bench.Row {
	figures := bench.Row{
		Work: r.work, Against: r.against, Floor: r.floor, Ceiling: r.ceiling, Goal: r.goal,
		Ours: rounded(median(ours, r.figure), 3),
	}
	if len(theirs) > 0 {
		figures.Theirs = rounded(median(theirs, r.figure), 3)
	}
	switch {
	case r.theirs == (side{}):
		figures.Ratio = figures.Ours
	case figures.Theirs > 0:
		figures.Ratio = rounded(figures.Ours/figures.Theirs, 4)
	}
	figures.Met = figures.Ratio > 0 && figures.Ratio >= r.floor && (r.ceiling == 0 || figures.Ratio <= r.ceiling) &&
		!slices.ContainsFunc(ours, r.failed)
	return figures
}

// failed tells whether a measurement found nothing, or had errors that must not be.
func (r row) failed(result bench.Result) bool {
	for code := range result.Errors {
		if !slices.Contains(notYet, code) {
			return true
		}
	}
	return r.figure(result) <= 0
}

func rounded(x float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(x*scale) / scale
}

func median(rounds []bench.Result, figure func(bench.Result) float64) float64 {
	var figures []float64
	for _, r := range rounds {
		figures = append(figures, figure(r))
	}
	if len(figures) == 0 {
		return 0
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}
