package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// rewrite changes the owner of one slot at the given epoch, as a move will: one Txn, whole chunk.
func (w *world) rewrite(slot ledger.Slot, owner placement.Owner) (revision int64) {
	w.Helper()
	chunk := int(slot) / chunkSlots
	key := w.keys.chunk(chunk)
	owners := map[ledger.Slot]placement.Owner{}
	if err := parseChunk(fmt.Sprintf("%02x", chunk), w.get(key), owners); err != nil {
		w.Fatal(err)
	}
	owners[slot] = owner
	value, err := formatChunk(chunk, owners)
	if err != nil {
		w.Fatal(err)
	}
	return w.put(key, value)
}

func TestWatcherSeesChanges(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 2, 0)
	watcher := w.watch(c)
	if view := watcher.Current(); view.Founded() || len(view.Shards) != 0 || view.Config != config {
		t.Fatalf("first view %+v", view)
	}

	changed := watcher.Changed()
	w.register(c, config, "s1")
	<-changed
	if view := watcher.Current(); view.Shards["s1"].DSN == "" {
		t.Errorf("shards %v", view.Shards)
	}

	before := watcher.Current()
	w.register(c, config, "s2")
	if founded, err := c.FoundIfDue(w.ctx); !founded || err != nil {
		t.Fatal(founded, err)
	}
	w.eventually(5*time.Second, "founded", func() bool {
		view := watcher.Current()
		if len(view.Map.Ranges()) > 0 && !view.Founded() {
			t.Error("half of a founding was seen")
		}
		return view.Founded()
	})
	if before.Founded() {
		t.Error("an old view changed")
	}

	revision := w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
	w.eventually(5*time.Second, "moved", func() bool { return watcher.Current().Map.Owner(7).Epoch == 2 })
	if view := watcher.Current(); view.Revision != revision || view.Map.Revision() != revision {
		t.Errorf("revision %d, map %d, want %d", view.Revision, view.Map.Revision(), revision)
	}

	// What is not part of a view is no change of it.
	changed, at := watcher.Changed(), watcher.Current()
	w.put(w.prefix+"live/router/r1", "x")
	time.Sleep(2 * probeInterval)
	select {
	case <-changed:
		t.Error("a change was told")
	default:
	}
	if watcher.Current() != at {
		t.Error("another view")
	}
	if status := watcher.Status(); !status.Connected || status.Problem != "" || time.Since(status.Contact) > 2*probeInterval {
		t.Errorf("status %+v", status)
	}
}

func TestWatcherListsAgainAfterCompaction(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd.Endpoints()...)
	_, config := w.founded(2)
	proxy := w.proxy()
	c := w.connect(proxy.endpoint())
	c.client.KV = probeless{c.client.KV} // which would make up for a bad watch
	watcher := w.watch(c)

	proxy.set(true, false)
	w.register(w.connect(), config, "s3")
	w.delete(w.keys.shard("s3"))
	w.register(w.connect(), config, "s4")
	revision := w.rewrite(7, placement.Owner{Shard: "s4", Epoch: 2})
	if _, err := w.raw.Compact(w.ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if view := watcher.Current(); len(view.Shards) != 2 {
		t.Fatalf("shards %v through a cut line", view.Shards)
	}
	proxy.set(false, false)
	w.eventually(10*time.Second, "seen after compaction", func() bool {
		view := watcher.Current()
		return view.Map.Owner(7).Shard == "s4" && len(view.Shards) == 3
	})
	// And it watches again: five listings, one each second, would take longer.
	began := time.Now()
	for epoch := ledger.Epoch(3); epoch < 8; epoch++ {
		w.rewrite(7, placement.Owner{Shard: "s4", Epoch: epoch})
		w.eventually(3*time.Second, fmt.Sprintf("epoch %d", epoch), func() bool { return watcher.Current().Map.Owner(7).Epoch == epoch })
	}
	if took := time.Since(began); took > 3*probeInterval {
		t.Errorf("it took %v", took)
	}
}

// probeless fails probes and nothing else.
type probeless struct{ clientv3.KV }

func (kv probeless) Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if op := clientv3.OpGet(key, options...); op.IsKeysOnly() {
		return nil, errors.New("no probes here")
	}
	return kv.KV.Get(ctx, key, options...)
}

