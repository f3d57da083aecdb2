package telemetry_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/telemetry"
	"github.com/saldo-ledger/saldo/internal/telemetry/telemetrytest"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// start starts telemetry with an environment. Its providers are global, so these tests run one after the other.
func start(t *testing.T, log *slog.Logger, env ...string) *telemetry.Telemetry {
	t.Helper()
	for _, setting := range env {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv(name, value)
	}
	running, err := telemetry.Start(t.Context(), telemetry.Config{Service: "saldo-test", Version: "v1", Log: log, Slow: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Shutdown(context.Background()) })
	return running
}

func TestNothingIsTracedByDefault(t *testing.T) {
	for _, env := range [][]string{
		nil,
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_SDK_DISABLED=true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_TRACES_EXPORTER=none"},
	} {
		t.Run(fmt.Sprint(env), func(t *testing.T) {
			start(t, slog.New(slog.DiscardHandler), env...)
			if _, off := otel.GetTracerProvider().(noop.TracerProvider); !off || tracing.Tracer("x") != nil {
				t.Error("spans are made that go nowhere")
			}
		})
	}
}

func TestSettingsThatMakeNoSense(t *testing.T) {
	for setting, want := range map[string]string{
		"OTEL_TRACES_SAMPLER=sometimes":                                "OTEL_TRACES_SAMPLER",
		"OTEL_EXPORTER_OTLP_HEADERS=a=b,Authorization: Bearer canary":  "number 2",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS=Authorization=canary%zz":    "number 1",
		"OTEL_EXPORTER_OTLP_LOGS_HEADERS=Authorization: canary=canary": "number 1",
	} {
		t.Run(setting, func(t *testing.T) {
			name, value, _ := strings.Cut(setting, "=")
			t.Setenv(name, value)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			_, err := telemetry.Start(t.Context(), telemetry.Config{Service: "saldo-test"})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("the error is %v, it should name %s and no secret", err, want)
			}
		})
	}
	t.Run("ratio", func(t *testing.T) {
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
		t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", "10")
		if _, err := telemetry.Start(t.Context(), telemetry.Config{Service: "saldo-test"}); err == nil || !strings.Contains(err.Error(), "_ARG") {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestHeadSampler(t *testing.T) {
	for env, want := range map[string]int{ // of 200 traces
		"": 20, "always_on": 200, "always_off": 0, "traceidratio": 200, "parentbased_always_on": 200, "parentbased_always_off": 0,
	} {
		t.Run(env, func(t *testing.T) {
			collector := telemetrytest.Start(t)
			running := start(t, nil, append(collector.Env(), "OTEL_TRACES_SAMPLER="+env)...)
			tracer := tracing.Tracer("test")
			begun := time.Now()
			for range 200 {
				_, span := tracer.Start(context.Background(), "request")
				span.End()
			}
			seconds := int(time.Since(begun)/time.Second) + 2
			if err := running.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := len(collector.Spans()); got != want && (want != 20 || got < 20 || got > 20*seconds) {
				t.Errorf("%d of 200 traces are kept, not %d", got, want)
			}
		})
	}
}

// A client may choose its traces, but not all that there are.
func TestTracesThatCallersChoose(t *testing.T) {
	for env, bounded := range map[string]bool{
		"": true, "parentbased_traceidratio": true, "parentbased_always_off": true, "parentbased_always_on": false, "always_on": false,
	} {
		t.Run(env, func(t *testing.T) {
			collector := telemetrytest.Start(t)
			running := start(t, nil, append(collector.Env(), "OTEL_TRACES_SAMPLER="+env, "OTEL_BSP_MAX_QUEUE_SIZE=10000")...)
			tracer := tracing.Tracer("test")
			caller := trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
			}))
			begun := time.Now()
			for range 2000 {
				ctx, span := tracer.Start(caller, "request", trace.WithSpanKind(trace.SpanKindServer))
				if _, part := tracer.Start(ctx, "part"); part.SpanContext().IsSampled() != span.SpanContext().IsSampled() {
					t.Fatal("a part is not decided about as its request")
				}
				span.End()
			}
			seconds := int(time.Since(begun)/time.Second) + 2
			_, saga := tracer.Start(caller, tracing.SagaSpan)
			saga.End()
			_, failed := tracer.Start(caller, "a request that fails", trace.WithSpanKind(trace.SpanKindServer))
			tracing.Fail(failed, errors.New("no"))
			failed.End()
			if err := running.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := make(map[string]int)
			for _, s := range collector.Spans() {
				got[s.Name]++
			}
			if n := got["request"]; bounded && (n < 200 || n > 200*seconds) || !bounded && n != 2000 {
				t.Errorf("%d of 2000 requests are kept", n)
			}
			if got[tracing.SagaSpan] != 1 || got["a request that fails"] != 1 {
				t.Errorf("beyond what callers may choose, these are kept: %v", got)
			}
		})
	}
}

