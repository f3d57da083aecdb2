package shard_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// crashLoad sends transfers from several callers until it is stopped, and remembers what it was told.
type crashLoad struct {
	b     *book
	users []ledger.UserID
	stop  chan struct{}
	group sync.WaitGroup

	mu      sync.Mutex
	told    map[ledger.Identity]ledger.Outcome
	unknown map[ledger.Identity]ledger.Operation
	nothing map[ledger.Identity]bool // was recorded, it said
	done    atomic.Int64
}

func startLoad(b *book, callers int) *crashLoad {
	l := &crashLoad{
		b: b, users: apart(12), stop: make(chan struct{}),
		told: map[ledger.Identity]ledger.Outcome{}, unknown: map[ledger.Identity]ledger.Operation{}, nothing: map[ledger.Identity]bool{},
	}
	b.user(l.users...)
	for _, u := range l.users {
		b.must(add(u, "fund", 1_000))
	}
	for c := range callers {
		l.group.Go(func() { l.call(c) })
	}
	return l
}

func (l *crashLoad) call(c int) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		from, to := l.users[(c+i)%12], l.users[(c+i*5+1)%12]
		op := pay(from, fmt.Sprintf("c%d-%d", c, i), to, ledger.Amount(1+i%400))
		switch i % 7 {
		case 3:
			op = debit(from, string(op.TxID), "far", 1)
		case 5:
			op = add(from, string(op.TxID), 50)
		case 6:
			op.Initiator = "ghost"
		}
		r, err := l.b.Submit(context.Background(), op, l.b.holds(op)...)
		l.mu.Lock()
		switch code := ledger.CodeOf(err); {
		case err == nil && r.Replayed:
			l.b.t.Errorf("%s is not new: %+v", op.Identity, r)
		case err == nil:
			l.told[op.Identity] = r.Outcome
			l.done.Add(1)
		case code == ledger.CodeUnknown:
			l.unknown[op.Identity] = op
		case code == ledger.CodeUnavailable:
			l.nothing[op.Identity] = true
		default:
			l.b.t.Errorf("%s: %v", op.Identity, err)
		}
		l.mu.Unlock()
	}
}

func (l *crashLoad) progress() {
	l.b.t.Helper()
	before := l.done.Load()
	eventually(l.b.t, "load goes on", func() bool { return l.done.Load() > before+50 })
}

// finish stops the load and checks that what was told is what is there.
func (l *crashLoad) finish() {
	b := l.b
	b.t.Helper()
	close(l.stop)
	l.group.Wait()
	unknown := len(l.unknown)
	for id, op := range l.unknown { // a repeat tells
		r, err := b.submit(op)
		if err != nil {
			b.t.Errorf("%s: %v", id, err)
		}
		l.told[id] = r.Outcome
	}
	conn := session(b.t, b.dsn)
	rows, err := conn.Query(context.Background(), `select initiator, tx_id, reason, balance, version from saldo.operations where tx_id <> 'fund'`)
	if err != nil {
		b.t.Fatal(err)
	}
	there := 0
	for rows.Next() {
		var id ledger.Identity
		var o ledger.Outcome
		if err := rows.Scan(&id.Initiator, &id.TxID, &o.Reason, &o.Balance, &o.Version); err != nil {
			b.t.Fatal(err)
		}
		there++
		if told, ok := l.told[id]; !ok || told != o {
			b.t.Errorf("%s: told %+v (%v), recorded %+v; said that nothing was: %v", id, told, ok, o, l.nothing[id])
		}
	}
	if rows.Err() != nil || there != len(l.told) {
		b.t.Errorf("%d operations were told, %d are there: %v", len(l.told), there, rows.Err())
	}
	b.mustBeSound()
	b.t.Logf("%d operations, of which %d were unknown at first; %d were not recorded", len(l.told), unknown, len(l.nothing))
}

// Sessions are ended all the time.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	b := open(t)
	l := startLoad(b, 24)
	killer := session(t, b.dsn)
	killed := 0
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(15 * time.Millisecond) {
		var n int
		if err := killer.QueryRow(t.Context(), `
			select count(pg_terminate_backend(pid)) from pg_stat_activity
			where datname = current_database() and application_name = 'saldo' and random() < 0.5`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		killed += n
	}
	l.progress()
	l.finish()
	if killed < 20 {
		t.Errorf("only %d sessions were ended", killed)
	}
}

// Statements are cancelled all the time, as by an operator with pg_cancel_backend.
func TestStatementsAreCancelled(t *testing.T) {
	t.Parallel()
	b := open(t)
	l := startLoad(b, 24)
	killer := session(t, b.dsn)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		do(t, killer, `select pg_cancel_backend(pid) from pg_stat_activity
			where datname = current_database() and application_name = 'saldo'`)
	}
	l.progress()
	l.finish()
}

