// Package telemetry sets up OpenTelemetry and slog for a process. Only cmd calls it; every other package takes a logger, and
// traces and counts through OpenTelemetry's API, whose global providers are set here.
//
//	logger.go   slog, as text or JSON
//	tracing.go  where spans go
//	metrics.go  where counts go: /metrics for Prometheus, and by OTLP
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// Config says whose telemetry it is.
type Config struct {
	Service string // "saldo-router"
	Version string
}

// Telemetry is what a process shows of itself.
type Telemetry struct {
	Metrics  http.Handler // of /metrics, for Prometheus
	shutdown []func(context.Context) error
}

// Start sets OpenTelemetry's global providers. Spans and metrics are exported by OTLP if OpenTelemetry's standard environment
// names an endpoint; metrics can be read at Metrics either way. Call Shutdown at the end.
func Start(ctx context.Context, config Config) (*Telemetry, error) {
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName(config.Service), semconv.ServiceVersion(config.Version)))
	if err != nil {
		return nil, fmt.Errorf("start telemetry: %w", err)
	}
	t := &Telemetry{}
	for _, start := range []func(context.Context, *resource.Resource) error{t.startTracing, t.startMetrics} {
		if err := start(ctx, about); err != nil {
			return nil, fmt.Errorf("start telemetry: %w", errors.Join(err, t.Shutdown(ctx)))
		}
	}
	return t, nil
}

// Shutdown exports what is left.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, shutdown := range t.shutdown {
		errs = append(errs, shutdown(ctx))
	}
	return errors.Join(errs...)
}

// exported tells whether OpenTelemetry's environment says where a signal (TRACES, METRICS) goes.
func exported(signal string) bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}
