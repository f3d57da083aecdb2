package shard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/telemetry"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// Only the operation that cannot be stored fails; all others of its batch succeed.
func TestPoisonedOperation(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers = 1 })
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	b.alter(`
		create function saldo.poison() returns trigger language plpgsql as $$
		begin raise exception 'poison'; end $$`,
		`create trigger poison before insert on saldo.operations for each row when (new.tx_id like 'poison%') execute function saldo.poison()`)
	release := b.stall("u-stall")
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			op := pay("alice", fmt.Sprint("t", i), "bob", 1)
			switch i {
			case 3, 77, 150:
				op.TxID = ledger.TxID(fmt.Sprint("poison", i))
			case 90:
				op.Description = "text that Postgres\x00 cannot hold"
			case 91:
				op.Description = "\xff not UTF-8"
			}
			r, err := b.submit(op)
			bad := strings.HasPrefix(string(op.TxID), "poison") || op.Description != ""
			if bad != (err != nil) || ledger.CodeOf(err) != "" || !bad && r.Reason != ledger.Applied {
				t.Errorf("%s: %+v, %v", op.TxID, r.Outcome, err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	release()
	group.Wait()
	if b.balance("alice") != 805 || b.balance("bob") != 195 {
		t.Errorf("balances %d and %d", b.balance("alice"), b.balance("bob"))
	}
	b.mustBeSound()
}

// Each is told, by name, though the log does not repeat itself.
func TestEveryPoisonedOperationIsTold(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	b.alter(`create function saldo.poison() returns trigger language plpgsql as $$ begin raise exception 'poison'; end $$`,
		`create trigger poison before insert on saldo.operations for each row execute function saldo.poison()`,
		`create trigger poison before insert on saldo.users for each row execute function saldo.poison()`)
	var lines bytes.Buffer // of one writer, which is gone when they are read
	log, err := telemetry.NewLogger(&lines, "text", "info")
	if err != nil {
		t.Fatal(err)
	}
	s, err := shard.Open(shard.Config{Cluster: cluster, ID: "s1", DSN: b.dsn, Writers: 1}, log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		op := pay("alice", fmt.Sprintf("<t%d>", i), "bob", 1)
		if _, err := s.Submit(t.Context(), op, b.holds(op)...); err == nil {
			t.Errorf("%d is stored", i)
		}
	}
	if _, _, err := s.CreateUser(t.Context(), ledger.User{ID: "carol", Name: "Carol"}, b.hold("carol")); err == nil {
		t.Error("a user is stored")
	}
	s.Close()
	said := lines.String()
	for i := range 10 {
		if n := strings.Count(said, fmt.Sprintf(`cannot be stored" shard=s1 initiator=alice tx_id=<t%d> `, i)); n != 1 {
			t.Errorf("%d is told %d times", i, n)
		}
	}
	if !strings.Contains(said, `cannot be stored" shard=s1 user=carol `) {
		t.Errorf("of the user it is not told:\n%s", said)
	}
}

// What passes by itself is tried again: the callers see outcomes only.
func TestTransientFailures(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"40001", "40P01", "55P03", "53100", "53200", "53300", "57P01", "57P03", "58030", "25006"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			b := open(t, func(c *shard.Config) { c.Writers = 1 })
			b.user("alice", "bob")
			b.must(add("alice", "fund", 1000))
			// nextval is not rolled back: the first three attempts fail.
			b.alter(`create sequence saldo.attempts`, `grant usage on saldo.attempts to public`, `
				create function saldo.fail() returns trigger language plpgsql as $$
				begin
				    if nextval('saldo.attempts') <= 3 then raise exception using errcode = '`+state+`'; end if;
				    return null;
				end $$`,
				`create trigger fail after insert on saldo.operations for each statement execute function saldo.fail()`)
			if r := b.must(pay("alice", "t", "bob", 30)); r.Replayed || r.Balance != 970 {
				t.Errorf("%+v", r)
			}
			if got := b.sql(`select last_value::text from saldo.attempts`); got != "4" {
				t.Errorf("%s attempts", got)
			}
			b.mustBeSound()
		})
	}
}

