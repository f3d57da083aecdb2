package shard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
	"github.com/saldo-ledger/saldo/shard"
)

// traced is a provider that records what begins in a sampled trace, and lets "quiet" traces be recorded only.
type traced struct {
	*tracetest.SpanRecorder
	trace.Tracer
	t *testing.T
}

// newTraced has everything that is opened until the test ends traced; so the test cannot run beside others.
func newTraced(t *testing.T) *traced {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(quietly{}))
	otel.SetTracerProvider(provider)
	t.Cleanup(func() { otel.SetTracerProvider(noop.NewTracerProvider()) })
	return &traced{SpanRecorder: spans, Tracer: provider.Tracer("test"), t: t}
}

// quietly samples all but what is called quiet, and what is under that.
type quietly struct{}

func (quietly) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	if p.Name == "quiet" || parent.IsValid() && !parent.IsSampled() {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordOnly}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
}

func (quietly) Description() string { return "quietly" }

// under calls do under a span of that name and returns what of its trace has ended by then, in the order of the ends, each
// with some attributes.
func (to *traced) under(name string, do func(ctx context.Context)) (trace.SpanContext, string) {
	ctx, span := to.Start(context.Background(), name)
	do(ctx)
	span.End()
	return span.SpanContext(), to.of(span.SpanContext().TraceID())
}

func (to *traced) of(id trace.TraceID) string {
	var said []string
	for _, s := range to.Ended() {
		if s.SpanContext().TraceID() != id || s.Name() == "connect" {
			continue
		}
		one := s.Name()
		for _, key := range []attribute.Key{tracing.TxID, tracing.Step, tracing.Outcome, tracing.Operations, tracing.BatchSize, "db.response.status_code"} {
			if v := attrOf(s, key); v != "" {
				one += " " + v
			}
		}
		if s.Status().Code == codes.Error {
			one += " !"
		}
		if text := fmt.Sprint(s.Attributes(), s.Events(), s.Status()); strings.Contains(text, "alice") || strings.Contains(text, "bob") {
			to.t.Errorf("%s says a name: %s", s.Name(), text)
		}
		said = append(said, one)
	}
	return strings.Join(said, ", ")
}

func attrOf(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

func TestLaneIsTraced(t *testing.T) {
	to := newTraced(t)
	b := open(t, func(c *shard.Config) { c.Writers = 1 })
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s:\n%s\nnot\n%s", what, got, want)
		}
	}

	context_, got := to.under("request", func(ctx context.Context) {
		op := pay("alice", "t1", "bob", 1)
		if _, err := b.Submit(ctx, op, b.holds(op)...); err != nil {
			t.Error(err)
		}
	})
	check("one operation", got, "load, store, batch 1, lane t1 start applied 1, request")
	itself := 0
	for _, s := range to.Ended() {
		if s.Name() == "batch" && !s.Parent().IsValid() && len(s.Links()) == 1 && s.Links()[0].SpanContext.TraceID() == context_.TraceID() {
			itself++
			check("the batch itself", to.of(s.SpanContext().TraceID()), "load, store, batch 1")
		}
	}
	if itself != 1 {
		t.Errorf("%d batches link to the operation", itself)
	}

	_, got = to.under("request", func(ctx context.Context) {
		op := pay("alice", "t2", "bob", 1_000_000)
		if result, err := b.Submit(ctx, op, b.holds(op)...); err != nil || result.Reason != ledger.InsufficientFunds {
			t.Error(result, err)
		}
	})
	check("a refusal", got, "load, store, batch 1, lane t2 start insufficient_funds 1, request")

	_, got = to.under("request", func(ctx context.Context) {
		ops := []ledger.Operation{pay("alice", "t3", "bob", 1), pay("bob", "t4", "alice", 1)}
		for _, a := range b.SubmitAll(ctx, ops, [][]placement.Hold{b.holds(ops[0]), b.holds(ops[1])}) {
			if a.Err != nil {
				t.Error(a.Err)
			}
		}
	})
	check("two operations of one request", got, "load, store, batch 2, lane applied 2, request")

	// Steps of sagas come together and are each part of another trace; one of these is not traced.
	var spans []trace.Span
	for range 2 {
		_, span := to.Start(context.Background(), "credit")
		spans = append(spans, span)
	}
	ops := []ledger.Operation{add("alice", "t5", 1), add("bob", "t6", 1), add("bob", "t7", 1)}
	b.SubmitAll(tracing.WithSpans(t.Context(), []trace.Span{spans[0], tracing.None, spans[1]}), ops,
		[][]placement.Hold{b.holds(ops[0]), b.holds(ops[1]), b.holds(ops[2])})
	check("a step", to.of(spans[0].SpanContext().TraceID()), "load, store, batch 3, lane t5 start applied 1")
	check("another step", to.of(spans[1].SpanContext().TraceID()), "load, store, batch 3, lane t7 start applied 1")

	// What is not chosen costs nothing as long as it is quick and well.
	_, got = to.under("quiet", func(ctx context.Context) {
		op := add("alice", "t8", 1)
		if _, err := b.Submit(ctx, op, b.holds(op)...); err != nil {
			t.Error(err)
		}
	})
	if got != "quiet" && !strings.HasPrefix(got, "load, store, batch 1, lane") { // on a busy machine it may be slow
		t.Errorf("quiet is told as %s", got)
	}

	// A slot that is elsewhere is no error: the router follows it. But it is said, with the refusal's code.
	slot := b.hold("alice")
	_, got = to.under("request", func(ctx context.Context) {
		if _, err := b.Submit(ctx, add("alice", "t9", 1), placement.Hold{Slot: slot.Slot, Epoch: slot.Epoch - 1}); err == nil {
			t.Error("an old epoch is accepted")
		}
	})
	check("an old epoch", got, "load SD010, batch 1, lane t9 start not_owned 1, request")

	_, got = to.under("request", func(ctx context.Context) {
		_, err := b.Submit(ctx, pay("alice", "t10", "bob", 1), slot)
		if err == nil {
			t.Error("an operation is accepted whose slots are not held")
		}
	})
	check("an impossible operation", got, "lane t10 start errors.errorString 1 !, request")
}

