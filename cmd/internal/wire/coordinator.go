package wire

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// RunCoordinator runs sagas, founds a new cluster, and moves slots between shards, until ctx ends. It serves operators on
// listener, unless that is nil.
func RunCoordinator(ctx context.Context, config Coordinator, process Process, listener net.Listener) error {
	passwords, log := process.Passwords, process.Log
	etcd, err := config.Etcd.Config(log)
	if err != nil {
		return err
	}
	if config.Name == "" {
		if config.Name, err = processName(); err != nil {
			return fmt.Errorf("%w (say one with --name)", err)
		}
	}
	TuneMemory()
	stopDebug, err := serveDebug(config.DebugHTTP, log)
	if err != nil {
		return err
	}
	defer stopDebug()
	m := newMembers(etcd, &config.Postgres, passwords, "coordinator", log)
	router := routing.New(m, routing.Config{}, log)
	defer router.Close()
	runner := &sagaRunner{config: config, steps: router, log: log}
	log.Info("coordinator runs", "name", config.Name)
	desk := &desk{members: m, router: router, audit: &auditDesk{config: config, log: log}}
	announce := func(context.Context, *cluster.Cluster) {}
	serving, ctx := errgroup.WithContext(ctx)
	if listener != nil {
		face, err := newAdmin(desk, config, process, listener.Addr())
		if err != nil {
			return err
		}
		announce = announcing(cluster.Coordinators, cluster.Process{Name: config.Name, Address: advertised(config.Advertise, listener.Addr())})
		serving.Go(func() error { return serveOperators(ctx, listener, m, process, face) })
	}
	serving.Go(func() error {
		return m.run(ctx, duties{
			beside: runner.run,
			whole: func(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher) {
				desk.cluster.Store(c)
				var running sync.WaitGroup
				running.Go(func() { announce(ctx, c) })
				running.Go(func() { desk.audit.run(ctx, c, passwords) })
				running.Go(func() { moveSlots(ctx, c, w, config, passwords, log) })
				found(ctx, c, w, config, passwords, log)
				running.Wait()
			},
		})
	})
	return serving.Wait()
}

// sagaRunner drives the sagas of each home.
type sagaRunner struct {
	config Coordinator
	steps  saga.Steps
	log    *slog.Logger
}

// run drives the sagas of one home while this process is elected for it. The election is for efficiency only: when etcd is
// away nobody is elected, and every coordinator drives, which is harmless.
func (r *sagaRunner) run(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher, home *shard.Shard) {
	drive := func(ctx context.Context) {
		saga.NewDriver(home, r.steps, saga.Config{
			Poll: r.config.Poll, Handover: orNever(r.config.Handover),
		}, r.log.With("home", home.ID())).Run(ctx)
	}
	var running sync.WaitGroup
	running.Go(func() { whileAway(ctx, w, drive) })
	running.Go(func() { home.ShowVitals(ctx) })
	err := c.Lead(ctx, "sagas."+string(home.ID()), r.config.Name, func(ctx context.Context, _ cluster.Leadership) error {
		var noting sync.WaitGroup
		noting.Go(func() { notePositions(ctx, c, home, r.log) })
		drive(ctx)
		noting.Wait()
		return nil
	})
	if ctx.Err() == nil {
		r.log.Error("no election for a home's sagas", "home", home.ID(), "error", err)
	}
	running.Wait()
}

// whileAway does work for as long as etcd does not answer, each time that happens, and some time longer.
func whileAway(ctx context.Context, w *cluster.Watcher, work func(context.Context)) {
	for ctx.Err() == nil {
		changed := w.Changed()
		if w.Status().Connected {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		away, back := context.WithCancel(ctx)
		var working sync.WaitGroup
		working.Go(func() { work(away) })
		untilElected(ctx, w)
		back()
		working.Wait()
	}
}

// election is how long an election may take when etcd is back: the leases of those who led before have to end, and who
// campaigns may be in a pause of several seconds.
const election = 15 * time.Second

// untilElected returns when etcd has answered for long enough for somebody to be elected.
func untilElected(ctx context.Context, w *cluster.Watcher) {
	var back time.Time // when it began to answer
	for {
		changed := w.Changed()
		var enough <-chan time.Time
		if !w.Status().Connected {
			back = time.Time{}
		} else {
			if back.IsZero() {
				back = time.Now()
			}
			enough = time.After(election - time.Since(back))
		}
		select {
		case <-changed:
		case <-enough:
			return
		case <-ctx.Done():
			return
		}
	}
}

// found spreads a new cluster's slots over its shards, if this process is elected to.
func found(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher, config Coordinator, passwords Passwords, log *slog.Logger) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	err := c.Lead(ctx, "founder", config.Name, func(ctx context.Context, _ cluster.Leadership) error {
		err := c.RunFounder(ctx, w, config.Settle, func(ctx context.Context, view *cluster.View) error {
			return assembly.Activate(ctx, view, passwords)
		})
		if err == nil {
			done() // for good: every shard enforces the first map
		}
		return err
	})
	if ctx.Err() == nil {
		log.Error("no election for the founder", "error", err)
	}
}