// The same while it fails for longer than the lane's patience: certainly nothing was recorded.
func TestTransientFailuresThatStay(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Patience = 100 * time.Millisecond })
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	b.alter(`
		create function saldo.fail() returns trigger language plpgsql as $$
		begin raise exception using errcode = '40001'; end $$`,
		`create trigger fail after insert on saldo.operations for each statement execute function saldo.fail()`)
	if _, err := b.submit(pay("alice", "t", "bob", 30)); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("%v", err)
	}
	b.alter(`drop trigger fail on saldo.operations`)
	if r := b.must(pay("alice", "t", "bob", 30)); r.Replayed {
		t.Errorf("%+v", r)
	}
}

// An opponent takes the same locks in the other order: whoever the server picks as the victim, the lane goes on.
func TestDeadlocksWithOthers(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.alter(fmt.Sprintf(`alter database %s set deadlock_timeout = '10ms'`, b.sql(`select current_database()`)))
	users := apart(4)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 1000))
	}
	stop := make(chan struct{})
	var opponents, load sync.WaitGroup
	for range 2 {
		conn := session(t, b.dsn)
		opponents.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
					for _, i := range rand.Perm(4) {
						if _, err := tx.Exec(context.Background(), `select from saldo.accounts where user_id = $1 for update`, string(users[i])); err != nil {
							return err // it was the victim
						}
					}
					return nil
				})
			}
		})
	}
	for w := range 8 {
		load.Go(func() {
			for i := range 40 {
				from, to := users[(w+i)%4], users[(w+i+1+i%3)%4]
				if r, err := b.submit(pay(from, fmt.Sprintf("w%d-%d", w, i), to, 1)); err != nil || r.Reason != ledger.Applied || r.Replayed {
					t.Errorf("%+v, %v", r.Outcome, err)
				}
			}
		})
	}
	load.Wait()
	close(stop)
	opponents.Wait()
	t.Logf("%s deadlocks", b.sql(`select deadlocks::text from pg_stat_database where datname = current_database()`))
	if got := b.sql(`select count(*)::text from saldo.operations where kind = 3`); got != "320" {
		t.Errorf("%s transfers", got)
	}
	b.mustBeSound()
}

