package telemetry

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// queue is what stands between those who end spans and a collector that may be slow or gone: so many spans wait, none makes
// anybody else wait, and every one that is lost is counted. OpenTelemetry's own processor does the batches; it would lose
// spans as well, but tells nobody.
type queue struct {
	sdktrace.SpanProcessor
	most    int64
	drop    func(n int, why string)
	waiting *atomic.Int64 // handed to the processor, and not exported yet
}

func newQueue(exporter sdktrace.SpanExporter, drop func(n int, why string)) *queue {
	most := sdktrace.DefaultMaxQueueSize
	if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		most = n
	}
	waiting := new(atomic.Int64)
	return &queue{
		SpanProcessor: sdktrace.NewBatchSpanProcessor(counted{exporter, waiting, drop}, sdktrace.WithMaxQueueSize(most)),
		most:          int64(most), drop: drop, waiting: waiting,
	}
}

func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.drop(1, "queue full")
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// counted is an exporter that says what it is done with.
type counted struct {
	sdktrace.SpanExporter
	waiting *atomic.Int64
	drop    func(n int, why string)
}

func (c counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.waiting.Add(-int64(len(spans)))
	if err != nil {
		c.drop(len(spans), "not exported")
	}
	return err
}
