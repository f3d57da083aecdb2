// Package tracing is what Saldo's packages share about traces: the names of attributes, how a span says what went wrong, and
// what a context cannot carry by itself. Everything else is OpenTelemetry's API, which they use directly.
//
// It refuses to know where spans go, and which are kept: package telemetry does.
//
// # What a trace of Saldo looks like
//
//	POST /transfers                     a request, of a router
//	├─ lane                             the debit, from the call to its answer; it has waited until the first batch
//	│  └─ batch                         one for each attempt
//	│     ├─ load                       a round trip to Postgres
//	│     └─ store
//	└─ saga                             the router's part
//	   ├─ credit                        one for each try
//	   │  └─ lane …
//	   └─ complete (or refund)
//	      └─ lane …
//
// A saga's row keeps the context of its request. A coordinator that goes on with it adds another saga to the same trace, an
// hour later too.
//
// # Batches
//
// A batch is made of operations of many requests, so it belongs to no one's trace. Its own trace has it once, with links to
// all that it carries and that are traced; that is the one to look at for who shared a commit. But viewers show one trace at
// a time and make links hard to find, if they show them. So the trace of each operation has a copy of its batches and their
// round trips, with a link to the batch itself: whoever asks where a transfer's time went sees it without leaving.
//
// # What is not in spans
//
// No amounts, no names: ids of users neither, and so no initiators. A transfer is found by its tx_id (and that is not a
// secret).
package tracing

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Attributes of spans. Those that OpenTelemetry has names for have these.
const (
	TxID        = attribute.Key("saldo.tx_id")
	Step        = attribute.Key("saldo.step")
	Outcome     = attribute.Key("saldo.outcome") // "applied", the reason of a refusal, or the code of an error
	Try         = attribute.Key("saldo.try")     // 1 is the first
	Operations  = attribute.Key("saldo.operations")
	Slot        = attribute.Key("saldo.slot")
	Slots       = attribute.Key("saldo.slots") // how many
	Shard       = attribute.Key("saldo.shard")
	Wait        = attribute.Key("saldo.lane.wait")  // for a writer, in seconds
	BatchSize   = attribute.Key("saldo.batch.size") // operations that share a commit, or reads a query
	SagaState   = attribute.Key("saldo.saga.state")
	SagaAge     = attribute.Key("saldo.saga.age") // when it was taken up from its home's queue, in seconds
	Move        = attribute.Key("saldo.move.id")
	MovePhase   = attribute.Key("saldo.move.phase")
	FenceMillis = attribute.Key("saldo.fence.ms")
)

// SagaSpan is the name of spans of sagas, which package telemetry looks at.
const SagaSpan = "saga"

// Tracer returns the tracer of a package, or nil if nothing is traced.
func Tracer(name string) trace.Tracer {
	provider := otel.GetTracerProvider()
	if _, off := provider.(noop.TracerProvider); off {
		return nil
	}
	return provider.Tracer("github.com/saldo-ledger/saldo/" + name)
}

// None is a span that records nothing.
var None = trace.SpanFromContext(context.Background())

// Start starts a span, unless the tracer is nil.
func Start(ctx context.Context, tracer trace.Tracer, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if tracer == nil {
		return ctx, None
	}
	return tracer.Start(ctx, name, options...)
}

// StartUnder starts a span where there is one that records already: what is part of something that nobody traces has no
// span.
func StartUnder(ctx context.Context, tracer trace.Tracer, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if tracer == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, None
	}
	return tracer.Start(ctx, name, options...)
}

// Fail says in a span that its work went wrong: the package telemetry keeps the trace.
func Fail(span trace.Span, err error) {
	if !span.IsRecording() {
		return
	}
	text := Text(err)
	span.SetStatus(codes.Error, text)
	span.SetAttributes(semconv.ErrorTypeKey.String(Kind(err)))
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(
		semconv.ExceptionType(Kind(err)), semconv.ExceptionMessage(text)))
}

// Crashed says in a span that its work met something unexpected, and where.
func Crashed(span trace.Span, err error, stack string) {
	if !span.IsRecording() {
		return
	}
	text := Text(err)
	span.SetStatus(codes.Error, text)
	span.SetAttributes(semconv.ErrorTypeKey.String(Kind(err)))
	span.AddEvent(semconv.ExceptionEventName, trace.WithAttributes(
		semconv.ExceptionType(Kind(err)), semconv.ExceptionMessage(text), semconv.ExceptionStacktrace(stack)))
}

// Text is what may be said of an error outside the log. An impossible operation is quoted by its error, with names and
// amounts.
func Text(err error) string {
	if errors.Is(err, ledger.ErrImpossible) {
		return ledger.ErrImpossible.Error() + ": the log has it"
	}
	return err.Error()
}

// Kind is the code of an error that has one, and else the type of what is at the bottom of it.
func Kind(err error) string {
	if code := ledger.CodeOf(err); code != "" {
		return string(code)
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	t := reflect.TypeOf(err)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.PkgPath() == "" {
		return t.String()
	}
	return fmt.Sprintf("%s.%s", t.PkgPath(), t.Name())
}