func TestQueueFull(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers, c.QueueSize = 1, 10 })
	b.user("alice")
	release := b.stall("u-stall")
	var group sync.WaitGroup
	var done, overloaded atomic.Int64
	for i := range 30 {
		group.Go(func() {
			_, err := b.submit(add("alice", fmt.Sprint("t", i), 1))
			var full *ledger.Error
			switch {
			case err == nil:
				done.Add(1)
			case errors.As(err, &full) && full.Code == ledger.CodeOverloaded && full.RetryAfter > 0:
				overloaded.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	eventually(t, "the queue is full", func() bool { return overloaded.Load() == 20 })
	release()
	group.Wait()
	if done.Load() != 10 || b.balance("alice") != 10 {
		t.Errorf("%d done, balance %d", done.Load(), b.balance("alice"))
	}
}

// Close answers what is queued; later calls are told that nothing was recorded.
func TestClose(t *testing.T) {
	t.Parallel()
	b := open(t, func(c *shard.Config) { c.Writers, c.MaxBatch = 1, 7 })
	b.user("alice")
	release := b.stall("u-stall")
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			if r, err := b.submit(add("alice", fmt.Sprint("t", i), 1)); err != nil || r.Reason != ledger.Applied {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	var closed atomic.Bool
	group.Go(func() {
		b.Close()
		closed.Store(true)
	})
	time.Sleep(50 * time.Millisecond)
	if closed.Load() {
		t.Error("it closed with items in its queue")
	}
	release()
	group.Wait()

	b.Close() // again
	ctx := context.Background()
	if _, err := b.Submit(ctx, add("alice", "late", 1), b.hold("alice")); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("write: %v", err)
	}
	for name, err := range b.reads("alice") {
		if ledger.CodeOf(err) != ledger.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := b.sql(`select balance::text from saldo.accounts where user_id = 'alice'`); got != "50" {
		t.Errorf("alice has %s", got)
	}
}

// Two processes on one hot account, each sending twins of what the other sends.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	b := open(t)
	other := openAt(t, b.dsn)
	b.user("hot", "bob", "carol")
	b.must(add("hot", "fund", 100_000))
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		fresh = map[ledger.Identity]int{}
		said  = map[ledger.Identity]ledger.Outcome{}
	)
	for w := range 16 {
		on := b
		if w%2 == 1 {
			on = other
		}
		group.Go(func() {
			for i := range 60 {
				n := (i + w*7) % 60
				op := pay("hot", fmt.Sprint("t", n), []ledger.UserID{"bob", "carol", "nobody", "hot"}[n%4], ledger.Amount(1+n))
				if n%5 == 0 {
					op = add("bob", fmt.Sprint("t", n), 3)
				}
				r, err := on.submit(op)
				mu.Lock()
				if err != nil {
					t.Error(err)
				}
				if !r.Replayed {
					fresh[op.Identity]++
				}
				if before, ok := said[op.Identity]; ok && before != r.Outcome {
					t.Errorf("%s: %+v, then %+v", op.Identity, before, r.Outcome)
				}
				said[op.Identity] = r.Outcome
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for id, n := range fresh {
		if n != 1 {
			t.Errorf("%s was new %d times", id, n)
		}
	}
	if len(fresh) != 60 {
		t.Errorf("%d identities", len(fresh))
	}
	b.mustBeSound()
}

// The same identity with other contents is a conflict, also where another account's lock is taken (another currency), and
// whoever comes first.
func TestConflictsAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t)
	other := openAt(t, b.dsn)
	b.user("alice", "bob")
	for _, c := range []ledger.Currency{"USD", "EUR"} {
		op := add("alice", "fund"+string(c), 1000)
		op.Currency = c
		b.must(op)
	}
	for round := range 30 {
		var group sync.WaitGroup
		var applied, conflicts atomic.Int64
		for i := range 6 {
			op := pay("alice", fmt.Sprint("t", round), "bob", 1)
			op.Currency = []ledger.Currency{"USD", "EUR"}[i%2]
			on := []*book{b, other}[i/3]
			if round%2 == 0 {
				on.Quiet()
			}
			group.Go(func() {
				r, err := on.submit(op)
				switch {
				case err == nil && !r.Replayed:
					applied.Add(1)
				case ledger.CodeOf(err) == ledger.CodeConflict:
					conflicts.Add(1)
				case err != nil:
					t.Error(err)
				}
			})
		}
		group.Wait()
		if applied.Load() != 1 || conflicts.Load() != 3 {
			t.Errorf("round %d: %d applied, %d in conflict", round, applied.Load(), conflicts.Load())
		}
	}
	b.mustBeSound()
}

// The server's clock goes back: an account's times do not.
func TestTimeGoesBack(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	// As if the entries so far had been made before the clock was set back by an hour.
	b.alter(`alter table saldo.accounts disable trigger guarded`, `update saldo.accounts set updated_at = clock_timestamp() + interval '1 hour'`,
		`alter table saldo.accounts enable trigger guarded`)
	before := b.sql(`select updated_at::text from saldo.accounts where user_id = 'alice'`)
	b.must(pay("alice", "t1", "bob", 10))
	b.must(debit("alice", "t2", "carol", 10))
	refund := debit("alice", "t2", "carol", 10)
	refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.PayeeNotFound
	b.must(refund)
	for _, query := range []string{
		`select updated_at::text from saldo.accounts where user_id = 'alice'`,
		`select min(created_at)::text from saldo.entries where user_id = 'alice' and version > 1`,
		`select min(created_at)::text from saldo.operations where initiator = 'alice' and tx_id <> 'fund'`,
		`select created_at::text from saldo.sagas`,
		`select ended_at::text from saldo.sagas`,
	} {
		if got := b.sql(query); got != before {
			t.Errorf("%s: %s, want %s", query, got, before)
		}
	}
	if got := b.sql(`select (created_at < clock_timestamp())::text from saldo.entries where user_id = 'bob'`); got != "true" {
		t.Errorf("bob's entry is in the future")
	}
	b.mustBeSound()
}

// A read that begins after a write was answered sees it, whatever queries are on their way.
func TestReadsSeeAnsweredWrites(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(8)
	b.user(users...)
	stop := make(chan struct{})
	var noise, group sync.WaitGroup
	for range 16 {
		noise.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := b.Balance(context.Background(), users[i%8], "USD"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, u := range users {
		group.Go(func() {
			for i := range 60 {
				r := b.must(add(u, fmt.Sprint("t", i), 1))
				if account, err := b.Balance(t.Context(), u, "USD"); err != nil || account.Version < r.Version || account.Balance < r.Balance {
					t.Errorf("%s: %+v after %+v, %v", u, account, r.Outcome, err)
				}
			}
		})
	}
	group.Wait()
	close(stop)
	noise.Wait()
}

// Reads that wait become one query.
func TestReadsCoalesce(t *testing.T) {
	t.Parallel()
	b, proxy, _ := throughProxy(t)
	users := apart(50)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 7))
	}
	var group sync.WaitGroup
	read := func(u ledger.UserID) {
		group.Go(func() {
			if got := b.balance(u); got != 7 {
				t.Errorf("%s has %d", u, got)
			}
		})
	}
	for range 4 { // warm up
		for _, u := range users {
			read(u)
		}
		group.Wait()
	}
	proxy.forget()
	hold := make(chan struct{})
	var held atomic.Int64
	proxy.onRequest(func(request) fault {
		if held.Add(1) <= 2 {
			return holdRequest
		}
		return pass
	})
	go func() { <-hold; close(proxy.release) }()
	read(users[0])
	eventually(t, "one query is on its way", func() bool { return held.Load() == 1 })
	read(users[1])
	eventually(t, "two queries are on their way", func() bool { return held.Load() == 2 })
	for range 10 {
		for _, u := range users {
			read(u)
		}
	}
	time.Sleep(50 * time.Millisecond)
	close(hold)
	group.Wait()
	queries := 0
	for _, r := range proxy.seen() {
		if !r.prepares { // the second connection may be new; it also asks the guard
			queries++
		}
	}
	if queries > 4 {
		t.Errorf("%d queries for 502 reads", queries)
	}
}

// A batch takes two round trips, whatever is in it, once its connection has prepared the statements.
func TestTwoRoundTrips(t *testing.T) {
	t.Parallel()
	b, proxy, direct := throughProxy(t)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 1000))
	everything := func(n int) (batches string) {
		before := direct.sql(`select count(distinct tx)::text from saldo.operations`)
		for i := range 3 {
			tx := fmt.Sprintf("%d-%d", n, i)
			b.must(pay("alice", tx, "bob", 1))
			b.must(pay("alice", tx+"r", "bob", 1_000_000))
			b.must(debit("alice", tx+"s", "bob", 1))
			refund := debit("alice", tx+"s", "bob", 1)
			refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.PayeeNotFound
			b.must(refund)
		}
		return direct.sql(`select (count(distinct tx) - $1::int)::text from saldo.operations`, before)
	}
	everything(0)
	proxy.forget()
	if batches := everything(1); batches != "12" {
		t.Fatalf("%s batches", batches)
	}
	var begins, commits, others int
	for _, r := range proxy.seen() {
		switch {
		case r.begin && r.commit || r.prepares:
			t.Errorf("%+v", r)
		case r.begin:
			begins++
		case r.commit:
			commits++
		default:
			others++
		}
	}
	if begins != 12 || commits != 12 || others != 0 {
		t.Errorf("%d first rounds, %d commits, %d others for 12 batches", begins, commits, others)
	}
	if n := proxy.cancelled(); n != 0 {
		t.Errorf("%d cancel requests", n)
	}
}

// Updates of accounts touch no index.
func TestUpdatesAreHOT(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(200)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 1_000_000))
	}
	before := b.hot()
	var group sync.WaitGroup
	for w := range 64 {
		group.Go(func() {
			for i := range 80 {
				from, to := users[(w*3+i)%200], users[(w*5+i*7+1)%200]
				if from != to {
					b.must(pay(from, fmt.Sprintf("%d-%d", w, i), to, 1))
				}
			}
		})
	}
	group.Wait()
	b.Close() // sessions report their statistics when they end
	var updates, hot int
	eventually(t, "the statistics", func() bool {
		after := b.hot()
		updates, hot = after[0]-before[0], after[1]-before[1]
		return updates > 5000
	})
	t.Logf("%d updates, %d HOT", updates, hot)
	if float64(hot) < 0.95*float64(updates) {
		t.Errorf("%d of %d updates were HOT", hot, updates)
	}
}

