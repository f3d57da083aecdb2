package meter_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/saldo-ledger/saldo/internal/meter"
)

// The instruments are those of the process's provider, so this is one test.
func TestInstruments(t *testing.T) {
	reader := metric.NewManualReader()
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(reader)))
	of := meter.Of("internal/meter")
	counter := of.Counter("saldo.test.events", "{event}", "Events.").With(meter.Attr("kind", "seen"))
	took := of.Durations("saldo.test.duration", "Durations.", meter.Soon).With(meter.Attr("kind", "seen"))
	sizes := of.Sizes("saldo.test.size", "{thing}", "Sizes.").With()
	level, gauge := of.Level("saldo.test.level", "{thing}", "Level."), of.Gauge("saldo.test.gauge", "", "Gauge.")
	total := of.Total("saldo.test.total", "{thing}", "Total.")
	var stops []func()
	for range 2 { // two parts of a process
		stops = append(stops, of.Observe(func(observe meter.Observer) {
			observe(level, 3)
			observe(gauge, 3)
			observe(total, 3)
		}, level, gauge, total))
	}
	want := func(want map[string]float64) {
		t.Helper()
		got := collect(t, reader)
		for name, value := range want {
			if n, ok := got[name]; !ok || n != value {
				t.Errorf("%s is %v (%v), want %v", name, n, ok, value)
			}
		}
	}
	want(map[string]float64{"saldo.test.events": 0, "saldo.test.level": 6, "saldo.test.gauge": 3, "saldo.test.total": 6})

	ctx := context.Background()
	for name, measure := range map[string]func(){
		"counter":   func() { counter.Add(2) },
		"durations": func() { took.Record(ctx, time.Millisecond) },
		"sizes":     func() { sizes.Record(7) },
	} {
		measure()
		if n := testing.AllocsPerRun(100, measure); n > 0 {
			t.Errorf("%s: to measure allocates %v times", name, n)
		}
	}
	stops[0]()
	want(map[string]float64{"saldo.test.events": 204, "saldo.test.duration": 102, "saldo.test.size": 102, "saldo.test.level": 3, "saldo.test.total": 3})
	stops[1]()
	stops[1]()
	if _, ok := collect(t, reader)["saldo.test.level"]; ok {
		t.Error("nobody observes the level, and it is told")
	}
	meter.Counter{}.Add(1) // a part that has no instruments
	meter.Durations{}.Record(ctx, time.Second)
	meter.Sizes{}.Record(1)
}

// collect returns each metric's value, a histogram's count.
func collect(t *testing.T, reader *metric.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				values[m.Name] = float64(data.DataPoints[0].Value)
			case metricdata.Sum[float64]:
				values[m.Name] = data.DataPoints[0].Value
			case metricdata.Gauge[float64]:
				values[m.Name] = data.DataPoints[0].Value
			case metricdata.Histogram[float64]:
				values[m.Name] = float64(data.DataPoints[0].Count)
			case metricdata.Histogram[int64]:
				values[m.Name] = float64(data.DataPoints[0].Count)
			}
		}
	}
	return values
}

func BenchmarkRecord(b *testing.B) {
	otel.SetMeterProvider(metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())))
	took := meter.Of("internal/meter").Durations("saldo.test.duration", "Durations.", meter.Soon).With(meter.Attr("kind", "seen"))
	b.ReportAllocs()
	for b.Loop() {
		took.Record(context.Background(), time.Millisecond)
	}
}
