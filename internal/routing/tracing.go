package routing

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// beginWait begins the span of a call that waits for slots that move, linked to the traces of their moves. err is what it was
// refused with.
func (r *Router) beginWait(ctx context.Context, slots []ledger.Slot, err error) (context.Context, trace.Span) {
	ctx, span := tracing.StartUnder(ctx, r.tracer, "wait at a fence")
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(tracing.Slots.Int(len(slots)), tracing.Slot.Int(int(slots[0])))
	for _, id := range r.fences.movesOf(slots, err) {
		span.SetAttributes(tracing.Move.String(string(id)))
		span.AddLink(trace.Link{SpanContext: tracing.MoveTrace(id)})
	}
	return ctx, span
}

// movesOf returns the moves under which slots are fenced, each once, as far as a refusal has said; and remembers that for those
// who wait without having asked.
func (f *fences) movesOf(slots []ledger.Slot, err error) (ids []placement.MoveID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var refused *placement.OwnershipError
	if errors.As(err, &refused) {
		for _, refusal := range refused.Refusals {
			if refusal.Move != "" {
				f.moves[refusal.Slot] = refusal.Move
			}
		}
	}
	known := make(map[placement.MoveID]struct{}, 1)
	for _, slot := range slots {
		id := f.moves[slot]
		if _, ok := known[id]; !ok && id != "" {
			known[id] = struct{}{}
			ids = append(ids, id)
		}
	}
	return ids
}

// endSpan ends the span of a wait, which ends well or with an error.
func endSpan(span trace.Span, err error) {
	if err != nil {
		tracing.Fail(span, err)
	}
	span.End()
}
