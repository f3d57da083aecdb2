package operator_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

var errCrash = errors.New("cut off")

func TestMain(m *testing.M) {
	if !everyCrash() {
		if err := flag.Set("rapid.checks", "40"); err != nil { // with the race detector each takes a third of a second
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func everyCrash() bool { return os.Getenv("SALDO_OPERATOR_CRASHES") == "all" }

// The operator is cut off at each of its calls, before it was done or after, once: what it is to reach, it reaches all the
// same, and nothing goes on the way that is needed. (Every 15th call; all with SALDO_OPERATOR_CRASHES=all.)
func TestCutOffAnywhere(t *testing.T) {
	t.Parallel()
	scenario := func(w *world) {
		// 2 -> 3, then 1 in the middle of it, then 2 in the middle of the drain.
		turn := func() { _ = w.turns() }
		w.want(2)
		for range 4 {
			turn()
		}
		w.want(3)
		for range 3 {
			turn()
		}
		w.want(1)
		for range 4 {
			turn()
		}
		w.want(2)
		for range 3 {
			turn()
		}
	}
	calm := newWorld(t)
	scenario(calm)
	calls := calm.calls
	calm.settles()
	step := 15
	if everyCrash() {
		step = 1
	}
	for n := 1; n <= calls; n += step {
		for _, done := range []bool{false, true} {
			w := newWorld(t)
			w.trouble = func(call int) (before, after error) {
				switch {
				case call != n:
					return nil, nil
				case done:
					return nil, errCrash
				}
				return errCrash, nil
			}
			scenario(w)
			w.trouble = nil
			w.settles()
			if t.Failed() {
				t.Fatalf("cut off at call %d of %d (done: %v)", n, calls, done)
			}
			w.served(t, 2)
		}
	}
}

// served makes sure that a cluster has come to rest with so many shards, and all slots on them.
func (w *world) served(t fataler, shards int) {
	t.Helper()
	registry, err := w.ledger.Look(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	slots := 0
	for id, s := range registry.Shards {
		slots += s.Slots
		if s.Draining || w.set(string(id)) == nil || w.claim(string(id)) == nil {
			t.Errorf("shard %s is not as it should be:\n%s", id, w.shows())
		}
	}
	if len(registry.Shards) != shards || slots != 4096 {
		t.Errorf("%d shards with %d slots, not %d:\n%s", len(registry.Shards), slots, shards, w.shows())
	}
	if !meta.IsStatusConditionTrue(w.status().Conditions, v1alpha1.ConditionReady) || meta.IsStatusConditionTrue(w.status().Conditions, v1alpha1.ConditionBlocked) {
		t.Errorf("it does not say so:\n%s", w.shows())
	}
}

// Whatever people do, whatever fails, and whoever else believes to be elected: nothing that is needed goes, no id is used
// twice, and in the end there is what is wanted. (40 times; 100 with SALDO_OPERATOR_CRASHES=all.)
func TestWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		wanted := int32(rapid.IntRange(1, 3).Draw(rt, "first"))
		w.want(wanted)
		other := w.operator()
		ever := make(map[ledger.ShardID]string) // databases, by the id that they were registered under
		for range rapid.IntRange(3, 12).Draw(rt, "turns") {
			switch what := rapid.SampledFrom([]string{"turn", "turn", "turn", "scale", "etcd", "cut", "both", "down", "delete"}).Draw(rt, "what"); what {
			case "scale":
				wanted = int32(rapid.IntRange(1, 4).Draw(rt, "wanted"))
				w.want(wanted)
			case "etcd":
				w.ledger.Etcd(rapid.Bool().Draw(rt, "answers"))
			case "cut":
				n, done := w.calls+rapid.IntRange(1, 30).Draw(rt, "call"), rapid.Bool().Draw(rt, "done")
				w.trouble = func(call int) (before, after error) {
					switch {
					case call < n:
						return nil, nil
					case done && call == n:
						return nil, errCrash
					}
					return errCrash, nil
				}
				_ = w.reconciles()
				w.trouble = nil
			case "both": // another one acts in the middle of this one's pass
				n := w.calls + rapid.IntRange(1, 30).Draw(rt, "call")
				w.trouble = func(call int) (before, after error) {
					if call == n {
						w.reconcilesAs(other)
						w.kubernetes()
					}
					return nil, nil
				}
				_ = w.reconciles()
				w.trouble = nil
			case "down":
				w.ledger.Down(ledger.ShardID(fmt.Sprint("s", rapid.IntRange(1, 6).Draw(rt, "shard"))), rapid.Bool().Draw(rt, "is down"))
			case "delete":
				if set := w.set(fmt.Sprint("s", rapid.IntRange(1, 6).Draw(rt, "shard"))); set != nil {
					set.Annotations["ledger.saldo.dev/recreate"] = "true"
					w.somebody(w.api.Update(rt.Context(), set))
					w.somebody(w.api.Delete(rt.Context(), set))
					w.allowed[set.Name] = true
				}
			default:
				_ = w.turns()
			}
			if registry, err := w.ledger.Look(context.Background()); err == nil {
				for id, s := range registry.Shards {
					if was, ok := ever[id]; ok && was != s.Address || slices.Contains(registry.Retired, id) {
						rt.Fatalf("id %s was used before, for %s", id, was)
					}
					ever[id] = s.Address
				}
			}
		}
		w.ledger.Etcd(true)
		for i := range 200 {
			w.ledger.Down(ledger.ShardID(fmt.Sprint("s", i)), false)
		}
		w.settles()
		w.served(rt, int(wanted))
	})
}
