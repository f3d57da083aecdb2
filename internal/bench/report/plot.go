package report

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// rowsPlot is a pair of bars for each row that sets one rate against another; nil if there is none.
func rowsPlot(run *bench.Run) ([]byte, error) {
	rates := slices.DeleteFunc(slices.Clone(run.Rows), func(row bench.Row) bool { return row.Ceiling != 0 || row.Theirs == 0 })
	if len(rates) == 0 {
		return nil, nil
	}
	slices.Reverse(rates) // the first stands on top
	const (
		pitch         = 46.0 // of the rows, in points
		bar           = 0.27 // the rest in pitches
		upper, lower  = 0.09, -0.19
		heading       = 0.28
		roomForLabels = 1.35
	)
	p := newPlot("What Saldo does in a second, and what it is measured against", "in a second", "")
	p.HideY()
	legend := newLegend()
	for _, bars := range []struct {
		name   string
		of     color.Color
		offset float64
		value  func(bench.Row) float64
		label  func(bench.Row) string
	}{
		{"Saldo", blue, upper, func(row bench.Row) float64 { return row.Ours }, func(row bench.Row) string {
			label := fmt.Sprintf("%s = %s times", number(row.Ours), number(row.Ratio))
			if row.Floor != 0 {
				label += fmt.Sprintf(" (at least %s)", number(row.Floor))
			}
			return label
		}},
		{"what it is measured against", grey, lower, func(row bench.Row) float64 { return row.Theirs }, func(row bench.Row) string {
			return number(row.Theirs)
		}},
	} {
		var (
			values plotter.Values
			ends   plotter.XYs
			texts  []string
		)
		for i, row := range rates {
			values = append(values, bars.value(row))
			ends = append(ends, plotter.XY{X: bars.value(row), Y: float64(i) + bars.offset})
			texts = append(texts, bars.label(row))
		}
		chart, err := plotter.NewBarChart(values, vg.Points(bar*pitch))
		if err != nil {
			return nil, err
		}
		chart.Horizontal, chart.Color, chart.LineStyle.Width, chart.Offset = true, bars.of, 0, vg.Points(bars.offset*pitch)
		style := sans(textSize-1, ink)
		style.YAlign = draw.YCenter
		beside, err := labels(ends, texts, style, vg.Point{X: vg.Points(4)})
		if err != nil {
			return nil, err
		}
		p.Add(chart, beside)
		legend.Add(bars.name, chart)
	}
	var (
		above plotter.XYs
		texts []string
	)
	for i, row := range rates {
		above = append(above, plotter.XY{Y: float64(i) + heading})
		texts = append(texts, row.Work+" against "+row.Against)
	}
	headings, err := labels(above, texts, sans(textSize, ink), vg.Point{})
	if err != nil {
		return nil, err
	}
	p.Add(headings)
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, p.X.Max*roomForLabels, roundTicks{}
	p.Y.Min, p.Y.Max = -0.5, float64(len(rates))-0.5
	height := vg.Points(pitch*float64(len(rates))+70) + legendHeight(2) + 2*margin
	return svg(height, func(c draw.Canvas) { withLegend(c, &legend, 2, p.Draw) })
}

// curve is one work on one target, by callers.
type curve struct {
	name    string
	results []bench.Result
}

// curves are the closed loops that were run with several numbers of callers.
func curves(run *bench.Run) []curve {
	var found []curve
	names := make(map[string]int)
	for _, m := range merge(run.Results) {
		if m.Rate != 0 {
			continue
		}
		same := func(c curve) bool {
			return c.results[0].Target == m.Target && work(c.results[0]) == work(m)
		}
		i := slices.IndexFunc(found, same)
		if i < 0 {
			i, found = len(found), append(found, curve{name: m.Work + ", " + m.Target})
		}
		found[i].results = append(found[i].results, m)
	}
	found = slices.DeleteFunc(found, func(c curve) bool { return len(c.results) < 2 })
	for _, c := range found {
		names[c.name]++
	}
	for i, c := range found {
		if names[c.name] > 1 {
			found[i].name = work(c.results[0]) + ", " + c.results[0].Target
		}
		slices.SortStableFunc(c.results, func(a, b bench.Result) int { return a.Callers - b.Callers })
	}
	return found
}

// callersPlot is throughput and latency against callers; nil if there is no curve.
func callersPlot(run *bench.Run) ([]byte, error) {
	found := curves(run)
	if len(found) == 0 {
		return nil, nil
	}
	rate := newPlot("Throughput", "callers", "in a second")
	delay := newPlot("Latency: p50, and p99 dashed", "callers", "ms")
	legend := newLegend()
	var counts []float64
	for i, c := range found {
		of, shape := palette[i%len(palette)], shapes[i%len(shapes)]
		var rates, medians, tails plotter.XYs
		for _, m := range c.results {
			x := float64(m.Callers)
			counts = append(counts, x)
			rates = append(rates, plotter.XY{X: x, Y: m.PerSecond})
			if m.Latency.P50 > 0 { // else it has no place on the axis
				medians = append(medians, plotter.XY{X: x, Y: m.Latency.P50})
				tails = append(tails, plotter.XY{X: x, Y: m.Latency.P99})
			}
		}
		line, dots, err := lines(rates, of, shape)
		if err != nil {
			return nil, err
		}
		rate.Add(line, dots)
		legend.Add(c.name, line, dots)
		for _, points := range []struct {
			xys    plotter.XYs
			dashes []vg.Length
		}{{medians, nil}, {tails, []vg.Length{vg.Points(4), vg.Points(3)}}} {
			if len(points.xys) == 0 {
				continue
			}
			line, dots, err := lines(points.xys, of, shape, points.dashes...)
			if err != nil {
				return nil, err
			}
			delay.Add(line, dots)
		}
	}
	slices.Sort(counts)
	counts = slices.Compact(counts)
	for _, p := range []*plot.Plot{rate, delay} {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticksAt(counts)
		p.X.Min, p.X.Max = counts[0]/1.2, counts[len(counts)-1]*1.2
	}
	rate.Y.Min, rate.Y.Tick.Marker = 0, roundTicks{}
	rate.Y.Max *= 1.08
	logarithmic(&delay.Y)
	return svg(vg.Points(260)+legendHeight(len(found))+2*margin, func(c draw.Canvas) {
		withLegend(c, &legend, len(found), func(c draw.Canvas) { panels(c, rate, delay) })
	})
}

