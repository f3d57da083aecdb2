package telemetry

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// startTracing exports spans if the environment says where to. Otherwise none are made, which the services can tell by the
// noop.TracerProvider. Traces are continued from callers either way.
func (t *Telemetry) startTracing(ctx context.Context, about *resource.Resource) error {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if !exported("TRACES") {
		otel.SetTracerProvider(noop.NewTracerProvider())
		return nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))
	otel.SetTracerProvider(provider)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}
