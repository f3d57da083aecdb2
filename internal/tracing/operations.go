package tracing

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

type spansKey struct{}

// WithSpans returns a context for a call that does several operations, each of which is part of another trace. Their spans
// are in the order of the operations; an operation has no room for one, since it is what is stored and compared.
func WithSpans(ctx context.Context, spans []trace.Span) context.Context {
	return context.WithValue(ctx, spansKey{}, spans)
}

// Spans returns the spans of the n operations of a call; nil if they have none of their own.
func Spans(ctx context.Context, n int) []trace.Span {
	spans, _ := ctx.Value(spansKey{}).([]trace.Span)
	if len(spans) != n {
		return nil
	}
	return spans
}

// Some returns a context for a call that does some of the n operations of another one, these.
func Some(ctx context.Context, n int, at []int) context.Context {
	all := Spans(ctx, n)
	if all == nil || n == len(at) {
		return ctx
	}
	some := make([]trace.Span, len(at))
	for i, j := range at {
		some[i] = all[j]
	}
	return WithSpans(ctx, some)
}
