package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

var phases = []placement.Phase{
	placement.PhasePlanned, placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup, placement.PhaseFence, placement.PhaseSwitched,
	placement.PhaseClean, placement.PhaseDone, placement.PhaseAborting, placement.PhaseAborted,
}

// anySeen is later than any revision: the shards' records may be whatever they are.
const anySeen = math.MaxInt64 - 1

// elected is a leadership that lasts as long as the test, or until its key is deleted.
func (w *world) elected(c *Cluster, name string) Leadership {
	w.Helper()
	lease, err := w.raw.Grant(w.ctx, 60)
	if err != nil {
		w.Fatal(err)
	}
	leadership, err := c.campaign(w.ctx, name, "", lease.ID)
	if err != nil {
		w.Fatal(err)
	}
	return leadership
}

func (w *world) read(c *Cluster) *View {
	w.Helper()
	view, err := c.Read(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return view
}

var moveIDs atomic.Int64

// newMoveID returns an id that no other move has.
func newMoveID() placement.MoveID { return placement.MoveID(fmt.Sprintf("m%03d", moveIDs.Add(1))) }

// planned plans a move from s1 to s2, unless the shards are said.
func (w *world) planned(c *Cluster, slots string, shards ...ledger.ShardID) placement.Move {
	w.Helper()
	set, err := placement.ParseSlotSet(slots)
	if err != nil {
		w.Fatal(err)
	}
	if shards == nil {
		shards = []ledger.ShardID{"s1", "s2"}
	}
	move, err := c.PlanMove(w.ctx, w.read(c), placement.Move{ID: newMoveID(), Source: shards[0], Target: shards[1], Slots: set, Why: "test"})
	if err != nil {
		w.Fatal(err)
	}
	return move
}

// advanced takes a planned move up to a phase.
func (w *world) advanced(led *Led, move placement.Move, to placement.Phase) placement.Move {
	w.Helper()
	for _, phase := range []placement.Phase{placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup, placement.PhaseFence} {
		if move.Phase == to {
			break
		}
		var err error
		if move, err = led.AdvanceMove(w.ctx, move, phase, anySeen); err != nil {
			w.Fatal(err)
		}
	}
	return move
}

// stored is a move as etcd has it.
func (w *world) stored(id placement.MoveID) placement.Move {
	w.Helper()
	resp, err := w.raw.Get(w.ctx, w.keys.move(id))
	if err != nil || len(resp.Kvs) != 1 {
		w.Fatalf("move %s: %v", id, err)
	}
	return parseMove(id, record{string(resp.Kvs[0].Value), resp.Kvs[0].ModRevision})
}

// written is the revision of the last put under the prefix.
func (w *world) written() int64 {
	w.Helper()
	resp, err := w.raw.Get(w.ctx, w.prefix, clientv3.WithLastRev()...)
	if err != nil || len(resp.Kvs) != 1 {
		w.Fatal(err)
	}
	return resp.Kvs[0].ModRevision
}

func (w *world) same(what string, got, want placement.Move) {
	w.Helper()
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) || got.Revision != want.Revision {
		w.Errorf("%s: %s at %d, want %s at %d", what, a, got.Revision, b, want.Revision)
	}
}

// hooked lets a test step in before and after each commit of a connection; n counts them from 1.
func hooked(c *Cluster, commit func(n int, do func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error)) {
	c.client.KV = &hookedKV{KV: c.client.KV, commit: commit}
}

// before does something before the commit of a number.
func before(c *Cluster, at int, something func()) {
	hooked(c, func(n int, do func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if n == at {
			something()
		}
		return do()
	})
}

type hookedKV struct {
	clientv3.KV
	n      int
	commit func(int, func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error)
}

func (kv *hookedKV) Txn(ctx context.Context) clientv3.Txn { return &hookedTxn{kv.KV.Txn(ctx), kv} }

type hookedTxn struct {
	clientv3.Txn
	kv *hookedKV
}

func (t *hookedTxn) If(c ...clientv3.Cmp) clientv3.Txn  { t.Txn.If(c...); return t }
func (t *hookedTxn) Then(o ...clientv3.Op) clientv3.Txn { t.Txn.Then(o...); return t }
func (t *hookedTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn.Else(o...); return t }
func (t *hookedTxn) Commit() (*clientv3.TxnResponse, error) {
	t.kv.n++
	return t.kv.commit(t.kv.n, t.Txn.Commit)
}

