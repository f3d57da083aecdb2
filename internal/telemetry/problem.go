package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/tracing"
)

// OnError is where an error tracker is hooked in: pass one to NewLogger, in cmd/internal/wire, and every program's
// unexpected errors and panics come to it. They are what is logged as an error. It is called by whoever logs, so it must not
// wait for a network; before the process ends by a panic it has two seconds to get rid of that.
//
// Without one they go to OpenTelemetry, as log records with exception.type, exception.message and exception.stacktrace, if
// its environment says where logs go. Those of a request, and panics, are events of spans besides.
type OnError func(ctx context.Context, problem Problem)

// Problem is an unexpected error, with all that its line in the log says: users' ids and amounts may be among it.
type Problem struct {
	At         time.Time
	Message    string // of the log line, the same for all problems of a kind
	Error      error  // nil if the line has none
	Stack      string // of a panic
	Attributes []slog.Attr
	TraceID    string // empty if it is part of no trace
	Fatal      bool   // the process ends
}

// passOn tells everybody of a line that is an error.
func (h *handler) passOn(ctx context.Context, r slog.Record) {
	p := Problem{At: r.Time, Message: r.Message, Attributes: append([]slog.Attr(nil), h.attrs...)}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		p.TraceID = span.TraceID().String()
	}
	r.Attrs(func(attr slog.Attr) bool {
		switch attr.Key {
		case "error":
			p.Error, _ = attr.Value.Any().(error)
		case "stack":
			p.Stack = attr.Value.String()
			return true
		}
		p.Attributes = append(p.Attributes, attr)
		return true
	})
	p.Fatal = errors.As(p.Error, new(*tracing.Panic))
	for _, tell := range h.onError {
		tell(ctx, p)
	}
	collect(ctx, p)
	if p.Fatal {
		flush()
	}
}

// private are attributes that stay in the log, as in package tracing: they name users, or quote what was found in accounts.
var private = []string{"initiator", "user", "id", "problem"}

// collect sends a problem to where OpenTelemetry's logs go, without who and how much.
func collect(ctx context.Context, p Problem) {
	collector := otelslog.NewHandler("github.com/saldo-ledger/saldo")
	if !collector.Enabled(ctx, slog.LevelError) {
		return
	}
	record := slog.NewRecord(p.At, slog.LevelError, p.Message, 0)
	for _, attr := range p.Attributes {
		if attr.Key == "error" || attr.Key == traceIDKey || attr.Key == "span_id" { // the record has them in its own way
			continue
		}
		if err, ok := attr.Value.Any().(error); ok {
			record.AddAttrs(slog.String(attr.Key, tracing.Text(err)))
		} else if !slices.Contains(private, attr.Key) {
			record.AddAttrs(slog.String(attr.Key, attr.Value.String()))
		}
	}
	if p.Error != nil {
		record.AddAttrs(slog.String(string(semconv.ExceptionTypeKey), tracing.Kind(p.Error)),
			slog.String(string(semconv.ExceptionMessageKey), tracing.Text(p.Error)))
	}
	if p.Stack != "" {
		record.AddAttrs(slog.String(string(semconv.ExceptionStacktraceKey), p.Stack))
	}
	_ = collector.Handle(ctx, record) // which says itself what it cannot do
}

// flush exports what waits, before the process ends.
func flush() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	type flusher interface{ ForceFlush(context.Context) error }
	for _, provider := range []any{otel.GetTracerProvider(), otel.GetLoggerProvider()} {
		if f, ok := provider.(flusher); ok {
			_ = f.ForceFlush(ctx) // there is nobody left to tell
		}
	}
}

// startLogs exports problems if the environment says where to.
func (t *Telemetry) startLogs(ctx context.Context, about *resource.Resource) error {
	if !exported("LOGS") {
		return nil
	}
	exporter, err := otlploghttp.New(ctx)
	if err != nil {
		return err
	}
	provider := log.NewLoggerProvider(log.WithResource(about), log.WithProcessor(log.NewBatchProcessor(exporter)))
	otel.SetLoggerProvider(provider)
	t.shutdown = append(t.shutdown, provider.Shutdown)
	return nil
}
