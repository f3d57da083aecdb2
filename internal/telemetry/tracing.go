package telemetry

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// startTracing exports spans if the environment says where to. Otherwise none are made, which the services can tell by the
// noop.TracerProvider. Traces are continued from callers either way.
//
//	head (sampler)  chooses traces when they begin; the choice goes with them, also with a saga to another process
//	tail            keeps others that turn out to be worth it
//	queue           bounded, in front of OpenTelemetry's batches and export
func (t *Telemetry) startTracing(ctx context.Context, config Config, about *resource.Resource) error {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	if !exported("TRACES") {
		otel.SetTracerProvider(noop.NewTracerProvider())
		return nil
	}
	head, err := headSampler()
	if err != nil {
		return err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return err
	}
	drop, err := droppedSpans()
	if err != nil {
		return err
	}
	var processor sdktrace.SpanProcessor = newQueue(exporter, drop)
	if config.Slow > 0 {
		processor = newTail(processor, config.Slow, drop)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler{head: head, tail: config.Slow > 0}),
		sdktrace.WithSpanProcessor(processor), sdktrace.WithResource(about))
	otel.SetTracerProvider(provider)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}

// droppedSpans counts spans that were to be kept and are lost.
func droppedSpans() (drop func(n int, why string), err error) {
	counter, err := otel.Meter("github.com/saldo-ledger/saldo/internal/telemetry").Int64Counter("saldo.telemetry.spans.dropped",
		metric.WithUnit("{span}"), metric.WithDescription("Spans that are lost, by why: the collector takes them too slowly or not at "+
			"all, or there were more traces worth keeping than are kept at a time."))
	if err != nil {
		return nil, err
	}
	return func(n int, why string) {
		counter.Add(context.Background(), int64(n), metric.WithAttributes(attribute.String("reason", why)))
	}, nil
}
