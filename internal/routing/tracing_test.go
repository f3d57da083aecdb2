package routing_test

import (
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Who is held at a fence says so in a span, with a link to the move, also who waits without having asked the shard.
func TestWaitsAreTraced(t *testing.T) { // everything is traced meanwhile: not beside others
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	otel.SetTracerProvider(provider)
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	s := newSystem(t, 2)
	r := s.router(fenceWait(long))
	user, other := s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
	s.create(r, 100, user, other)
	j := s.journey("s1", "s2", user)
	j.fence()
	j.exclusively("s1", `update saldo.slots set move_id = 'm1' where slot = any($1)`)
	done := make(chan error, 2)
	for i := range 2 {
		go func() {
			ctx, span := provider.Tracer("test").Start(s.ctx, "request")
			defer span.End()
			op := transfer(user, other, []ledger.TxID{"t1", "t2"}[i], 1)
			_, _, err := r.Transfer(ctx, op, 0)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond) // the second knows of the fence
	}
	j.copy()
	j.decide()
	j.activate()
	j.tombstone()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	waits := 0
	for _, span := range spans.Ended() {
		if span.Name() != "wait at a fence" {
			continue
		}
		waits++
		if len(span.Links()) != 1 || span.Links()[0].SpanContext.TraceID() != tracing.MoveTrace("m1").TraceID() {
			t.Errorf("a wait links to %v", span.Links())
		}
	}
	if waits < 2 {
		t.Errorf("%d waits are told", waits)
	}
}