// The log may say who and how much; what leaves this machine does not.
func TestProblemsNameNobody(t *testing.T) {
	collector := telemetrytest.Start(t)
	var lines bytes.Buffer
	log, err := telemetry.NewLogger(&lines, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	running := start(t, log, collector.Env()...)
	impossible := fmt.Errorf("%w: refund of saga canary/t1", ledger.ErrImpossible)
	log.With("initiator", "canary", "tx_id", "t1").Error("told of a transfer", "error", impossible, "cause", impossible)
	log.With("user", "canary").Error("told of a user", "initiator", "canary")
	log.Error("the books are wrong", "check", "balances", "shard", "s1", "id", "canary", "problem", "canary has 5")
	log.Error("the keys make no sense", "problem", errors.New("no such key"))
	if err := running.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprint(collector.Lines()); strings.Contains(said, "canary") || strings.Count(lines.String(), "canary") != 7 {
		t.Errorf("exported is %v\nof\n%s", said, lines.String())
	}
	got := collector.Lines()
	if len(got) != 4 {
		t.Fatalf("%d lines are exported", len(got))
	}
	for i, want := range []struct{ key, value string }{
		{"exception.message", "impossible operation: the log has it"}, {"", ""}, {"check", "balances"}, {"problem", "no such key"},
	} {
		if want.key != "" && got[i].Text(want.key) != want.value {
			t.Errorf("%s is %q", want.key, got[i].Text(want.key))
		}
	}
	if got[0].Text("tx_id") != "t1" {
		t.Error("the transfer cannot be found")
	}
}

func TestProblems(t *testing.T) {
	collector := telemetrytest.Start(t)
	var lines bytes.Buffer
	var seen []telemetry.Problem
	log, err := telemetry.NewLogger(&lines, "json", "info", func(_ context.Context, p telemetry.Problem) { seen = append(seen, p) })
	if err != nil {
		t.Fatal(err)
	}
	start(t, log, collector.Env()...)
	ctx, span := tracing.Tracer("test").Start(context.Background(), "request")
	id := span.SpanContext().TraceID().String()
	log = log.With("shard", "s1")
	log.InfoContext(ctx, "all is well")
	log.WarnContext(ctx, "this may be nothing", "error", errors.New("no"))
	log.ErrorContext(ctx, "a person must look", "error", fmt.Errorf("store: %w", ledger.ErrImpossible), "slot", 7)
	func() {
		defer func() {
			if v := recover(); v != "bug" {
				t.Errorf("the panic went on as %v", v)
			}
		}()
		defer tracing.Crash(log, "counting")
		panic("bug")
	}()
	// The process would be gone by now: nothing is waited for, nothing is shut down.
	if got := collector.Lines(); len(got) != 2 || got[1].Text("exception.message") != "panic: bug" ||
		!strings.Contains(got[1].Text("exception.stacktrace"), "TestProblems") || got[1].Text("doing") != "counting" {
		t.Errorf("when a panic ends the process these are exported: %v", got)
	}
	span.End()

	for _, line := range collector.Lines() {
		if line.Service != "saldo-test" || line.Text("shard") != "s1" || len(line.TraceId) == 0 {
			t.Errorf("a line says only %v", line)
		}
	}
	if got := collector.Lines()[0]; got.Body.GetStringValue() != "a person must look" || hex.EncodeToString(got.TraceId) != id ||
		!strings.Contains(got.Text("exception.message"), "impossible operation") || got.Text("exception.type") == "" || got.Text("slot") != "7" {
		t.Errorf("the error is exported as %v", got)
	}
	if len(seen) != 2 || seen[0].TraceID != id || !errors.Is(seen[0].Error, ledger.ErrImpossible) || seen[0].Fatal ||
		!seen[1].Fatal || !strings.Contains(seen[1].Stack, "TestProblems") {
		t.Errorf("a tracker is told of %+v", seen)
	}
	if got := strings.Count(lines.String(), `"trace_id":"`+id+`","span_id":"`+span.SpanContext().SpanID().String()+`"`); got != 3 {
		t.Errorf("%d lines have the ids of the trace:\n%s", got, lines.String())
	}
	crashes := 0
	for _, s := range collector.Spans() {
		if s.Name == "panic" && len(s.Events) == 1 && s.Events[0].Name == "exception" && strings.Contains(s.String(), "TestProblems") {
			crashes++
		}
	}
	if crashes != 1 {
		t.Errorf("%d spans tell of the panic", crashes)
	}
}

func TestRepeatedLines(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	log, err := telemetry.NewLogger(&lines, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		log.Info("served", "n", i)
		log.With("shard", "s1").Warn("gave up", "n", i)
		log.With("shard", "s2").Warn("gave up", "n", i)
		log.Error("gave up", "home", "s1")
		log.Error("gave up", "home", "s2")
	}
	for what, want := range map[string]int{`msg=served`: 100, `"gave up" shard=s1`: 5, `"gave up" shard=s2`: 5, `home=s1`: 5, `home=s2`: 5} {
		if got := strings.Count(lines.String(), what); got != want {
			t.Errorf("%s is said %d times, not %d", what, got, want)
		}
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"text", "loud"}} {
		if _, err := telemetry.NewLogger(io.Discard, bad[0], bad[1]); err == nil {
			t.Errorf("%v makes a logger", bad)
		}
	}
}

