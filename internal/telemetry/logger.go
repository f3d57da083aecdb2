package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// NewLogger returns a logger that writes to w: format is "text" or "json", level one of debug, info, warn, error. Lines that
// are said with a context whose request is traced have its trace_id and span_id. The same warning or error is said a few
// times and then once a minute, with "untold", the number of times that it was not. Lines are the same if they have the same
// message and are about the same: what their logger was made With, and a few other attributes.
//
// What is logged as an error, an operator must look at, and it goes further: see OnError.
func NewLogger(w io.Writer, format, level string, onError ...OnError) (*slog.Logger, error) {
	var options slog.HandlerOptions
	var parsed slog.Level
	if err := parsed.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: say debug, info, warn or error", level)
	}
	options.Level = parsed
	h := &handler{limit: new(limit), onError: onError}
	switch format {
	case "text":
		h.next = slog.NewTextHandler(w, &options)
	case "json":
		h.next = slog.NewJSONHandler(w, &options)
	default:
		return nil, fmt.Errorf("log format %q: say text or json", format)
	}
	return slog.New(h), nil
}

// handler adds the ids of traces, limits repeats, and passes errors on.
type handler struct {
	next    slog.Handler // writes
	limit   *limit
	about   string // the attributes of all its lines, in short
	attrs   []slog.Attr
	onError []OnError
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	if r.Level >= slog.LevelWarn {
		ok, untold := h.limit.say(r.Message, h.about+aboutOf(r), time.Now())
		if !ok {
			return nil
		}
		if untold > 0 {
			r.AddAttrs(slog.Int("untold", untold))
		}
	}
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !has(r, traceIDKey) {
		r.AddAttrs(slog.String(traceIDKey, span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	err := h.next.Handle(ctx, r)
	if r.Level >= slog.LevelError {
		h.passOn(ctx, r)
	}
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.next, with.attrs = h.next.WithAttrs(attrs), append(slices.Clip(h.attrs), attrs...)
	for _, attr := range attrs {
		with.about += "|" + attr.String()
	}
	return &with
}

func (h *handler) WithGroup(name string) slog.Handler {
	with := *h
	with.next = h.next.WithGroup(name)
	return &with
}

const traceIDKey = "trace_id"

func has(r slog.Record, key string) (found bool) {
	r.Attrs(func(attr slog.Attr) bool {
		found = attr.Key == key
		return !found
	})
	return found
}

// aboutOf is what makes lines with one message different: what they are about, of which there are few. The transfer of a
// line is not among it, as all may fail for one reason; a line about money, which each transfer must have, has a logger With
// it.
func aboutOf(r slog.Record) string {
	var about strings.Builder
	r.Attrs(func(attr slog.Attr) bool {
		if slices.Contains([]string{"shard", "home", "move", "check", "id"}, attr.Key) {
			about.WriteString("|" + attr.String())
		}
		return true
	})
	return about.String()
}
