package wire

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/saldo-ledger/saldo/internal/telemetry"
)

// Process is what a router and a coordinator need of the process that they run in.
type Process struct {
	Passwords Passwords
	Log       *slog.Logger
	Metrics   http.Handler // of /metrics; nil: there is none
}

// Telemetry starts what a process shows of itself. Shut it down at the end.
func Telemetry(ctx context.Context, service string, settings Traces, log *slog.Logger) (*telemetry.Telemetry, error) {
	return telemetry.Start(ctx, telemetry.Config{Service: service, Version: Version, Log: log, Slow: settings.Slow})
}
