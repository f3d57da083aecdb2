package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	"time"
)

const (
	// heapGrowth lets the heap grow to five times what lives on it. A service keeps little and makes much garbage: at Go's own
	// 100 a router spent up to a sixth of its processor time on looking for what lives.
	heapGrowth = 400
	// memoryLimit makes the collector work harder before a service takes more, in bytes.
	memoryLimit = 192 << 20
)

// TuneMemory sets up the garbage collector of a service, and of what measures the services' parts in itself, unless GOGC
// and GOMEMLIMIT do.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// serveDebug serves Go's profiler on a loopback address until stop is called; with no address it does nothing.
func serveDebug(address string, log *slog.Logger) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve the profiler on %s (choose another address with --debug-http or SALDO_DEBUG_HTTP): %w", address, err)
	}
	if ip := listener.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("--debug-http is %s: only a loopback address, as 127.0.0.1:6060, will do", address), listener.Close())
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/debug/pprof/", pprof.Index)
	routes.HandleFunc("/debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	routes.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the profiler is not served any more", "error", err)
		}
	}()
	log.Info("profiler serves", "http", listener.Addr().String())
	return func() {
		_ = server.Close() // whoever profiles is cut off
		<-done
	}, nil
}
