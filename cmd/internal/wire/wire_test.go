package wire

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) { pgtest.Main(etcdtest.With(m)) }

var migrated = pgtest.Template("migrated", func(dsn string) error {
	_, err := shard.Migrate(context.Background(), dsn, "")
	return err
})

var postgres = Postgres{Writers: 1, MaxBatch: 512, QueueSize: 8192, ReadConns: 2, BalanceBatch: 1024}

// long is what nothing takes that comes by itself, also on a machine that is busy and slow.
const long = time.Minute

// world is a cluster's etcd, under a prefix of the test's own.
type world struct {
	*testing.T
	ctx       context.Context
	endpoints []string
	prefix    string
	log       *slog.Logger
	c         *cluster.Cluster
	config    cluster.ClusterConfig
}

func newWorld(t *testing.T, initialShards int, endpoints ...string) *world {
	t.Helper()
	if len(endpoints) == 0 {
		endpoints = etcdtest.Endpoints(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*long)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, endpoints: endpoints, prefix: etcdtest.Prefix(t), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	w.c = w.connect()
	var err error
	if w.config, _, err = w.c.Init(ctx, initialShards); err != nil {
		t.Fatal(err)
	}
	return w
}

// passwords is that of the tests' Postgres, which etcd does not keep.
func (w *world) passwords(ledger.ShardID) string {
	dsn, err := url.Parse(pgtest.Server(w).DSN())
	if err != nil {
		w.Fatal(err)
	}
	password, _ := dsn.User.Password()
	return password
}

func (w *world) cluster() cluster.Config {
	return cluster.Config{Endpoints: w.endpoints, Prefix: w.prefix, LeaseTTL: 2 * time.Second, Log: w.log}
}

func (w *world) connect() *cluster.Cluster {
	w.Helper()
	config := w.cluster()
	config.LeaseTTL = 0 // as in production
	c, err := cluster.Connect(w.ctx, config)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	return c
}

// register registers a shard; one with a dsn of "" gets a database of its own, enrolled, and its dsn is returned.
func (w *world) register(id ledger.ShardID, dsn string) string {
	w.Helper()
	if dsn == "" {
		dsn = pgtest.Database(w, migrated)
		if err := shard.Enroll(w.ctx, dsn, "", w.config.UID, id); err != nil {
			w.Fatal(err)
		}
	}
	if _, err := w.c.Register(w.ctx, w.config, cluster.Shard{ID: id, DSN: dsn}); err != nil {
		w.Fatal(err)
	}
	return dsn
}

func (w *world) eventually(limit time.Duration, what string, is func() bool) {
	w.Helper()
	began := time.Now()
	for ; !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > limit {
			w.Fatalf("not within %v: %s", limit, what)
		}
	}
	w.Logf("after %v: %s", time.Since(began).Round(time.Millisecond), what)
}

// background runs f until the returned function is called or the test ends.
func (w *world) background(f func(ctx context.Context) error) (stop func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.Error(err)
			}
		})
	}
	w.Cleanup(stop)
	return stop
}

// beside counts what runs beside the shards.
type beside struct {
	mu      sync.Mutex
	running map[*shard.Shard]ledger.ShardID
	linger  time.Duration // after the end of the context
}

func (b *beside) run(ctx context.Context, _ *cluster.Cluster, _ *cluster.Watcher, s *shard.Shard) {
	b.mu.Lock()
	if b.running == nil {
		b.running = map[*shard.Shard]ledger.ShardID{}
	}
	b.running[s] = s.ID()
	b.mu.Unlock()
	<-ctx.Done()
	b.mu.Lock()
	linger := b.linger
	b.linger = 0
	b.mu.Unlock()
	time.Sleep(linger)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.running, s)
}

func (b *beside) count(id ledger.ShardID) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range b.running {
		if other == id {
			n++
		}
	}
	return n
}

func TestMembersFollowTheRegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	dsn := w.register("s1", "")
	if founded, err := w.c.FoundIfDue(w.ctx); err != nil || !founded {
		t.Fatal(founded, err)
	}
	view, err := w.c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := assembly.Activate(w.ctx, view, w.passwords); err != nil {
		t.Fatal(err)
	}
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	if _, ok := m.Shard("s1"); ok || m.Map().Complete() || m.Refresh(w.ctx, m.Map()) == nil {
		t.Error("it knows a cluster that it has not reached")
	}
	var b beside
	stop := w.background(func(ctx context.Context) error { return m.run(ctx, duties{beside: b.run}) })
	open := func(id ledger.ShardID) routing.Shard {
		s, ok := m.Shard(id)
		if !ok {
			return nil
		}
		return s
	}
	w.eventually(long, "s1 is open", func() bool { return open("s1") != nil && b.count("s1") == 1 })
	first := open("s1")
	if !m.Map().Complete() {
		t.Error("the map is not there")
	}
	ask := func(s routing.Shard) error {
		_, err := s.User(w.ctx, "nobody")
		return err
	}
	if err := ask(first); ledger.CodeOf(err) != ledger.CodeUserNotFound {
		t.Error(err)
	}

	w.register("s2", "postgres://nowhere:1/x")
	w.eventually(long, "s2 is open", func() bool { return open("s2") != nil && b.count("s2") == 1 })
	if open("s1") != first {
		t.Error("s1 was opened again for nothing")
	}

	// Somebody reads through the shard while its address changes.
	readers, stopReading := context.WithCancel(w.ctx)
	var reading sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			for readers.Err() == nil {
				began := time.Now()
				ctx, cancel := context.WithTimeout(w.ctx, 2*long)
				_, err := open("s1").Balance(ctx, "nobody", "USD")
				cancel()
				if code := ledger.CodeOf(err); code != ledger.CodeUserNotFound && code != ledger.CodeUnavailable {
					t.Errorf("read: %v", err)
				}
				if took := time.Since(began); took > long {
					t.Errorf("a read took %v: %v", took, err)
				}
			}
		})
	}
	for i := range 5 {
		before := open("s1")
		if _, err := w.c.Readdress(w.ctx, w.config, "s1", fmt.Sprintf("%s&application_name=x%d", dsn, i)); err != nil {
			t.Fatal(err)
		}
		w.eventually(long, "s1 is opened at its new address", func() bool { return open("s1") != before })
	}
	stopReading()
	reading.Wait()
	w.eventually(long, "what ran beside the old ones has ended", func() bool { return b.count("s1") == 1 })
	if err := ask(open("s1")); ledger.CodeOf(err) != ledger.CodeUserNotFound {
		t.Error(err)
	}
	_, hold := m.Map().HoldOn("x")
	if _, _, err := first.CreateUser(w.ctx, ledger.User{ID: "x", Name: "x"}, hold); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("the old one is still open: %v", err)
	}

	raw := etcdtest.Client(t)
	if _, err := raw.Delete(w.ctx, w.prefix+"shards/s2"); err != nil {
		t.Fatal(err)
	}
	w.eventually(long, "s2 is closed", func() bool { return open("s2") == nil && b.count("s2") == 0 })
	// One that changes at the last moment is closed as well before run returns.
	before := open("s1")
	b.mu.Lock()
	b.linger = time.Second
	b.mu.Unlock()
	if _, err := w.c.Readdress(w.ctx, w.config, "s1", dsn); err != nil {
		t.Fatal(err)
	}
	w.eventually(long, "s1 is opened again", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.linger == 0 && open("s1") != before
	})
	stop()
	if b.count("s1") != 0 || open("s1") != nil {
		t.Error("something runs beside a shard after the end")
	}
}

