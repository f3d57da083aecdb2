package rebalancetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	rt "github.com/saldo-ledger/saldo/internal/rebalance/rebalancetest"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) { pgtest.Main(etcdtest.With(m)) }

// TestRealMoves plays stories on real shards and a real registry, one after the other: the same slots go to and fro.
func TestRealMoves(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	for range 2 {
		r.begin()
	}
	var clients sync.WaitGroup
	writing, stop := context.WithCancel(r.ctx)
	for i := range 3 {
		clients.Go(func() { r.write(writing, fmt.Sprintf("c%d", i), i == 2) })
	}
	for _, fault := range realFaults() {
		r.play(fault)
	}
	stop()
	clients.Wait()
	r.check()
}

// realFault is a fault of one kind, and whether the move is aborted in passing.
type realFault struct {
	rt.Fault
	aborted bool
}

// realFaults are those that differ most; with SALDO_SIM_DEEP=1 the others as well.
func realFaults() []realFault {
	crash := func(point string) realFault { return realFault{Fault: rt.Fault{At: "after " + point, Kind: rt.Crash}} }
	sleep := func(point string) realFault {
		return realFault{Fault: rt.Fault{At: "before " + point, Kind: rt.Sleep, For: 300 * time.Millisecond}}
	}
	aborted := func(fault realFault) realFault {
		fault.aborted = true
		return fault
	}
	faults := []realFault{
		{}, crash("copy"), sleep("fence"), crash("fence"), sleep("switch"), crash("switch"), crash("activate"), crash("clean"),
		aborted(crash("restore")),
	}
	if os.Getenv("SALDO_SIM_DEEP") == "" {
		return faults
	}
	for _, point := range []string{
		"mark", "copy", "record catchup", "unfence", "pass", "verify", "record fence", "fence", "final", "switch", "activate",
		"tombstone", "record clean", "clean",
	} {
		faults = append(faults, crash(point), sleep(point))
	}
	for _, point := range []string{"restore", "discard", "clean"} {
		faults = append(faults, aborted(crash(point)), aborted(sleep(point)))
	}
	return faults
}

// real is a cluster of two real shards.
type real struct {
	*testing.T
	ctx      context.Context
	cluster  *cluster.Cluster
	watcher  *cluster.Watcher
	registry *assembly.Registry
	shards   *assembly.Shards
	raw      *clientv3.Client
	open     map[ledger.ShardID]*shard.Shard
	password string // of both shards
	slots    placement.SlotSet
	users    []ledger.UserID
	log      *slog.Logger
	running  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	fault   *realFault // that has not happened yet
	abort   bool       // a person is about to abort the move
	begun   int
	acked   map[ledger.UserID]ledger.Amount
	slowest time.Duration
}