func TestMoveGoesThroughItsPhases(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	watcher := w.watch(w.connect())
	seen := func(move placement.Move) {
		t.Helper()
		w.eventually(5*time.Second, fmt.Sprintf("a watcher sees phase %s", move.Phase), func() bool {
			got, ok := watcher.Current().Move(move.ID)
			return ok && got.Revision == move.Revision
		})
		got, _ := watcher.Current().Move(move.ID)
		w.same("watched", got, move)
		w.same("stored", w.stored(move.ID), move)
	}
	began := time.Now().Truncate(time.Millisecond)
	move := w.planned(c, "60-70,300")
	if move.ID == "" || move.Phase != placement.PhasePlanned || move.Why != "test" || move.CreatedAt.Before(began) || move.Revision == 0 {
		t.Errorf("planned %+v", move)
	}
	seen(move)
	fenced := w.advanced(led, move, placement.PhaseFence)
	seen(fenced)
	if fenced.DecidedAt != nil || fenced.EndedAt != nil || watcher.Current().Map.Owner(60) != (placement.Owner{Shard: "s1", Epoch: 1}) {
		t.Errorf("fenced %+v", fenced)
	}

	move, err := led.SwitchMove(w.ctx, fenced, anySeen)
	if err != nil {
		t.Fatal(err)
	}
	seen(move)
	if move.Phase != placement.PhaseSwitched || move.Epochs.String() != "2*12" || move.DecidedAt == nil || move.DecidedAt.Before(began) || move.EndedAt != nil {
		t.Errorf("switched %+v", move)
	}
	for slot := range ledger.Slot(placement.Slots) {
		want := placement.Owner{Shard: "s1", Epoch: 1}
		switch {
		case move.Slots.Contains(slot):
			want = placement.Owner{Shard: "s2", Epoch: 2}
		case slot >= placement.Slots/2:
			want = placement.Owner{Shard: "s2", Epoch: 1}
		}
		if got := watcher.Current().Map.Owner(slot); got != want {
			t.Fatalf("slot %d: %v, want %v", slot, got, want)
		}
	}

	// Asked again, by whoever does not know.
	again, err := led.SwitchMove(w.ctx, fenced, anySeen)
	if err != nil {
		t.Error(err)
	}
	w.same("switched again", again, move)
	if _, err := c.AbortMove(w.ctx, fenced, "late"); !errors.Is(err, ErrChanged) {
		t.Errorf("aborted from an old record: %v", err)
	}
	if _, err := c.AbortMove(w.ctx, move, "late"); err == nil || !strings.Contains(err.Error(), "cannot be aborted any more") {
		t.Errorf("aborted after the switch: %v", err)
	}
	w.same("still", w.stored(move.ID), move)

	for _, phase := range []placement.Phase{placement.PhaseClean, placement.PhaseDone} {
		if move, err = led.AdvanceMove(w.ctx, move, phase, anySeen); err != nil {
			t.Fatal(err)
		}
		seen(move)
		if again, err := led.SwitchMove(w.ctx, fenced, anySeen); err != nil || again.Phase != phase {
			t.Errorf("switched again: %+v, %v", again, err)
		}
		if _, err := c.AbortMove(w.ctx, move, "late"); err == nil || errors.Is(err, ErrChanged) {
			t.Errorf("aborted in phase %s: %v", phase, err)
		}
	}
	if move.EndedAt == nil || move.ToldAt == nil || move.ToldAt.Before(*move.DecidedAt) || move.EndedAt.Before(*move.ToldAt) {
		t.Errorf("done %+v", move)
	}
}

