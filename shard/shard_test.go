package shard_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

const cluster = "11111111-2222-3333-4444-555555555555"

func TestMain(m *testing.M) { pgtest.Main(m) }

// allSlots is the map of a cluster whose only shard is s1.
func allSlots(t testing.TB) *placement.Map {
	t.Helper()
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1"}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// guarded is the schema of a shard that owns all slots, with triggers that refuse every write of a slotted row by a
// transaction that did not pass the guard: all tests of this package run behind them. elsewhere is that of another shard,
// which owns none.
var (
	guarded   = guardedShard("shard", "s1")
	elsewhere = guardedShard("elsewhere", "s2")
)

func guardedShard(name string, id ledger.ShardID) *pgtest.Schema {
	return pgtest.Template(name, func(dsn string) error {
		ctx := context.Background()
		if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
			return err
		}
		if err := shard.Enroll(ctx, dsn, "", cluster, id); err != nil {
			return err
		}
		m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1"}))
		if err != nil {
			return err
		}
		if err := shard.Found(ctx, dsn, "", cluster, id, m); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, guardTriggers)
		return err
	})
}

// The guards leave the transaction's id in a setting; the triggers ask for it and for the advisory lock. Whoever has that
// lock exclusively needs no guard.
const guardTriggers = `
alter function saldo.guard rename to guard_itself;
create function saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid default null)
returns uuid language plpgsql as $$
declare
    revision uuid := saldo.guard_itself(want_cluster, want_shard, want_slots, want_epochs, seen);
begin
    perform set_config('test.guarded', pg_current_xact_id()::text || ':' || array_to_string(want_slots, ','), true);
    return revision;
end $$;
grant execute on function saldo.guard to public;
alter function saldo.guard_move rename to guard_move_itself;
create function saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint)
returns void language plpgsql as $$
begin
    perform saldo.guard_move_itself(want_cluster, want_shard, want_slots, want_state, want_move, want_token);
    perform set_config('test.guarded', pg_current_xact_id()::text || ':' || array_to_string(want_slots, ','), true);
end $$;
grant execute on function saldo.guard_move to public;
create function saldo.must_be_guarded() returns trigger language plpgsql as $$
declare
    guarded text[] := string_to_array(current_setting('test.guarded', true), ':');
    slot    smallint := case when tg_op = 'DELETE' then old.slot else new.slot end;
begin
    if exists (select from pg_locks
               where pid = pg_backend_pid() and locktype = 'advisory' and mode = 'ExclusiveLock' and granted) then
        return coalesce(new, old);
    end if;
    if guarded[1] is distinct from pg_current_xact_id()::text then
        raise exception 'write of % without the guard', tg_table_name;
    end if;
    if not (slot = any(string_to_array(guarded[2], ',')::smallint[])) then
        raise exception 'write of slot % of % that the guard did not check', slot, tg_table_name;
    end if;
    if not exists (select from pg_locks where pid = pg_backend_pid() and locktype = 'advisory' and granted) then
        raise exception 'write of % without the advisory lock', tg_table_name;
    end if;
    return coalesce(new, old);
end $$;
create trigger guarded before insert or update or delete on saldo.users for each row execute function saldo.must_be_guarded();
create trigger guarded before insert or update or delete on saldo.accounts for each row execute function saldo.must_be_guarded();
create trigger guarded before insert or update or delete on saldo.operations for each row execute function saldo.must_be_guarded();
create trigger guarded before insert or update or delete on saldo.entries for each row execute function saldo.must_be_guarded();
create trigger guarded before insert or update or delete on saldo.sagas for each row execute function saldo.must_be_guarded();
`

type book struct {
	*shard.Shard
	t   testing.TB
	dsn string
	m   *placement.Map
}

func open(t testing.TB, change ...func(*shard.Config)) *book {
	t.Helper()
	return openAt(t, pgtest.Database(t, guarded), change...)
}

