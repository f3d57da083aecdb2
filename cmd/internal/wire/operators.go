package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
)

// serveOperators serves a coordinator's own listener until ctx ends: whether it lives and is ready, its metrics, and the
// admin API.
func serveOperators(ctx context.Context, listener net.Listener, m *members, process Process, face *admin.Face) error {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"alive": true})
	})
	routes.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, view := http.StatusOK, health{m}.Readiness(r.Context())
		parts := make(map[string]string, len(view.Parts))
		for _, part := range view.Parts {
			parts[part.Name] = part.State
		}
		if m.watcher.Load() == nil { // a coordinator is ready for a cluster that it is to found
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "parts": parts})
	})
	if process.Metrics != nil {
		routes.Handle("GET /metrics", process.Metrics)
	}
	routes.Handle(admin.Prefix+"/", face)
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	following.Go(func() { face.Run(ctx) })
	server := &http.Server{
		Handler: routes, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		WriteTimeout: 30 * time.Second, MaxHeaderBytes: 32 << 10, // a stream of events has deadlines of its own
		ErrorLog: slog.NewLogLogger(process.Log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	process.Log.Info("operators are served", "http", listener.Addr().String())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve operators: %w", err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // whoever asked is gone
}
