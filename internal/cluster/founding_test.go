package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestFoundingDue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		initial, active int
		settled, want   bool
	}{
		{0, 0, true, false},
		{0, 1, false, false},
		{0, 1, true, true},
		{0, 5, true, true},
		{3, 0, true, false},
		{3, 2, true, false},
		{3, 2, false, false},
		{3, 3, false, true},
		{3, 4, false, true},
	} {
		if got := foundingDue(test.initial, test.active, test.settled); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestFoundRace(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 3, 2)
	if founded, err := c.FoundIfDue(w.ctx); founded || err != nil {
		t.Fatalf("founded too early: %v, %v", founded, err)
	}
	w.register(c, config, "s3")
	const n = 8
	var founders atomic.Int32
	var all sync.WaitGroup
	for range n {
		other := w.connect()
		all.Go(func() {
			founded, err := other.FoundIfDue(w.ctx)
			if err != nil {
				t.Error(err)
			}
			if founded {
				founders.Add(1)
			}
		})
	}
	all.Wait()
	if founders.Load() != 1 {
		t.Errorf("%d founders", founders.Load())
	}
	resp, err := w.raw.Get(w.ctx, w.keys.slots(), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if kv.Version != 1 || kv.CreateRevision != resp.Kvs[0].CreateRevision || kv.Lease != 0 {
			t.Errorf("chunk %s: %+v", kv.Key, kv)
		}
	}
	view, err := c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := placement.NewMap(0, placement.Found(view.Active()))
	if len(resp.Kvs) != chunks || !view.Founded() || fmt.Sprint(view.Map.Ranges()) != fmt.Sprint(want.Ranges()) || view.Map.Revision() != view.Revision {
		t.Errorf("%d chunks, %v", len(resp.Kvs), view.Map.Ranges())
	}
}

func TestFoundSeesWhatHasChanged(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 2)
	read := func() *View {
		view, err := c.Read(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return view
	}
	if _, err := c.Found(w.ctx, &View{Config: config}); err == nil {
		t.Error("founded over nothing")
	}
	s1 := w.get(w.keys.shard("s1"))
	for _, test := range []struct {
		what   string
		change func()
	}{
		{"a shard came", func() { w.register(c, config, "s3") }},
		{"a shard changed", func() { w.put(w.keys.shard("s1"), s1) }},
		{"a shard was removed", func() {
			_, err := w.raw.Txn(w.ctx).Then(clientv3.OpDelete(w.keys.shard("s2")), clientv3.OpPut(w.keys.tombstone("s2"), "{}")).Commit()
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"another cluster", func() {
			w.delete(w.keys.config())
			if _, _, err := c.Init(w.ctx, 0); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		view := read()
		test.change()
		if founded, err := c.Found(w.ctx, view); founded || !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v, %v", test.what, founded, err)
		}
	}
	w.put(w.prefix+"live/router/r1", "not of interest")
	if founded, err := c.Found(w.ctx, read()); !founded || err != nil {
		t.Errorf("in the end: %v, %v", founded, err)
	}
	if founded, err := c.Found(w.ctx, read()); founded || err != nil {
		t.Errorf("twice: %v, %v", founded, err)
	}
}

// A founding must fit in etcd's default limits, however many shards there are.
func TestFoundManyShards(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	const n = 300
	config, _, err := c.Init(w.ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		w.register(c, config, fmt.Sprintf("s%d", i))
	}
	if founded, err := c.FoundIfDue(w.ctx); !founded || err != nil {
		t.Fatalf("%v, %v", founded, err)
	}
	if view, err := c.Read(w.ctx); err != nil || len(view.Map.Shards()) != n {
		t.Errorf("%v", err)
	}
}

func TestRunFounder(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 1)
	const settle = 500 * time.Millisecond
	var activations atomic.Int32
	done := make(chan *View, 2)
	run := func(watcher *Watcher) {
		w.background(func(ctx context.Context) error {
			return c.RunFounder(ctx, watcher, settle, func(_ context.Context, view *View) error {
				if activations.Add(1) == 1 {
					return errors.New("a shard is away")
				}
				done <- view
				return nil
			})
		})
	}
	watcher := w.watch(c)
	run(watcher)
	var last time.Time
	for i := range 4 {
		time.Sleep(settle / 2)
		last = time.Now()
		w.register(c, config, fmt.Sprintf("s%d", i+2))
	}
	view := <-done
	if took := time.Since(last); took < settle {
		t.Errorf("founded after %v", took)
	}
	if shards := view.Map.Shards(); len(shards) != 5 || activations.Load() != 2 {
		t.Errorf("founded over %v, %d activations", shards, activations.Load())
	}
	// A later leader activates again.
	run(watcher)
	if view := <-done; !view.Founded() || activations.Load() != 3 {
		t.Errorf("%d activations", activations.Load())
	}
}

// The registrar of the last awaited shard died before it could found.
func TestRunFounderFoundsInTheRegistrarsPlace(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 2, 1)
	done := make(chan *View, 1)
	watcher := w.watch(c)
	w.background(func(ctx context.Context) error {
		return c.RunFounder(ctx, watcher, 0, func(_ context.Context, view *View) error { done <- view; return nil })
	})
	select {
	case <-done:
		t.Fatal("founded over one shard of two")
	case <-time.After(300 * time.Millisecond):
	}
	w.register(c, config, "s2")
	if view := <-done; len(view.Map.Shards()) != 2 {
		t.Errorf("founded over %v", view.Map.Shards())
	}
}
