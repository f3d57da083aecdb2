package shard_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/shard"
)

// What moves make of shards that have lost some of what they knew.

// one funds a user with 100 and returns its slot.
func (w *twoShards) one(user ledger.UserID) placement.SlotSet {
	w.t.Helper()
	w.user(user)
	w.must(add(user, "fund", 100))
	return placement.NewSlotSet(placement.SlotOf(user))
}

// again is what a mover does when Activate says that the last pass is not there.
func (m *move) again() {
	m.w.t.Helper()
	m.run(before[0], before[2], before[3], before[9])
}

// unguarded lets a test change rows as nobody does.
func (b *book) unguarded(statements ...string) {
	b.t.Helper()
	for _, table := range []string{"users", "accounts", "operations", "entries", "sagas"} {
		b.alter(`alter table saldo.` + table + ` disable trigger guarded`)
	}
	b.alter(statements...)
}

// The source crashes after a pass, and gives out again the number of a transaction that the pass took for ended.
func TestNumbersAreGivenOutAgain(t *testing.T) {
	t.Parallel()
	server := private(t, nil)
	w := openTwoAt(t, server.DSN(), pgtest.Database(t, elsewhere))
	for round := range 2 {
		user := ledger.UserID(fmt.Sprint("v", round))
		m := w.move(placement.MoveID(user), "s1", "s2", w.one(user), 1)
		m.run(before[0], before[2], before[3], before[4])
		crashing := session(t, server.DSN())
		var walwriter int
		row := crashing.QueryRow(t.Context(), `select pid from pg_stat_activity where backend_type = 'walwriter'`)
		if err := row.Scan(&walwriter); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(walwriter, syscall.SIGSTOP); err != nil { // it would make the log durable in time
			t.Fatal(err)
		}
		for range 3 { // each takes a number and comes to nothing
			w.must(add(user, "fund", 100))
		}
		m.run(before[3])
		if err := syscall.Kill(walwriter, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.must(add(user, "late", 1000))
		m = m.next()
		eventually(t, "the next mover takes it over", func() bool { return m.Mark(t.Context(), m.held()) == nil })
		m.run(before[5], before[9])
		m.finish()
		if got := w.books["s2"].sql(`select balance::text from saldo.accounts where user_id = $1`, user); got != "1100" {
			t.Errorf("round %d: the target has %s, not 1100", round, got)
		}
	}
	w.mustBeSound()
}

// A pass goes by transaction numbers. Should it ever miss what was written, what the accounts come to tells.
func TestAPassMissesWhatWasWritten(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[:5]...)
	w.must(add("u0", "late", 1000))
	w.books["s2"].alter(`update saldo.moves set snapshot = (select pg_current_snapshot())`) // of this very server: it sees all
	m.run(before[5])
	if _, err := m.Final(t.Context()); !errors.Is(err, rebalance.ErrMismatch) {
		t.Errorf("%v", err)
	}
}

// The target was activated, and its failover has lost that and more. The source's copy is the only good one: it is not
// deleted, and it is there to be copied again.
func TestTargetLosesItsActivation(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string][]string{
		"activation": {`update saldo.slots set state = 'incoming', epoch = 1, move_id = 'm', token = 1, clean = false where epoch = 2`},
		"mark":       {`delete from saldo.slots where epoch = 2`, `delete from saldo.moves`, `delete from saldo.move_sums`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			slots := w.one("u0")
			m := w.move("m", "s1", "s2", slots, 1)
			m.run(before...)
			w.decide(slots, "s2")
			was := w.books["s1"].content(slots)
			m.run(after[:2]...)
			w.books["s2"].unguarded(append(lost, `update saldo.moves set activated_at = null, final = 99, stage = 0, after = '{}'`,
				`delete from saldo.entries`, `delete from saldo.operations`, `delete from saldo.accounts`, `delete from saldo.users`,
				`delete from saldo.move_sums`, `delete from saldo.moved`)...)
			m = m.next()
			if err := m.cleanAll(); !errors.Is(err, rebalance.ErrNotActivated) {
				t.Errorf("clean: %v", err)
			}
			if w.books["s1"].content(slots) != was {
				t.Fatal("the only copy is gone")
			}
			if err := m.Activate(t.Context(), m.held()); name == "activation" && !errors.Is(err, rebalance.ErrNotFinal) || err == nil {
				t.Errorf("activate: %v", err)
			}
			m.run(before[0])
			if err := m.cleanAll(); !errors.Is(err, rebalance.ErrNotActivated) {
				t.Errorf("clean, when the mark is there again: %v", err)
			}
			m.again()
			m.run(after...)
			if is := w.books["s2"].content(slots); is != was {
				t.Errorf("the copy is\n%s\nnot\n%s", is, was)
			}
			w.mustBeSound()
		})
	}
}