// Who has the newest map finds its shards, before anybody has come to opening them.
func TestMembersOpenWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	watcher, err := w.c.Watch(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watcher.Close)
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	m.catchUp = func() { m.follow(w.ctx, w.c, watcher, duties{}) }
	m.watcher.Store(watcher)
	t.Cleanup(m.closeAll)
	w.register("s1", "postgres://nowhere:1/x")
	if err := m.Refresh(w.ctx, m.Map()); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Shard("s1"); !ok {
		t.Error("s1 is known and not open")
	}
	if _, ok := m.Shard("s2"); ok {
		t.Error("s2 is not known and open")
	}
}

func TestEtcdIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t)
	w := newWorld(t, 0, etcd.Endpoints()...)
	w.register("s1", "postgres://nowhere:1/x")
	etcd.Stop()
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	w.background(func(ctx context.Context) error {
		return m.run(ctx, duties{beside: func(ctx context.Context, _ *cluster.Cluster, _ *cluster.Watcher, _ *shard.Shard) { <-ctx.Done() }})
	})
	time.Sleep(time.Second)
	if _, ok := m.Shard("s1"); ok {
		t.Fatal("a shard is known")
	}
	if err := etcd.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.eventually(long, "the cluster is reached", func() bool { _, ok := m.Shard("s1"); return ok })

	other := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	etcd.Stop()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	defer cancel()
	if err := other.run(ctx, duties{}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > long {
		t.Errorf("it went on for %v after its context's end", took)
	}
}

// While etcd is away everybody works, and from then until somebody is elected again there is always somebody who does.
func TestSomebodyDrivesWhateverEtcdDoes(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t)
	w := newWorld(t, 0, etcd.Endpoints()...)
	var working, leading, away atomic.Int64
	work := func(of *atomic.Int64) func(context.Context) {
		return func(ctx context.Context) {
			of.Add(1)
			working.Add(1)
			<-ctx.Done()
			working.Add(-1)
			of.Add(-1)
		}
	}
	for i := range 2 {
		c := w.connect()
		watcher, err := c.Watch(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(watcher.Close)
		w.background(func(ctx context.Context) error { whileAway(ctx, watcher, work(&away)); return nil })
		w.background(func(ctx context.Context) error {
			_ = c.Lead(ctx, "sagas.s1", fmt.Sprint(i), func(ctx context.Context, _ cluster.Leadership) error {
				work(&leading)(ctx)
				return nil
			})
			return nil
		})
	}
	w.eventually(long, "one is elected", func() bool { return leading.Load() == 1 })
	time.Sleep(2 * time.Second)
	if away.Load() != 0 || working.Load() != 1 {
		t.Fatalf("%d work, %d of them as if etcd were away", working.Load(), away.Load())
	}
	etcd.Stop()
	nobody := watchForNobody(&working)
	w.eventually(long, "everybody works", func() bool { return away.Load() == 2 })
	time.Sleep(8 * time.Second) // candidates get slower and slower
	if err := etcd.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.eventually(long, "one is elected again", func() bool { return leading.Load() == 1 })
	w.eventually(long, "the others have stopped", func() bool { return away.Load() == 0 && working.Load() == 1 })
	if gap := nobody(); gap > 3*time.Second { // etcd was away for longer
		t.Errorf("nobody worked for %v", gap)
	}
}

// watchForNobody returns a function that tells how long in all nobody worked.
func watchForNobody(working *atomic.Int64) func() time.Duration {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		gap, last := time.Duration(0), time.Now()
		for {
			select {
			case <-stop:
				result <- gap
				return
			case now := <-tick.C:
				if working.Load() == 0 {
					gap += now.Sub(last)
				}
				last = now
			}
		}
	}()
	return func() time.Duration { close(stop); return <-result }
}

func (w *world) coordinator(name string) (stop func()) {
	w.Helper()
	config := Coordinator{
		Name: name, Settle: 500 * time.Millisecond, Poll: 50 * time.Millisecond, Postgres: postgres,
		Etcd: Etcd{Endpoints: w.endpoints, Prefix: w.prefix},
	}
	return w.background(func(ctx context.Context) error {
		return RunCoordinator(ctx, config, Process{Passwords: w.passwords, Log: w.log}, nil)
	})
}

