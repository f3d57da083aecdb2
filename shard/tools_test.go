package shard_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// private is a server of the test's own whose database is shard s1 with all slots.
func private(t testing.TB, change func(*local.PostgresOptions)) *local.Postgres {
	t.Helper()
	server := pgtest.Start(t, change)
	prepare(t, server.DSN())
	return server
}

// prepare makes the empty database at dsn the shard s1 with all slots, without the triggers of the template.
func prepare(t testing.TB, dsn string) {
	t.Helper()
	ctx := context.Background()
	if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
		t.Fatal(err)
	}
	if err := shard.Enroll(ctx, dsn, "", cluster, "s1"); err != nil {
		t.Fatal(err)
	}
	if err := shard.Found(ctx, dsn, "", cluster, "s1", allSlots(t)); err != nil {
		t.Fatal(err)
	}
}

// session is a superuser's connection to dsn.
func session(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // some tests kill it
	})
	return conn
}

func do(t testing.TB, conn *pgx.Conn, query string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// alter runs statements as superuser, on a connection of its own.
func (b *book) alter(statements ...string) {
	b.t.Helper()
	conn, err := pgx.Connect(context.Background(), b.dsn)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			b.t.Fatalf("%s: %v", statement, err)
		}
	}
}

// apart returns n ids such that no two share a slot.
func apart(n int) []ledger.UserID {
	var ids []ledger.UserID
	taken := map[ledger.Slot]bool{}
	for i := 0; len(ids) < n; i++ {
		id := ledger.UserID(fmt.Sprintf("u%d", i))
		if slot := placement.SlotOf(id); !taken[slot] {
			taken[slot] = true
			ids = append(ids, id)
		}
	}
	return ids
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// mustBeSound fails the test unless the shard's books are what the promises say.
func (b *book) mustBeSound() {
	b.t.Helper()
	for _, check := range []struct{ promise, query string }{
		{"an account is the sum of its entries, which have no gap", `
			select count(*) from saldo.accounts a
			left join lateral (select count(*) n, coalesce(max(version), 0) last, coalesce(sum(amount), 0) sum from saldo.entries e
			                   where e.slot = a.slot and e.user_id = a.user_id and e.currency = a.currency) e on true
			where e.n <> a.version or e.last <> a.version or e.sum <> a.balance or a.balance < 0`},
		{"each entry carries the balance after it and times do not go back", `
			select count(*) from (
			    select balance, sum(amount) over w sum, created_at, lag(created_at) over w before
			    from saldo.entries window w as (partition by slot, user_id, currency order by version)) e
			where balance <> sum or created_at < before`},
		{"an applied operation's entries and its system side sum to zero", `
			select count(*) from saldo.operations o
			left join (select tx_id, step, sum(amount) sum, count(*) n,
			                  case when kind = 3 and step <> 3 and amount > 0 then counterparty else user_id end initiator
			           from saldo.entries group by tx_id, step, 5) e using (initiator, tx_id, step)
			where coalesce(e.sum, 0) + o.system_amount <> 0 or (o.reason = '') <> (e.n is not null)`},
		{"the books sum to zero", `
			select count(*) from (
			    select currency, sum(amount) from (
			        select currency, amount from saldo.entries union all select currency, amount from saldo.system_entries) all_of_it
			    group by currency having sum(amount) <> 0) wrong`},
		{"a start that debited for a saga has a saga", `
			select count(*) from saldo.operations o
			left join saldo.sagas s using (slot, initiator, tx_id)
			where o.step = 1 and o.saga and o.reason = '' and s.state is null`},
	} {
		if got := b.sql(`select (` + check.query + `)::text`); got != "0" {
			b.t.Errorf("%s: %s are wrong", check.promise, got)
		}
	}
}
