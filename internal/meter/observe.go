package meter

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Value is an instrument that is read when somebody asks.
type Value struct{ instrument metric.Float64Observable }

// Level returns a value that is added up where several parts of a process have the same attributes: what is in a queue.
func (m Meter) Level(name, unit, about string) Value {
	return Value{must(m.of.Float64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(about)))}
}

// Gauge returns a value of which one will do where several parts of a process have it: what is known of the cluster.
func (m Meter) Gauge(name, unit, about string) Value {
	return Value{must(m.of.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(about)))}
}

// Total returns a value that only grows, and that somebody else counts.
func (m Meter) Total(name, unit, about string) Value {
	return Value{must(m.of.Float64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(about)))}
}

// Observer takes values.
type Observer func(value Value, is float64, attributes ...attribute.KeyValue)

// Observe has read called whenever somebody asks, until stop is. read gives the values that it names.
func (m Meter) Observe(read func(Observer), values ...Value) (stop func()) {
	instruments := make([]metric.Observable, len(values))
	for i, value := range values {
		instruments[i] = value.instrument
	}
	registration := must(m.of.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		read(func(value Value, is float64, attributes ...attribute.KeyValue) {
			to.ObserveFloat64(value.instrument, is, set(attributes))
		})
		return nil
	}, instruments...))
	return func() { _ = registration.Unregister() } // it cannot fail
}

// Is is 1 for what is so, 0 for what is not.
func Is(so bool) float64 {
	if so {
		return 1
	}
	return 0
}