func (b *book) hot() (counts [2]int) {
	b.t.Helper()
	text := b.sql(`select n_tup_upd || ' ' || n_tup_hot_upd from pg_stat_user_tables where relname = 'accounts'`)
	if _, err := fmt.Sscan(text, &counts[0], &counts[1]); err != nil {
		b.t.Fatal(err)
	}
	return counts
}

// scan reads a whole queue of pending sagas, page by page.
func (b *book) scan(from int64, limit int) (txIDs []string, horizon int64) {
	b.t.Helper()
	after := saga.Cursor{Tx: from}
	for {
		page, err := b.PendingSagas(b.t.Context(), after, math.MaxInt64, limit)
		if err != nil {
			b.t.Fatal(err)
		}
		if horizon == 0 {
			horizon = page.Horizon
		}
		for _, p := range page.Sagas {
			txIDs = append(txIDs, string(p.TxID))
			after = p.Cursor
		}
		if !page.More {
			return txIDs, horizon
		}
	}
}

// nothingFromTheHorizonOn holds once no transaction is left that began before the sagas were written. There are those of
// other tests on the same server.
func (b *book) nothingFromTheHorizonOn() {
	b.t.Helper()
	eventually(b.t, "from the horizon on there is nothing", func() bool {
		_, horizon := b.scan(0, 1000)
		rest, _ := b.scan(horizon, 1000)
		return len(rest) == 0
	})
}