func (w *world) sql(dsn, statement string) {
	w.Helper()
	conn, err := pgx.Connect(w.ctx, dsn)
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close(w.ctx)
	if _, err := conn.Exec(w.ctx, statement); err != nil {
		w.Fatal(err)
	}
}

func (w *world) owned(dsn string) (n int) {
	w.Helper()
	conn, err := pgx.Connect(w.ctx, dsn)
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close(w.ctx)
	if err := conn.QueryRow(w.ctx, `select count(*) from saldo.slots where state = 'owned' and epoch = 1`).Scan(&n); err != nil {
		w.Fatal(err)
	}
	return n
}

func TestCoordinatorsFoundTheCluster(t *testing.T) {
	t.Parallel()
	for _, initial := range []int{0, 3} {
		t.Run(fmt.Sprint("initial_shards=", initial), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, initial)
			w.coordinator("one")
			w.coordinator("two")
			dsns := []string{w.register("s1", ""), w.register("s2", "")}
			if initial > 0 {
				time.Sleep(1500 * time.Millisecond)
				if view, err := w.c.Read(w.ctx); err != nil || view.Founded() {
					t.Fatalf("founded with 2 of 3 shards, %v", err)
				}
			}
			dsns = append(dsns, w.register("s3", ""))
			w.eventually(long, "every shard enforces its slots", func() bool {
				return w.owned(dsns[0]) == 1366 && w.owned(dsns[1]) == 1365 && w.owned(dsns[2]) == 1365
			})
			chunks, err := etcdtest.Client(t).Get(w.ctx, w.prefix+"slots/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range chunks.Kvs {
				if kv.Version != 1 || kv.CreateRevision != chunks.Kvs[0].CreateRevision {
					t.Fatalf("%s was written %d times", kv.Key, kv.Version)
				}
			}
		})
	}
}

// A shard that is down when the cluster is founded does not keep the others from being told.
func TestFoundingWithAShardThatIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	up := []string{w.register("s2", ""), w.register("s3", "")}
	w.register("s1", "postgres://127.0.0.1:1/x")
	if _, err := w.c.FoundIfDue(w.ctx); err != nil {
		t.Fatal(err)
	}
	view, err := w.c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // the order is random
		if err := assembly.Activate(w.ctx, view, w.passwords); err == nil {
			t.Error("a shard that is down was told")
		}
		if a, b := w.owned(up[0]), w.owned(up[1]); a == 0 || b == 0 {
			t.Fatalf("the shards that are up own %d and %d slots", a, b)
		}
		for _, dsn := range up {
			w.sql(dsn, `delete from saldo.slots`)
		}
	}
}

