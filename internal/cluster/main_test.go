package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// world is one test's cluster: connections to it, and etcd as an operator without manners has it.
type world struct {
	*testing.T
	ctx       context.Context
	endpoints []string
	prefix    string
	raw       *clientv3.Client
	keys      keys
}

func newWorld(t *testing.T, endpoints ...string) *world {
	t.Helper()
	t.Parallel()
	if len(endpoints) == 0 {
		endpoints = etcdtest.Endpoints(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	prefix := etcdtest.Prefix(t)
	return &world{T: t, ctx: ctx, endpoints: endpoints, prefix: prefix, raw: etcdtest.Connect(t, endpoints), keys: keys{prefix}}
}

func (w *world) connect(endpoints ...string) *Cluster {
	w.Helper()
	return w.connectWith(Config{Endpoints: endpoints})
}

func (w *world) connectWith(config Config) *Cluster {
	w.Helper()
	if len(config.Endpoints) == 0 {
		config.Endpoints = w.endpoints
	}
	config.Prefix = w.prefix
	if config.LeaseTTL == 0 {
		config.LeaseTTL = 2 * time.Second
	}
	if config.Log == nil {
		config.Log = slog.New(slog.NewTextHandler(w.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	c, err := Connect(w.ctx, config)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := c.Close(); err != nil {
			w.Error(err)
		}
	})
	return c
}

// founded is a cluster with shards s1 … sn that is founded.
func (w *world) founded(n int) (*Cluster, ClusterConfig) {
	w.Helper()
	c := w.connect()
	config := w.registered(c, n, n)
	if founded, err := c.FoundIfDue(w.ctx); err != nil || !founded {
		w.Fatalf("founded: %v, %v", founded, err)
	}
	return c, config
}

// registered initializes a cluster and registers shards s1 … sn.
func (w *world) registered(c *Cluster, initial, n int) ClusterConfig {
	w.Helper()
	config, _, err := c.Init(w.ctx, initial)
	if err != nil {
		w.Fatal(err)
	}
	for i := range n {
		w.register(c, config, fmt.Sprintf("s%d", i+1))
	}
	return config
}

func (w *world) register(c *Cluster, config ClusterConfig, id string) Shard {
	w.Helper()
	shard, err := c.Register(w.ctx, config, Shard{ID: ledger.ShardID(id), DSN: "postgres://saldo@" + id + "/saldo"})
	if err != nil {
		w.Fatal(err)
	}
	return shard
}

func (w *world) watch(c *Cluster) *Watcher {
	w.Helper()
	watcher, err := c.Watch(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(watcher.Close)
	return watcher
}

func (w *world) put(key, value string) int64 {
	w.Helper()
	resp, err := w.raw.Put(w.ctx, key, value)
	if err != nil {
		w.Fatal(err)
	}
	return resp.Header.Revision
}

func (w *world) delete(key string, options ...clientv3.OpOption) {
	w.Helper()
	if _, err := w.raw.Delete(w.ctx, key, options...); err != nil {
		w.Fatal(err)
	}
}

func (w *world) get(key string) string {
	w.Helper()
	resp, err := w.raw.Get(w.ctx, key)
	if err != nil {
		w.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		w.Fatalf("no key %s", key)
	}
	return string(resp.Kvs[0].Value)
}

// eventually waits until condition holds, and fails the test if it does not within limit.
func (w *world) eventually(limit time.Duration, what string, condition func() bool) {
	w.Helper()
	began := time.Now()
	for !condition() {
		if time.Since(began) > limit {
			w.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.Logf("after %v: %s", time.Since(began).Round(time.Millisecond), what)
}

// background runs f and, at the end of the test, ends its context and waits for it.
func (w *world) background(f func(context.Context) error) (end func()) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			w.Error(err)
		}
	})
	end = func() { cancel(); wait.Wait() }
	w.Cleanup(end)
	return end
}

// proxy is a TCP connection that can be cut (closed, and refused from then on), frozen (open, and silent) or muted (what is
// asked arrives, what is answered does not).
type proxy struct {
	listener net.Listener
	loops    sync.WaitGroup

	mu     sync.Mutex
	target string
	cond   *sync.Cond
	cut    bool
	frozen bool
	muted  bool
	conns  map[net.Conn]struct{}
}

func (w *world) proxy() *proxy {
	w.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	p := &proxy{target: strings.TrimPrefix(w.endpoints[0], "http://"), listener: listener, conns: map[net.Conn]struct{}{}}
	p.cond = sync.NewCond(&p.mu)
	p.loops.Go(p.accept)
	w.Cleanup(func() {
		listener.Close()
		p.set(true, false)
		p.loops.Wait()
	})
	return p
}

func (p *proxy) endpoint() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		from, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to, err := net.Dial("tcp", p.target)
		if err != nil || p.cut {
			p.mu.Unlock()
			from.Close()
			if to != nil {
				to.Close()
			}
			continue
		}
		p.conns[from], p.conns[to] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.loops.Go(func() { p.copy(from, to, false) })
		p.loops.Go(func() { p.copy(to, from, true) })
	}
}

func (p *proxy) copy(from, to net.Conn, answers bool) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		for (p.frozen || p.muted && answers) && !p.cut {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (p *proxy) set(cut, frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.frozen = cut, frozen
	p.cond.Broadcast()
	for conn := range p.conns {
		if cut {
			conn.Close()
			delete(p.conns, conn)
		}
	}
}

func (p *proxy) mute(muted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = muted
	p.cond.Broadcast()
}