func TestPendingSagas(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(3)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 100))
	}
	var want []string
	for i := range 10 {
		tx := fmt.Sprint("s", i)
		op := debit(users[i%3], tx, "payee", ledger.Amount(1+i))
		op.Trace = "trace-" + tx
		b.must(op)
		want = append(want, tx)
	}
	if got, _ := b.scan(0, 3); !slices.Equal(got, want) {
		t.Errorf("queue %v, want %v", got, want)
	}
	b.nothingFromTheHorizonOn()
	page, err := b.PendingSagas(t.Context(), saga.Cursor{}, math.MaxInt64, 1)
	if err != nil || len(page.Sagas) != 1 || !page.More {
		t.Fatalf("%+v, %v", page, err)
	}
	p := page.Sagas[0]
	if p.Transfer != debit(users[0], "s0", "payee", 1).Transfer || p.State != ledger.SagaPending || p.Trace != "trace-s0" ||
		p.CreatedAt.IsZero() || p.Cursor.Identity != p.Identity || p.Cursor.Slot != placement.SlotOf(users[0]) {
		t.Errorf("%+v", p)
	}

	// What has ended, or is a copy in a slot that is not owned, is not in the queue.
	if _, err := b.Complete(t.Context(), ledger.Identity{Initiator: users[0], TxID: "s0"}, b.hold(users[0])); err != nil {
		t.Fatal(err)
	}
	refund := debit(users[1], "s1", "payee", 2)
	refund.Step, refund.Saga, refund.Cause = ledger.StepRefund, false, ledger.BalanceLimit
	b.must(refund)
	for _, state := range []string{"moved", "incoming", "fenced"} {
		b.alter(fmt.Sprintf(`update saldo.slots set state = '%s' where slot = %d`, state, placement.SlotOf(users[2])))
		if got, _ := b.scan(0, 3); !slices.Equal(got, []string{"s3", "s4", "s6", "s7", "s9"}) {
			t.Errorf("with a slot %s: %v", state, got)
		}
		ended, err := b.EndedSagas(t.Context(), []ledger.Identity{
			{Initiator: users[0], TxID: "s0"}, {Initiator: users[1], TxID: "s1"}, {Initiator: users[2], TxID: "s2"},
			{Initiator: users[0], TxID: "s3"}, {Initiator: "nobody", TxID: "s0"},
		})
		if len(refusals(err)) != 1 || len(ended) != 2 || ended[ledger.Identity{Initiator: users[0], TxID: "s0"}].State != ledger.SagaCompleted {
			t.Errorf("ended: %+v, %v", ended, err)
		}
		if s := ended[refund.Identity]; s.State != ledger.SagaRefunded || s.Cause != ledger.BalanceLimit {
			t.Errorf("ended: %+v", s)
		}
	}
}

