package saga

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// trail is what a run leaves in its request's trace: a span of its own, and one of each try of a step.
type trail struct {
	tracer trace.Tracer // nil if nothing is traced
	span   trace.Span   // of the run
	try    trace.Span   // of the step under way
	action Action       // that was tried last
	tries  int          // of it
	began  time.Time    // the try under way, if it has no span yet
}

// newTrail goes on with the trace whose context is in the saga's row: its request may have been answered long ago, by a
// process that is gone.
func newTrail(ctx context.Context, tracer trace.Tracer, p *Pending) trail {
	t := trail{tracer: tracer, span: tracing.None, try: tracing.None}
	if tracer == nil {
		return t
	}
	if p.Trace != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": p.Trace})
	}
	attributes := make([]attribute.KeyValue, 0, 2)
	attributes = append(attributes, tracing.TxID.String(string(p.TxID)))
	if !p.CreatedAt.IsZero() {
		attributes = append(attributes, tracing.SagaAge.Float64(time.Since(p.CreatedAt).Seconds()))
	}
	_, t.span = tracer.Start(ctx, tracing.SagaSpan, trace.WithAttributes(attributes...))
	return t
}

// traced is the context of what is said about the run.
func (t *trail) traced() context.Context { return trace.ContextWithSpan(context.Background(), t.span) }

func (t *trail) end(next Action, state State) {
	if !t.span.IsRecording() {
		return
	}
	if next == Stop {
		t.span.SetAttributes(tracing.SagaState.String(state.Phase.String()))
		if state.Cause != ledger.Applied {
			t.span.SetAttributes(tracing.Outcome.String(string(state.Cause)))
		}
	}
	t.span.End()
}

// told tells whether a try has a span: a shard that is away for an hour would have a thousand sagas fill everything with theirs.
// So each of the first eight has, and then the 16th, the 32nd and so on, and the one that is answered.
func told(try int) bool { return try <= 8 || try&(try-1) == 0 }

// begin begins a try of the next step.
func (r *run) begin() {
	t := &r.trail
	if r.action != t.action {
		t.action, t.tries = r.action, 0
	}
	if t.tries++; !t.span.IsRecording() {
		return
	}
	if t.began = time.Now(); told(t.tries) {
		r.tell()
	}
}

// tell makes the span of the try under way.
func (r *run) tell() {
	t, user := &r.trail, r.Initiator
	if t.action == SendCredit {
		user = r.Payee
	}
	ctx := trace.ContextWithSpan(context.Background(), t.span)
	_, t.try = t.tracer.Start(ctx, t.action.String(), trace.WithTimestamp(t.began), trace.WithAttributes(
		tracing.TxID.String(string(r.TxID)), tracing.Step.String(t.action.String()), tracing.Try.Int(t.tries),
		tracing.Slot.Int(int(placement.SlotOf(user)))))
}

// beginTries begins a try of each run's next step, and returns the contexts for the operations and for the ends among them.
func beginTries(ctx context.Context, runs []*run) (submitting, completing context.Context) {
	traced := false
	for _, r := range runs {
		r.begin()
		traced = traced || r.try.IsRecording()
	}
	if !traced {
		return ctx, ctx
	}
	var operations, ends []trace.Span
	for _, r := range runs {
		if r.action == SendComplete {
			ends = append(ends, r.try)
		} else {
			operations = append(operations, r.try)
		}
	}
	return tracing.WithSpans(ctx, operations), tracing.WithSpans(ctx, ends)
}

// endTries says what was answered. A refusal is an answer; that a slot is moving is none, but nobody's fault.
func endTries(runs []*run, answers []ledger.Answer) {
	for i, r := range runs {
		answer := &answers[i]
		if !r.span.IsRecording() {
			continue
		}
		if answer.Err == nil && !r.try.IsRecording() {
			r.tell()
		}
		span := r.try
		switch _, moving := refusedSlot(answer.Err); {
		case moving:
			span.SetAttributes(tracing.Outcome.String("not_owned"))
		case answer.Err != nil:
			span.SetAttributes(tracing.Outcome.String(tracing.Kind(answer.Err)))
			tracing.Fail(span, answer.Err)
		case answer.Result.Reason != ledger.Applied:
			span.SetAttributes(tracing.Outcome.String(string(answer.Result.Reason)))
		default:
			span.SetAttributes(tracing.Outcome.String("applied"))
		}
		span.End()
		r.try = tracing.None
	}
}