func TestWatcherGoesOnWithoutEtcd(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd.Endpoints()...)
	c, _ := w.founded(2)
	watcher := w.watch(c)
	before := watcher.Current()

	changed := watcher.Changed()
	etcd.Stop()
	w.eventually(5*time.Second, "disconnected", func() bool { return !watcher.Status().Connected })
	<-changed
	if watcher.Current() != before {
		t.Error("another view")
	}
	ctx, cancel := context.WithTimeout(w.ctx, 300*time.Millisecond)
	view, err := watcher.Refresh(ctx, before.Revision)
	cancel()
	if err == nil || view != before {
		t.Errorf("refresh without etcd: %v, %v", view, err)
	}
	time.Sleep(2 * time.Second) // long enough for back-offs to grow
	if err := etcd.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.eventually(5*time.Second, "connected", func() bool { return watcher.Status().Connected })
	w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
	w.eventually(5*time.Second, "followed", func() bool { return watcher.Current().Map.Owner(7).Epoch == 2 })
}

// An etcd that says nothing, on connections that stay open, is away too.
func TestWatcherNoticesSilence(t *testing.T) {
	w := newWorld(t)
	w.founded(2)
	proxy := w.proxy()
	watcher := w.watch(w.connect(proxy.endpoint()))
	proxy.set(false, true)
	w.eventually(5*time.Second, "disconnected", func() bool { return !watcher.Status().Connected })
	w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
	proxy.set(false, false)
	w.eventually(5*time.Second, "connected", func() bool { return watcher.Status().Connected })
	w.eventually(5*time.Second, "followed", func() bool { return watcher.Current().Map.Owner(7).Epoch == 2 })
}

// A watch that went deaf without ending, or that does not even begin (clientv3's Watch returns no sooner than etcd has
// answered), is made up for by probes.
func TestWatcherSurvivesADeafWatch(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprintf("stuck=%v", stuck), func(t *testing.T) {
			w := newWorld(t)
			_, config := w.founded(2)
			c := w.connect()
			c.client.Watcher = deaf{c.client.Watcher, stuck}
			watcher := w.watch(c)
			w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
			w.eventually(5*time.Second, "a put", func() bool { return watcher.Current().Map.Owner(7).Epoch == 2 })
			w.register(c, config, "s3")
			w.eventually(5*time.Second, "a creation", func() bool { return len(watcher.Current().Shards) == 3 })
			w.delete(w.keys.shard("s3"))
			w.eventually(5*time.Second, "a deletion", func() bool { return len(watcher.Current().Shards) == 2 })
			at := watcher.Current()
			w.put(w.prefix+"live/router/r1", "x")
			time.Sleep(2 * probeInterval)
			if watcher.Current() != at {
				t.Error("another view, though nothing in it has changed")
			}
		})
	}
}

type deaf struct {
	clientv3.Watcher
	stuck bool
}

func (d deaf) Watch(ctx context.Context, _ string, _ ...clientv3.OpOption) clientv3.WatchChan {
	events := make(chan clientv3.WatchResponse)
	if d.stuck {
		<-ctx.Done()
		close(events)
		return events
	}
	context.AfterFunc(ctx, func() { close(events) })
	return events
}

// gatedKV counts listings, and holds each up, after it was served, until it is let through.
type gatedKV struct {
	clientv3.KV
	prefix  string
	gate    chan struct{} // nil: open
	served  chan struct{} // told of each listing that is held up
	listing atomic.Int32
}

func (kv *gatedKV) Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := kv.KV.Get(ctx, key, options...)
	if op := clientv3.OpGet(key, options...); key == kv.prefix && !op.IsKeysOnly() && !op.IsSerializable() {
		kv.listing.Add(1)
		if kv.gate != nil {
			kv.served <- struct{}{}
			select {
			case <-kv.gate:
			case <-ctx.Done():
			}
		}
	}
	return resp, err
}

