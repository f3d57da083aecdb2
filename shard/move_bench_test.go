package shard_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func filled(i int) ledger.UserID { return ledger.UserID(fmt.Sprintf("filled-%d", i)) }

// fill writes users, an account for each, and their adds, as if they had been made.
func fill(t testing.TB, dsn string, users, adds int) {
	t.Helper()
	conn := session(t, dsn)
	do(t, conn, `set search_path = saldo`)
	ids := make([]ledger.UserID, users)
	for i := range ids {
		ids[i] = filled(i)
	}
	now := time.Now()
	write := func(table string, columns []string, n int, row func(i int) []any) {
		t.Helper()
		source := pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil })
		if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{"saldo", table}, columns, source); err != nil {
			t.Fatal(err)
		}
	}
	slot := func(i int) int16 { return int16(placement.SlotOf(ids[i%users])) }
	write("users", []string{"slot", "id", "name", "email"}, users, func(i int) []any {
		return []any{slot(i), string(ids[i]), "name", ""}
	})
	write("accounts", []string{"slot", "user_id", "currency", "balance", "version", "updated_at"}, users, func(i int) []any {
		n := int64((adds + users - 1 - i) / users)
		return []any{slot(i), string(ids[i]), "USD", n, n, now}
	})
	write("operations", []string{"slot", "initiator", "tx_id", "step", "kind", "saga", "payee", "amount", "currency", "reason", "balance", "version",
		"system_account", "system_amount", "description", "created_at"}, adds, func(i int) []any {
		n := int64(i/users + 1)
		return []any{slot(i), string(ids[i%users]), fmt.Sprintf("add-%d", i), int16(1), int16(1), false, "", int64(1), "USD", "", n, n,
			"@world", int64(-1), "", now}
	})
	write("entries", []string{"slot", "user_id", "currency", "version", "amount", "balance", "tx_id", "step", "kind", "counterparty", "created_at"},
		adds, func(i int) []any {
			n := int64(i/users + 1)
			return []any{slot(i), string(ids[i%users]), "USD", n, int64(1), n, fmt.Sprintf("add-%d", i), int16(1), int16(1), "", now}
		})
	do(t, conn, `vacuum analyze`)
}

// BenchmarkMove moves half of 400,000 operations while transfers run, each shard on a server of its own that flushes.
func BenchmarkMove(b *testing.B) {
	s1, s2 := private(b, nil), pgtest.Start(b, nil)
	prepareOther(b, s2.DSN())
	fill(b, s1.DSN(), 20_000, 400_000)
	w := openTwoAt(b, s1.DSN(), s2.DSN())
	users := apart(200)
	w.user(users...)
	for _, u := range users {
		w.must(add(u, "fund", 100_000))
	}
	l := w.load(users, 16, time.Millisecond)
	l.progress()
	var slots placement.SlotSet
	for slot := range ledger.Slot(placement.Slots / 2) {
		slots = append(slots, slot)
	}
	for b.Loop() {
		m := w.move("m", "s1", "s2", slots, 1)
		timed := func(name string, do func() error) time.Duration {
			begun := time.Now()
			if err := patiently(do); err != nil {
				b.Fatalf("%s: %v", name, err)
			}
			took := time.Since(begun)
			b.Logf("%s: %v", name, took)
			return took
		}
		timed("mark", func() error { return m.Mark(b.Context(), m.held()) })
		took := timed("copy", func() error {
			return until(func() (int, error) { return m.CopyChunk(b.Context(), 5000) })
		})
		progress, _ := m.Progress(b.Context())
		b.Logf("%+v", progress)
		b.ReportMetric(float64(progress.Rows)/took.Seconds(), "rows/s")
		for range 3 {
			timed("pass", func() error { n, err := m.Pass(b.Context()); b.Logf("%d rows", n); return err })
		}
		timed("verify", m.verifyAll)
		timed("pass", func() error { n, err := m.Pass(b.Context()); b.Logf("%d rows", n); return err })
		timed("pass", func() error { n, err := m.Pass(b.Context()); b.Logf("%d rows", n); return err })
		begun := time.Now()
		timed("fence", func() error { return m.Fence(b.Context(), m.held()) })
		timed("final", func() error { n, err := m.Final(b.Context()); b.Logf("%d rows", n); return err })
		w.decide(slots, "s2")
		timed("activate", func() error { return m.Activate(b.Context(), m.held()) })
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms-fenced")
		timed("tombstone", func() error { return m.Tombstone(b.Context(), m.held()) })
		l.progress()
		timed("clean", func() error {
			return until(func() (int, error) { return m.CleanChunk(b.Context(), 1000) })
		})
	}
	l.finish()
}
