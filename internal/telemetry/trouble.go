package telemetry

import (
	"log/slog"
	"sync"
	"time"
)

// trouble says what OpenTelemetry complains of, once a minute: a collector that is down is no news each time.
type trouble struct {
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	said   time.Time
	untold int
}

// Handle implements otel.ErrorHandler.
func (t *trouble) Handle(err error) {
	t.mu.Lock()
	if now := time.Now(); now.Sub(t.said) < time.Minute {
		t.untold++
		t.mu.Unlock()
		return
	} else {
		t.said = now
	}
	untold := t.untold
	t.untold = 0
	t.mu.Unlock()
	t.log.Warn("telemetry is lost", "error", err, "times_more", untold)
}
