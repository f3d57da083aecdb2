package telemetry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// traced is a provider whose head chooses nothing, and what its tail keeps.
type traced struct {
	trace.Tracer
	tail    *tail
	kept    *tracetest.SpanRecorder
	mu      sync.Mutex
	dropped map[string]int
}

func newTraced(t *testing.T, slow time.Duration) *traced {
	to := &traced{kept: tracetest.NewSpanRecorder(), dropped: make(map[string]int)}
	to.tail = newTail(to.kept, slow, func(n int, why string) {
		to.mu.Lock()
		defer to.mu.Unlock()
		to.dropped[why] += n
	})
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(to.tail),
		sdktrace.WithSampler(sampler{head: sdktrace.ParentBased(sdktrace.NeverSample()), tail: true}))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	to.Tracer = provider.Tracer("")
	return to
}

func (to *traced) names() (names []string) {
	for _, s := range to.kept.Ended() {
		names = append(names, s.Name())
		if !s.SpanContext().IsSampled() {
			names = append(names, "(not sampled)")
		}
	}
	return names
}

// remote is the context of a span elsewhere.
func remote(id byte, flags trace.TraceFlags) context.Context {
	return trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{id}, SpanID: trace.SpanID{id}, TraceFlags: flags,
	}))
}

func TestTail(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) trace.SpanStartOption { return trace.WithTimestamp(time.Now().Add(-d)) }
	for _, c := range []struct {
		name string
		do   func(to *traced)
		want string
	}{
		{"all is well", func(to *traced) {
			ctx, top := to.Start(context.Background(), "request")
			_, part := to.Start(ctx, "part")
			part.End()
			top.End()
		}, ""},
		{"a part fails", func(to *traced) {
			ctx, top := to.Start(context.Background(), "request")
			_, first := to.Start(ctx, "first")
			first.End()
			_, part := to.Start(ctx, "part")
			tracing.Fail(part, errors.New("no"))
			part.End()
			_, later := to.Start(ctx, "later")
			later.End()
			top.End()
		}, "first part later request"},
		{"the request fails", func(to *traced) {
			ctx, top := to.Start(context.Background(), "request")
			_, part := to.Start(ctx, "part")
			part.End()
			tracing.Fail(top, errors.New("no"))
			top.End()
		}, "part request"},
		{"it is slow", func(to *traced) {
			ctx, top := to.Start(context.Background(), "request", ago(2*time.Second))
			_, part := to.Start(ctx, "part")
			part.End()
			top.End()
		}, "part request"},
		{"a part is as slow as may be", func(to *traced) {
			_, top := to.Start(context.Background(), "request", ago(900*time.Millisecond))
			top.End()
		}, ""},
		{"a saga of the request is refunded after the answer", func(to *traced) {
			ctx, top := to.Start(remote(1, 0), "request")
			_, saga := to.Start(trace.ContextWithRemoteSpanContext(context.Background(), trace.SpanContextFromContext(ctx)), "saga")
			top.End()
			saga.SetAttributes(tracing.SagaState.String("refunded"))
			saga.End()
		}, "request saga"},
		{"a saga of another process is old", func(to *traced) {
			ctx, saga := to.Start(remote(1, 0), "saga", trace.WithAttributes(tracing.SagaAge.Float64(1.5)))
			_, credit := to.Start(ctx, "credit")
			credit.End()
			saga.End()
		}, "credit saga"},
		{"a saga of another process is young", func(to *traced) {
			_, saga := to.Start(remote(1, 0), "saga", trace.WithAttributes(tracing.SagaAge.Float64(0.5)))
			saga.End()
		}, ""},
		{"the head has chosen", func(to *traced) {
			ctx, top := to.Start(remote(1, trace.FlagsSampled), "request")
			_, part := to.Start(ctx, "part")
			part.End()
			top.End()
		}, "part request"},
		{"a part outlives its request", func(to *traced) {
			ctx, top := to.Start(context.Background(), "request")
			_, part := to.Start(ctx, "part")
			top.End()
			tracing.Fail(part, errors.New("too late"))
			part.End()
		}, ""},
		{"a batch that carries what was chosen", func(to *traced) {
			link := trace.Link{SpanContext: trace.SpanContextFromContext(remote(1, trace.FlagsSampled))}
			_, batch := to.Start(context.Background(), "batch", trace.WithLinks(link))
			batch.End()
		}, "batch"},
		{"a batch that does not", func(to *traced) {
			link := trace.Link{SpanContext: trace.SpanContextFromContext(remote(1, 0))}
			_, batch := to.Start(context.Background(), "batch", trace.WithLinks(link))
			batch.End()
		}, ""},
		{"a move", func(to *traced) {
			ctx, move := tracing.StartMove(context.Background(), to, "move", "m1")
			_, phase := to.Start(ctx, "copy")
			phase.End()
			move.End()
			if move.SpanContext().TraceID() != tracing.MoveTrace("m1").TraceID() || move.SpanContext().TraceID() == tracing.MoveTrace("m2").TraceID() {
				panic(fmt.Sprint("the move has the trace ", move.SpanContext().TraceID()))
			}
		}, "copy move"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			to := newTraced(t, time.Second)
			c.do(to)
			if got := strings.Join(to.names(), " "); got != c.want {
				t.Errorf("kept is %q, not %q", got, c.want)
			}
			if len(to.tail.open) != 0 || to.tail.held != 0 || len(to.dropped) != 0 {
				t.Errorf("%d traces and %d spans stay, %v are dropped", len(to.tail.open), to.tail.held, to.dropped)
			}
		})
	}
}