func TestRefreshIsSharedAndNeverStale(t *testing.T) {
	w := newWorld(t)
	w.founded(2)
	c := w.connect()
	c.client.Watcher = deaf{c.client.Watcher, false} // nothing but refreshes brings news
	kv := &gatedKV{KV: c.client.KV, prefix: w.prefix}
	c.client.KV = kv
	watcher := w.watch(c)
	seen := watcher.Current().Revision
	kv.listing.Store(0)
	kv.gate, kv.served = make(chan struct{}), make(chan struct{}, 100)

	var early, late sync.WaitGroup
	early.Go(func() {
		if _, err := watcher.Refresh(w.ctx, seen); err != nil {
			t.Error(err)
		}
	})
	<-kv.served // the first listing has its answer, and it is on its way
	w.rewrite(7, placement.Owner{Shard: "s2", Epoch: 2})
	const n = 50
	var epochs [n]ledger.Epoch
	for i := range n {
		late.Go(func() {
			view, err := watcher.Refresh(w.ctx, seen)
			if err != nil {
				t.Error(err)
			}
			epochs[i] = view.Map.Owner(7).Epoch
		})
	}
	w.eventually(5*time.Second, "all wait", func() bool {
		watcher.mu.Lock()
		defer watcher.mu.Unlock()
		return watcher.waiting != nil
	})
	time.Sleep(100 * time.Millisecond)
	kv.gate <- struct{}{}
	early.Wait()
	if epoch := watcher.Current().Map.Owner(7).Epoch; epoch != 1 {
		t.Fatalf("epoch %d: the first listing was to be old", epoch)
	}
	<-kv.served
	kv.gate <- struct{}{}
	late.Wait()
	for i, epoch := range epochs {
		if epoch != 2 {
			t.Errorf("caller %d got epoch %d from a read that began before it asked", i, epoch)
		}
	}
	if listings := kv.listing.Load(); listings != 2 {
		t.Errorf("%d listings for 1 + %d callers", listings, n)
	}
	// Who still holds the old view needs no request.
	if view, err := watcher.Refresh(w.ctx, seen); err != nil || view.Map.Owner(7).Epoch != 2 || kv.listing.Load() != 2 {
		t.Errorf("%v, %d listings", err, kv.listing.Load())
	}
	close(kv.gate)
	if _, err := watcher.Refresh(w.ctx, math.MaxInt64); err != nil || kv.listing.Load() != 3 {
		t.Errorf("forced: %v, %d listings", err, kv.listing.Load())
	}
	watcher.Close()
	if view, err := watcher.Refresh(w.ctx, math.MaxInt64); err == nil || view == nil {
		t.Errorf("closed: %v, %v", view, err)
	}
}

func TestWatcherKeepsTheGoodView(t *testing.T) {
	w := newWorld(t)
	var lines lineCounter
	_, config := w.founded(2)
	c := w.connectWith(Config{Log: slog.New(slog.NewTextHandler(&lines, nil))})
	w.rewrite(7, placement.Owner{Shard: "s1", Epoch: 3})
	watcher := w.watch(c)
	good := watcher.Current()

	s1, chunk0, chunk1 := w.get(w.keys.shard("s1")), w.get(w.keys.chunk(0)), w.get(w.keys.chunk(1))
	for _, garbage := range []struct{ key, value, problem string }{
		{w.keys.chunk(0), `not json`, "chunk 00"},
		{w.keys.chunk(0), `[{"first":0,"last":70,"shard":"s1","epoch":9}]`, "0 to 70"},
		{w.keys.chunk(0), `[{"first":0,"last":63,"shard":"s9","epoch":9}]`, `"s9", which is not registered`},
		{w.keys.chunk(0), `[{"first":0,"last":40,"shard":"s1","epoch":9},{"first":40,"last":63,"shard":"s2","epoch":9}]`, "slot 40 is said twice"},
		{w.keys.chunk(0), `[{"first":0,"last":40,"shard":"s1","epoch":9}]`, "slot 41 has no owner"},
		{w.keys.chunk(0), `[{"first":0,"last":63,"shard":"s1","epoch":1}]`, "slot 7 went back from epoch 3 to 1"},
		{w.keys.chunk(1), strings.ReplaceAll(chunk1, "s1", "s2"), "kept epoch 1"},
		{w.keys.chunk(1), "", "slot 64 has no owner"}, // deleted
		{w.keys.slots() + "40", `[]`, `no chunk "40"`},
		{w.keys.slots() + "x/y", `[]`, `no chunk "x/y"`},
		{w.keys.shard("s1"), `{"id":"s2","state":"active","dsn":"host=h","weight":1}`, `says "s2"`},
		{w.keys.shard("s1"), `{"id":"s1","state":"sleepy","dsn":"host=h","weight":1}`, `"sleepy"`},
		{w.keys.shard("s1"), "", "not registered"}, // deleted
		{w.keys.shard("s3"), `{`, `shard "s3"`},
		{w.keys.config(), strings.Replace(config.raw, config.UID, "other", 1), "now other"},
		{w.keys.config(), "", "initialized"},
	} {
		if garbage.value == "" {
			w.delete(garbage.key)
		} else {
			w.put(garbage.key, garbage.value)
		}
		w.eventually(5*time.Second, garbage.problem, func() bool { return strings.Contains(watcher.Status().Problem, garbage.problem) })
		if watcher.Current() != good {
			t.Fatalf("%s: the good view is gone", garbage.problem)
		}
		view, err := watcher.Refresh(w.ctx, math.MaxInt64)
		if view != good || err == nil || !strings.Contains(err.Error(), garbage.problem) {
			t.Errorf("%s: refresh says %v", garbage.problem, err)
		}
		w.put(w.keys.shard("s2"), w.get(w.keys.shard("s2"))) // the same problem still
		if _, err := watcher.Refresh(w.ctx, math.MaxInt64); err == nil {
			t.Errorf("%s: no problem any more", garbage.problem)
		}
		switch garbage.key {
		case w.keys.config():
			w.put(garbage.key, config.raw)
		case w.keys.chunk(0):
			w.put(garbage.key, chunk0)
		case w.keys.chunk(1):
			w.put(garbage.key, chunk1)
		case w.keys.shard("s1"):
			w.put(garbage.key, s1)
		default:
			w.delete(garbage.key)
		}
		w.eventually(5*time.Second, "good again", func() bool { return watcher.Status().Problem == "" })
		good = watcher.Current()
	}
	if n := lines.count("make no sense"); n != 16 {
		t.Errorf("%d problems logged, want 16", n)
	}
	w.delete(w.keys.slots(), clientv3.WithPrefix())
	w.eventually(5*time.Second, "all slots lost", func() bool { return strings.Contains(watcher.Status().Problem, "lost their owners") })
	if watcher.Current() != good || !good.Founded() {
		t.Error("the good view is gone")
	}
}

