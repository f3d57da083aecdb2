package assembly_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// The registry says what has changed, and who leads, in the words of package rebalance.
func TestRegistry(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := cluster.Connect(ctx, cluster.Config{Endpoints: etcdtest.Endpoints(t), Prefix: etcdtest.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	config, _, err := c.Init(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i, weight := range []int{1, 3} {
		s := cluster.Shard{ID: ledger.ShardID(fmt.Sprint("s", i+1)), DSN: "postgres://nowhere/x", Weight: weight}
		if _, err := c.Register(ctx, config, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.FoundIfDue(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DrainShard(ctx, config, "s1", true); err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)

	r := assembly.NewRegistry(c, w)
	view, err := r.View(ctx)
	if err != nil {
		t.Fatal(err)
	}
	one, ok1 := view.Shard("s1")
	two, ok2 := view.Shard("s2")
	if !ok1 || !ok2 || len(view.Shards) != 2 || !one.Draining || two.Draining || one.Weight != 1 || two.Weight != 3 || !view.Map.Complete() {
		t.Fatalf("the view is %+v", view)
	}
	changed := r.Changed()
	move := placement.Move{ID: "m1", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(1, 2), Why: rebalance.WhyDrain}
	planned, err := r.Plan(ctx, view, move)
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	other := move
	other.ID, other.Slots = "m2", placement.NewSlotSet(7)
	if _, err := r.Plan(ctx, view, other); err == nil {
		t.Error("planned beside another move")
	}
	if _, err := r.Advance(ctx, planned, placement.PhaseMark, view.Revision); !errors.Is(err, rebalance.ErrNotLeading) {
		t.Errorf("advanced without leading: %v", err)
	}
	if _, err := r.Switch(ctx, planned, view.Revision); !errors.Is(err, rebalance.ErrNotLeading) {
		t.Errorf("switched without leading: %v", err)
	}
	deposed := r.Led(cluster.Leadership{Key: "nobody's", CreateRevision: 1})
	if _, err := deposed.Advance(ctx, planned, placement.PhaseMark, view.Revision); !errors.Is(err, rebalance.ErrNotLeading) {
		t.Errorf("advanced as another one leads: %v", err)
	}
	if _, err := c.PauseMove(ctx, planned.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Abort(ctx, planned, "a test"); !errors.Is(err, rebalance.ErrChanged) {
		t.Errorf("aborted from an old record: %v", err)
	}
	if view, err = r.View(ctx); err != nil {
		t.Fatal(err)
	}
	if aborted, err := r.Abort(ctx, view.Moves[0], "a test"); err != nil || aborted.Phase != placement.PhaseAborted {
		t.Errorf("%+v, %v", aborted, err)
	}
	if _, err := r.Plan(ctx, view, other); !errors.Is(err, rebalance.ErrChanged) {
		t.Errorf("planned from an old view: %v", err)
	}
	if err := r.Forget(ctx); err != nil {
		t.Error(err)
	}
}
