package shard_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

func refusals(err error) []placement.Refusal {
	var refused *placement.OwnershipError
	if errors.As(err, &refused) {
		return refused.Refusals
	}
	return nil
}

func isStranger(err error) bool {
	var stranger *placement.StrangerError
	return errors.As(err, &stranger)
}

// reads are all reads of one user's slot.
func (b *book) reads(user ledger.UserID) map[string]error {
	ctx := b.t.Context()
	errs := make(map[string]error)
	_, errs["balance"] = b.Balance(ctx, user, "USD")
	_, errs["user"] = b.User(ctx, user)
	_, errs["history"] = b.History(ctx, user, "USD", 0, 10)
	_, errs["transfer"] = b.Transfer(ctx, ledger.Identity{Initiator: user, TxID: "fund"})
	_, errs["transfers by tx_id"] = b.TransfersByTxID(ctx, "fund", []ledger.Slot{placement.SlotOf(user)})
	return errs
}

func TestGuardAnswers(t *testing.T) {
	t.Parallel()
	slot := placement.SlotOf("alice")
	for _, c := range []struct {
		name   string
		row    string // of table slots: what it is set to; "" leaves it, "delete" deletes it
		epoch  ledger.Epoch
		answer placement.Refusal
		read   placement.Answer // "" if reads go on
	}{
		{"moved", `state = 'moved', epoch = 3, moved_to = 's2'`, 1,
			placement.Refusal{Answer: placement.Moved, Epoch: 3, MovedTo: "s2"}, placement.Moved},
		{"moved, known", `state = 'moved', epoch = 3, moved_to = 's2'`, 3,
			placement.Refusal{Answer: placement.Moved, Epoch: 3, MovedTo: "s2"}, placement.Moved},
		{"coming", `state = 'incoming', epoch = 3`, 3, placement.Refusal{Answer: placement.Fenced, Epoch: 3}, placement.Fenced},
		{"coming, and the map has it here", `state = 'incoming', epoch = 3, move_id = 'm'`, 4,
			placement.Refusal{Answer: placement.Fenced, Epoch: 3, Move: "m"}, placement.Fenced},
		{"moving", `move_id = 'm', epoch = 3`, 2, placement.Refusal{Answer: placement.EpochOld, Epoch: 3}, ""},
		{"not told of an abort", `move_id = 'm', epoch = 3`, 4, placement.Refusal{Answer: placement.Fenced, Epoch: 3, Move: "m"}, ""},
		{"fenced", `state = 'fenced'`, 1, placement.Refusal{Answer: placement.Fenced, Epoch: 1}, placement.Fenced},
		{"epoch old", `epoch = 3`, 1, placement.Refusal{Answer: placement.EpochOld, Epoch: 3}, ""},
		{"epoch ahead", `epoch = 3`, 4, placement.Refusal{Answer: placement.EpochAhead, Epoch: 3}, ""},
		{"never here", `delete`, 1, placement.Refusal{Answer: placement.Moved}, placement.Moved},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			b.user("alice", "bob")
			b.must(add("alice", "fund", 100))
			b.must(add("bob", "fund", 100))
			if c.row == "delete" {
				b.alter(fmt.Sprintf(`delete from saldo.slots where slot = %d`, slot))
			} else {
				b.alter(fmt.Sprintf(`update saldo.slots set %s where slot = %d`, c.row, slot))
			}
			want := c.answer
			want.Slot, want.Held = slot, c.epoch
			hold := placement.Hold{Slot: slot, Epoch: c.epoch}

			writes := map[string]error{}
			_, writes["add"] = b.Submit(t.Context(), add("alice", "t1", 1), hold)
			_, writes["pay from"] = b.Submit(t.Context(), pay("alice", "t2", "bob", 1), hold, b.hold("bob"))
			_, writes["pay to"] = b.Submit(t.Context(), pay("bob", "t3", "alice", 1), b.hold("bob"), hold)
			_, writes["debit"] = b.Submit(t.Context(), debit("alice", "t4", "bob", 1), hold)
			_, writes["replay"] = b.Submit(t.Context(), add("alice", "fund", 100), hold)
			_, writes["complete"] = b.Complete(t.Context(), ledger.Identity{Initiator: "alice", TxID: "t4"}, hold)
			_, _, writes["create"] = b.CreateUser(t.Context(), ledger.User{ID: "alice", Name: "alice"}, hold)
			for name, err := range writes {
				if got := refusals(err); !slices.Equal(got, []placement.Refusal{want}) {
					t.Errorf("%s: %v, want %+v", name, err, want)
				}
				var refused *placement.OwnershipError
				if errors.As(err, &refused) && refused.Ahead() != (c.answer.Answer == placement.EpochAhead) {
					t.Errorf("%s: ahead: %v", name, refused.Ahead())
				}
			}
			want.Held, want.Answer, want.Move = 0, c.read, "" // a read is not told under which move
			for name, err := range b.reads("alice") {
				switch got := refusals(err); {
				case c.read == "" && err != nil:
					t.Errorf("%s: %v", name, err)
				case c.read != "" && !slices.Equal(got, []placement.Refusal{want}):
					t.Errorf("%s: %v, want %+v", name, err, want)
				}
			}
			if got := b.sql(`select count(*)::text from saldo.operations`); got != "2" {
				t.Errorf("%s operations", got)
			}
			b.must(add("bob", "another slot", 1))
			b.mustBeSound()
		})
	}
}