// The source has lost its tombstone, and the mark before it: it is not called clean as long as it takes itself for the owner.
func TestSourceLosesItsTombstone(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"owned", "fenced"} { // as its adoption leaves it
		w := openTwo(t)
		slots := w.one("u0")
		m := w.move("m", "s1", "s2", slots, 1)
		m.run(before...)
		w.decide(slots, "s2")
		m.run(after[:2]...)
		w.books["s1"].alter(`delete from saldo.moved`, `
			update saldo.slots
			set state = '`+state+`', epoch = 1, move_id = '', token = 0, moved_to = '', clean = true
			where epoch = 2`)
		if err := m.cleanAll(); refusals(err) == nil {
			t.Errorf("%s, clean: %v", state, err)
		}
		m.run(after[1:]...)
		got := w.books["s1"].sql(`select state || epoch || clean from saldo.slots where slot = any($1)`, slotList(slots))
		if got != "moved2true" {
			t.Errorf("the source has it %s", got)
		}
		w.mustBeSound()
	}
}

// A standby of the target has the last pass of an earlier fence, and not what came after the fence was lifted.
func TestFinalOfAnEarlierFence(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, nil)
	prepareOther(t, primary.DSN())
	standby := pgtest.Standby(t, primary, false)
	w := openTwoAt(t, pgtest.Database(t, guarded), primary.DSN())
	slots := w.one("u0")
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[0], before[2], before[3], before[5], before[9])
	caughtUp(t, primary, standby)
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	m = m.next()
	m.run(before[0], before[6])
	w.must(add("u0", "late", 1000))
	m.run(before[8], before[9])
	w.decide(slots, "s2")
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	promote(t, standby)
	adoptOther(t, standby)
	now := w.moveVia(standby.DSN(), "m", "s1", "s2", slots, m.token+1)
	if err := now.Activate(t.Context(), now.held()); !errors.Is(err, rebalance.ErrNotFinal) {
		t.Fatalf("activate: %v", err)
	}
	now.again()
	now.run(after...)
	promoted := &book{t: t, dsn: standby.DSN()}
	if got := promoted.sql(`select balance::text from saldo.accounts where user_id = 'u0'`); got != "1100" {
		t.Errorf("the target has %s, not 1100", got)
	}
	if got := promoted.sql(`select string_agg(amount::text, ' ') from saldo.moved`); got != "" {
		t.Errorf("booked: %s", got) // all of it came from @world
	}
}

func adoptOther(t *testing.T, server *local.Postgres) {
	t.Helper()
	decided := func(context.Context, shard.Adoption) error { return nil }
	nothing := func(context.Context) ([]placement.Hold, error) { return nil, nil }
	if _, _, err := shard.Adopt(t.Context(), server.DSN(), "", cluster, "s2", shard.Known{Timeline: 1}, decided, nothing); err != nil {
		t.Fatal(err)
	}
}

// What was decided differently is not taken for done, whatever the epoch is: a registry restored from a backup counts again.
func TestDecidedTwice(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before...)
	w.decide(slots, "s2")
	m.run(after[:2]...)
	was := m.traces()
	for _, s := range afterAbort[:2] {
		if err := s.do(m); refusals(err) == nil && !errors.Is(err, rebalance.ErrSwitchLost) {
			t.Errorf("%s after a switch: %v", s.name, err)
		}
	}
	m.run(after[2])
	back := w.move("back", "s2", "s1", slots, 1)
	back.run(before...)
	w.decide(slots, "s2")
	back.run(afterAbort[:2]...)
	for _, s := range after[:2] {
		if err := s.do(back); err == nil {
			t.Errorf("%s after an abort is not refused", s.name)
		}
	}
	back.run(afterAbort...)
	m.run(after...) // it has moved on, and all that was told is told again
	w.mustBeSound()
	if was == m.traces() {
		t.Error("nothing has changed")
	}
}

// The registry is restored to what it was before a switch, when the target was activated and the source not yet told: nothing
// opens the slots at the source, until the registry says again that the target has them.
func TestRegistryForgetsASwitch(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before...)
	old := w.holds(slots)
	again := w.decide(slots, "s2") // an abort by the old registry would give the source these epochs
	m.run(after[0])
	next := m.next()
	for _, try := range []struct {
		stage
		held []placement.Hold
	}{{before[0], old}, {before[6], old}, {afterAbort[0], again}} {
		next.stale = try.held
		err := patiently(func() error { return try.do(next) })
		if !errors.Is(err, rebalance.ErrSwitchLost) || errors.Is(err, rebalance.ErrHalfMarked) {
			t.Errorf("%s: %v", try.name, err)
		}
		if state := w.books["s1"].sql(`select state from saldo.slots where slot = any($1)`, slotList(slots)); state != "fenced" {
			t.Errorf("%s leaves the slots %s at the source", try.name, state)
		}
	}
	next.stale = nil
	next.run(before[0])
	next.run(after...)
	w.mustBeSound()
}

// A target that is down keeps nobody from opening the slots at the source.
func TestUnfenceWithoutTheTarget(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	w.move("m", "s1", "s2", slots, 1).run(before[:6]...)
	w.moveVia("host=127.0.0.1 port=1 sslmode=disable", "m", "s1", "s2", slots, 1).run(before[6])
	w.decide(slots, "s1")
	w.moveVia("host=127.0.0.1 port=1 sslmode=disable", "m", "s1", "s2", slots, 1).run(afterAbort[0])
	w.mustBeSound()
}