var shapes = []draw.GlyphDrawer{
	draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{},
}

// shardsPlot is throughput against shards, and the line that it would follow if each did what one did alone.
func shardsPlot(found []step) ([]byte, error) {
	p := newPlot("The same work on more shards, each held to a slice of a core", "shards", "transfers in a second")
	most := found[len(found)-1].size
	ideal, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, {X: most, Y: linear(found, most)}})
	if err != nil {
		return nil, err
	}
	ideal.Color, ideal.Width, ideal.Dashes = grey, vg.Points(1.4), []vg.Length{vg.Points(5), vg.Points(4)}
	var (
		points plotter.XYs
		counts []float64
		texts  []string
	)
	for _, s := range found {
		points, counts = append(points, plotter.XY{X: s.size, Y: s.PerSecond}), append(counts, s.size)
		texts = append(texts, fmt.Sprintf("%s (%s of linear)", number(s.PerSecond), number(s.PerSecond/linear(found, s.size))))
	}
	line, dots, err := lines(points, blue, draw.CircleGlyph{})
	if err != nil {
		return nil, err
	}
	style := sans(textSize-1, ink)
	style.YAlign = draw.YTop
	beside, err := labels(points, texts, style, vg.Point{X: vg.Points(6), Y: -vg.Points(4)})
	if err != nil {
		return nil, err
	}
	p.Add(ideal, line, dots, beside)
	p.Legend.Add("measured", line, dots)
	p.Legend.Add("as many times one shard", ideal)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), -vg.Points(6)
	p.X.Min, p.X.Max, p.X.Tick.Marker = 0, most*1.22, ticksAt(counts)
	p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, p.Y.Max*1.08, roundTicks{}
	return svg(vg.Points(300)+2*margin, func(c draw.Canvas) { p.Draw(c) })
}

// cpuPlot is processor time of a transfer against whatever grows; nil if nothing does.
func cpuPlot(run *bench.Run) ([]byte, error) {
	const all, postgres = "Postgres, lanes and load", "Postgres"
	var (
		plots  []*plot.Plot
		legend = newLegend()
		named  = make(map[string]bool)
		most   float64
	)
	for _, panel := range []struct{ work, x string }{
		{growShards, "shards"}, {growAccounts, "accounts"}, {growHistory, "entries of history"},
	} {
		p := newPlot("", panel.x, "")
		var sizes []float64
		for _, curve := range []struct {
			name         string
			checkpointed bool
			value        func(step) float64
			of           color.Color
			shape        draw.GlyphDrawer
			dashes       []vg.Length
		}{
			{all, false, func(s step) float64 { return s.postgres() + s.client() }, vermillion, draw.BoxGlyph{}, nil},
			{postgres, false, step.postgres, blue, draw.CircleGlyph{}, nil},
			{postgres + ", right after a checkpoint", true, step.postgres, blue, draw.RingGlyph{}, []vg.Length{vg.Points(4), vg.Points(3)}},
		} {
			found := steps(run, panel.work, curve.checkpointed)
			if len(found) == 0 {
				continue
			}
			var points plotter.XYs
			for _, s := range found {
				sizes, points = append(sizes, s.size), append(points, plotter.XY{X: s.size, Y: curve.value(s)})
				most = math.Max(most, curve.value(s))
			}
			line, dots, err := lines(points, curve.of, curve.shape, curve.dashes...)
			if err != nil {
				return nil, err
			}
			p.Add(line, dots)
			if !named[curve.name] {
				named[curve.name] = true
				legend.Add(curve.name, line, dots)
			}
		}
		if len(sizes) == 0 {
			continue
		}
		slices.Sort(sizes)
		sizes = slices.Compact(sizes)
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticksAt(sizes)
		p.X.Min, p.X.Max = sizes[0]/1.5, sizes[len(sizes)-1]*1.5
		plots = append(plots, p)
	}
	if len(plots) == 0 {
		return nil, nil
	}
	for _, p := range plots {
		p.Y.Min, p.Y.Max, p.Y.Tick.Marker = 0, 1.1*most, roundTicks{}
	}
	plots[0].Y.Label.Text = "processor time of a transfer, µs"
	return svg(vg.Points(240)+legendHeight(len(named))+2*margin, func(c draw.Canvas) {
		withLegend(c, &legend, len(named), func(c draw.Canvas) { panels(c, plots...) })
	})
}