// Nothing is written by one who has reached a shard by an older record than it has: it may have another primary since.
func TestShardChanged(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(3)
	led := c.Led(w.elected(c, "rebalance"))
	fenced := w.advanced(led, w.planned(c, "60-70"), placement.PhaseFence)
	adopt := func(id ledger.ShardID, timeline int) {
		t.Helper()
		if _, err := c.Adopt(w.ctx, config, id, timeline-1, timeline, "mark"); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(move placement.Move, seen int64, to placement.Phase) {
		t.Helper()
		_, err := led.AdvanceMove(w.ctx, move, to, seen)
		if move.Phase == placement.PhaseFence && errors.Is(err, ErrShardChanged) {
			_, err = led.SwitchMove(w.ctx, move, seen)
		}
		if !errors.Is(err, ErrShardChanged) {
			t.Errorf("in phase %s: %v", move.Phase, err)
		}
		w.same("after a refusal", w.stored(move.ID), move)
	}
	seen := w.read(c).Revision
	adopt("s1", 1)
	refused(fenced, seen, placement.PhaseCatchup)
	seen = w.read(c).Revision
	adopt("s2", 1)
	refused(fenced, seen, placement.PhaseCatchup)
	seen = w.read(c).Revision
	adopt("s3", 1) // which has nothing to do with it

	// Adopted between its look and its write.
	slow := w.connect()
	before(slow, 2, func() { adopt("s1", 2) })
	if _, err := slow.Led(led.leadership).SwitchMove(w.ctx, fenced, seen); !errors.Is(err, ErrShardChanged) {
		t.Errorf("adopted while it switched: %v", err)
	}
	seen = w.read(c).Revision
	switched, err := led.SwitchMove(w.ctx, fenced, seen)
	if err != nil {
		t.Fatal(err)
	}
	adopt("s2", 2)
	refused(switched, seen, placement.PhaseClean)
	if again, err := led.SwitchMove(w.ctx, fenced, seen); err != nil || again.Phase != placement.PhaseSwitched {
		t.Errorf("what was decided is not said: %+v, %v", again, err)
	}
	if err := led.Leads(w.ctx); err != nil {
		t.Error(err)
	}
	w.delete(led.leadership.Key)
	if err := led.Leads(w.ctx); !errors.Is(err, ErrNotLeading) {
		t.Errorf("after its end: %v", err)
	}
}

func TestAbortMove(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	for _, phase := range phases[:5] {
		if phase == placement.PhaseMark {
			continue // see TestAbortIsNotedWhileMarking
		}
		before := w.read(c)
		planned := w.planned(c, "7,100")
		at := w.advanced(led, planned, phase)
		if phase != placement.PhasePlanned {
			if _, err := c.AbortMove(w.ctx, planned, "old"); !errors.Is(err, ErrChanged) {
				t.Errorf("%s: aborted from an old record: %v", phase, err)
			}
		}
		aborted, err := c.AbortMove(w.ctx, at, "because")
		if err != nil {
			t.Fatal(err)
		}
		w.same("stored", w.stored(at.ID), aborted)
		again, err := c.AbortMove(w.ctx, at, "another cause")
		if err != nil {
			t.Error(err)
		}
		w.same("aborted again", again, aborted)
		if _, err := led.SwitchMove(w.ctx, at, anySeen); err == nil {
			t.Errorf("%s: switched after its abort", phase)
		}
		view := w.read(c)
		raise := ledger.Epoch(1)
		if phase == placement.PhasePlanned {
			raise = 0
			if aborted.Phase != placement.PhaseAborted || aborted.EndedAt == nil || aborted.DecidedAt != nil {
				t.Errorf("%s: aborted %+v", phase, aborted)
			}
		} else {
			if aborted.Phase != placement.PhaseAborting || len(aborted.Epochs) != 2 || aborted.EndedAt != nil || aborted.DecidedAt == nil {
				t.Errorf("%s: aborted %+v", phase, aborted)
			}
			if aborted, err = led.AdvanceMove(w.ctx, aborted, placement.PhaseAborted, anySeen); err != nil || aborted.EndedAt == nil {
				t.Fatal(aborted, err)
			}
			if again, err := c.AbortMove(w.ctx, at, "another cause"); err != nil || again.Phase != placement.PhaseAborted {
				t.Errorf("aborted again: %+v, %v", again, err)
			}
		}
		if aborted.Cause != "because" || aborted.Fenced != (phase == placement.PhaseFence) {
			t.Errorf("%s: cause %q, fenced: %v", phase, aborted.Cause, aborted.Fenced)
		}
		for slot := range ledger.Slot(placement.Slots) {
			want := before.Map.Owner(slot)
			if at.Slots.Contains(slot) {
				want.Epoch += raise
			}
			if got := view.Map.Owner(slot); got != want {
				t.Fatalf("%s: slot %d: %v, want %v", phase, slot, got, want)
			}
		}
	}
	lifted := w.advanced(led, w.planned(c, "9"), placement.PhaseFence)
	lifted, err := led.AdvanceMove(w.ctx, lifted, placement.PhaseCatchup, anySeen)
	if err != nil {
		t.Fatal(err)
	}
	if aborted, err := c.AbortMove(w.ctx, lifted, "because"); err != nil || !aborted.Fenced {
		t.Errorf("aborted after a fence that was lifted: %+v, %v", aborted, err)
	}
}

func TestAdvanceKeepsTheOrder(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	allowed := map[string]bool{
		"planned mark": true, "mark copy": true, "copy catchup": true, "catchup fence": true, "fence catchup": true,
		"switched clean": true, "clean done": true, "aborting aborted": true,
	}
	move := w.planned(c, "7")
	chunk := w.get(w.keys.chunk(0))
	const novel = placement.Phase("novel")
	for _, from := range append(phases, novel) {
		for _, to := range append(phases, novel) {
			move.Phase = from
			value, _ := json.Marshal(move)
			move.Revision = w.put(w.keys.move(move.ID), string(value))
			lie := move // what is written is what is stored
			lie.Slots, lie.Phase, lie.Target = placement.NewSlotSet(8), placement.PhasePlanned, "s9"
			next, err := led.AdvanceMove(w.ctx, lie, to, anySeen)
			if ok := allowed[string(from)+" "+string(to)]; ok != (err == nil) {
				t.Errorf("from %s to %s: %v", from, to, err)
			}
			stored := w.stored(move.ID)
			if err != nil {
				w.same("after a refusal", stored, move)
				if errors.Is(err, ErrChanged) || errors.Is(err, ErrNotLeading) {
					t.Errorf("from %s to %s: %v", from, to, err)
				}
				continue
			}
			w.same("after a step", stored, next)
			if next.Phase != to || !slices.Equal(next.Slots, move.Slots) || next.Target != "s2" || (next.EndedAt != nil) != to.Ended() {
				t.Errorf("from %s to %s: %+v", from, to, next)
			}
		}
		value, _ := json.Marshal(move)
		move.Revision = w.put(w.keys.move(move.ID), string(value))
		if _, err := led.SwitchMove(w.ctx, move, anySeen); (err == nil) != (from == placement.PhaseFence || switched(from)) {
			t.Errorf("switch from %s: %v", from, err)
		}
		if from == placement.PhaseFence {
			w.put(w.keys.chunk(0), chunk)
		}
		if _, err := c.AbortMove(w.ctx, w.stored(move.ID), ""); from == novel && err == nil {
			t.Error("aborted from a phase that is not known")
		}
		w.put(w.keys.chunk(0), chunk)
	}
	w.delete(w.keys.move(move.ID))
	if _, err := led.AdvanceMove(w.ctx, move, placement.PhaseCopy, anySeen); !errors.Is(err, ErrChanged) {
		t.Errorf("a forgotten move: %v", err)
	}
}

// The source must know of a move before an abort raises an epoch: until then only the cause is written.
func TestAbortIsNotedWhileMarking(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	before := w.read(c)
	marking := w.advanced(led, w.planned(c, "7"), placement.PhaseMark)
	noted, err := c.AbortMove(w.ctx, marking, "because")
	if err != nil || noted.Phase != placement.PhaseMark || noted.Cause != "because" || noted.DecidedAt != nil {
		t.Fatalf("%+v, %v", noted, err)
	}
	w.same("stored", w.stored(noted.ID), noted)
	again, err := c.AbortMove(w.ctx, marking, "another cause")
	if err != nil {
		t.Fatal(err)
	}
	w.same("noted again", again, noted)
	if owner := w.read(c).Map.Owner(7); owner != before.Map.Owner(7) {
		t.Errorf("slot 7 is %+v", owner)
	}
	copying, err := led.AdvanceMove(w.ctx, noted, placement.PhaseCopy, anySeen)
	if err != nil || copying.Cause != "because" {
		t.Fatalf("%+v, %v", copying, err)
	}
	copying.Evidence = true
	aborting, err := c.AbortMove(w.ctx, copying, copying.Cause)
	if err != nil || aborting.Phase != placement.PhaseAborting || !aborting.Evidence {
		t.Errorf("%+v, %v", aborting, err)
	}
	if owner := w.read(c).Map.Owner(7); owner.Epoch != before.Map.Owner(7).Epoch+1 {
		t.Errorf("slot 7 is %+v", owner)
	}
}

// Only the record's revision is between two that both believe to lead, and do.
func TestTwoLeadersAtOnce(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	connections := [2]*Cluster{w.connect(), w.connect()}
	leds := [2]*Led{}
	for i, c := range connections {
		leds[i] = c.Led(w.elected(c, fmt.Sprintf("rebalance%d", i)))
	}
	move := w.planned(c, "7")
	for _, phase := range []placement.Phase{placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup, placement.PhaseFence} {
		next, errs := together(connections, func(i int) (placement.Move, error) { return leds[i].AdvanceMove(w.ctx, move, phase, anySeen) })
		if winner := slices.IndexFunc(errs[:], func(err error) bool { return err == nil }); winner < 0 || !errors.Is(errs[1-winner], ErrChanged) {
			t.Fatalf("%s: %v", phase, errs)
		} else {
			move = next[winner]
		}
		w.same(string(phase), w.stored(move.ID), move)
	}
	next, errs := together(connections, func(i int) (placement.Move, error) { return leds[i].SwitchMove(w.ctx, move, anySeen) })
	if errs[0] != nil || errs[1] != nil {
		t.Error(errs)
	}
	w.same("both know", next[0], next[1])
	if owner := w.read(c).Map.Owner(7); owner != (placement.Owner{Shard: "s2", Epoch: 2}) {
		t.Errorf("switched to %v", owner)
	}
}

// together runs f on two connections, neither of which writes before both have read.
func together[T any](connections [2]*Cluster, f func(int) (T, error)) (results [2]T, errs [2]error) {
	var all, read sync.WaitGroup
	read.Add(2)
	for i, c := range connections {
		kv := c.client.KV
		before(c, 2, func() { read.Done(); read.Wait() })
		all.Go(func() {
			results[i], errs[i] = f(i)
			c.client.KV = kv
		})
	}
	all.Wait()
	return results, errs
}

func TestAbortAgainstSwitch(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	leading, other := w.connect(), w.connect()
	led := leading.Led(w.elected(leading, "rebalance"))
	wins := [2]int{}
	for round := range 40 {
		fenced := w.advanced(led, w.planned(c, fmt.Sprintf("%d,1000", round)), placement.PhaseFence)
		before := w.read(c)
		race := func(i int) (placement.Move, error) {
			if i == 0 {
				return led.SwitchMove(w.ctx, fenced, anySeen)
			}
			return other.AbortMove(w.ctx, fenced, "race")
		}
		var decided [2]placement.Move
		var errs [2]error
		if round%2 == 0 {
			decided, errs = together([2]*Cluster{leading, other}, race)
		} else {
			var all sync.WaitGroup
			for i := range 2 {
				all.Go(func() { decided[i], errs[i] = race(i) })
			}
			all.Wait()
		}
		winner := slices.IndexFunc(errs[:], func(err error) bool { return err == nil })
		if winner < 0 || !errors.Is(errs[1-winner], ErrChanged) {
			t.Fatalf("round %d: %v", round, errs)
		}
		wins[winner]++
		move, view := decided[winner], w.read(c)
		w.same("stored", w.stored(fenced.ID), move)
		want := placement.Owner{Shard: "s2"}
		if winner == 1 {
			want.Shard = "s1"
		}
		for _, slot := range fenced.Slots {
			want.Epoch = before.Map.Owner(slot).Epoch + 1
			if got := view.Map.Owner(slot); got != want {
				t.Fatalf("round %d: slot %d: %v, want %v", round, slot, got, want)
			}
		}
		// Ended, and slot 1000 brought home.
		for _, phase := range [][]placement.Phase{{placement.PhaseClean, placement.PhaseDone}, {placement.PhaseAborted}}[winner] {
			var err error
			if move, err = led.AdvanceMove(w.ctx, move, phase, anySeen); err != nil {
				t.Fatal(err)
			}
		}
		if winner == 0 {
			w.rewrite(1000, placement.Owner{Shard: "s1", Epoch: view.Map.Owner(1000).Epoch + 1})
		}
	}
	t.Logf("%d switched, %d aborted", wins[0], wins[1])
}

// Another move's decision in the same chunk says nothing about this one.
func TestDecisionsInOneChunk(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(4)
	slow := w.connect()
	leadership := w.elected(c, "rebalance")
	one := w.advanced(c.Led(leadership), w.planned(c, "7,500", "s1", "s2"), placement.PhaseFence)
	two := w.advanced(c.Led(leadership), w.planned(c, "1030", "s2", "s3"), placement.PhaseFence)
	w.rewrite(20, placement.Owner{Shard: "s3", Epoch: 2}) // so that a third one has slots in the first one's chunk
	three := w.advanced(c.Led(leadership), w.planned(c, "20", "s3", "s4"), placement.PhaseFence)

	kv := slow.client.KV
	before(slow, 2, func() {
		if _, err := c.Led(leadership).SwitchMove(w.ctx, three, anySeen); err != nil {
			t.Error(err)
		}
	})
	if _, err := slow.Led(leadership).SwitchMove(w.ctx, one, anySeen); err != nil {
		t.Fatal(err)
	}
	slow.client.KV = kv
	before(slow, 2, func() { w.rewrite(1040, placement.Owner{Shard: "s2", Epoch: 9}) })
	if _, err := slow.AbortMove(w.ctx, two, "test"); err != nil {
		t.Fatal(err)
	}
	view := w.read(c)
	for slot, want := range map[ledger.Slot]placement.Owner{
		6: {Shard: "s1", Epoch: 1}, 7: {Shard: "s2", Epoch: 2}, 500: {Shard: "s2", Epoch: 2}, 20: {Shard: "s4", Epoch: 3},
		1030: {Shard: "s2", Epoch: 2}, 1040: {Shard: "s2", Epoch: 9}, 1031: {Shard: "s2", Epoch: 1},
	} {
		if got := view.Map.Owner(slot); got != want {
			t.Errorf("slot %d: %v, want %v", slot, got, want)
		}
	}
}

// Slots that are not the source's any more are nobody's to give.
func TestDecisionsAboutSlotsThatWentElsewhere(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	fenced := w.advanced(led, w.planned(c, "7,8"), placement.PhaseFence)
	w.rewrite(8, placement.Owner{Shard: "s2", Epoch: 5})
	if _, err := led.SwitchMove(w.ctx, fenced, anySeen); err == nil || !strings.Contains(err.Error(), `slot 8 is owned by "s2"`) {
		t.Errorf("switched: %v", err)
	}
	if _, err := c.AbortMove(w.ctx, fenced, ""); err == nil || !strings.Contains(err.Error(), `slot 8 is owned by "s2"`) {
		t.Errorf("aborted: %v", err)
	}
	w.same("stored", w.stored(fenced.ID), fenced)
}

func TestZombieLeader(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	zombie := w.connect()
	lost := w.elected(c, "rebalance")
	move := w.planned(c, "7")
	w.delete(lost.Key)
	if _, err := zombie.Led(lost).AdvanceMove(w.ctx, move, placement.PhaseCopy, anySeen); !errors.Is(err, ErrNotLeading) {
		t.Errorf("advanced: %v", err)
	}
	w.same("stored", w.stored(move.ID), move)

	leads := w.elected(c, "rebalance")
	fenced := w.advanced(c.Led(leads), move, placement.PhaseFence)
	if _, err := zombie.Led(lost).SwitchMove(w.ctx, fenced, anySeen); !errors.Is(err, ErrNotLeading) {
		t.Errorf("switched: %v", err)
	}

	// The key goes between what it reads and what it writes.
	kv := zombie.client.KV
	before(zombie, 2, func() { w.delete(leads.Key) })
	if _, err := zombie.Led(leads).SwitchMove(w.ctx, fenced, anySeen); !errors.Is(err, ErrNotLeading) {
		t.Fatalf("switched late: %v", err)
	}
	zombie.client.KV = kv
	leads = w.elected(c, "rebalance")
	before(zombie, 2, func() { w.delete(leads.Key) })
	if _, err := zombie.Led(leads).AdvanceMove(w.ctx, fenced, placement.PhaseCatchup, anySeen); !errors.Is(err, ErrNotLeading) {
		t.Fatalf("advanced late: %v", err)
	}
	w.same("stored", w.stored(move.ID), fenced)
	if owner := w.read(c).Map.Owner(7); owner.Epoch != 1 {
		t.Errorf("owner %v", owner)
	}

	// Of what was done it is told, so that it does not undo it.
	switched, err := c.Led(w.elected(c, "rebalance")).SwitchMove(w.ctx, fenced, anySeen)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Led(leads).SwitchMove(w.ctx, fenced, anySeen)
	if err != nil {
		t.Error(err)
	}
	w.same("told", again, switched)
}

// The answer is lost, the write was done: asked again, each says so.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(2)
	w.register(c, config, "s3")
	if _, err := c.DrainShard(w.ctx, config, "s3", true); err != nil {
		t.Fatal(err)
	}
	leadership := w.elected(c, "rebalance")
	// lose calls f so that the answer of its commit number n does not come, and then again.
	lose := func(what string, n int, f func(context.Context, *Cluster) (placement.Move, error)) placement.Move {
		t.Helper()
		proxy := w.proxy()
		through := w.connect(proxy.endpoint())
		before(through, n, func() { proxy.mute(true) })
		ctx, cancel := context.WithTimeout(w.ctx, 500*time.Millisecond)
		defer cancel()
		if _, err := f(ctx, through); err == nil || errors.Is(err, ErrChanged) || errors.Is(err, ErrNotLeading) {
			t.Fatalf("%s: %v, though its answer was lost", what, err)
		}
		proxy.mute(false)
		written := w.written()
		move, err := f(w.ctx, c)
		if err != nil {
			t.Fatalf("%s again: %v", what, err)
		}
		if after := w.written(); after != written {
			t.Errorf("%s again: written again", what)
		}
		return move
	}
	plan := func(id placement.MoveID) placement.Move {
		view := w.read(c)
		return lose("plan", 1, func(ctx context.Context, c *Cluster) (placement.Move, error) {
			return c.PlanMove(ctx, view, placement.Move{ID: id, Source: "s1", Target: "s2", Slots: placement.NewSlotSet(7, 8)})
		})
	}
	planned := plan("first")
	lose("abort a plan", 2, func(ctx context.Context, c *Cluster) (placement.Move, error) { return c.AbortMove(ctx, planned, "a") })
	copying := w.advanced(c.Led(leadership), plan("second"), placement.PhaseCopy)
	aborting := lose("abort", 2, func(ctx context.Context, c *Cluster) (placement.Move, error) { return c.AbortMove(ctx, copying, "b") })
	if _, err := c.Led(leadership).AdvanceMove(w.ctx, aborting, placement.PhaseAborted, anySeen); err != nil {
		t.Fatal(err)
	}
	fenced := w.advanced(c.Led(leadership), plan("third"), placement.PhaseFence)
	switched := lose("switch", 2, func(ctx context.Context, c *Cluster) (placement.Move, error) {
		return c.Led(leadership).SwitchMove(ctx, fenced, anySeen)
	})
	if owner := w.read(c).Map.Owner(7); owner != (placement.Owner{Shard: "s2", Epoch: 3}) || switched.Phase != placement.PhaseSwitched {
		t.Errorf("%+v, owner %v", switched, owner)
	}
	view := w.read(c)
	lose("remove", 1, func(ctx context.Context, c *Cluster) (placement.Move, error) {
		return placement.Move{}, c.RemoveShard(ctx, view, "s3")
	})
}

