package wire

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/shard"
)

// members keeps a process in touch with its cluster: the newest map, and every registered shard open. It is the
// routing.Cluster of routers and coordinators.
type members struct {
	etcd      cluster.Config
	postgres  *Postgres
	passwords Passwords
	process   string        // shown in pg_stat_activity
	target    time.Duration // of the limits by which shards are used; 0: without limits
	log       *slog.Logger

	watcher atomic.Pointer[cluster.Watcher] // nil until etcd was reached
	catchUp func()                          // opens what is new; readable once watcher is there
	empty   *placement.Map

	mu      sync.RWMutex
	open    map[ledger.ShardID]*member
	seen    int64          // the revision of the cluster that open is of
	closing sync.WaitGroup // members that were open
}

// member is an open shard and what runs beside it.
type member struct {
	shard    *shard.Shard
	use      routing.Shard // the shard, perhaps with limits
	dsn      string
	timeline int // of its primary
	stop     context.CancelFunc
	done     chan struct{} // closed when what ran beside it has ended

	stopMetrics func()
}

// duties is what a process does beside its open shards and its cluster.
type duties struct {
	// beside runs as long as a shard is open and until ctx ends. It may be nil.
	beside func(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher, s *shard.Shard)
	// whole runs as long as the process is in touch with its cluster, or until it returns.
	whole func(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher)
}

func newMembers(etcd cluster.Config, postgres *Postgres, passwords Passwords, process string, log *slog.Logger) *members {
	empty, err := placement.NewMap(0, nil)
	if err != nil {
		panic(err) // a map without owners is one
	}
	return &members{
		etcd: etcd, postgres: postgres, passwords: passwords, process: process, log: log, empty: empty,
		open: make(map[ledger.ShardID]*member),
	}
}

// Map implements routing.Cluster.
func (m *members) Map() *placement.Map {
	if w := m.watcher.Load(); w != nil {
		return w.Current().Map
	}
	return m.empty
}

// Changed implements routing.Cluster.
func (m *members) Changed() <-chan struct{} {
	if w := m.watcher.Load(); w != nil {
		return w.Changed()
	}
	return nil
}

// Refresh implements routing.Cluster.
func (m *members) Refresh(ctx context.Context, wrong *placement.Map) error {
	w := m.watcher.Load()
	if w == nil {
		return errors.New("not in touch with etcd yet")
	}
	_, err := w.Refresh(ctx, wrong.Revision())
	return err
}

// Shard implements routing.Cluster. Who has read the map that a new shard is on may ask for the shard before it was opened.
func (m *members) Shard(id ledger.ShardID) (routing.Shard, bool) {
	use, seen := m.opened(id)
	if w := m.watcher.Load(); use == nil && w != nil && w.Current().Revision > seen {
		m.catchUp()
		use, _ = m.opened(id)
	}
	return use, use != nil
}

// opened returns access to a shard, nil if it is not open, and the revision up to which what there is was opened.
func (m *members) opened(id ledger.ShardID) (use routing.Shard, seen int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if member, ok := m.open[id]; ok {
		use = member.use
	}
	return use, m.seen
}

// run reaches etcd, however long that takes, and follows the cluster until ctx ends. Then it closes every shard.
func (m *members) run(ctx context.Context, d duties) error {
	c, w, err := m.reach(ctx)
	if err != nil || c == nil { // nil: ctx has ended before
		return err
	}
	defer c.Close()
	defer w.Close()
	m.catchUp = func() { m.follow(ctx, c, w, d) }
	m.watcher.Store(w)
	defer m.closeAll()
	var whole sync.WaitGroup
	defer whole.Wait()
	if d.whole != nil {
		whole.Go(func() { d.whole(ctx, c, w) })
	}
	for {
		changed := w.Changed()
		m.catchUp()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// reach connects to etcd and reads the cluster. It returns nil if ctx ends before.
func (m *members) reach(ctx context.Context) (*cluster.Cluster, *cluster.Watcher, error) {
	for told := ""; ; {
		c, w, err := m.tryReach(ctx)
		if err == nil {
			return c, w, nil
		}
		if ctx.Err() != nil {
			return nil, nil, nil
		}
		if errors.Is(err, cluster.ErrMismatch) {
			return nil, nil, err
		}
		if err.Error() != told {
			told = err.Error()
			m.log.Warn("waiting for the cluster", "error", err)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, nil
		}
	}
}

func (m *members) tryReach(ctx context.Context) (*cluster.Cluster, *cluster.Watcher, error) {
	c, err := cluster.Connect(ctx, m.etcd)
	if err != nil {
		return nil, nil, err
	}
	w, err := c.Watch(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, w, nil
}

// follow opens shards that are new, or have another address or another primary, and closes those that are gone.
func (m *members) follow(ctx context.Context, c *cluster.Cluster, w *cluster.Watcher, d duties) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return // all that is open is being closed
	}
	view := w.Current()
	m.seen = view.Revision
	for id, open := range m.open {
		if known, ok := view.Shards[id]; !ok || known.DSN != open.dsn || known.Timeline != open.timeline {
			delete(m.open, id)
			m.closing.Go(open.close)
		}
	}
	for id, known := range view.Shards {
		if _, ok := m.open[id]; ok {
			continue
		}
		s, err := shard.Open(m.postgres.shardConfig(view.Config.UID, known, m.passwords(id), m.process), m.log)
		if err != nil {
			m.log.Error("cannot open a shard", "shard", id, "error", err)
			continue
		}
		besideCtx, stop := context.WithCancel(ctx)
		opened := &member{shard: s, use: s, dsn: known.DSN, timeline: known.Timeline, stop: stop, done: make(chan struct{}), stopMetrics: func() {}}
		if m.target > 0 {
			limited := limit(s, m.target)
			opened.use, opened.stopMetrics = limited, limited.observe(id)
		}
		m.open[id] = opened
		go func() {
			defer close(opened.done)
			var greeting sync.WaitGroup
			greeting.Go(func() { m.greet(besideCtx, s) })
			if d.beside != nil {
				d.beside(besideCtx, c, w, s)
			}
			greeting.Wait()
		}()
	}
}

// greet says when a shard was opened whether this program can use it, and not only when somebody asks for it.
func (m *members) greet(ctx context.Context, s *shard.Shard) {
	has, err := s.Schema(ctx)
	mine, failed := shard.SchemaVersion()
	var stranger *placement.StrangerError
	switch {
	case errors.As(err, &stranger):
		m.log.Error("a shard is not served as it is", "shard", s.ID(), "error", stranger)
	case err == nil && failed == nil && has > mine:
		m.log.Warn("a shard has newer tables than this program: it works with those of the next version, and with none after that",
			"shard", s.ID(), "has", has, "mine", mine)
	}
}

func (m *member) close() {
	m.stopMetrics()
	m.stop()
	<-m.done
	m.shard.Close()
}

func (m *members) closeAll() {
	m.mu.Lock()
	open := maps.Clone(m.open)
	clear(m.open)
	m.mu.Unlock()
	for _, member := range open {
		m.closing.Go(member.close)
	}
	m.closing.Wait()
}
