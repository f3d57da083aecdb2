package cluster

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestReaddress(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 1)
	before := w.register(c, config, "s1")

	after, err := c.Readdress(w.ctx, config, "s1", "postgres://saldo:hunter2@db9/saldo")
	if err != nil {
		t.Fatal(err)
	}
	want := before
	want.DSN = "postgres://saldo@db9/saldo"
	if after != want || strings.Contains(w.get(w.keys.shard("s1")), "hunter2") {
		t.Errorf("readdressed %+v", after)
	}
	stored := w.read(c).Shards["s1"]
	if want.Revision = stored.Revision; stored != want || stored.Revision == 0 {
		t.Errorf("stored %+v", stored)
	}
	if _, err := c.Readdress(w.ctx, config, "s2", "host=db"); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("an unknown shard: %v", err)
	}
	if _, err := c.Readdress(w.ctx, config, "s1", ""); err == nil {
		t.Error("readdressed to nowhere")
	}

	var all sync.WaitGroup
	for _, dsn := range []string{"host=a", "host=b", "host=c", "host=d"} {
		all.Go(func() {
			if shard, err := c.Readdress(w.ctx, config, "s1", dsn); err != nil || shard.DSN != dsn {
				t.Errorf("at once with others: %+v, %v", shard, err)
			}
		})
	}
	all.Wait()

	w.delete(w.keys.config())
	if _, err := c.Readdress(w.ctx, config, "s1", "host=e"); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("without a config: %v", err)
	}
	if _, _, err := c.Init(w.ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Readdress(w.ctx, config, "s1", "host=e"); !errors.Is(err, ErrMismatch) {
		t.Errorf("in another cluster: %v", err)
	}
}