func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	to := newTraced(t, time.Minute)
	var open []trace.Span
	for range mostOpen + 3 {
		_, span := to.Start(context.Background(), "request")
		open = append(open, span)
	}
	if got := len(to.tail.open); got != mostOpen || to.dropped["crowded"] != 3 {
		t.Errorf("%d traces are open, %v dropped", got, to.dropped)
	}
	for _, span := range open {
		span.End()
	}

	ctx, top := to.Start(context.Background(), "request")
	for i := range mostHeldEach + 100 {
		_, part := to.Start(ctx, fmt.Sprint(i))
		part.End()
	}
	if to.tail.held != mostHeldEach {
		t.Errorf("%d spans are held for one trace", to.tail.held)
	}
	tracing.Fail(top, errors.New("no"))
	top.End()
	if names := to.names(); len(names) != mostHeldEach+1 || !slices.Contains(names, "request") {
		t.Errorf("%d spans are kept of a trace with too many: %v", len(names), names)
	}

	for range 3 * mostKept { // within two seconds, in all
		_, span := to.Start(context.Background(), "outage")
		tracing.Fail(span, errors.New("no"))
		span.End()
	}
	if kept := len(to.names()); kept > 2*mostKept+mostHeldEach+1 || to.dropped["too many"] == 0 {
		t.Errorf("%d spans are kept in an outage, %v dropped", kept, to.dropped)
	}
	if len(to.tail.open) != 0 || to.tail.held != 0 {
		t.Errorf("%d traces and %d spans stay", len(to.tail.open), to.tail.held)
	}
}

// A client may give all its requests one trace, of which one is always under way.
func TestTailOfATraceWithoutEnd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		n       int // requests
		others  int // parts worth keeping in this second
		fails   bool
		most    int // spans of the trace that are kept
		dropped bool
	}{
		{"all is well", 200_000, 0, false, 0, false},
		{"one fails", 20_000, 0, true, mostKeptEach, true},
		{"one fails in an outage", 20_000, 1000 * mostKept, true, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			to := newTraced(t, time.Minute)
			to.tail.keep.second, to.tail.keep.taken = time.Now().Unix(), c.others
			_, last := to.Start(remote(1, 0), "request")
			if c.fails {
				tracing.Fail(last, errors.New("no"))
			}
			for range c.n {
				ctx, next := to.Start(remote(1, 0), "request")
				_, part := to.Start(ctx, "part")
				part.End()
				last.End()
				last = next
			}
			if got := to.tail.held; got > 2*mostHeldEach || len(to.tail.open) != 1 {
				t.Errorf("%d spans of %d traces are held", got, len(to.tail.open))
			}
			if got := len(to.names()); got > c.most || c.most > 0 && got < c.most-2*mostHeldEach {
				t.Errorf("%d spans are kept", got)
			}
			if got := to.dropped["too many"]; c.dropped != (got > c.n) {
				t.Errorf("%d are dropped", got)
			}

			before := len(to.names())
			to.tail.keep.second = 0 // another second
			ctx, top := to.Start(context.Background(), "another")
			_, part := to.Start(ctx, "its part")
			part.End()
			tracing.Fail(top, errors.New("no"))
			top.End()
			if got := to.names()[before:]; !slices.Equal(got, []string{"its part", "another"}) {
				t.Errorf("of another trace %v is kept", got)
			}
			last.End()
			if to.tail.held != 0 || len(to.tail.open) != 0 {
				t.Errorf("%d spans of %d traces stay", to.tail.held, len(to.tail.open))
			}
		})
	}
}

func TestTailInParallel(t *testing.T) {
	t.Parallel()
	to := newTraced(t, time.Minute)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 500 {
				ctx, top := to.Start(context.Background(), "request")
				var parts sync.WaitGroup
				for range 3 {
					parts.Go(func() {
						_, part := to.Start(ctx, "part")
						part.End()
					})
				}
				top.End()
				parts.Wait()
			}
		})
	}
	group.Wait()
	if len(to.tail.open) != 0 || to.tail.held != 0 || len(to.names()) != 0 {
		t.Errorf("%d traces and %d spans stay, %d are kept", len(to.tail.open), to.tail.held, len(to.names()))
	}
}

func TestPerSecond(t *testing.T) {
	t.Parallel()
	budget, taken := perSecond{most: 3}, 0
	at := time.Unix(1000, 0)
	for i := range 40 { // 4 s, ten times each
		if budget.take(at.Add(time.Duration(i) * 100 * time.Millisecond)) {
			taken++
		}
	}
	if taken != 12 {
		t.Errorf("%d were taken in 4 s, 3 each", taken)
	}
}
