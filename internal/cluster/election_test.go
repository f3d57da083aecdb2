package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestLeadOneAtATime(t *testing.T) {
	w := newWorld(t)
	const candidates, turns = 4, 12
	var working, overlaps, done atomic.Int32
	var mu sync.Mutex
	var tokens []int64
	finished := make(chan struct{})
	for i := range candidates {
		c := w.connect()
		w.background(func(ctx context.Context) error {
			return c.Lead(ctx, "saga:s1", fmt.Sprint(i), func(ctx context.Context, l Leadership) error {
				if working.Add(1) > 1 {
					overlaps.Add(1)
				}
				defer working.Add(-1)
				mu.Lock()
				tokens = append(tokens, l.CreateRevision)
				mu.Unlock()
				if value, ok, err := c.Leader(ctx, "saga:s1"); err != nil || !ok || value != fmt.Sprint(i) {
					t.Errorf("leader %q, %v, %v; want %d", value, ok, err, i)
				}
				if resp, err := c.client.Txn(ctx).If(l.leads()).Commit(); err != nil || !resp.Succeeded {
					t.Errorf("not compared as leading: %v", err)
				}
				time.Sleep(20 * time.Millisecond)
				if done.Add(1) == turns {
					close(finished)
				}
				if i%2 == 0 {
					return errors.New("work failed")
				}
				return nil
			})
		})
	}
	<-finished
	if overlaps.Load() > 0 {
		t.Errorf("%d works began while another was under way", overlaps.Load())
	}
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(tokens); i++ {
		if tokens[i] <= tokens[i-1] {
			t.Errorf("tokens %v do not grow", tokens)
		}
	}
}

// lead starts a candidate whose work lasts until its context ends. It tells of each beginning and each end.
type leader struct {
	began chan Leadership
	ended chan error // the cause
	end   func()
}

func (w *world) lead(c *Cluster, name, value string) *leader {
	l := &leader{began: make(chan Leadership, 10), ended: make(chan error, 10)}
	l.end = w.background(func(ctx context.Context) error {
		return c.Lead(ctx, name, value, func(ctx context.Context, leadership Leadership) error {
			l.began <- leadership
			<-ctx.Done()
			l.ended <- context.Cause(ctx)
			return ctx.Err()
		})
	})
	return l
}

func (l *leader) stillWaits(t *testing.T) {
	t.Helper()
	select {
	case leadership := <-l.began:
		t.Fatalf("a second leader: %+v", leadership)
	default:
	}
}

func within[T any](t *testing.T, limit time.Duration, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		t.Fatalf("not within %v: %s", limit, what)
		panic("unreachable")
	}
}