// The database behind the address is not the one that was meant.
func TestStrangers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*shard.Config)
		alter  string
	}{
		{"another shard", func(c *shard.Config) { c.ID = "s2" }, ""},
		{"another cluster", func(c *shard.Config) { c.Cluster = "99999999-2222-3333-4444-555555555555" }, ""},
		{"another timeline", func(*shard.Config) {}, `update saldo.shard_meta set timeline = timeline + 1`},
		{"enrolled nowhere", func(*shard.Config) {}, `delete from saldo.shard_meta`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := open(t)
			good.user("alice")
			good.must(add("alice", "fund", 100))
			if c.alter != "" {
				good.alter(c.alter)
			}
			b := openAt(t, good.dsn, c.change)
			if _, err := b.submit(add("alice", "t", 1)); !isStranger(err) || ledger.CodeOf(err) != "" {
				t.Errorf("write: %v", err)
			}
			if _, _, err := b.CreateUser(t.Context(), ledger.User{ID: "bob"}, b.hold("bob")); !isStranger(err) {
				t.Errorf("create: %v", err)
			}
			for name, err := range b.reads("alice") {
				if !isStranger(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := b.EndedSagas(t.Context(), []ledger.Identity{{Initiator: "alice", TxID: "t"}}); !isStranger(err) {
				t.Errorf("ended sagas: %v", err)
			}
			if got := good.sql(`select count(*)::text from saldo.operations`); got != "1" {
				t.Errorf("%s operations", got)
			}
		})
	}
}

