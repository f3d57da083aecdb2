package shard_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// What a shard has is shown, whether it is its own or not; what is counted and listed is its own.
func TestSights(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "alina", "bob")
	b.must(add("alice", "opening", 100))
	for i := range 5 {
		b.must(debit("alice", fmt.Sprint("t", i), "bob", 1))
	}
	credit := debit("alice", "t0", "bob", 1)
	credit.Step, credit.Saga = ledger.StepCredit, false
	b.must(credit)
	if _, err := b.Complete(t.Context(), credit.Identity, b.hold("alice")); err != nil {
		t.Fatal(err)
	}

	user, err := b.SeeUser(t.Context(), "alice")
	if err != nil || !user.Slot.Ours() || user.Slot.Epoch != 1 || user.User.Name != "alice" || user.User.Holdings[0].Balance != 95 {
		t.Errorf("alice: %+v %+v %v", user.Slot, user.User, err)
	}
	if nobody, err := b.SeeUser(t.Context(), "nobody"); err != nil || nobody.User != nil || !nobody.Slot.Ours() {
		t.Errorf("nobody: %+v %v", nobody, err)
	}

	bob := placement.SlotOf("bob")
	way, err := b.SeeTransfer(t.Context(), credit.Identity, bob)
	if err != nil || len(way.Slots) != 2 || len(way.Steps) != 2 || way.Saga == nil {
		t.Fatalf("t0: %+v %v", way, err)
	}
	first, second := way.Steps[0], way.Steps[1]
	if first.Step != ledger.StepStart || !first.Saga || first.Balance != 99 || first.Slot != placement.SlotOf("alice") || first.CreatedAt.IsZero() {
		t.Errorf("start: %+v", first)
	}
	if second.Step != ledger.StepCredit || second.Slot != bob || second.Version != 1 {
		t.Errorf("credit: %+v", second)
	}
	if way.Saga.State != ledger.SagaCompleted || way.Saga.EndedAt.Before(way.Saga.CreatedAt) {
		t.Errorf("saga: %+v", way.Saga)
	}
	if starts, err := b.SeeStarts(t.Context(), "opening"); err != nil || len(starts) != 1 || starts[0].Kind != ledger.KindAdd || starts[0].Payee != "" {
		t.Errorf("starts: %+v %v", starts, err)
	}
	if ids, err := b.UsersLike(t.Context(), "al", 10); err != nil || !slices.Equal(ids, []string{"alice", "alina"}) {
		t.Errorf("users like al: %v %v", ids, err)
	}
	if ids, err := b.TransfersLike(t.Context(), "t", 3); err != nil || !slices.Equal(ids, []string{"t0", "t1", "t2"}) {
		t.Errorf("transfers like t: %v %v", ids, err)
	}
	counters, err := b.Counters(t.Context())
	if err != nil || counters.Pending != 4 || counters.OldestPending.IsZero() || counters.DatabaseBytes == 0 {
		t.Errorf("counters: %+v %v", counters, err)
	}

	// A slot that has left is shown, and not listed.
	b.sql(fmt.Sprintf(`with moved as (update saldo.slots set state = 'moved', epoch = 2, moved_to = 's2' where slot = %d returning slot)
		select slot::text from moved`, placement.SlotOf("alice")))
	if user, err := b.SeeUser(t.Context(), "alice"); err != nil || user.Slot.Ours() || user.Slot.MovedTo != "s2" || user.User == nil {
		t.Errorf("alice has left: %+v %v", user, err)
	}
	if way, err := b.SeeTransfer(t.Context(), credit.Identity, bob); err != nil || len(way.Steps) != 2 {
		t.Errorf("t0, of which the start has left: %+v %v", way, err)
	}
	if counters, err := b.Counters(t.Context()); err != nil || counters.Pending != 0 || !counters.OldestPending.IsZero() {
		t.Errorf("counters: %+v %v", counters, err)
	}
	if starts, err := b.SeeStarts(t.Context(), "opening"); err != nil || len(starts) != 0 {
		t.Errorf("starts: %+v %v", starts, err)
	}
	if list, err := b.SeeSagas(t.Context(), ledger.SagaQuery{State: ledger.SagaPending, Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("sagas: %+v %v", list, err)
	}
}

