// Package meter is OpenTelemetry's metrics as Saldo's packages use them: instruments that are bound to their attributes when
// something is opened, so that counting later allocates nothing; and bounds of histograms, the same for all.
//
// It owns how something is measured. It refuses to know what: each package says that itself, in its metrics.go. Where it all
// goes is decided by package telemetry; without that, nothing is kept.
//
// # Names
//
// An instrument is named saldo.<area>.<noun>, which Prometheus gets as saldo_area_noun, with the unit and, of counters, with
// _total behind it. Attributes are few and bounded: a shard, a kind, a reason, a phase, a code; never a user or a
// transaction.
package meter

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Meter makes the instruments of one package.
type Meter struct{ of metric.Meter }

// Of returns the meter of a package, named by its path in this module.
func Of(pkg string) Meter { return Meter{otel.Meter("github.com/saldo-ledger/saldo/" + pkg)} }

// Attr is an attribute with a text as its value.
func Attr[T ~string](key string, value T) attribute.KeyValue {
	return attribute.String(key, string(value))
}

// must returns an instrument. That there is none can only be the fault of its name.
func must[I any](instrument I, err error) I {
	if err != nil {
		panic("meter: " + err.Error())
	}
	return instrument
}

func set(attributes []attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attributes...))
}

// Counter counts events. The zero value counts nothing.
type Counter struct {
	instrument metric.Int64Counter
	options    []metric.AddOption
}

// Counter returns a counter. The unit says what is counted, in braces.
func (m Meter) Counter(name, unit, about string) Counter {
	return Counter{instrument: must(m.of.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(about)))}
}

// With returns the counter with its attributes. It stands at zero from then on: of a counter that begins at one, nobody can
// see by how much it has grown.
func (c Counter) With(attributes ...attribute.KeyValue) Counter {
	c.options = []metric.AddOption{set(attributes)}
	c.Add(0)
	return c
}

// Add counts n more events.
func (c Counter) Add(n int) {
	if c.instrument != nil {
		c.instrument.Add(context.Background(), int64(n), c.options...)
	}
}

// Durations is a histogram of how long something took, in seconds. The zero value keeps nothing.
type Durations struct {
	instrument metric.Float64Histogram
	options    []metric.RecordOption
}

// Durations returns a histogram with these bounds.
func (m Meter) Durations(name, about string, bounds []float64) Durations {
	return Durations{instrument: must(m.of.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(about),
		metric.WithExplicitBucketBoundaries(bounds...)))}
}

// With returns the histogram with its attributes.
func (d Durations) With(attributes ...attribute.KeyValue) Durations {
	d.options = []metric.RecordOption{set(attributes)}
	return d
}

// Record notes how long something took. If ctx is part of a sampled trace, that may become an example of its bucket.
func (d Durations) Record(ctx context.Context, took time.Duration) {
	if d.instrument != nil {
		d.instrument.Record(ctx, took.Seconds(), d.options...)
	}
}

// Sizes is a histogram of how many there were. The zero value keeps nothing.
type Sizes struct {
	instrument metric.Int64Histogram
	options    []metric.RecordOption
}

// Sizes returns a histogram whose bounds are powers of two.
func (m Meter) Sizes(name, unit, about string) Sizes {
	return Sizes{instrument: must(m.of.Int64Histogram(name, metric.WithUnit(unit), metric.WithDescription(about),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)))}
}

// With returns the histogram with its attributes.
func (s Sizes) With(attributes ...attribute.KeyValue) Sizes {
	s.options = []metric.RecordOption{set(attributes)}
	return s
}

// Record notes how many there were.
func (s Sizes) Record(n int) {
	if s.instrument != nil {
		s.instrument.Record(context.Background(), int64(n), s.options...)
	}
}

// Soon is for what a request waits for: from half a millisecond to ten seconds.
var Soon = []float64{.0005, .001, .002, .003, .005, .0075, .01, .015, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Long is for what may wait until a shard is back.
var Long = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200}
