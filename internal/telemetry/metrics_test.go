package telemetry_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/meter"
	"github.com/saldo-ledger/saldo/internal/telemetry/telemetrytest"
)

// slow is a client that does not take its answer.
type slow struct {
	*httptest.ResponseRecorder
	take chan struct{}
}

func (s slow) Write(b []byte) (int, error) {
	<-s.take
	return s.ResponseRecorder.Write(b)
}

func TestSlowReadersOfMetricsKeepNobodyOut(t *testing.T) {
	running := start(t, slog.New(slog.DiscardHandler))
	read := func(w http.ResponseWriter) { running.Metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil)) }
	take := make(chan struct{})
	var readers sync.WaitGroup
	for range 20 {
		readers.Go(func() { read(slow{httptest.NewRecorder(), take}) })
	}
	time.Sleep(300 * time.Millisecond)
	answer := httptest.NewRecorder()
	read(answer)
	if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "go_goroutines") {
		t.Errorf("Prometheus is answered %d %s", answer.Code, answer.Body)
	}
	close(take)
	readers.Wait()
}

// The same instrument is read by Prometheus, by its own naming and with a trace as an example, and sent by OTLP.
func TestMetricsGoBothWays(t *testing.T) {
	collector := telemetrytest.Start(t)
	running := start(t, slog.New(slog.DiscardHandler), "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="+collector.URL+"/v1/metrics")
	of := meter.Of("internal/telemetry")
	of.Counter("saldo.test.events", "{event}", "Events.").With(meter.Attr("kind", "seen")).Add(3)
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	took := of.Durations("saldo.test.duration", "Durations.", meter.Soon).With()
	took.Record(trace.ContextWithSpanContext(t.Context(), sampled), 2*time.Millisecond)
	took.Record(t.Context(), time.Minute)

	request := httptest.NewRequest("GET", "/metrics", nil)
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	answer := httptest.NewRecorder()
	running.Metrics.ServeHTTP(answer, request)
	for _, line := range []string{
		`saldo_test_events_total{kind="seen"} 3.0`,
		`saldo_test_duration_seconds_bucket{le="0.001"} 0`,
		`saldo_test_duration_seconds_bucket{le="0.002"} 1 # {`, `trace_id="01000000000000000000000000000000"`,
		`saldo_test_duration_seconds_bucket{le="10.0"} 1`,
		`saldo_test_duration_seconds_count 2`,
		`target_info{`, `service_name="saldo-test"`, `service_version="v1"`, `process_cpu_seconds_total`, `go_goroutines`,
	} {
		if !strings.Contains(answer.Body.String(), line) {
			t.Errorf("/metrics does not have %s:\n%s", line, answer.Body)
		}
	}
	if strings.Contains(answer.Body.String(), "otel_scope") {
		t.Error("each line names the package that it comes from")
	}

	if err := running.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"saldo.test.events", "saldo.test.duration", "saldo-test"} {
		if !strings.Contains(collector.Raw(), name) {
			t.Errorf("%s is not exported", name)
		}
	}
}