// What is wrong with money is told of each, in bounds.
func TestLinesAboutMoney(t *testing.T) {
	t.Parallel()
	var lines bytes.Buffer
	log, err := telemetry.NewLogger(&lines, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		for i := range 40 {
			log.Error("the books are wrong", "check", "balances", "shard", "s1", "id", fmt.Sprintf("<b%d>", i))
			log.Error("the books are wrong", "check", "sums", "shard", "s1", "id", fmt.Sprintf("<b%d>", i))
			log.With("initiator", "u", "tx_id", fmt.Sprintf("<c%d>", i)).Error("contradiction", "state", "Alarm")
			log.Error("a saga does not end", "tx_id", i) // in an outage none does
		}
	}
	said := lines.String()
	for i := range 40 {
		if b, c := strings.Count(said, fmt.Sprintf("<b%d>", i)), strings.Count(said, fmt.Sprintf("<c%d>", i)); b != 10 || c != 5 {
			t.Fatalf("one finding is told %d times and one contradiction %d times, not 10 and 5", b, c)
		}
	}
	if n := strings.Count(said, "does not end"); n != 5 {
		t.Errorf("%d sagas of an outage are told", n)
	}

	lines.Reset()
	for i := range 100_000 {
		log.Error("flood", "id", i)
		if i%1000 == 0 {
			log.Warn("drop by drop")
		}
	}
	if flood, other := strings.Count(lines.String(), "msg=flood"), strings.Count(lines.String(), "drop by drop"); flood != 500 || other != 5 {
		t.Errorf("of a flood %d lines are told, and %d of a line beside it", flood, other)
	}
}

// Nothing waits for a collector, and what is lost is counted and said once.
func TestCollectorOutOfOrder(t *testing.T) {
	for _, mood := range []telemetrytest.Mood{telemetrytest.Hangs, telemetrytest.Fails} {
		t.Run(fmt.Sprint(mood), func(t *testing.T) {
			collector := telemetrytest.Start(t)
			collector.Set(mood)
			var said safeBuffer
			running := start(t, slog.New(slog.NewTextHandler(&said, nil)), append(collector.Env(), "OTEL_BSP_MAX_QUEUE_SIZE=512",
				"OTEL_EXPORTER_OTLP_TIMEOUT=200", "OTEL_BSP_EXPORT_TIMEOUT=200", "OTEL_METRICS_EXPORTER=none")...)
			tracer := tracing.Tracer("test")
			begun := time.Now()
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					for range 5000 {
						_, span := tracer.Start(context.Background(), "request", trace.WithNewRoot())
						span.End()
					}
				})
			}
			group.Wait()
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("20,000 spans take %v", took)
			}
			for _, reason := range []string{"queue full", "not exported"} {
				counted := func() bool {
					answer := httptest.NewRecorder()
					running.Metrics.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
					return strings.Contains(answer.Body.String(), `saldo_telemetry_spans_dropped_total{reason="`+reason+`"}`)
				}
				for deadline := time.Now().Add(time.Minute); !counted(); time.Sleep(50 * time.Millisecond) { // some exports
					if time.Now().After(deadline) {
						t.Fatalf("none is counted as %s", reason)
					}
				}
			}
			begun = time.Now()
			if err := running.Shutdown(t.Context()); err == nil {
				t.Log("all was exported in the end")
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("the end takes %v", took)
			}
			if n := strings.Count(said.String(), "telemetry is lost"); n != 1 {
				t.Errorf("it is said %d times:\n%s", n, said.String())
			}
		})
	}
}

// safeBuffer is written to by several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
