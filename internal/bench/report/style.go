package report

import (
	"bytes"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colours that people who do not see all of them can tell apart (Okabe and Ito).
var (
	blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	orange     = color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	green      = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	purple     = color.RGBA{0xcc, 0x79, 0xa7, 0xff}
	sky        = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	ink        = color.RGBA{0x24, 0x29, 0x2f, 0xff}
	grey       = color.RGBA{0x9a, 0xa0, 0xa6, 0xff}
	pale       = color.RGBA{0xe6, 0xe8, 0xea, 0xff}

	palette = []color.RGBA{blue, vermillion, green, orange, purple, sky, ink, grey}
)

const (
	plotWidth vg.Length = 640 // points
	margin    vg.Length = 12
	textSize  vg.Length = 10
)

// sans is a style of text.
func sans(size vg.Length, of color.Color) text.Style {
	return text.Style{
		Color: of, Font: font.From(font.Font{Typeface: "Liberation", Variant: "Sans"}, size), Handler: plot.DefaultTextHandler,
	}
}

// restyle gives a plot or one of its axes our text, colours and distances, and leaves alignment as it is.
func restyle(style *text.Style, size vg.Length, of color.Color) {
	with := sans(size, of)
	with.XAlign, with.YAlign, with.Rotation = style.XAlign, style.YAlign, style.Rotation
	*style = with
}

// newPlot is an empty plot with a grid.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	restyle(&p.Title.TextStyle, textSize+1, ink)
	p.Title.Padding = vg.Points(8)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		restyle(&axis.Label.TextStyle, textSize, ink)
		restyle(&axis.Tick.Label, textSize-1, ink)
		axis.Label.Padding = vg.Points(4)
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = grey, grey
		axis.Padding = 0
	}
	restyle(&p.Legend.TextStyle, textSize-1, ink)
	p.Legend.Padding = vg.Points(3)
	p.Legend.YPosition = draw.PosCenter
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = pale, pale
	p.Add(grid)
	return p
}

// roundTicks labels an axis at four to eight round numbers.
type roundTicks struct{}

func (roundTicks) Ticks(least, most float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10((most-least)/4)))
	for _, factor := range []float64{5, 2} {
		if (most-least)/(factor*step) >= 4 {
			step *= factor
			break
		}
	}
	var values []float64
	for value := math.Ceil(least/step) * step; value <= most; value += step {
		values = append(values, value)
	}
	return ticksAt(values)
}

// ticksAt labels an axis at the given values.
func ticksAt(values []float64) plot.ConstantTicks {
	ticks := make(plot.ConstantTicks, len(values))
	for i, value := range values {
		ticks[i] = plot.Tick{Value: value, Label: short(value)}
	}
	return ticks
}

// logarithmic makes an axis so, with a tick for each power of ten.
func logarithmic(axis *plot.Axis) {
	axis.Min = math.Pow(10, math.Floor(math.Log10(axis.Min)))
	axis.Max = math.Pow(10, math.Ceil(math.Log10(axis.Max)))
	var powers []float64
	for power := axis.Min; power < 1.01*axis.Max; power *= 10 {
		powers = append(powers, power)
	}
	axis.Scale, axis.Tick.Marker = plot.LogScale{}, ticksAt(powers)
}

// lines draws points with a line through them.
func lines(
	points plotter.XYs, of color.Color, shape draw.GlyphDrawer, dashes ...vg.Length,
) (*plotter.Line, *plotter.Scatter, error) {
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return nil, nil, err
	}
	line.Color, line.Width, line.Dashes = of, vg.Points(1.8), dashes
	dots.Color, dots.Radius, dots.Shape = of, vg.Points(3), shape
	return line, dots, nil
}

// svg draws something on white, which is readable on a dark page too.
func svg(height vg.Length, paint func(draw.Canvas)) ([]byte, error) {
	canvas := vgsvg.New(plotWidth, height)
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	paint(draw.Crop(whole, margin, -margin, margin, -margin))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	// The text was set in Liberation Sans, which few machines have. Arial and Helvetica have the same widths.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"),
		[]byte("font-family:Arial,Helvetica,Liberation Sans,sans-serif;")), nil
}

// labels writes texts beside points.
func labels(at plotter.XYs, texts []string, style text.Style, offset vg.Point) (*plotter.Labels, error) {
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: at, Labels: texts})
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i] = style
	}
	labels.Offset = offset
	return labels, nil
}

// newLegend stands apart from its plot.
func newLegend() plot.Legend {
	legend := plot.NewLegend()
	restyle(&legend.TextStyle, textSize-1, ink)
	legend.Top, legend.Left, legend.Padding, legend.YPosition = true, true, vg.Points(4), draw.PosCenter
	return legend
}

// legendHeight is the height of a legend with so many lines, and of the gap above it.
func legendHeight(entries int) vg.Length {
	return vg.Length(entries)*(textSize+vg.Points(4)) + vg.Points(8)
}

// withLegend draws below and leaves room for a legend of so many lines under it.
func withLegend(c draw.Canvas, legend *plot.Legend, entries int, below func(draw.Canvas)) {
	height := legendHeight(entries)
	below(draw.Crop(c, 0, 0, height, 0))
	legend.Draw(draw.Crop(c, vg.Points(40), 0, 0, -(c.Max.Y - c.Min.Y - height + vg.Points(6))))
}

// panels draws plots side by side, their axes in line.
func panels(c draw.Canvas, plots ...*plot.Plot) {
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Points(14)}
	for i, canvas := range plot.Align([][]*plot.Plot{plots}, tiles, c)[0] {
		plots[i].Draw(canvas)
	}
}