func openAt(t testing.TB, dsn string, change ...func(*shard.Config)) *book {
	t.Helper()
	config := shard.Config{Cluster: cluster, ID: "s1", DSN: dsn}
	for _, c := range change {
		c(&config)
	}
	s, err := shard.Open(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &book{Shard: s, t: t, dsn: dsn, m: allSlots(t)}
}

func (b *book) hold(user ledger.UserID) placement.Hold {
	_, hold := b.m.HoldOn(user)
	return hold
}

func (b *book) user(ids ...ledger.UserID) {
	b.t.Helper()
	for _, id := range ids {
		if _, _, err := b.CreateUser(b.t.Context(), ledger.User{ID: id, Name: string(id)}, b.hold(id)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *book) submit(op ledger.Operation) (ledger.Result, error) {
	return b.Submit(b.t.Context(), op, b.holds(op)...)
}

func (b *book) holds(op ledger.Operation) []placement.Hold {
	holds := []placement.Hold{b.hold(op.Owner())}
	if op.Step == ledger.StepStart && op.Kind == ledger.KindTransfer && !op.Saga {
		holds = append(holds, b.hold(op.Payee))
	}
	return holds
}

func (b *book) must(op ledger.Operation) ledger.Result {
	b.t.Helper()
	result, err := b.submit(op)
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

func (b *book) balance(user ledger.UserID) ledger.Amount {
	b.t.Helper()
	account, err := b.Balance(b.t.Context(), user, "USD")
	if err != nil {
		b.t.Fatal(err)
	}
	return account.Balance
}

func (b *book) sql(query string, args ...any) string {
	b.t.Helper()
	conn, err := pgx.Connect(context.Background(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text *string
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&text); err != nil {
		b.t.Fatal(err)
	}
	if text == nil {
		return ""
	}
	return *text
}

func start(kind ledger.Kind, initiator ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	return ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: initiator, TxID: ledger.TxID(tx)}, Kind: kind, Payee: payee,
		Amount: amount, Currency: "USD",
	}}
}

func add(user ledger.UserID, tx string, amount ledger.Amount) ledger.Operation {
	return start(ledger.KindAdd, user, tx, "", amount)
}

func pay(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	return start(ledger.KindTransfer, payer, tx, payee, amount)
}

func debit(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, tx, payee, amount)
	op.Saga = true
	return op
}

func TestMoneyMoves(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	if r := b.must(add("alice", "t1", 100)); r.Balance != 100 || r.Version != 1 || r.Replayed {
		t.Fatalf("add: %+v", r)
	}
	if r := b.must(pay("alice", "t2", "bob", 30)); r.Balance != 70 || r.Version != 2 || r.Status() != ledger.StatusCompleted {
		t.Fatalf("pay: %+v", r)
	}
	if r := b.must(start(ledger.KindWithdraw, "bob", "t3", "", 31)); r.Reason != ledger.InsufficientFunds {
		t.Fatalf("withdraw: %+v", r)
	}
	if r := b.must(pay("alice", "t2", "bob", 30)); !r.Replayed || r.Balance != 70 || r.Version != 2 {
		t.Fatalf("repeat: %+v", r)
	}
	if _, err := b.submit(pay("alice", "t2", "bob", 31)); ledger.CodeOf(err) != ledger.CodeConflict {
		t.Fatalf("conflict: %v", err)
	}
	if b.balance("alice") != 70 || b.balance("bob") != 30 {
		t.Fatalf("balances %d and %d", b.balance("alice"), b.balance("bob"))
	}
	page, err := b.History(t.Context(), "alice", "USD", 0, 10)
	if err != nil || page.Total != 2 || len(page.Lines) != 2 || page.Lines[0].Version != 2 || page.Lines[0].Counterparty != "bob" {
		t.Fatalf("history: %+v, %v", page, err)
	}
	page, err = b.History(t.Context(), "alice", "USD", 2, 10)
	if err != nil || page.Total != 2 || len(page.Lines) != 1 || page.Lines[0].Amount != 100 {
		t.Fatalf("second page: %+v, %v", page, err)
	}
	record, err := b.Transfer(t.Context(), ledger.Identity{Initiator: "bob", TxID: "t3"})
	if err != nil || record.Status() != ledger.StatusRefused || record.WhyNot() != ledger.InsufficientFunds {
		t.Fatalf("record: %+v, %v", record, err)
	}
	user, err := b.User(t.Context(), "alice")
	if err != nil || len(user.Holdings) != 1 || user.Holdings[0].Balance != 70 || !user.UpdatedAt.After(user.CreatedAt) {
		t.Fatalf("user: %+v, %v", user, err)
	}
}

func TestSagaSteps(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "t1", 100))
	if r := b.must(debit("alice", "t2", "bob", 40)); r.State != ledger.SagaPending || r.Balance != 60 {
		t.Fatalf("start: %+v", r)
	}
	credit := debit("alice", "t2", "bob", 40)
	credit.Step, credit.Saga = ledger.StepCredit, false
	if r := b.must(credit); r.Balance != 40 {
		t.Fatalf("credit: %+v", r)
	}
	id := credit.Identity
	for range 2 {
		if state, err := b.Complete(t.Context(), id, b.hold("alice")); err != nil || state != ledger.SagaCompleted {
			t.Fatalf("complete: %v, %v", state, err)
		}
	}
	if r := b.must(debit("alice", "t2", "bob", 40)); !r.Replayed || r.Status() != ledger.StatusCompleted {
		t.Fatalf("repeat after the end: %+v", r)
	}

	b.must(debit("alice", "t3", "nobody", 10))
	credit = debit("alice", "t3", "nobody", 10)
	credit.Step, credit.Saga = ledger.StepCredit, false
	if r := b.must(credit); r.Reason != ledger.PayeeNotFound {
		t.Fatalf("credit of nobody: %+v", r)
	}
	b.user("nobody") // too late
	if r := b.must(credit); r.Reason != ledger.PayeeNotFound || !r.Replayed {
		t.Fatalf("late credit: %+v", r)
	}
	refund := debit("alice", "t3", "nobody", 10)
	refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.PayeeNotFound
	if r := b.must(refund); r.Balance != 60 {
		t.Fatalf("refund: %+v", r)
	}
	if r := b.must(refund); !r.Replayed || b.balance("alice") != 60 {
		t.Fatalf("second refund: %+v", r)
	}
	record, err := b.Transfer(t.Context(), refund.Identity)
	if err != nil || record.Status() != ledger.StatusRefunded || record.WhyNot() != ledger.PayeeNotFound || record.EndedAt.IsZero() {
		t.Fatalf("record: %+v, %v", record, err)
	}
	if got := b.sql(`select sum(amount)::text from saldo.system_entries where system_account = '@transit'`); got != "0" {
		t.Errorf("in transit: %s", got)
	}
}

func TestTwinsAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t)
	other := openAt(t, b.dsn)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	for round := range 20 {
		// A known payer is serialized by its account; an unknown one meets the unique key.
		for _, op := range []ledger.Operation{
			pay("alice", fmt.Sprintf("t%d", round), "bob", 10),
			pay("ghost", fmt.Sprintf("t%d", round), "bob", 10),
		} {
			var (
				group sync.WaitGroup
				mu    sync.Mutex
				fresh int
			)
			for i := range 8 {
				group.Go(func() {
					on := b
					if i%2 == 1 {
						on = other
					}
					r, err := on.submit(op)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						t.Error(err)
					}
					if !r.Replayed {
						fresh++
					}
				})
			}
			group.Wait()
			if fresh != 1 {
				t.Errorf("%s: %d of 8 twins were new", op.Identity, fresh)
			}
		}
	}
	if b.balance("alice") != 800 || b.balance("bob") != 200 {
		t.Errorf("balances %d and %d", b.balance("alice"), b.balance("bob"))
	}
}

func TestCrossingTransfersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	b, c := open(t), (*book)(nil)
	c = openAt(t, b.dsn)
	users := []ledger.UserID{"a", "b", "c", "d", "e"}
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 1000))
	}
	var group sync.WaitGroup
	for w := range 16 {
		group.Go(func() {
			on := b
			if w%2 == 1 {
				on = c
			}
			for i := range 50 {
				from, to := users[(w+i)%5], users[(w+3*i+1)%5]
				if _, err := on.submit(pay(from, fmt.Sprintf("w%d-%d", w, i), to, 7)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	var sum ledger.Amount
	for _, u := range users {
		sum += b.balance(u)
	}
	if sum != 5000 {
		t.Errorf("sum is %d", sum)
	}
	if got := b.sql(`select deadlocks::text from pg_stat_database where datname = current_database()`); got != "0" {
		t.Errorf("%s deadlocks", got)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	b := open(t)
	alice := ledger.User{ID: "alice", Name: "Alice", Email: "a@example.com"}
	stored, created, err := b.CreateUser(t.Context(), alice, b.hold("alice"))
	if err != nil || !created || stored.Name != "Alice" || stored.CreatedAt.IsZero() {
		t.Fatalf("first: %+v, %v, %v", stored, created, err)
	}
	if _, created, err = b.CreateUser(t.Context(), alice, b.hold("alice")); err != nil || created {
		t.Fatalf("again: %v, %v", created, err)
	}
	alice.Name = "Eve"
	if _, _, err = b.CreateUser(t.Context(), alice, b.hold("alice")); ledger.CodeOf(err) != ledger.CodeUserConflict {
		t.Fatalf("other contents: %v", err)
	}
	if _, err := b.User(t.Context(), "bob"); ledger.CodeOf(err) != ledger.CodeUserNotFound {
		t.Fatalf("unknown: %v", err)
	}
	if _, err := b.Balance(t.Context(), "bob", "USD"); ledger.CodeOf(err) != ledger.CodeUserNotFound {
		t.Fatalf("unknown: %v", err)
	}
}

func TestShardThatIsDown(t *testing.T) {
	t.Parallel()
	b := openAt(t, "postgres://saldo@127.0.0.1:1/none", func(c *shard.Config) { c.Patience = 50 * time.Millisecond })
	if _, err := b.submit(add("alice", "t", 1)); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("write: %v", err)
	}
	if _, err := b.Balance(t.Context(), "alice", "USD"); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("read: %v", err)
	}
}
