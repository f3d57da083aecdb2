package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/auditor"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// moving is a world whose slots move while it is audited. Its view is replaced as a whole, as the registry would.
type moving struct {
	*world
	now atomic.Pointer[audit.View]
}

func (m *moving) View(context.Context) (audit.View, error) { return *m.now.Load(), nil }

// decide is a transaction of the registry: it writes the record of the one move that there is and, for an owner, the slots.
func (m *moving) decide(move *placement.Move, phase placement.Phase, owner ledger.ShardID) {
	view := *m.now.Load()
	move.Phase = phase
	view.Moves = []placement.Move{*move}
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = view.Map.Owner(slot)
		if owner != "" && move.Slots.Contains(slot) {
			owners[slot] = placement.Owner{Shard: owner, Epoch: owners[slot].Epoch + 1}
		}
	}
	var err error
	if view.Map, err = placement.NewMap(view.Map.Revision()+1, owners); err != nil {
		panic(err)
	}
	m.now.Store(&view)
}

// step runs a step until the shards own its slots as the map says, as a router would.
func (m *moving) step(make func(m *placement.Map) error) error {
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		err := make(m.now.Load().Map)
		var ownership *placement.OwnershipError
		if !errors.As(err, &ownership) || time.Since(begun) > time.Minute {
			return err
		}
	}
}

// transfer does all steps of a transfer, wherever they belong by then.
func (m *moving) transfer(ctx context.Context, payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) error {
	var (
		op      ledger.Operation
		outcome ledger.Outcome
	)
	err := m.step(func(now *placement.Map) error {
		op = pay(payer, tx, payee, amount)
		home, hold := now.HoldOn(payer)
		there, payeeHold := now.HoldOn(payee)
		holds := []placement.Hold{hold, payeeHold}
		if home != there {
			op.Saga, holds = true, holds[:1]
		}
		started, err := m.by[home].Submit(ctx, op, holds...)
		outcome = started.Outcome
		return err
	})
	if err != nil || !op.Saga || outcome.Reason != ledger.Applied {
		return err
	}
	at := func(user ledger.UserID, do func(s *shard.Shard, hold placement.Hold) error) error {
		return m.step(func(now *placement.Map) error {
			id, hold := now.HoldOn(user)
			return do(m.by[id], hold)
		})
	}
	err = at(payee, func(s *shard.Shard, hold placement.Hold) error {
		credited, err := s.Submit(ctx, credit(op), hold)
		outcome = credited.Outcome
		return err
	})
	if err != nil {
		return err
	}
	return at(payer, func(s *shard.Shard, hold placement.Hold) error {
		if outcome.Reason != ledger.Applied {
			_, err := s.Submit(ctx, refund(op, outcome.Reason), hold)
			return err
		}
		_, err := s.Complete(ctx, op.Identity, hold)
		return err
	})
}

