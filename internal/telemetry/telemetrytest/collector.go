// Package telemetrytest is a collector for tests: it takes what programs export by OTLP over HTTP, and can be slow or out of
// order.
package telemetrytest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collecttraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector takes what is exported.
type Collector struct {
	URL string

	mu    sync.Mutex
	spans []Span
	lines []Line
	raw   strings.Builder // all bodies, decoded to text
	mood  Mood
}

// Mood is how a collector behaves.
type Mood int

// Moods of a collector.
const (
	Well  Mood = iota
	Hangs      // it takes connections and never answers
	Fails      // it answers 503
)

// Span is one span, as a collector has it.
type Span struct {
	*traces.Span
	Service string
	Scope   string
}

// Line is a log record.
type Line struct {
	*logs.LogRecord
	Service string
}

// Start starts a collector, which ends with the test.
func Start(t testing.TB) *Collector {
	c := new(Collector)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		mood := c.mood
		c.mu.Unlock()
		switch mood {
		case Hangs:
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		case Fails:
			http.Error(w, "out of order", http.StatusServiceUnavailable)
			return
		}
		if err := c.take(r); err != nil {
			t.Errorf("collector: %v", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf") // an empty response is one
	}))
	c.URL = server.URL
	t.Cleanup(func() {
		close(release)
		server.CloseClientConnections()
		server.Close()
	})
	return c
}

// Env is what a program needs to export to the collector, everything and soon.
func (c *Collector) Env() []string {
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_BLRP_SCHEDULE_DELAY=50",
		"OTEL_TRACES_SAMPLER=parentbased_always_on",
	}
}

// Set changes the collector's mood.
func (c *Collector) Set(mood Mood) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mood = mood
}

func (c *Collector) take(r *http.Request) error {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/v1/traces":
		var request collecttraces.ExportTraceServiceRequest
		if err := proto.Unmarshal(data, &request); err != nil {
			return err
		}
		fmt.Fprintln(&c.raw, request.String())
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, span := range scope.Spans {
					c.spans = append(c.spans, Span{Span: span, Service: text(resource.Resource.Attributes, "service.name"), Scope: scope.Scope.Name})
				}
			}
		}
	case "/v1/logs":
		var request collectlogs.ExportLogsServiceRequest
		if err := proto.Unmarshal(data, &request); err != nil {
			return err
		}
		fmt.Fprintln(&c.raw, request.String())
		for _, resource := range request.ResourceLogs {
			for _, scope := range resource.ScopeLogs {
				for _, line := range scope.LogRecords {
					c.lines = append(c.lines, Line{LogRecord: line, Service: text(resource.Resource.Attributes, "service.name")})
				}
			}
		}
	case "/v1/metrics":
		c.raw.Write(data) // its names and texts are readable as they are
	default:
		return fmt.Errorf("nothing is exported to %s", r.URL.Path)
	}
	return nil
}

// Raw is all that was ever exported, as text.
func (c *Collector) Raw() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// Spans returns the spans so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Lines returns the log records so far.
func (c *Collector) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// Trace returns the spans of a trace so far, in the order of their starts.
func (c *Collector) Trace(id string) []Span {
	spans := slices.DeleteFunc(c.Spans(), func(s Span) bool { return hex.EncodeToString(s.TraceId) != id })
	slices.SortStableFunc(spans, func(a, b Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	return spans
}

// Await waits until a trace is as is says, and returns it.
func (c *Collector) Await(t testing.TB, id, what string, is func(trace []Span) bool) []Span {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		trace := c.Trace(id)
		if is(trace) {
			return trace
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("not within 30 s: %s; the trace is\n%s", what, Tree(trace))
		}
	}
}

// Text returns an attribute as text; "" if the span has none of that name.
func (s Span) Text(name string) string { return text(s.Attributes, name) }

// Text returns an attribute as text; "" if the line has none of that name.
func (l Line) Text(name string) string { return text(l.Attributes, name) }

func text(attributes []*common.KeyValue, name string) string {
	for _, a := range attributes {
		if a.Key == name {
			switch v := a.Value.Value.(type) {
			case *common.AnyValue_StringValue:
				return v.StringValue
			case *common.AnyValue_IntValue:
				return fmt.Sprint(v.IntValue)
			case *common.AnyValue_DoubleValue:
				return fmt.Sprint(v.DoubleValue)
			case *common.AnyValue_BoolValue:
				return fmt.Sprint(v.BoolValue)
			}
		}
	}
	return ""
}

// Tree draws the spans of a trace, each below its parent in the order of their starts, with the values of some attributes. A
// failed span has an exclamation mark, one whose parent is missing a question mark.
func Tree(trace []Span, attributes ...string) string {
	known := make(map[string]bool)
	for _, s := range trace {
		known[string(s.SpanId)] = true
	}
	var drawing strings.Builder
	var draw func(parent, indent string)
	line := func(s Span, indent, mark string) {
		drawing.WriteString(indent + mark + s.Name)
		for _, name := range attributes {
			if value := s.Text(name); value != "" {
				drawing.WriteString(" " + value)
			}
		}
		if s.Status.GetCode() == traces.Status_STATUS_CODE_ERROR {
			drawing.WriteString(" !")
		}
		drawing.WriteString("\n")
		draw(string(s.SpanId), indent+"  ")
	}
	draw = func(parent, indent string) {
		for _, s := range trace {
			if string(s.ParentSpanId) == parent {
				line(s, indent, "")
			}
		}
	}
	for _, s := range trace {
		switch parent := string(s.ParentSpanId); {
		case parent == "":
			line(s, "", "")
		case !known[parent]:
			line(s, "", "? ")
		}
	}
	return drawing.String()
}
