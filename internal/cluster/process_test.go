package cluster

import (
	"context"
	"testing"
	"time"
)

// Who announces itself is known until it goes, also when there are several, and next to somebody whose word makes no sense.
func TestProcesses(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	begun := time.Now().UTC().Truncate(time.Millisecond)
	announce := func(kind, name string) (stop func()) {
		ctx, cancel := context.WithCancel(w.ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.AnnounceProcess(ctx, kind, Process{Name: name, Address: "10.0.0.7:8080", Version: "v1", StartedAt: begun})
		}()
		return func() {
			cancel()
			<-done
		}
	}
	stopB, stopA, stopC := announce(Routers, "b"), announce(Routers, "a"), announce(Coordinators, "c")
	defer stopC()
	names := func(kind string) (all string) {
		processes, err := c.Processes(w.ctx, kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range processes {
			all += p.Name
			if p.Name != "x" && (p.Address != "10.0.0.7:8080" || p.Version != "v1" || !p.StartedAt.Equal(begun)) {
				t.Errorf("%+v", p)
			}
		}
		return all
	}
	w.eventually(10*time.Second, "both routers are known", func() bool { return names(Routers) == "ab" })
	w.eventually(10*time.Second, "the coordinator is known", func() bool { return names(Coordinators) == "c" })
	stopA()
	w.put(w.keys.kind(Routers)+"x", "nonsense")
	w.eventually(10*time.Second, "one has gone", func() bool { return names(Routers) == "bx" })
	stopB()
}

func TestLeaders(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	if leaders, err := c.Leaders(w.ctx); err != nil || len(leaders) != 0 {
		t.Errorf("at first %v, %v", leaders, err)
	}
	lead := func(name, value string) (stop func()) {
		ctx, cancel := context.WithCancel(w.ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Lead(ctx, name, value, func(ctx context.Context, _ Leadership) error { <-ctx.Done(); return nil })
		}()
		return func() {
			cancel()
			<-done
		}
	}
	leads := func(name, value string) func() bool {
		return func() bool {
			leaders, err := c.Leaders(w.ctx)
			return err == nil && leaders[name] == value
		}
	}
	stop := lead("rebalancer", "one")
	w.eventually(10*time.Second, "one leads", leads("rebalancer", "one"))
	defer lead("rebalancer", "two")()
	defer lead("sagas.s1", "two")()
	w.eventually(10*time.Second, "another election has another leader", leads("sagas.s1", "two"))
	if !leads("rebalancer", "one")() {
		t.Error("a candidate is taken for the leader")
	}
	stop()
	w.eventually(10*time.Second, "the next one leads", leads("rebalancer", "two"))
}
