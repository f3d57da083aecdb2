package telemetry

import (
	"context"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// discard is a processor of what is kept.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }

// BenchmarkNotChosen is what a request costs whose trace the head has not chosen and where all goes well: a span that is
// recorded and thrown away.
func BenchmarkNotChosen(b *testing.B) {
	tail := newTail(discard{}, time.Second, func(int, string) {})
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(tail),
		sdktrace.WithSampler(sampler{head: sdktrace.ParentBased(sdktrace.NeverSample()), tail: true})).Tracer("")
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(tracing.Step.String("start"))}
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracer.Start(context.Background(), "POST /transfers", options...)
		span.SetAttributes(tracing.TxID.String("t1"), tracing.Outcome.String("applied"))
		span.End()
	}
}
