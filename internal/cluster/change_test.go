package cluster

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestDrainAndWeigh(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 2)
	want := w.register(c, config, "s1")
	check := func(what string, shard Shard, err error) {
		t.Helper()
		stored := w.read(c).Shards["s1"]
		stored.Revision = 0
		if err != nil || shard != want || stored != want {
			t.Errorf("%s: %+v, %v; stored %+v; want %+v", what, shard, err, stored, want)
		}
	}
	for _, draining := range []bool{true, true, false, false} {
		want.State = map[bool]ShardState{true: ShardDraining, false: ShardActive}[draining]
		shard, err := c.DrainShard(w.ctx, config, "s1", draining)
		check("drained", shard, err)
	}
	want.Weight = 7
	shard, err := c.SetWeight(w.ctx, config, "s1", 7)
	check("weighed", shard, err)
	for _, weight := range []int{0, -1, maxWeight + 1} {
		if shard, err := c.SetWeight(w.ctx, config, "s1", weight); err == nil {
			t.Errorf("weight %d: %+v", weight, shard)
		}
	}
	check("after refusals", want, nil)

	// All at once: nothing is lost.
	var all sync.WaitGroup
	for _, change := range []func() (Shard, error){
		func() (Shard, error) { return c.DrainShard(w.ctx, config, "s1", true) },
		func() (Shard, error) { return c.SetWeight(w.ctx, config, "s1", 9) },
		func() (Shard, error) { return c.Readdress(w.ctx, config, "s1", "host=db9") },
		func() (Shard, error) { return c.Adopt(w.ctx, config, "s1", 0, 2, "m") },
	} {
		all.Go(func() {
			if _, err := change(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	want.State, want.Weight, want.DSN, want.Timeline, want.Adoption = ShardDraining, 9, "host=db9", 2, "m"
	check("all at once", want, nil)

	w.delete(w.keys.config())
	if _, err := c.DrainShard(w.ctx, config, "s1", false); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("without a config: %v", err)
	}
	if _, _, err := c.Init(w.ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetWeight(w.ctx, config, "s1", 1); !errors.Is(err, ErrMismatch) {
		t.Errorf("in another cluster: %v", err)
	}
	if _, err := c.DrainShard(w.ctx, config, "s9", false); !errors.Is(err, ErrNotRegistered) {
		t.Errorf("an unknown shard: %v", err)
	}
}

func TestAdopt(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 1)
	if shard, err := c.Register(w.ctx, config, Shard{ID: "s2", DSN: "host=db2", Timeline: 3}); err != nil || shard.Timeline != 3 {
		t.Fatalf("registered %+v, %v", shard, err)
	}
	if shard, err := c.Register(w.ctx, config, Shard{ID: "s3", DSN: "host=db3", Timeline: -1}); err == nil {
		t.Errorf("registered %+v", shard)
	}
	for _, test := range []struct {
		id       ledger.ShardID
		from, to int
		mark     string
		stored   int
		err      bool
		changed  bool
	}{
		{"s1", 0, 1, "a", 1, false, false}, // it was not known
		{"s1", 0, 1, "a", 1, false, false}, // a repeat
		{"s1", 0, 1, "b", 1, true, true},   // another server on a timeline of that number
		{"s1", 0, 2, "a", 1, true, true},
		{"s1", 1, 2, "c", 2, false, false},
		{"s1", 1, 3, "d", 2, true, true}, // another one's was adopted meanwhile
		{"s1", 2, 2, "c", 2, true, false},
		{"s1", 2, 1, "d", 2, true, false},
		{"s1", -1, 3, "d", 2, true, false},
		{"s2", 3, 7, "e", 7, false, false},
	} {
		shard, err := c.Adopt(w.ctx, config, test.id, test.from, test.to, test.mark)
		if (err != nil) != test.err || errors.Is(err, ErrChanged) != test.changed || err == nil && shard.Timeline != test.stored {
			t.Errorf("%+v: %+v, %v", test, shard, err)
		}
		if test.mark == "b" && !strings.Contains(err.Error(), "another server was adopted on timeline 1") {
			t.Errorf("%+v: %v", test, err)
		}
		if stored := w.read(c).Shards[test.id].Timeline; stored != test.stored {
			t.Errorf("%+v: stored %d", test, stored)
		}
	}
}