// One batch: those that are refused are told, the others are committed.
func TestBatchWithRefusedOperations(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers = 1 })
	users := apart(60)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 100))
	}
	gone := map[ledger.UserID]bool{}
	for i, u := range users {
		if i%3 == 0 {
			gone[u] = true
			b.alter(fmt.Sprintf(`update saldo.slots set state = 'moved', epoch = 2, moved_to = 's2' where slot = %d`, placement.SlotOf(u)))
		}
	}
	release := b.stall("u-stall")
	var group sync.WaitGroup
	for i, u := range users {
		to := users[(i+1)%len(users)]
		group.Go(func() {
			r, err := b.submit(pay(u, "t", to, 1))
			refused := refusals(err)
			switch {
			case gone[u] || gone[to]:
				if len(refused) != 1 {
					t.Errorf("%s to %s: %+v, %v", u, to, r, err)
				}
			case err != nil || r.Reason != ledger.Applied:
				t.Errorf("%s to %s: %+v, %v", u, to, r, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	release()
	group.Wait()
	if got := b.sql(`select count(*) || ' in ' || count(distinct tx) from saldo.operations where tx_id = 't'`); got != "20 in 1" {
		t.Errorf("operations and transactions: %s", got)
	}
	b.mustBeSound()
}

// stall keeps the only writer busy, with an add for a new user, until release is called.
func (b *book) stall(user ledger.UserID) (release func()) {
	b.t.Helper()
	b.user(user)
	b.must(add(user, "stall-0", 1))
	conn := session(b.t, b.dsn)
	do(b.t, conn, "begin")
	do(b.t, conn, "select from saldo.accounts where user_id = $1 for update", string(user))
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := b.submit(add(user, "stall-1", 1)); err != nil {
			b.t.Error(err)
		}
	})
	eventually(b.t, "the writer waits", func() bool { return b.lockWaits() > 0 })
	return func() {
		do(b.t, conn, "rollback")
		group.Wait()
	}
}

func (b *book) lockWaits() int {
	n, err := strconv.Atoi(b.sql(`
		select count(*)::text from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// A fence gets in while load runs, and after its commit nothing of its slot changes.
func TestFenceUnderLoad(t *testing.T) {
	t.Parallel()
	b := open(t)
	other := openAt(t, b.dsn)
	users := apart(20)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 1_000_000))
	}
	slot := placement.SlotOf(users[0])
	var (
		load          sync.WaitGroup
		stop          = make(chan struct{})
		done, refused atomic.Int64
	)
	defer load.Wait()
	defer close(stop)
	for w := range 32 {
		on := b
		if w%2 == 1 {
			on = other
		}
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				from, to := users[0], users[1+(w+i)%19]
				switch i % 3 {
				case 0:
					from, to = to, from
				case 1:
					from = users[1+(w+2*i+1)%19]
				}
				if from == to {
					continue
				}
				r, err := on.submit(pay(from, fmt.Sprintf("w%d-%d", w, i), to, 1))
				switch why := refusals(err); {
				case err == nil && r.Reason == ledger.Applied:
					done.Add(1)
				case len(why) == 1 && why[0].Answer == placement.Fenced && why[0].Slot == slot:
					refused.Add(1)
				case len(why) == 1 && why[0].Answer == placement.EpochOld:
					t.Error("the epoch did not change")
				default:
					t.Errorf("%s to %s: %+v, %v", from, to, r, err)
					return
				}
			}
		})
	}
	mover := session(t, b.dsn)
	do(t, mover, `set role saldo_mover`)
	do(t, mover, `set search_path = saldo`)
	do(t, mover, `set lock_timeout = '100ms'`)
	const count = `select count(*) from saldo.operations o join saldo.entries e using (slot, tx_id) where slot = $1`
	var waits []time.Duration
	attempts := 0
	for range 15 {
		before := done.Load()
		eventually(t, "load runs", func() bool { return done.Load() > before+50 })
		begun := time.Now()
		var inside, after, later int
		for fenced := false; !fenced; {
			attempts++
			err := pgx.BeginFunc(t.Context(), mover, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, int64(0x53414c444f)); err != nil {
					return err
				}
				if err := tx.QueryRow(t.Context(), count, slot).Scan(&inside); err != nil {
					return err
				}
				_, err := tx.Exec(t.Context(), `update slots set state = 'fenced' where slot = $1`, slot)
				return err
			})
			var pg *pgconn.PgError
			if err != nil && (!errors.As(err, &pg) || pg.Code != "55P03") {
				t.Fatal(err)
			}
			fenced = err == nil
		}
		waits = append(waits, time.Since(begun))
		_ = mover.QueryRow(t.Context(), count, slot).Scan(&after)
		for name, err := range b.reads(users[0]) {
			if r := refusals(err); len(r) != 1 || r[0].Answer != placement.Fenced {
				t.Errorf("%s while fenced: %v", name, err)
			}
		}
		before = refused.Load()
		eventually(t, "load meets the fence", func() bool { return refused.Load() > before+20 })
		_ = mover.QueryRow(t.Context(), count, slot).Scan(&later)
		if inside == 0 || after != inside || later != inside {
			t.Errorf("rows of the slot: %d inside the fence, %d after its commit, %d later", inside, after, later)
		}
		do(t, mover, `update slots set state = 'owned' where slot = $1`, slot)
	}
	slices.Sort(waits)
	t.Logf("%d fences in %d attempts; median %v, longest %v; %d transfers", len(waits), attempts, waits[len(waits)/2], waits[len(waits)-1], done.Load())
	if waits[len(waits)/2] > 500*time.Millisecond {
		t.Errorf("a fence waits for %v", waits[len(waits)/2])
	}
}

// Whatever changes slots gives them another revision, with its commit.
func TestRevisionFollowsSlots(t *testing.T) {
	t.Parallel()
	b := open(t)
	owner, mover := session(t, b.dsn), as(t, b.dsn, "saldo_mover")
	revision := func() string { return b.sql(`select revision::text from saldo.shard_meta`) }
	first := revision()
	b.user("alice")
	b.must(add("alice", "t", 1))
	if revision() != first {
		t.Error("a lane changes the revision")
	}
	for _, c := range []struct {
		who       *pgx.Conn
		statement string
	}{
		{mover, `update saldo.slots set state = 'fenced' where slot = 1`},
		{mover, `update saldo.slots set state = 'owned' where slot = 1`},
		{owner, `delete from saldo.slots where slot = 2`},
		{mover, `insert into saldo.slots (slot, state, epoch) values (2, 'incoming', 3)`},
		{mover, `insert into saldo.slots (slot, state, epoch) values (2, 'owned', 3) on conflict (slot) do update set state = 'owned'`},
		{owner, `with gone as (delete from saldo.slots where slot = 3 returning *) select from gone`},
		{owner, `merge into saldo.slots s using (values (4)) v (slot) on s.slot = v.slot when matched then update set epoch = 2`},
		{owner, `truncate saldo.slots`},
	} {
		before := revision()
		do(t, c.who, "begin")
		do(t, c.who, c.statement)
		if revision() != before {
			t.Errorf("%s: seen before it is committed", c.statement)
		}
		do(t, c.who, "rollback")
		if revision() != before {
			t.Errorf("%s: rolled back, and the revision has changed", c.statement)
		}
		do(t, c.who, c.statement)
		if revision() == before {
			t.Errorf("%s: the revision has not changed", c.statement)
		}
	}
}

// A lane that has seen the slots does not look at them again; and it is told when they have changed.
func TestStaleRevisions(t *testing.T) {
	t.Parallel()
	slot := placement.SlotOf("alice")
	set := func(row string) string { return fmt.Sprintf(`update saldo.slots set %s where slot = %d`, row, slot) }
	for _, c := range []struct {
		name    string
		changes []string
		answer  placement.Answer // "": goes on
		epoch   ledger.Epoch     // at which the slot is owned afterwards; 0: not at all
	}{
		{"fenced", []string{set(`state = 'fenced'`)}, placement.Fenced, 0},
		{"moved away", []string{set(`state = 'fenced'`), set(`state = 'moved', epoch = 2, moved_to = 's2'`)}, placement.Moved, 0},
		{"another epoch", []string{set(`epoch = 2`)}, placement.EpochOld, 2},
		{"away and back", []string{
			set(`state = 'fenced'`), set(`state = 'moved', epoch = 2, moved_to = 's2'`),
			set(`state = 'incoming', epoch = 3`), set(`state = 'owned'`),
		}, placement.EpochOld, 3},
		{"cleaned", []string{`truncate saldo.slots`}, placement.Moved, 0},
		{"fenced for nothing", []string{set(`state = 'fenced'`), set(`state = 'owned'`)}, "", 1},
		{"another slot", []string{fmt.Sprintf(`update saldo.slots set state = 'moved' where slot = %d`, slot+1)}, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			b.user("alice", "bob")
			b.must(add("alice", "fund", 100))
			b.must(pay("alice", "t0", "bob", 1))
			alice, bob := b.hold("alice"), b.hold("bob")
			if !b.Knows(alice, bob) {
				t.Fatal("the lane has not noted what the guard said")
			}
			b.alter(c.changes...)
			_, err := b.submit(pay("alice", "t1", "bob", 1))
			if c.answer == "" && err != nil {
				t.Error(err)
			} else if r := refusals(err); c.answer != "" && (len(r) == 0 || r[0].Slot != slot || r[0].Answer != c.answer) {
				t.Errorf("%v, want %s", err, c.answer)
			}
			if c.epoch > 1 {
				alice.Epoch = c.epoch
				if _, err := b.Submit(t.Context(), pay("alice", "t2", "bob", 1), alice, bob); err != nil {
					t.Errorf("as it is owned now: %v", err)
				}
				if !b.Knows(alice, bob) || b.Knows(b.hold("alice")) {
					t.Error("the lane remembers the slot as it was")
				}
				if _, err := b.submit(pay("alice", "t3", "bob", 1)); len(refusals(err)) != 1 {
					t.Errorf("as it was owned: %v", err)
				}
			}
			b.mustBeSound()
		})
	}
	// This is what the revision is for, and that it is asked for: a change that hides from it is not seen.
	t.Run("hidden", func(t *testing.T) {
		t.Parallel()
		b := open(t)
		b.user("alice")
		b.alter(fmt.Sprintf(`update saldo.slots set epoch = 2 where slot = %d`, slot+1))
		b.must(add("alice", "t0", 1))
		b.alter(`alter table saldo.slots disable trigger renew_revision`, set(`state = 'fenced'`))
		if _, err := b.submit(add("alice", "t1", 1)); err != nil {
			t.Errorf("the slots were looked at: %v", err)
		}
		if _, err := openAt(t, b.dsn).submit(add("alice", "t2", 1)); len(refusals(err)) != 1 {
			t.Errorf("a lane that has not seen them: %v", err)
		}
	})
}

// The triggers of the template bite: a write that does not pass the guard, or for a slot that it did not check, fails.
func TestTriggersBite(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice")
	b.must(add("alice", "fund", 100))
	b.must(debit("alice", "saga", "bob", 1))
	slot := placement.SlotOf("alice")
	const guard = `select saldo.guard('` + cluster + `', 's1', array[%d]::smallint[], array[1]::bigint[])`
	const lock = `select pg_advisory_xact_lock_shared(357577802831)`
	conn := session(t, b.dsn)
	for _, write := range []string{
		`insert into saldo.users (slot, id, name, email) values (%d, 'eve', 'Eve', '')`,
		`update saldo.accounts set balance = balance + 1 where slot = %d`,
		`insert into saldo.accounts (slot, user_id, currency) values (%d, 'alice', 'EUR')`,
		`insert into saldo.operations select amount, balance, version, system_amount, created_at, tx, slot, 2, kind, saga, initiator,
		     'other', payee, currency, reason, '@transit', description from saldo.operations where slot = %d and tx_id = 'fund'`,
		`insert into saldo.entries select version + 10, amount, balance, created_at, tx, slot, step, kind, user_id, currency, tx_id,
		     counterparty from saldo.entries where slot = %d and tx_id = 'fund'`,
		`update saldo.sagas set state = 2, ended_at = now() where slot = %d`,
	} {
		write := fmt.Sprintf(write, slot)
		for _, c := range []struct {
			before []string
			says   string
		}{
			{nil, "without the guard"},
			{[]string{lock}, "without the guard"},
			{[]string{lock, fmt.Sprintf(guard, slot+1)}, "did not check"},
			{[]string{fmt.Sprintf(guard, slot)}, "without the advisory lock"},
			{[]string{lock, fmt.Sprintf(guard, slot)}, ""},
		} {
			do(t, conn, "begin")
			for _, statement := range c.before {
				do(t, conn, statement)
			}
			_, err := conn.Exec(t.Context(), write)
			var pg *pgconn.PgError
			switch {
			case c.says == "":
				// Any failure is of another constraint: the trigger has let it pass.
				if errors.As(err, &pg) && pg.Code == "P0001" {
					t.Errorf("%s: %v", write, err)
				}
			case !errors.As(err, &pg) || !strings.Contains(pg.Message, c.says):
				t.Errorf("%s after %q: %v", write, c.before, err)
			}
			do(t, conn, "rollback")
		}
	}
}

// The lock comes before the guard, and each is a statement of its own.
func TestLockComesBeforeGuard(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.alter(`
		create or replace function saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid default null)
		returns uuid language plpgsql as $$
		begin
		    if want_slots <> '{}' -- else it is asked at connecting
		       and not exists (select from pg_locks where pid = pg_backend_pid() and locktype = 'advisory' and mode = 'ShareLock' and granted) then
		        raise exception 'the guard before the lock';
		    end if;
		    if current_setting('transaction_isolation') <> 'read committed' then
		        raise exception 'not read committed';
		    end if;
		    perform set_config('test.guarded', pg_current_xact_id()::text || ':' || array_to_string(want_slots, ','), true);
		    return saldo.guard_itself(want_cluster, want_shard, want_slots, want_epochs, seen);
		end $$`)
	b.user("alice")
	b.must(add("alice", "t", 1))
	b.must(debit("alice", "t2", "bob", 1))
}

var slottedWrite = regexp.MustCompile(
	`(?is)\b(insert\s+into|update|delete\s+from|truncate(\s+table)?|merge\s+into|copy)\s+(only\s+)?(saldo\.)?(users|accounts|operations|entries|sagas)\b`)

// Every statement that writes a slotted row is one of those that the lane's batch runs, behind the lock and the guard, or of
// those that movers run: behind guard_move, or with the lock for themselves.
func TestOnlyBatchesAndMoversWrite(t *testing.T) {
	t.Parallel()
	want := []string{"copyEntriesStatement", "copyOperationsStatement", "copySagasStatement",
		"deleteAccountsStatement", "deleteEntriesStatement", "deleteOperationsStatement", "deleteSagasStatement", "deleteUsersStatement",
		"insertAccountsStatement", "insertUsersStatement", "requeueSagasStatement",
		"storeAccountsStatement", "storeEntriesStatement", "storeOperationsStatement", "storeSagasStatement", "storeUsersStatement",
		"updateAccountsStatement", "updateSagasStatement"}
	places := map[string]string{"batch.go": "", "move_tables.go": "", "move_slots.go": "requeueSagasStatement"} // of the only one
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	writers := map[string]bool{}
	var parsed []*ast.File
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
		named := map[*ast.BasicLit]string{}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				ast.Inspect(spec, func(n ast.Node) bool {
					if lit, ok := n.(*ast.BasicLit); ok {
						named[lit] = spec.Names[0].Name
					}
					return true
				})
			}
			return true
		})
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !slottedWrite.MatchString(text) {
				return true
			}
			if only, ok := places[name]; !ok || named[lit] == "" || only != "" && only != named[lit] {
				t.Errorf("%s writes a slotted row where that is not done: %.60q", fset.Position(lit.Pos()), text)
			}
			writers[named[lit]] = true
			return true
		})
	}
	if got := slices.Sorted(maps.Keys(writers)); !slices.Equal(got, want) {
		t.Errorf("statements that write slotted rows: %v, want %v", got, want)
	}
	// Each is named where it is declared and where it is queued, nowhere else. A mover's are named in the table of tables,
	// and that they come behind the guard is what the triggers see to.
	for _, file := range parsed {
		for _, decl := range file.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(function, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && writers[id.Name] {
					at := fset.Position(id.Pos())
					if (at.Filename != "batch.go" || !strings.HasPrefix(function.Name.Name, "add")) && function.Name.Name != "requeue" {
						t.Errorf("%s: %s uses %s", at, function.Name.Name, id.Name)
					}
				}
				return true
			})
		}
	}
	if _, err := os.Stat("migrations"); err != nil {
		t.Fatal(err) // run somewhere else, the test would find nothing
	}
}

// Reads that were sent before a fence do not outlive it by much: each is a statement with a snapshot of its own.
func TestReadAfterSwitchSeesIt(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice")
	b.must(add("alice", "fund", 100))
	ctx := context.Background()
	for range 50 {
		b.alter(fmt.Sprintf(`update saldo.slots set state = 'fenced' where slot = %d`, placement.SlotOf("alice")))
		if _, err := b.Balance(ctx, "alice", "USD"); len(refusals(err)) != 1 {
			t.Fatalf("while fenced: %v", err)
		}
		b.alter(fmt.Sprintf(`update saldo.slots set state = 'owned' where slot = %d`, placement.SlotOf("alice")))
		if _, err := b.Balance(ctx, "alice", "USD"); err != nil {
			t.Fatalf("after it: %v", err)
		}
	}
}