func leaseOf(t *testing.T, l Leadership) clientv3.LeaseID {
	t.Helper()
	var id clientv3.LeaseID
	if _, err := fmt.Sscanf(l.Key[strings.LastIndexByte(l.Key, '/')+1:], "%x", &id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLeadHandsOver(t *testing.T) {
	w := newWorld(t)
	c1, c2 := w.connect(), w.connect()
	a := w.lead(c1, "plan", "a")
	first := within(t, 5*time.Second, "a leads", a.began)
	b := w.lead(c2, "plan", "b")
	other := w.lead(c2, "plan:x", "b") // another election, not hindered by the first
	within(t, 5*time.Second, "another election", other.began)
	time.Sleep(3 * time.Second) // more than a lease
	b.stillWaits(t)

	// The lease is taken away.
	if _, err := w.raw.Revoke(w.ctx, leaseOf(t, first)); err != nil {
		t.Fatal(err)
	}
	if cause := within(t, time.Second, "a's work is told", a.ended); !errors.Is(cause, errLeadershipLost) && !errors.Is(cause, errLeaseLost) {
		t.Errorf("cause %v", cause)
	}
	second := within(t, 5*time.Second, "b leads", b.began)
	if second.CreateRevision <= first.CreateRevision {
		t.Errorf("token %d after %d", second.CreateRevision, first.CreateRevision)
	}
	if resp, err := w.raw.Txn(w.ctx).If(first.leads()).Commit(); err != nil || resp.Succeeded {
		t.Errorf("the first leadership still compares: %v", err)
	}

	// A leader's key is deleted by hand.
	w.eventually(5*time.Second, "a is a candidate again", func() bool {
		resp, err := w.raw.Get(w.ctx, w.keys.election("plan"), clientv3.WithPrefix())
		return err == nil && len(resp.Kvs) == 2
	})
	w.delete(second.Key)
	within(t, time.Second, "b's work is told", b.ended)
	within(t, 5*time.Second, "a leads again", a.began)

	// A leader ends in good order: no lease has to run out.
	w.eventually(5*time.Second, "b is a candidate again", func() bool {
		resp, err := w.raw.Get(w.ctx, w.keys.election("plan"), clientv3.WithPrefix())
		return err == nil && len(resp.Kvs) == 2
	})
	a.end()
	within(t, time.Second, "b leads again", b.began)
	b.end()
	if value, ok, err := c1.Leader(w.ctx, "plan"); ok || err != nil {
		t.Errorf("leader %q, %v", value, err)
	}
}

// A leader that is cut off stops before etcd can let another one lead.
func TestLeadStopsBeforeItsLease(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		t.Run(fmt.Sprintf("frozen=%v", frozen), func(t *testing.T) {
			w := newWorld(t)
			proxy := w.proxy()
			a := w.lead(w.connect(proxy.endpoint()), "plan", "a")
			within(t, 5*time.Second, "a leads", a.began)
			b := w.lead(w.connect(), "plan", "b")
			time.Sleep(time.Second)
			proxy.set(!frozen, frozen)
			cause := within(t, 3*time.Second, "a's work is told", a.ended)
			b.stillWaits(t)
			if !errors.Is(cause, errLeaseLost) {
				t.Errorf("cause %v", cause)
			}
			within(t, 5*time.Second, "b leads", b.began)
			proxy.set(false, false)
			w.eventually(10*time.Second, "a is a candidate again", func() bool {
				resp, err := w.raw.Get(w.ctx, w.keys.election("plan"), clientv3.WithPrefix())
				return err == nil && len(resp.Kvs) == 2
			})
		})
	}
}

// A candidate whose key has gone while it waited must not lead when its turn would have come.
func TestCampaignWithoutItsKey(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	a := w.lead(c, "plan", "a")
	within(t, 5*time.Second, "a leads", a.began)
	lease, err := w.raw.Grant(w.ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	w.background(func(ctx context.Context) error {
		_, err := w.connect().campaign(ctx, "plan", "b", lease.ID)
		result <- err
		return nil
	})
	key := fmt.Sprintf("%s%x", w.keys.election("plan"), lease.ID)
	w.eventually(5*time.Second, "b waits", func() bool {
		resp, err := w.raw.Get(w.ctx, key)
		return err == nil && len(resp.Kvs) == 1
	})
	if _, err := w.raw.Revoke(w.ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	a.end()
	if err := within(t, 5*time.Second, "b's campaign ends", result); !errors.Is(err, errLeadershipLost) {
		t.Errorf("campaign without a key: %v", err)
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	for _, name := range []string{"", "a/b", "a b", "a\n", strings.Repeat("x", maxNameLength+1)} {
		if err := c.Lead(w.ctx, name, "v", nil); err == nil {
			t.Errorf("led %q", name)
		}
		if _, _, err := c.Leader(w.ctx, name); err == nil {
			t.Errorf("looked up %q", name)
		}
		if err := c.Announce(w.ctx, name, "x", "v"); err == nil {
			t.Errorf("announced kind %q", name)
		}
		if err := c.Announce(w.ctx, "x", name, "v"); err == nil {
			t.Errorf("announced %q", name)
		}
		if _, err := c.Alive(w.ctx, name); err == nil {
			t.Errorf("alive %q", name)
		}
	}
}

func TestAnnounce(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	end := w.background(func(ctx context.Context) error { return c.Announce(ctx, "router", "r1", "http://r1") })
	w.background(func(ctx context.Context) error { return c.Announce(ctx, "router", "r2", "http://r2") })
	w.background(func(ctx context.Context) error { return c.Announce(ctx, "routers", "r3", "") })
	alive := func(want string) func() bool {
		return func() bool {
			got, err := c.Alive(w.ctx, "router")
			return err == nil && fmt.Sprint(got) == want
		}
	}
	both := "map[r1:http://r1 r2:http://r2]"
	w.eventually(5*time.Second, "both alive", alive(both))
	time.Sleep(3 * time.Second) // more than a lease
	if !alive(both)() {
		t.Error("not kept alive")
	}
	resp, err := w.raw.Get(w.ctx, w.keys.kind("router")+"r1")
	if err != nil {
		t.Fatal(err)
	}
	lost := clientv3.LeaseID(resp.Kvs[0].Lease)
	if _, err := w.raw.Revoke(w.ctx, lost); err != nil {
		t.Fatal(err)
	}
	w.eventually(5*time.Second, "announced again", alive(both))
	w.delete(w.keys.kind("router") + "r1")
	w.eventually(5*time.Second, "announced again", alive(both))
	end()
	if !alive("map[r2:http://r2]")() {
		t.Error("still alive")
	}
}