type lineCounter struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lineCounter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *lineCounter) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// An etcd that was restored from a backup has forgotten decisions.
func TestWatcherNoticesThatEtcdWentBack(t *testing.T) {
	etcd := etcdtest.Start(t)
	w := newWorld(t, etcd.Endpoints()...)
	c, config := w.founded(2)
	for epoch := ledger.Epoch(2); epoch < 20; epoch++ {
		w.rewrite(7, placement.Owner{Shard: "s2", Epoch: epoch})
	}
	proxy := w.proxy()
	watcher := w.watch(w.connect(proxy.endpoint()))

	// The same endpoint leads to a store with the same cluster, earlier.
	restored := etcdtest.Start(t)
	back := etcdtest.Connect(t, restored.Endpoints())
	view, err := c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, value string) {
		if _, err := back.Put(w.ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	put(w.keys.config(), config.raw)
	var puts []clientv3.Op
	for id := range view.Shards {
		puts = append(puts, clientv3.OpPut(w.keys.shard(id), w.get(w.keys.shard(id))))
	}
	owners := placement.Found(view.Active())
	for chunk := range chunks {
		value, _ := formatChunk(chunk, owners)
		puts = append(puts, clientv3.OpPut(w.keys.chunk(chunk), value))
	}
	if _, err := back.Txn(w.ctx).Then(puts...).Commit(); err != nil {
		t.Fatal(err)
	}
	proxy.set(true, false)
	proxy.mu.Lock()
	proxy.target = strings.TrimPrefix(restored.Endpoints()[0], "http://")
	proxy.mu.Unlock()
	proxy.set(false, false)
	w.eventually(10*time.Second, "noticed", func() bool { return strings.Contains(watcher.Status().Problem, "went back from epoch 19") })
	if watcher.Current().Map.Owner(7).Epoch != 19 {
		t.Error("the good view is gone")
	}
	// A person brings the lost decision back.
	owners[7] = placement.Owner{Shard: "s2", Epoch: 20}
	value, _ := formatChunk(0, owners)
	put(w.keys.chunk(0), value)
	w.eventually(10*time.Second, "followed", func() bool { return watcher.Current().Map.Owner(7).Epoch == 20 })
}

func TestChunksSayTheMap(t *testing.T) {
	t.Parallel()
	owners := placement.Found([]ledger.ShardID{"a", "b", "c"})
	owners[100] = placement.Owner{Shard: "c", Epoch: 5}
	owners[4095] = placement.Owner{Shard: "a", Epoch: 2}
	read := map[ledger.Slot]placement.Owner{}
	for chunk := range chunks {
		value, err := formatChunk(chunk, owners)
		if err != nil {
			t.Fatal(err)
		}
		if err := parseChunk(fmt.Sprintf("%02x", chunk), value, read); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(read, owners) {
		t.Error("not the same")
	}
	if value, _ := formatChunk(63, owners); value != `[{"first":4032,"last":4094,"shard":"c","epoch":1},{"first":4095,"last":4095,"shard":"a","epoch":2}]` {
		t.Error(value)
	}
	delete(owners, 64)
	if value, err := formatChunk(1, owners); err == nil {
		t.Error(value)
	}
}