// A fence that the registry never had shows that it was set back: then the source is opened only by a target that says that it
// was not given the slots. In a registry that has the fence, an abort needs no answer.
func TestRestoreOfAFenceThatTheRegistryHasLost(t *testing.T) {
	t.Parallel()
	const down = "host=127.0.0.1 port=1 sslmode=disable"
	known := func(c *shard.PairConfig) { c.Fenced = true }
	for name, test := range map[string]struct {
		activated bool
		target    string // "": where it is
		more      []func(*shard.PairConfig)
		words     string // of the refusal; "": it is opened
	}{
		"the target was activated, and is down":     {true, down, nil, "they stay fenced until it does"},
		"the target was activated, and answers":     {true, "", nil, rebalance.ErrSwitchLost.Error()},
		"the target was not activated, and is down": {false, down, nil, "they stay fenced until it does"},
		"the target was not activated, and answers": {false, "", nil, ""},
		"the registry has the fence":                {false, down, []func(*shard.PairConfig){known}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			slots := w.one("u0")
			m := w.move("m", "s1", "s2", slots, 1)
			m.run(before...)
			held := w.decide(slots, "s2")
			if test.activated {
				m.run(after[0])
			}
			if test.target == "" {
				test.target = w.books["s2"].dsn
			}
			late := w.moveVia(test.target, "m", "s1", "s2", slots, 0, test.more...)
			late.stale = held // the registry has given them to the source at the same epoch
			err := patiently(func() error { return afterAbort[0].do(late) })
			if test.words == "" && err != nil || test.words != "" && (err == nil || !strings.Contains(err.Error(), test.words)) {
				t.Errorf("%v, which does not say %q", err, test.words)
			}
			state := w.books["s1"].sql(`select state from saldo.slots where slot = any($1)`, slotList(slots))
			if want := map[bool]string{true: "owned", false: "fenced"}[test.words == ""]; state != want {
				t.Errorf("the slots are %s at the source, not %s", state, want)
			}
		})
	}
}

// Whoever has fenced the slots himself knows that the registry has it.
func TestRestoreOfOnesOwnFence(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	p, dsn := via(t, w.books["s2"].dsn)
	m := w.moveVia(dsn, "m", "s1", "s2", slots, 1)
	m.run(before...)
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.cut()
	w.decide(slots, "s1")
	m.run(afterAbort[0])
	w.mustBeSound()
}

// A pass that timed out is stored when a later one was made already.
func TestLatePass(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	p, slow := via(t, w.books["s2"].dsn)
	late := w.moveVia(slow, "m", "s1", "s2", slots, 1)
	late.run(before[:4]...)
	w.must(add("u0", "t1", 1))
	asleep := p.once(func(r request) bool { return r.begin }, holdRequest)
	woken := make(chan error)
	go func() {
		_, err := late.Pass(context.Background())
		woken <- err
	}()
	<-asleep
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[5], before[9])
	w.decide(slots, "s2")
	was := m.traces()
	close(p.release)
	if err := <-woken; err == nil || errors.Is(err, rebalance.ErrMismatch) {
		t.Errorf("it was stored: %v", err)
	}
	if m.traces() != was {
		t.Error("it has changed something")
	}
	m.run(after...)
	w.mustBeSound()
}

// All writers wait while sagas are written anew, so it is the oldest of them, and not very many.
func TestManyPendingSagas(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	slots := w.one("u0")
	b := w.books["s1"]
	b.unguarded(fmt.Sprintf(`insert into saldo.sagas (amount, created_at, slot, state, initiator, tx_id, payee, currency, trace, tx)
		select 1, now(), %d, 1, 'u0', i, 'far', 'USD', '', 4000 - i from generate_series(1, 3000) i`, slots[0]))
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[0], before[5])
	begun := time.Now()
	m.run(before[6])
	t.Logf("lifted in %v", time.Since(begun))
	if got := b.sql(`select count(*) || ' ' || min(tx_id::int) from saldo.sagas where tx <> 4000 - tx_id::int`); got != "2000 1001" {
		t.Errorf("written anew, and from: %s", got)
	}
}

// The condition by which a pass finds rows is that its snapshot did not see them.
func TestUnseenBy(t *testing.T) {
	t.Parallel()
	b := open(t)
	for _, snapshot := range []string{"10:10:", "10:20:12,15", "10:11:10"} {
		if got := b.sql(fmt.Sprintf(`select coalesce(string_agg(tx::text, ' '), '') from generate_series(5, 25) tx
			where (%s) <> (not pg_visible_in_snapshot(tx::text::xid8, '%s'))`, shard.UnseenBy(snapshot, "tx"), snapshot)); got != "" {
			t.Errorf("%s: differs for %s", snapshot, got)
		}
	}
}