func TestPauseMove(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	led := c.Led(w.elected(c, "rebalance"))
	move := w.planned(c, "7")
	for _, phase := range append(phases, "novel") {
		move.Phase, move.Paused = phase, false
		value, _ := json.Marshal(move)
		move.Revision = w.put(w.keys.move(move.ID), string(value))
		paused, err := c.PauseMove(w.ctx, move.ID, true)
		if want := slices.Contains([]placement.Phase{"planned", "mark", "copy", "catchup", "clean"}, phase); want != (err == nil) || want != w.stored(move.ID).Paused {
			t.Errorf("pause in %s: %v", phase, err)
		}
		if err != nil {
			continue
		}
		w.same("paused", w.stored(move.ID), paused)
		if again, err := c.PauseMove(w.ctx, move.ID, true); err != nil || again.Revision != paused.Revision {
			t.Errorf("paused again: %+v, %v", again, err)
		}
		if _, err := led.AdvanceMove(w.ctx, move, placement.PhaseCopy, anySeen); !errors.Is(err, ErrChanged) {
			t.Errorf("advanced over a pause: %v", err)
		}
		if resumed, err := c.PauseMove(w.ctx, move.ID, false); err != nil || resumed.Paused {
			t.Errorf("resumed: %+v, %v", resumed, err)
		}
	}
	if _, err := c.PauseMove(w.ctx, "nobody", true); err == nil {
		t.Error("paused nothing")
	}

	// What is decided goes on.
	move.Phase, move.Paused = placement.PhaseFence, true
	value, _ := json.Marshal(move)
	w.put(w.keys.move(move.ID), string(value))
	if switched, err := led.SwitchMove(w.ctx, w.stored(move.ID), anySeen); err != nil || switched.Paused {
		t.Errorf("switched: %+v, %v", switched, err)
	}
}