// Pages follow each other without a gap or a repeat, also where sagas were begun at the same instant.
func TestSagaPages(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "opening", 100))
	var ops []ledger.Operation
	for i := range 7 {
		ops = append(ops, debit("alice", fmt.Sprint("t", i), "bob", 1))
	}
	holds := make([][]placement.Hold, len(ops))
	for i := range ops {
		holds[i] = b.holds(ops[i])
	}
	b.SubmitAll(t.Context(), ops, holds)
	for i := range 3 {
		if _, err := b.Complete(t.Context(), ops[i].Identity, b.hold("alice")); err != nil {
			t.Fatal(err)
		}
	}
	for state, want := range map[ledger.SagaState]int{ledger.SagaPending: 4, ledger.SagaCompleted: 3, ledger.SagaRefunded: 0} {
		var all []ledger.SagaSight
		for q := (ledger.SagaQuery{State: state, Limit: 2}); ; q.After = &all[len(all)-1] {
			page, err := b.SeeSagas(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
		}
		seen := make(map[ledger.TxID]bool)
		for i, s := range all {
			seen[s.TxID] = true
			if i > 0 && (state == ledger.SagaPending) != !s.CreatedAt.Before(all[i-1].CreatedAt) && !s.CreatedAt.Equal(all[i-1].CreatedAt) {
				t.Errorf("%v: %v comes after %v", state, s.CreatedAt, all[i-1].CreatedAt)
			}
		}
		if len(all) != want || len(seen) != want {
			t.Errorf("%v: %d sagas, %d of them different, not %d", state, len(all), len(seen), want)
		}
	}
	if old, err := b.SeeSagas(t.Context(), ledger.SagaQuery{State: ledger.SagaPending, OlderThan: time.Hour, Limit: 10}); err != nil || len(old) != 0 {
		t.Errorf("older than an hour: %v %v", old, err)
	}
}

// A person is told what the server has said, and no more.
func TestSightOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct{ dsn, says string }{
		"nobody":        {"postgres://saldo:hunter2@127.0.0.1:1/saldo?connect_timeout=1", "it does not answer"},
		"another shard": {pgtest.Database(t, elsewhere), "this database is shard s2 of cluster " + cluster + ", not shard s1 of cluster " + cluster},
	} {
		b := openAt(t, test.dsn, func(c *shard.Config) { c.ReadConns = 1 })
		_, err := b.Counters(t.Context())
		var told *ledger.Error
		if !errors.As(err, &told) || told.Code != ledger.CodeUnavailable || told.Message != test.says {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// However many people look, and however long that takes: it takes nothing from those who read to act.
func TestSightsHaveConnectionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.ReadConns = 1 })
	b.user("alice")
	b.must(add("alice", "opening", 100))
	locking := session(t, b.dsn)
	do(t, locking, "begin")
	do(t, locking, "lock table saldo.operations, saldo.entries in access exclusive mode") // sights wait for it
	ctx, cancel := context.WithCancel(t.Context())
	var looking sync.WaitGroup
	for range 8 {
		looking.Go(func() { b.SeeStarts(ctx, "opening") })
		looking.Go(func() { b.SeeHistory(ctx, "alice", "USD", 0, 10) })
	}
	waiting := `select count(*)::text from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
	eventually(t, "two sights wait", func() bool { return b.sql(waiting) == "2" })
	for range 20 {
		within, end := context.WithTimeout(t.Context(), 2*time.Second)
		if _, err := b.PendingSagas(within, saga.Cursor{}, math.MaxInt64, 10); err != nil {
			t.Errorf("pending sagas: %v", err)
		}
		if _, err := b.User(within, "alice"); err != nil {
			t.Errorf("alice: %v", err)
		}
		end()
	}
	if got := b.sql(waiting); got != "2" {
		t.Errorf("%s sights have connections", got)
	}
	cancel()
	looking.Wait()
	do(t, locking, "rollback")
	if page, err := b.SeeHistory(t.Context(), "alice", "USD", 0, 10); err != nil || page.Total != 1 || len(page.Lines) != 1 {
		t.Errorf("history: %+v %v", page, err)
	}
}
