package tracing

import (
	"context"
	"crypto/sha256"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// MoveTrace is the context of the trace of a move. It follows from the move's id: coordinators that lead one after another
// write to one trace, and a router that only knows which move it waits for can link to it.
func MoveTrace(id placement.MoveID) trace.SpanContext {
	sum := sha256.Sum256([]byte("saldo move " + id))
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(sum[:16]), SpanID: trace.SpanID(sum[16:24]), TraceFlags: trace.FlagsSampled,
	})
}

// StartMove starts the span of somebody who works on a move, at the top of the move's trace. Moves are few, and worth
// looking at: the attribute, given at the start, has them all kept.
func StartMove(ctx context.Context, tracer trace.Tracer, name string, id placement.MoveID, options ...trace.SpanStartOption) (
	context.Context, trace.Span,
) {
	if tracer == nil {
		return ctx, None
	}
	// Without the id of a span there is no parent, and the span begins the trace that is asked for.
	ctx = trace.ContextWithSpanContext(ctx, MoveTrace(id).WithSpanID(trace.SpanID{}))
	return tracer.Start(ctx, name, append(options, trace.WithAttributes(Move.String(string(id))))...)
}
