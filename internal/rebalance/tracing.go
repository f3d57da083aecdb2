package rebalance

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// A mover's work on a move is one span of the move's trace, under it one for each phase that it takes the move through, or
// tries to, and under those one for each step that clients may feel. What is done piece by piece (copying, passes, comparing,
// deleting) has none: there are thousands.

// work begins the span of all that a mover does.
func (m *mover) work(ctx context.Context, name string) (context.Context, trace.Span) {
	return tracing.StartMove(ctx, m.tracer, name, m.move.ID, trace.WithAttributes(
		tracing.Slots.Int(len(m.move.Slots)), tracing.MovePhase.String(string(m.move.Phase))))
}

// part begins the span of a phase or a step.
func (m *mover) part(ctx context.Context, name string) (context.Context, trace.Span) {
	return tracing.StartUnder(ctx, m.tracer, name, trace.WithAttributes(
		tracing.Move.String(string(m.move.ID)), tracing.MovePhase.String(string(m.move.Phase))))
}

// endPart ends what part or work began. That somebody else has decided, or that this process is to stop, is no failure.
func endPart(ctx context.Context, span trace.Span, err error) {
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, errEnded), errors.Is(err, ErrChanged), errors.Is(err, ErrShardChanged),
		errors.Is(err, ErrNotLeading):
	default:
		tracing.Fail(span, err)
	}
	span.End()
}
