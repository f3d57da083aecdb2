// Package telemetry sets up OpenTelemetry and slog for a process. Only cmd calls it; every other package takes a logger, and
// traces and counts through OpenTelemetry's API, whose global providers are set here.
//
//	logger.go   slog, as text or JSON; limit.go keeps a line from being said too often
//	problem.go  unexpected errors and panics: to the collector, and where an error tracker is hooked in
//	tracing.go  where spans go, and which: sampler.go, tail.go, queue.go
//	metrics.go  where counts go: /metrics for Prometheus, and by OTLP
//	trouble.go  what OpenTelemetry itself complains of
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// Config says whose telemetry it is.
type Config struct {
	Service string // "saldo-router"
	Version string
	Log     *slog.Logger  // of what goes wrong with it; slog.Default() if nil
	Slow    time.Duration // traces of what takes longer are kept, as those of what goes wrong; 0: neither
}

// Telemetry is what a process shows of itself.
type Telemetry struct {
	Metrics  http.Handler // of /metrics, for Prometheus
	shutdown []func(context.Context) error
}

// Start sets OpenTelemetry's global providers. Spans, metrics and problems are exported by OTLP if OpenTelemetry's standard
// environment names an endpoint; metrics can be read at Metrics either way. Call Shutdown at the end.
func Start(ctx context.Context, config Config) (*Telemetry, error) {
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName(config.Service), semconv.ServiceVersion(config.Version)))
	if err != nil {
		return nil, fmt.Errorf("start telemetry: %w", err)
	}
	if err := checkHeaders(); err != nil {
		return nil, fmt.Errorf("start telemetry: %w", err)
	}
	otel.SetErrorHandler(&trouble{log: cmp.Or(config.Log, slog.Default())})
	t := &Telemetry{}
	tracing := func(ctx context.Context, about *resource.Resource) error { return t.startTracing(ctx, config, about) }
	for _, start := range []func(context.Context, *resource.Resource) error{t.startMetrics, tracing, t.startLogs} {
		if err := start(ctx, about); err != nil {
			return nil, fmt.Errorf("start telemetry: %w", errors.Join(err, t.Shutdown(ctx)))
		}
	}
	return t, nil
}

// Shutdown exports what is left, as far as the collector takes it soon.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var errs []error
	for _, shutdown := range slices.Backward(t.shutdown) { // what the others count goes last
		errs = append(errs, shutdown(ctx))
	}
	return errors.Join(errs...)
}

// exported tells whether OpenTelemetry's environment says where a signal (TRACES, METRICS, LOGS) goes.
func exported(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_"+signal+"_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// checkHeaders refuses headers that OpenTelemetry would print when it cannot read them: they hold secrets.
func checkHeaders() error {
	for _, name := range []string{
		"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
		"OTEL_EXPORTER_OTLP_LOGS_HEADERS",
	} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		for i, header := range strings.Split(value, ",") {
			key, value, found := strings.Cut(header, "=")
			if _, err := url.PathUnescape(value); !found || err != nil || !isToken(strings.TrimSpace(key)) {
				return fmt.Errorf("%s: number %d is not name=value, with the value percent-encoded", name, i+1)
			}
		}
	}
	return nil
}

// isToken tells whether text can be a header's name.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}