// Sagas go on when the elected coordinator goes away.
func TestElectionHandsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.register("s1", "")
	w.register("s2", "")
	stops := map[string]func(){"one": w.coordinator("one"), "two": w.coordinator("two")}
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	r := routing.New(m, routing.Config{Handover: -1}, w.log) // it carries nothing itself
	t.Cleanup(r.Close)
	w.background(func(ctx context.Context) error { return m.run(ctx, duties{}) })
	w.eventually(long, "the cluster serves", func() bool {
		_, _, err := r.CreateUser(w.ctx, ledger.User{ID: "u", Name: "u"})
		return err == nil
	})
	users := map[ledger.ShardID]ledger.UserID{}
	for i := 0; len(users) < 2; i++ {
		user := ledger.UserID(fmt.Sprint("u", i))
		users[r.ShardOf(user)] = user
	}
	for _, user := range users {
		w.eventually(long, string(user)+" is created", func() bool {
			_, _, err := r.CreateUser(w.ctx, ledger.User{ID: user, Name: "u"})
			return err == nil
		})
	}
	start := func(kind ledger.Kind, payee ledger.UserID, tx string, wait time.Duration) ledger.TransferRecord {
		record, _, err := r.Transfer(w.ctx, ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
			Identity: ledger.Identity{Initiator: users["s1"], TxID: ledger.TxID(tx)}, Kind: kind, Payee: payee, Amount: 10, Currency: "USD",
		}}, wait)
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	for i := range 5 {
		start(ledger.KindAdd, "", fmt.Sprint("add", i), 0)
	}
	leader := func() string {
		name, _, err := w.c.Leader(w.ctx, "sagas.s1")
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	w.eventually(long, "one is elected", func() bool { return leader() != "" })
	if record := start(ledger.KindTransfer, users["s2"], "t1", long); record.Status() != ledger.StatusCompleted {
		t.Fatalf("t1 is %s", record.Status())
	}
	first := leader()
	stops[first]()
	if record := start(ledger.KindTransfer, users["s2"], "t2", long); record.Status() != ledger.StatusCompleted {
		t.Fatalf("t2 is %s", record.Status())
	}
	second := leader()
	if second == first || second == "" {
		t.Errorf("%q leads after %q", second, first)
	}
	stops[second]()
	if record := start(ledger.KindTransfer, users["s2"], "t3", time.Second); record.Status() != ledger.StatusPending {
		t.Fatalf("without a coordinator t3 is %s", record.Status())
	}
	w.coordinator("three")
	if record := start(ledger.KindTransfer, users["s2"], "t3", long); record.Status() != ledger.StatusCompleted {
		t.Fatalf("t3 is %s", record.Status())
	}
}

// A slot has moved, and etcd is away, so nobody can tell where to: its users are told to come again, in time. Others notice
// nothing, and everything goes on when etcd is back.
func TestMovedWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t)
	w := newWorld(t, 1, etcd.Endpoints()...)
	dsn := w.register("s1", "")
	if founded, err := w.c.FoundIfDue(w.ctx); err != nil || !founded {
		t.Fatal(founded, err)
	}
	view, err := w.c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := assembly.Activate(w.ctx, view, w.passwords); err != nil {
		t.Fatal(err)
	}
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", w.log)
	w.background(func(ctx context.Context) error { return m.run(ctx, duties{}) })
	const patience = 4 * time.Second
	r := routing.New(m, routing.Config{FenceWait: patience}, w.log)
	t.Cleanup(r.Close)
	w.eventually(long, "s1 is open", func() bool { _, ok := m.Shard("s1"); return ok })
	for _, user := range []ledger.UserID{"moved", "stays"} {
		if _, _, err := r.CreateUser(w.ctx, ledger.User{ID: user, Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	etcd.Stop()
	slot := placement.SlotOf("moved")
	w.sql(dsn, fmt.Sprintf(`update saldo.slots set state = 'moved', epoch = 2, moved_to = 's2' where slot = %d`, slot))
	began := time.Now()
	var asking sync.WaitGroup
	for range 10 {
		asking.Go(func() {
			if _, err := r.Balance(w.ctx, "moved", "USD"); ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Errorf("the user who has moved: %v", err)
			}
		})
	}
	for n := 0; time.Since(began) < time.Second; n++ {
		began := time.Now()
		if _, err := r.Balance(w.ctx, "stays", "USD"); err != nil {
			t.Errorf("another: %v", err)
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("another waited for %v", took)
		}
		time.Sleep(20 * time.Millisecond)
	}
	asking.Wait()
	if took := time.Since(began); took > long {
		t.Errorf("those who have moved were answered after %v", took)
	}
	if err := etcd.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.sql(dsn, fmt.Sprintf(`update saldo.slots set state = 'owned', epoch = 1 where slot = %d`, slot))
	w.eventually(long, "all are served", func() bool { _, err := r.Balance(w.ctx, "moved", "USD"); return err == nil })
}
