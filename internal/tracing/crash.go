package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"go.opentelemetry.io/otel/trace"
)

// Panic is what Crash logs. A logger of package telemetry sees that it leaves the process before the process ends.
type Panic struct {
	Value any
	Stack string
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Crash is deferred by goroutines that nobody recovers for: it tells of a panic, in the log and in a span, and lets it end
// the process. Whoever panics in the midst of money knows nothing any more; another process goes on from what is durable.
func Crash(log *slog.Logger, doing string) {
	value := recover()
	if value == nil {
		return
	}
	err := &Panic{Value: value, Stack: string(debug.Stack())}
	ctx, span := Start(context.Background(), Tracer("internal/tracing"), "panic", trace.WithNewRoot())
	Crashed(span, err, err.Stack)
	span.End()
	log.ErrorContext(ctx, "the process ends", "doing", doing, "error", err, "stack", err.Stack)
	panic(value)
}