// The server goes and comes back, in every way it can.
func TestServerCrashes(t *testing.T) {
	t.Parallel()
	server := private(t, nil)
	b := openAt(t, server.DSN(), func(c *shard.Config) { c.LastPatience = 20 * time.Second })
	l := startLoad(b, 24)
	for _, crash := range []struct {
		name string
		do   func()
	}{
		{"kill -9 of a backend", func() {
			conn := session(t, server.DSN())
			var pid int
			if err := conn.QueryRow(t.Context(), `select pid from pg_stat_activity where application_name = 'saldo' order by state = 'active' desc limit 1`).Scan(&pid); err != nil {
				t.Fatal(err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}},
		{"restart, fast", func() { _ = syscall.Kill(server.PID(), syscall.SIGINT) }},
		{"restart, immediate", func() { _ = syscall.Kill(server.PID(), syscall.SIGQUIT) }},
		{"kill -9", func() { _ = syscall.Kill(server.PID(), syscall.SIGKILL) }},
	} {
		l.progress()
		crash.do()
		time.Sleep(300 * time.Millisecond)
		eventually(t, crash.name+": it is back", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			conn, err := pgx.Connect(ctx, server.DSN())
			if err != nil {
				return false
			}
			_ = conn.Close(ctx)
			return true
		})
	}
	l.progress()
	l.finish()
}

// A COMMIT that waits for a synchronous standby is never cancelled: it would become visible though no standby has it.
func TestCommitIsNotCancelled(t *testing.T) {
	t.Parallel()
	server := private(t, nil)
	b := openAt(t, server.DSN(), func(c *shard.Config) {
		c.Writers, c.RoundTrip, c.LastPatience = 1, 500*time.Millisecond, time.Second
	})
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	b.alter(`alter system set synchronous_standby_names = 'nobody'`, `select pg_reload_conf()`)
	eventually(t, "the setting", func() bool { return b.sql(`show synchronous_standby_names`) == "nobody" })

	op := pay("alice", "t", "bob", 30)
	begun := time.Now()
	if _, err := b.submit(op); ledger.CodeOf(err) != ledger.CodeUnknown {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond || took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	for range 20 {
		if got := b.sql(`select count(*)::text from saldo.operations where tx_id = 't'`); got != "0" {
			t.Fatalf("it is visible, though no standby has it")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := b.sql(`select count(*)::text from pg_stat_activity where wait_event = 'SyncRep'`); got == "0" {
		t.Error("no COMMIT waits: the test shows nothing")
	}
	b.alter(`alter system reset synchronous_standby_names`, `select pg_reload_conf()`)
	var r ledger.Result
	eventually(t, "the outcome", func() bool {
		var err error
		r, err = b.submit(op)
		return err == nil
	})
	if !r.Replayed || r.Balance != 70 || b.balance("alice") != 70 {
		t.Errorf("%+v", r)
	}
	b.mustBeSound()
}

// A standby behind the shard's address (a failover that is not over) is not an outcome: it is down.
func TestStandbyBehindTheAddress(t *testing.T) {
	t.Parallel()
	server := private(t, nil)
	b := openAt(t, server.DSN(), func(c *shard.Config) { c.Patience = 100 * time.Millisecond })
	b.user("alice")
	b.must(add("alice", "fund", 100))
	id := b.sql(`select timeline::text from saldo.shard_meta`)
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	signal := filepath.Join(server.Data(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() { started <- server.Start(ctx) }() // it does not call a standby ready
	standby := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", url.QueryEscape(server.Password()), server.Port())
	eventually(t, "the standby answers", func() bool {
		conn, err := pgx.Connect(ctx, standby)
		if err != nil {
			return false
		}
		defer conn.Close(ctx)
		var recovering bool
		return conn.QueryRow(ctx, `select pg_is_in_recovery()`).Scan(&recovering) == nil && recovering
	})
	if _, err := b.submit(add("alice", "t", 1)); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("write: %v", err)
	}
	for name, err := range b.reads("alice") {
		if ledger.CodeOf(err) != ledger.CodeUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	conn := session(t, standby)
	do(t, conn, `select pg_promote()`)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if got := b.sql(`select ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int::text`); got == id {
		t.Fatalf("promoted, and still on timeline %s", got)
	}
	for name, err := range b.reads("alice") {
		if !isStranger(err) {
			t.Errorf("%s, promoted and not adopted: %v", name, err)
		}
	}
	if _, err := b.submit(add("alice", "t", 1)); !isStranger(err) {
		t.Errorf("write, promoted and not adopted: %v", err)
	}
	b.alter(`update saldo.shard_meta set timeline = ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int`)
	if r := b.must(add("alice", "t", 1)); r.Balance != 101 {
		t.Errorf("adopted: %+v", r)
	}
}
