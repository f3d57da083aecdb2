package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/routing"
)

// RunRouter serves HTTP on listener until ctx ends, then lets requests under way finish. It serves from the start; until
// it has reached its cluster it is not ready and answers 503.
func RunRouter(ctx context.Context, config Router, process Process, listener net.Listener) error {
	log := process.Log
	etcd, err := config.Etcd.Config(log)
	if err != nil {
		return err
	}
	TuneMemory()
	stopDebug, err := serveDebug(config.DebugHTTP, log)
	if err != nil {
		return err
	}
	defer stopDebug()
	m := newMembers(etcd, &config.Postgres, process.Passwords, "router", log)
	m.target = config.Target
	router := routing.New(m, routing.Config{Handover: orNever(config.Handover)}, log)

	// The cluster is left only when no request needs it any more.
	inTouch, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	failed := make(chan error, 2)
	var running sync.WaitGroup
	name, err := processName()
	if err != nil {
		return err
	}
	announce := announcing(cluster.Routers, cluster.Process{Name: name, Address: advertised(config.Advertise, listener.Addr())})
	running.Go(func() {
		failed <- m.run(inTouch, duties{
			whole: func(ctx context.Context, c *cluster.Cluster, _ *cluster.Watcher) { announce(ctx, c) },
		})
	})

	var stopping atomic.Bool
	server := api.NewServer(closing(&stopping, api.New(api.Config{
		Ledger: router, Health: health{m}, Currency: ledger.Currency(config.Currency),
		Wait: config.Wait, Timeout: config.Timeout, MaxRequests: config.MaxRequests, Log: log, Metrics: process.Metrics,
	})), log)
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve: %w", err)
		}
	})
	log.Info("router serves", "http", listener.Addr().String())

	select {
	case err = <-failed:
	case <-ctx.Done():
		log.Info("router stops", "grace", config.Grace)
		stopping.Store(true)
		time.Sleep(drain)
	}
	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), config.Grace)
	defer cancel()
	if shutdownErr := server.Shutdown(graceful); shutdownErr != nil {
		err = errors.Join(err, fmt.Errorf("requests were cut off: %w", shutdownErr), server.Close())
	}
	router.Close()
	leave()
	running.Wait()
	return err
}

// drain is how long a router that is told to stop still takes requests, each as the last one of its connection: a client
// that sends one at the moment in which its connection is closed cannot know whether it came.
const drain = 300 * time.Millisecond

// closing has connections closed with their next answer once stopping is set.
func closing(stopping *atomic.Bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// health says whether a router should get requests.
type health struct {
	members *members
}

// Readiness implements api.Health.
func (h health) Readiness(context.Context) api.Readiness {
	w := h.members.watcher.Load()
	if w == nil {
		return api.Readiness{Parts: []api.Part{{Name: "etcd", State: "not reached yet"}}}
	}
	status, view := w.Status(), w.Current()
	etcd := "connected"
	if !status.Connected {
		etcd = fmt.Sprintf("away since %s, serving from the map of revision %d", status.Contact.UTC().Format(time.RFC3339), view.Revision)
	}
	parts := []api.Part{{Name: "etcd", State: etcd}}
	state := fmt.Sprintf("revision %d", view.Map.Revision())
	if !view.Founded() {
		state = fmt.Sprintf("not founded: %d shards registered", len(view.Shards))
	}
	if status.Problem != "" {
		state += ", standing still: the keys in etcd make no sense"
	}
	parts = append(parts, api.Part{Name: "map", State: state},
		api.Part{Name: "shards", State: fmt.Sprintf("%d known", len(view.Shards))})
	return api.Readiness{Ready: view.Founded(), Parts: parts}
}