func TestReadsAreTraced(t *testing.T) {
	to := newTraced(t)
	b := open(t)
	b.user("alice")
	_, got := to.under("request", func(ctx context.Context) {
		_, err1 := b.User(ctx, "alice")
		_, err2 := b.Balance(ctx, "alice", "USD")
		_, err3 := b.History(ctx, "alice", "USD", 0, 10)
		_, err4 := b.Transfer(ctx, ledger.Identity{Initiator: "alice", TxID: "none"})
		if err1 != nil || err2 != nil || err3 != nil || ledger.CodeOf(err4) != ledger.CodeTransferNotFound {
			t.Error(err1, err2, err3, err4)
		}
	})
	if want := "read user, read balances, read history, read transfer, request"; got != want {
		t.Errorf("reads are %s, not %s", got, want)
	}
	for _, s := range to.Ended() {
		if !strings.HasPrefix(s.Name(), "read ") {
			continue
		}
		if attrOf(s, "db.system.name") != "postgresql" || attrOf(s, "db.namespace") == "" || attrOf(s, "server.address") == "" ||
			s.SpanKind() != trace.SpanKindClient {
			t.Errorf("%s says only %v", s.Name(), s.Attributes())
		}
	}
}

// A shard that is down: every attempt is told, also in a trace that nobody has chosen.
func TestTroubleIsTraced(t *testing.T) {
	to := newTraced(t)
	s := openAt(t, "postgres://saldo:canary@127.0.0.1:1/saldo", func(c *shard.Config) { c.Patience = 50 * time.Millisecond })
	for _, name := range []string{"request", "quiet"} {
		id, got := to.under(name, func(ctx context.Context) {
			op := add("alice", "t1", 1)
			if _, err := s.Submit(ctx, op, s.holds(op)...); ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Error(err)
			}
			if _, err := s.Balance(ctx, "alice", "USD"); ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Error(err)
			}
		})
		if !strings.Contains(got, "lane t1 start unavailable 1 !") || strings.Count(got, "batch 1 !") < 2 || !strings.Contains(got, "read balances !") {
			t.Errorf("%s is told as %s", name, got)
		}
		for _, span := range to.Ended() {
			if span.SpanContext().TraceID() == id.TraceID() && strings.Contains(fmt.Sprint(span.Attributes(), span.Events(), span.Status()), "canary") {
				t.Errorf("%s says a password: %v", span.Name(), span.Events())
			}
		}
	}
}
