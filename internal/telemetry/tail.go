package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// tail keeps traces that the head has not chosen, if something has gone wrong in them or took long: an error, a refund, a
// request that takes longer than slow, a saga that a coordinator finds older than that.
//
// It knows what happens in this process only. What other processes do for the same trace is decided there, by the same
// rules: a router and a coordinator may each keep their part of a transfer that went wrong, and a part where all went well
// is not kept. (The head's choice, in contrast, goes with the trace everywhere.)
//
// Everything is bounded: traces that are open, spans that wait for the end of theirs, traces that are kept in a second, and
// spans of a trace that is kept. A client may give all its requests one trace, which then has no end here.
type tail struct {
	next sdktrace.SpanProcessor
	slow time.Duration
	drop func(n int, why string)
	keep perSecond

	mu   sync.Mutex // guards what follows
	open map[trace.TraceID]*part
	held int // spans
}

// part is what this process does of a trace.
type part struct {
	tops  int                     // spans under way whose parents are elsewhere, or that have none
	spans []sdktrace.ReadOnlySpan // that wait until it is known whether they are kept
	worth bool                    // of being kept
	kept  bool
	gone  int // spans that were kept
}

const (
	mostOpen     = 16384 // parts
	mostHeld     = 16384 // spans; as many again if they are at the top
	mostHeldEach = 64    // spans of a part, the first ones; as many again if they are at the top
	mostKept     = 50    // parts in a second: in an outage one is like another
	mostKeptEach = 1024  // spans of a part
)

func newTail(next sdktrace.SpanProcessor, slow time.Duration, drop func(n int, why string)) *tail {
	return &tail{next: next, slow: slow, drop: drop, keep: perSecond{most: mostKept}, open: make(map[trace.TraceID]*part)}
}

func (t *tail) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if s.SpanContext().IsSampled() || !isTop(s) {
		return
	}
	old := t.old(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	id := s.SpanContext().TraceID()
	p := t.open[id]
	if p == nil {
		if len(t.open) >= mostOpen {
			t.drop(1, "crowded")
			return
		}
		p = new(part)
		t.open[id] = p
	}
	p.tops++
	t.judge(p, old)
}

func (t *tail) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		t.next.OnEnd(s)
		return
	}
	for _, span := range t.end(s) {
		t.next.OnEnd(chosen{span})
	}
}

// end returns the spans that are to be kept, now that s has ended.
func (t *tail) end(s sdktrace.ReadOnlySpan) (keep []sdktrace.ReadOnlySpan) {
	top := isTop(s)
	worth := s.Status().Code == codes.Error || refunded(s) || top && s.EndTime().Sub(s.StartTime()) >= t.slow
	t.mu.Lock()
	defer t.mu.Unlock()
	id := s.SpanContext().TraceID()
	p := t.open[id]
	if p == nil {
		return nil // it has outlived its trace, or came when there was no room
	}
	t.judge(p, worth)
	room := 1
	if top {
		room = 2
	}
	switch {
	case p.worth:
		keep = append(p.spans, s)
		t.held -= len(p.spans)
		p.spans = nil
		if !p.kept || p.gone+len(keep) > mostKeptEach {
			t.drop(len(keep), "too many")
			keep = nil
		}
		p.gone += len(keep)
	case len(p.spans) < room*mostHeldEach && t.held < room*mostHeld:
		p.spans = append(p.spans, s)
		t.held++
	}
	if top {
		p.tops--
	}
	if p.tops == 0 {
		t.held -= len(p.spans)
		delete(t.open, id)
	}
	return keep
}

// judge decides about a part as soon as there is a reason to keep it.
func (t *tail) judge(p *part, worth bool) {
	if worth && !p.worth {
		p.worth, p.kept = true, t.keep.take(time.Now())
	}
}

// isTop tells whether a span is the first of its trace in this process.
func isTop(s sdktrace.ReadOnlySpan) bool { return !s.Parent().IsValid() || s.Parent().IsRemote() }

// old tells whether a span is of a saga that has waited for long.
func (t *tail) old(s sdktrace.ReadOnlySpan) bool {
	if s.Name() != tracing.SagaSpan {
		return false
	}
	for _, a := range s.Attributes() {
		if a.Key == tracing.SagaAge {
			return a.Value.AsFloat64() >= t.slow.Seconds()
		}
	}
	return false
}

func refunded(s sdktrace.ReadOnlySpan) bool {
	if s.Name() != tracing.SagaSpan {
		return false
	}
	for _, a := range s.Attributes() {
		if a.Key == tracing.SagaState {
			return a.Value.AsString() == "refunded"
		}
	}
	return false
}

func (t *tail) Shutdown(ctx context.Context) error   { return t.next.Shutdown(ctx) }
func (t *tail) ForceFlush(ctx context.Context) error { return t.next.ForceFlush(ctx) }

// chosen is a span that was recorded only and is exported all the same.
type chosen struct{ sdktrace.ReadOnlySpan }

func (c chosen) SpanContext() trace.SpanContext {
	context := c.ReadOnlySpan.SpanContext()
	return context.WithTraceFlags(context.TraceFlags().WithSampled(true))
}