func newReal(t *testing.T) *real {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	r := &real{
		T: t, ctx: ctx, raw: etcdtest.Client(t), log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		open: make(map[ledger.ShardID]*shard.Shard), acked: make(map[ledger.UserID]ledger.Amount),
	}
	var err error
	r.cluster, err = cluster.Connect(ctx, cluster.Config{
		Endpoints: etcdtest.Endpoints(t), Prefix: etcdtest.Prefix(t), LeaseTTL: 5 * time.Second,
		Log: slog.New(slog.DiscardHandler),
	})
	r.must(err)
	var databases []assembly.Database
	for _, id := range []ledger.ShardID{"a", "b"} {
		dsn := pgtest.Database(t, nil)
		address, err := url.Parse(dsn)
		r.must(err)
		r.password, _ = address.User.Password()
		databases = append(databases, assembly.Database{ID: id, DSN: dsn, OwnerDSN: dsn, Password: r.password})
	}
	view, err := assembly.Form(ctx, r.cluster, databases, func(line string) { t.Log(line) })
	r.must(err)
	r.watcher, err = r.cluster.Watch(ctx)
	r.must(err)
	r.registry = assembly.NewRegistry(r.cluster, r.watcher)
	r.shards = assembly.NewShards(r.watcher.Current, r.passwords, "saldo test", r.log)
	for _, d := range databases {
		r.open[d.ID], err = shard.Open(shard.Config{Cluster: view.Config.UID, ID: d.ID, DSN: d.DSN}, r.log)
		r.must(err)
	}
	t.Cleanup(func() {
		cancel()
		r.running.Wait()
		r.shards.Close()
		for _, s := range r.open {
			s.Close()
		}
		r.watcher.Close()
		if err := r.cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	for slot := range ledger.Slot(64) {
		r.slots = append(r.slots, slot)
	}
	for n := 0; len(r.users) < 20; n++ {
		if id := ledger.UserID(fmt.Sprintf("u%d", n)); r.slots.Contains(placement.SlotOf(id)) {
			r.users = append(r.users, id)
			home, hold := view.Map.HoldOn(id)
			_, _, err := r.open[home].CreateUser(ctx, ledger.User{ID: id, Name: "somebody"}, hold)
			r.must(err)
		}
	}
	return r
}

func (r *real) passwords(ledger.ShardID) string { return r.password }

func (r *real) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// write adds money all the time. A client without manners keeps its first map.
func (r *real) write(ctx context.Context, name string, frozen bool) {
	m := r.watcher.Current().Map
	for n := 0; ctx.Err() == nil; n++ {
		user := r.users[n%len(r.users)]
		op := ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
			Identity: ledger.Identity{Initiator: user, TxID: ledger.TxID(fmt.Sprintf("%s-%d", name, n))},
			Kind:     ledger.KindAdd, Amount: 1, Currency: "USD",
		}}
		began := time.Now()
		for ctx.Err() == nil {
			home, hold := m.HoldOn(user)
			result, err := r.open[home].Submit(context.WithoutCancel(ctx), op, hold)
			if err == nil && result.Reason == ledger.Applied {
				r.mu.Lock()
				r.acked[user]++
				r.slowest = max(r.slowest, time.Since(began))
				r.mu.Unlock()
				break
			}
			var refused *placement.OwnershipError
			if !errors.As(err, &refused) || refused.Ahead() && !frozen {
				r.Errorf("%s: %v, %v", name, result, err)
				return
			}
			if frozen {
				break
			}
			time.Sleep(2 * time.Millisecond)
			m = r.watcher.Current().Map
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// gone is a process that can be made to have crashed: whatever it asks for fails.
type gone struct {
	context.Context
	crash context.CancelFunc
}

// begin starts a process: a rebalancer that leads when it is elected, and goes on until it finds that it does not.
func (r *real) begin() {
	r.mu.Lock()
	r.begun++
	name := fmt.Sprintf("p%d", r.begun)
	r.mu.Unlock()
	life, crash := context.WithCancel(r.ctx)
	p := gone{life, crash}
	log := r.log.With("process", name)
	config := rebalance.Config{
		Retention: -1, Share: 1, ChunkRows: 500, Deadman: 2 * time.Second,
		MinPause: 20 * time.Millisecond, MaxPause: 200 * time.Millisecond,
	}
	var leadership cluster.Leadership
	led := config
	led.At = func(point string) { r.at(p, leadership, point) }
	r.running.Go(func() {
		rebalance.New(r.registry, r.shards, config, log).Watch(life)
	})
	r.running.Go(func() {
		_ = r.cluster.Lead(life, "rebalancer", name, func(_ context.Context, now cluster.Leadership) error {
			leadership = now
			// It does not hear that it was deposed: the worst sort of leader.
			return rebalance.New(r.registry.Led(now), dying{r.shards, p}, led, log).Run(life, now.CreateRevision)
		})
	})
}

// dying are the shards as a process has them that may crash: then it does not even lift the fence, as one does that is
// told to stop. Everything else ends with its context.
type dying struct {
	rebalance.Shards
	p gone
}

func (d dying) Pair(view *rebalance.View, move placement.Move, token int64) (rebalance.Pair, error) {
	pair, err := d.Shards.Pair(view, move, token)
	return dyingPair{pair, d.p}, err
}

type dyingPair struct {
	rebalance.Pair
	p gone
}

func (d dyingPair) Unfence(ctx context.Context, holds []placement.Hold) error {
	if d.p.Err() != nil {
		return d.p.Err()
	}
	return d.Pair.Unfence(ctx, holds)
}

// at is where the fault happens, once.
func (r *real) at(p gone, leadership cluster.Leadership, point string) {
	r.mu.Lock()
	abort := r.abort && point == "after copy"
	if abort {
		r.abort = false
	}
	fault := r.fault
	due := fault != nil && fault.At == point && p.Err() == nil && (!fault.aborted || !r.abort)
	if due {
		r.fault = nil
	}
	r.mu.Unlock()
	if abort {
		view, err := r.registry.View(r.ctx)
		if err == nil {
			_, err = r.registry.Abort(r.ctx, view.Moves[len(view.Moves)-1], "a person said so")
		}
		if err != nil {
			r.Errorf("abort: %v", err)
		}
	}
	if !due {
		return
	}
	switch fault.Kind {
	case rt.Crash:
		p.crash()
		r.begin()
	case rt.Sleep:
		if _, err := r.raw.Delete(r.ctx, leadership.Key); err != nil {
			r.Errorf("depose: %v", err)
		}
		time.Sleep(fault.For)
	}
}

// play moves the slots from where they are to the other shard, while something goes wrong.
func (r *real) play(fault realFault) {
	r.Helper()
	began := time.Now()
	view, err := r.registry.View(r.ctx)
	r.must(err)
	move := placement.Move{
		ID: rebalance.NewMoveID(), Source: view.Map.Owner(r.slots[0]).Shard, Target: "b", Slots: r.slots,
		Phase: placement.PhasePlanned, Why: "a story", CreatedAt: time.Now(),
	}
	if move.Source == "b" {
		move.Target = "a"
	}
	move.ID = placement.MoveID(fmt.Sprintf("m%03d", len(view.Moves)))
	r.mu.Lock()
	r.fault, r.abort = &fault, fault.aborted
	r.mu.Unlock()
	_, err = r.registry.Plan(r.ctx, view, move)
	r.must(err)
	for {
		view, err := r.registry.View(r.ctx)
		r.must(err)
		i := slices.IndexFunc(view.Moves, func(m placement.Move) bool { return m.ID == move.ID })
		if now := view.Moves[i]; now.Phase.Ended() {
			if (now.Phase == placement.PhaseAborted) != fault.aborted {
				r.Errorf("%v: the move ended in phase %s, because of %q", fault, now.Phase, now.Cause)
			}
			r.Logf("%v: %s after %v, fenced %d ms", fault, now.Phase, time.Since(began).Round(time.Millisecond), now.FenceMillis)
			break
		}
		select {
		case <-r.ctx.Done():
			r.Fatalf("%v: the move is in phase %s", fault, view.Moves[i].Phase)
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if fault.At != "" && r.fault != nil {
		r.Errorf("%v: it did not happen", fault)
	}
}

// check compares the books with what was acknowledged, and has them audited.
func (r *real) check() {
	r.Helper()
	m := r.watcher.Current().Map
	for _, user := range r.users {
		account, err := r.open[m.OwnerOf(user).Shard].Balance(r.ctx, user, "USD")
		if err != nil || account.Balance != r.acked[user] || account.Version != int64(r.acked[user]) {
			r.Errorf("%s has %+v, %v; acknowledged were %d", user, account, err, r.acked[user])
		}
	}
	for id := range r.open {
		left, err := r.shards.Uncleaned(r.ctx, assembly.RebalanceView(r.watcher.Current()), id)
		if err != nil || len(left) > 0 {
			r.Errorf("shard %s has copies of %s left, %v", id, left, err)
		}
	}
	world := assembly.NewWorld(r.cluster, r.passwords)
	defer world.Close()
	report, err := audit.Run(r.ctx, world, audit.Options{})
	r.must(err)
	if failed := report.Failed(); len(failed) > 0 {
		var text strings.Builder
		for _, name := range failed {
			fmt.Fprintf(&text, "%+v\n", report.Check(name))
		}
		r.Errorf("the audit found: %s", text.String())
	}
	r.Logf("the slowest write took %v", r.slowest)
}