func TestForgetMoves(t *testing.T) {
	w := newWorld(t)
	c, _ := w.founded(2)
	kept := w.planned(c, "7")
	long := time.Now().Add(-24 * time.Hour).UTC()
	put := func(id string, ended time.Time) {
		value, _ := json.Marshal(placement.Move{
			ID: placement.MoveID(id), Source: "gone", Target: "s1", Slots: placement.NewSlotSet(7), Phase: placement.PhaseDone, EndedAt: &ended,
		})
		w.put(w.keys.move(placement.MoveID(id)), string(value))
	}
	for i := range 230 {
		put(fmt.Sprintf("young%03d", i), long.Add(time.Duration(i)*time.Second))
	}
	put("old", long.Add(-time.Hour))
	w.put(w.keys.move("undated"), `{"id":"undated","phase":"aborted","slots":"7"}`)
	w.put(w.keys.move("novel"), `{"id":"novel","phase":"novel"}`)
	view := w.read(c)
	if n, err := c.ForgetMoves(w.ctx, view, long); err != nil || n != 132 {
		t.Errorf("forgot %d, %v", n, err)
	}
	left := w.read(c)
	for _, id := range []placement.MoveID{kept.ID, "novel", "young130", "young229"} {
		if _, ok := left.Move(id); !ok {
			t.Errorf("move %s is forgotten", id)
		}
	}
	if len(left.Moves) != 102 {
		t.Errorf("%d moves left", len(left.Moves))
	}
	if _, err := c.ForgetMoves(w.ctx, view, long); !errors.Is(err, ErrChanged) {
		t.Errorf("forgot twice: %v", err)
	}
	if n, err := c.ForgetMoves(w.ctx, left, long); err != nil || n != 0 {
		t.Errorf("forgot %d more, %v", n, err)
	}
	if n, err := c.ForgetMoves(w.ctx, left, time.Now()); err != nil || n != 100 {
		t.Errorf("forgot %d in the end, %v", n, err)
	}
}