// What has begun after a page was read is not below the page's end, and everything before is.
func TestPendingSagasBefore(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice")
	b.must(add("alice", "fund", 100))
	end := func() int64 {
		page, err := b.PendingSagas(t.Context(), saga.Cursor{}, 0, 10)
		if err != nil || len(page.Sagas) != 0 || page.More {
			t.Fatalf("%+v, %v", page, err)
		}
		return page.End
	}
	ends := []int64{end()}
	var want []string
	for i := range 3 {
		want = append(want, fmt.Sprint("s", i))
		b.must(debit("alice", want[i], "payee", 1))
		ends = append(ends, end())
	}
	for i, before := range ends {
		page, err := b.PendingSagas(t.Context(), saga.Cursor{}, before, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range page.Sagas {
			got = append(got, string(p.TxID))
		}
		if !slices.Equal(got, want[:i]) {
			t.Errorf("before %d: %v, want %v", before, got, want[:i])
		}
	}
	page, err := b.PendingSagas(t.Context(), saga.Cursor{Tx: ends[1]}, ends[2], 10)
	if err != nil || len(page.Sagas) != 1 || page.Sagas[0].TxID != "s1" {
		t.Errorf("between two ends: %+v, %v", page, err)
	}
}

// A saga of a transaction that began before others and is committed after them is found from the earlier horizon on.
func TestSagasCommittedOutOfOrder(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice")
	b.must(add("alice", "fund", 100))
	b.alter(`alter table saldo.sagas disable trigger guarded`)
	slow := session(t, b.dsn)
	do(t, slow, "begin")
	do(t, slow, "select pg_current_xact_id()") // it is the oldest
	b.must(debit("alice", "s1", "payee", 1))
	got, horizon := b.scan(0, 10)
	if !slices.Equal(got, []string{"s1"}) {
		t.Fatalf("%v", got)
	}
	page, err := b.PendingSagas(t.Context(), saga.Cursor{}, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if page, err := b.PendingSagas(t.Context(), saga.Cursor{}, page.End, 10); err != nil || len(page.Sagas) != 1 {
		t.Errorf("before the end, which does not wait for the slow one: %+v, %v", page, err)
	}
	b.must(debit("alice", "s2", "payee", 1))
	do(t, slow, `insert into saldo.sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at)
		values ($1, 'alice', 's0', 'payee', 1, 'USD', 1, '', now())`, int16(placement.SlotOf("alice")))
	if got, _ := b.scan(horizon, 10); !slices.Equal(got, []string{"s1", "s2"}) {
		t.Errorf("before its commit: %v", got)
	}
	do(t, slow, "commit")
	if got, _ := b.scan(horizon, 10); !slices.Equal(got, []string{"s0", "s1", "s2"}) {
		t.Errorf("after its commit: %v", got)
	}
	b.nothingFromTheHorizonOn()
}

func TestTransfersByTxID(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(20)
	b.user(users...)
	var slots []ledger.Slot
	for slot := range ledger.Slot(placement.Slots) {
		slots = append(slots, slot)
	}
	for i, u := range users {
		b.must(add(u, "fund", 100))
		if i%4 == 0 {
			b.must(debit(u, "shared", "payee", 5))
		}
	}
	records, err := b.TransfersByTxID(t.Context(), "shared", slots)
	if err != nil || len(records) != 5 {
		t.Fatalf("%+v, %v", records, err)
	}
	for _, r := range records {
		one, err := b.Transfer(t.Context(), r.Identity)
		if err != nil || one != r || r.Status() != ledger.StatusPending || !r.EndedAt.IsZero() {
			t.Errorf("%+v, %+v, %v", r, one, err)
		}
	}
	if records, err := b.TransfersByTxID(t.Context(), "unheard of", slots); err != nil || len(records) != 0 {
		t.Errorf("%+v, %v", records, err)
	}
	b.alter(fmt.Sprintf(`update saldo.slots set state = 'moved', moved_to = 's2' where slot = %d`, placement.SlotOf(users[1])))
	if _, err := b.TransfersByTxID(t.Context(), "shared", slots); len(refusals(err)) != 1 {
		t.Errorf("with a slot that has moved: %v", err)
	}
	if _, err := b.TransfersByTxID(t.Context(), "unheard of", slots); len(refusals(err)) != 1 {
		t.Errorf("with a slot that has moved: %v", err)
	}
	if records, err := b.TransfersByTxID(t.Context(), "shared", []ledger.Slot{placement.SlotOf(users[0])}); err != nil || len(records) != 1 {
		t.Errorf("%+v, %v", records, err)
	}
}

// Every text that the edge lets through comes back as it was.
func TestHostileText(t *testing.T) {
	t.Parallel()
	b := open(t)
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-:+~@"
	var ids []ledger.UserID
	for i := range len(allowed) {
		ids = append(ids, ledger.UserID("x"+allowed[i:i+1]))
	}
	ids = append(ids, ledger.UserID(allowed), ledger.UserID(strings.Repeat("z", ledger.MaxIDLength)), "NULL", "null", "-1", "+", "a--b", "~@~")
	texts := []string{
		"", `'; drop table saldo.accounts; --`, `"quoted"`, `\`, `\\x00`, `\u0000`, `{a,"b",NULL}`, `NULL`, `null`, `{}`, `,`, `$1`, `%s%n%d`, "%", "tab\tand\nline\r\n",
		"emoji 🪙💸 and ü and ﷽", "\u202eright to left", "\ufeffmark", "\ufffd", " spaces ", strings.Repeat("é", ledger.MaxDescriptionLength/2), "\x01\x1f\x7f",
	}
	for i, id := range ids {
		if _, err := ledger.ParseUserID(string(id)); err != nil {
			t.Fatal(err)
		}
		text := texts[i%len(texts)]
		user := ledger.User{ID: id, Name: "n" + text, Email: text}
		if _, created, err := b.CreateUser(t.Context(), user, b.hold(id)); err != nil || !created {
			t.Fatalf("%q: %v", id, err)
		}
		if stored, err := b.User(t.Context(), id); err != nil || stored.Name != user.Name || stored.Email != user.Email || stored.ID != id {
			t.Errorf("%q: %+v, %v", id, stored, err)
		}
		op := add(id, string(id), 5)
		op.Description = text
		b.must(op)
		record, err := b.Transfer(t.Context(), op.Identity)
		if err != nil || record.Transfer != op.Transfer || record.Description != text {
			t.Errorf("%q: %+v, %v", id, record, err)
		}
		if page, err := b.History(t.Context(), id, "USD", 0, 1); err != nil || len(page.Lines) != 1 || page.Lines[0].Identity != op.Identity {
			t.Errorf("%q: %+v, %v", id, page, err)
		}
		start := debit(id, "saga-"+string(id)[:min(len(id), 100)], "payee", 1)
		start.Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		b.must(start)
		if r := b.must(start); !r.Replayed || r.State != ledger.SagaPending {
			t.Errorf("%q: %+v", id, r)
		}
	}
	// Ids that a locale's collation would call equal, or order otherwise.
	for i, id := range []ledger.UserID{"abc", "ABC", "aBc", "a.bc", "a-bc", "ab-c"} {
		b.user(id)
		b.must(add(id, "t", ledger.Amount(1+i)))
		if got := b.balance(id); got != ledger.Amount(1+i) {
			t.Errorf("%s has %d", id, got)
		}
	}
	queue, _ := b.scan(0, 7)
	if len(queue) != len(ids) {
		t.Errorf("%d pending sagas, want %d", len(queue), len(ids))
	}
	b.mustBeSound()
}

// The lanes' statements look keys up; none of them reads a whole table, though the tables were empty when they were planned.
func TestPlansAreLookUps(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(50)
	b.user(users...)
	for _, u := range users {
		b.must(add(u, "fund", 100))
		b.must(debit(u, "s", "payee", 1))
		b.reads(u)
	}
	b.scan(0, 10)
	before := b.sql(`select sum(seq_tup_read)::text from pg_stat_user_tables where relname in ('users', 'accounts', 'operations', 'entries', 'sagas')`)
	for i, u := range users {
		b.must(pay(u, "t", users[(i+1)%50], 1))
		b.reads(u)
		if _, err := b.Complete(t.Context(), ledger.Identity{Initiator: u, TxID: "s"}, b.hold(u)); err != nil {
			t.Fatal(err)
		}
	}
	b.Close() // sessions report their statistics when they end
	eventually(t, "the statistics", func() bool {
		return b.sql(`select (min(idx_scan) >= 50)::text from pg_stat_user_tables where relname in ('users', 'accounts', 'operations', 'sagas')`) == "true"
	})
	after := b.sql(`select sum(seq_tup_read)::text from pg_stat_user_tables where relname in ('users', 'accounts', 'operations', 'entries', 'sagas')`)
	if !regexp.MustCompile(`^\d+$`).MatchString(before) || after != before {
		t.Errorf("%s rows read by scans, %s before", after, before)
	}
}