// move takes slots from a shard to another, or back before the end.
func (m *moving) move(ctx context.Context, move placement.Move, abort bool) error {
	side := func(id ledger.ShardID) shard.Config { return shard.Config{Cluster: clusterID, ID: id, DSN: m.dsn[id]} }
	pair, err := shard.OpenPair(shard.PairConfig{
		Source: side(move.Source), Target: side(move.Target), MoveID: move.ID, Slots: move.Slots, Token: 1,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer pair.Close()
	holds := func() []placement.Hold { return move.Holds(m.now.Load().Map) }
	change := func(do func(context.Context, []placement.Hold) error) func() error {
		return func() error { return do(ctx, holds()) }
	}
	decide := func(phase placement.Phase, owner ledger.ShardID) func() error {
		return func() error { m.decide(&move, phase, owner); return nil }
	}
	until := func(do func() (int, error)) func() error {
		return func() error {
			for {
				if n, err := do(); n == 0 || err != nil {
					return err
				}
			}
		}
	}
	steps := []func() error{
		decide(placement.PhaseMark, ""), change(pair.Mark),
		decide(placement.PhaseCopy, ""), until(func() (int, error) { return pair.CopyChunk(ctx, 200) }),
		decide(placement.PhaseCatchup, ""), func() error { _, err := pair.Pass(ctx); return err },
		until(func() (int, error) { return pair.VerifyChunk(ctx) }),
		change(pair.Fence), decide(placement.PhaseFence, ""), func() error { _, err := pair.Final(ctx); return err },
	}
	if abort {
		steps = append(steps,
			decide(placement.PhaseAborting, move.Source), change(pair.Restore), change(pair.Discard),
			until(func() (int, error) { return pair.CleanChunk(ctx, 1000) }), decide(placement.PhaseAborted, ""))
	} else {
		steps = append(steps,
			decide(placement.PhaseSwitched, move.Target), change(pair.Activate), change(pair.Tombstone), decide(placement.PhaseClean, ""),
			until(func() (int, error) { return pair.CleanChunk(ctx, 1000) }), decide(placement.PhaseDone, ""))
	}
	for i, step := range steps {
		for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			if err = step(); err == nil || time.Since(begun) > time.Minute || ctx.Err() != nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// Audits one after another while money moves at full speed, and slots do too: never a false alarm, and never incomplete.
func TestNoFalseAlarmsWhileSlotsMove(t *testing.T) {
	t.Parallel()
	m := &moving{world: newWorld(t, empty)}
	m.now.Store(&m.view)
	var users []ledger.UserID
	for _, id := range shardIDs {
		for i := range 4 {
			users = append(users, userOn(id, fmt.Sprintf("u%d", i)))
		}
	}
	for _, user := range users {
		m.must(part{user: user}, part{op: add(user, "open", 1000)})
	}

	var (
		working sync.WaitGroup
		stop    atomic.Bool
		done    atomic.Int64
		moves   int
	)
	ctx := t.Context()
	for worker := range 4 {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 2))
			for i := 0; !stop.Load(); i++ {
				payer, payee := users[random.IntN(len(users))], users[random.IntN(len(users))]
				if err := m.transfer(ctx, payer, fmt.Sprintf("%d-%d", worker, i), payee, ledger.Amount(1+random.IntN(400))); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	working.Go(func() {
		random := rand.New(rand.NewPCG(7, 7))
		for ; !stop.Load(); moves++ {
			slot := placement.SlotOf(users[random.IntN(len(users))])
			source := m.now.Load().Map.Owner(slot).Shard
			target := shardIDs[random.IntN(3)]
			if target == source {
				continue
			}
			move := placement.Move{ID: placement.MoveID(fmt.Sprint("m", moves)), Source: source, Target: target, Slots: placement.NewSlotSet(slot, slot^1)}
			if m.now.Load().Map.Owner(slot^1).Shard != source {
				move.Slots = move.Slots[:0]
				move.Slots = placement.NewSlotSet(slot)
			}
			if err := m.move(ctx, move, random.IntN(4) == 0); err != nil {
				t.Errorf("move %s: %v", move.ID, err)
				return
			}
		}
	})
	// Steps between shards do not even become suspects: a settled round is as exact as one in which nothing moves.
	options := audit.Options{Chunk: 64, Patience: time.Minute, Progress: func(text string) {
		if strings.Contains(text, "suspects of credits") || strings.Contains(text, "suspects of ends") {
			t.Error(text)
		}
	}}
	always := auditor.New(m, auditor.Config{Audit: options}, slog.New(slog.DiscardHandler))
	audits := 0
	for begun := time.Now(); !t.Failed() && (time.Since(begun) < time.Second || audits < 3); audits++ {
		always.Round(ctx)
		r, err := audit.Run(ctx, m, options)
		if err != nil || r.Verdict != audit.Clean || r.Totals[0].Moved.Sign() != 0 {
			t.Errorf("after %d transfers: %v\n%s", done.Load(), err, table(r))
		}
	}
	stop.Store(true)
	working.Wait()
	always.Round(ctx)
	mustBeClean(t, always, done.Load())
	r, err := audit.Run(ctx, m, options)
	if err != nil {
		t.Fatal(err)
	}
	if usd := r.Totals[0]; r.Verdict != audit.Clean || r.Pending != 0 || usd.InTransit.Sign() != 0 || usd.Users.Int64() != 1000*int64(len(users)) {
		t.Errorf("in the end:\n%s", table(r))
	}
	t.Logf("%d audits during %d transfers and %d moves\n%s", audits, done.Load(), moves, table(r))
}