// The largest decision that there can be fits in etcd's default limits.
func TestSwitchOfEverySlot(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(1)
	source, target := strings.Repeat("a", ledger.MaxIDLength), strings.Repeat("b", ledger.MaxIDLength)
	w.register(c, config, source)
	w.register(c, config, target)
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = placement.Owner{Shard: ledger.ShardID(source), Epoch: 1<<62 + ledger.Epoch(slot%2)} // a run for each slot
	}
	var puts []clientv3.Op
	for chunk := range chunks {
		value, err := formatChunk(chunk, owners)
		if err != nil {
			t.Fatal(err)
		}
		puts = append(puts, clientv3.OpPut(w.keys.chunk(chunk), value))
	}
	if _, err := w.raw.Txn(w.ctx).Then(puts...).Commit(); err != nil {
		t.Fatal(err)
	}
	led := c.Led(w.elected(c, "rebalance"))
	fenced := w.advanced(led, w.planned(c, "0-4095", ledger.ShardID(source), ledger.ShardID(target)), placement.PhaseFence)
	if _, err := led.SwitchMove(w.ctx, fenced, anySeen); err != nil {
		t.Fatal(err)
	}
	view := w.read(c)
	for slot, before := range owners {
		if got := view.Map.Owner(slot); got.Shard != ledger.ShardID(target) || got.Epoch != before.Epoch+1 {
			t.Fatalf("slot %d: %v", slot, got)
		}
	}
}
