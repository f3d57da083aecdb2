package pgtest_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var prepared atomic.Int32

// A preparation that opens several connections and creates a role, as
// migrations do.
var schema = pgtest.Template("things", func(dsn string) error {
	prepared.Add(1)
	ctx := context.Background()
	var conns []*pgx.Conn
	for range 3 {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		conns = append(conns, conn)
	}
	_, err := conns[0].Exec(ctx, `
		create role pgtest_reader;
		create table things (n bigint primary key, t text collate "C");
		insert into things select n, n::text from generate_series(1, 100) n`)
	return err
})

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func count(t testing.TB, dsn, sql string) (n int) {
	t.Helper()
	if err := connect(t, dsn).QueryRow(context.Background(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDatabasesAreClonesOfTheTemplateAndApart(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t, schema)
			if _, err := connect(t, dsn).Exec(context.Background(), "insert into things values ($1, 'mine')", 1000+i); err != nil {
				t.Fatal(err)
			}
			if got := count(t, dsn, "select count(*) from things"); got != 101 {
				t.Errorf("%d things, not 101", got)
			}
			if got := prepared.Load(); got != 1 {
				t.Errorf("prepared %d times", got)
			}
		})
	}
}

func TestDatabaseWithoutATemplateIsEmpty(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, nil)
	if got := count(t, dsn, "select count(*) from information_schema.tables where table_schema = 'public'"); got != 0 {
		t.Errorf("%d tables", got)
	}
}

func TestDatabaseIsDroppedWhoeverIsConnected(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("leaves a transaction open", func(t *testing.T) {
		conn, err := pgx.Connect(context.Background(), pgtest.Database(t, schema))
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database
		if _, err := conn.Exec(context.Background(), "begin; lock things"); err != nil {
			t.Fatal(err)
		}
	})
	if got := count(t, pgtest.Server(t).DSN(), "select count(*) from pg_database where datname = '"+name+"'"); got != 0 {
		t.Errorf("%s is still there", name)
	}
}

func TestStartGivesAServerOfItsOwnThatFlushes(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, nil)
	if server.Port() == pgtest.Server(t).Port() {
		t.Error("it is the shared server")
	}
	for _, setting := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		var got string
		if err := connect(t, server.DSN()).QueryRow(context.Background(), "show "+setting).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != "on" {
			t.Errorf("%s is %s", setting, got)
		}
	}
}

// The cost of a test's database, also with several tests at once and with data
// that others have not written out yet.
func BenchmarkDatabase(b *testing.B) {
	pgtest.Database(b, schema)
	for _, callers := range []int{1, 4} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			var wg sync.WaitGroup
			jobs := make(chan struct{})
			for range callers {
				wg.Go(func() {
					for range jobs {
						pgtest.Database(b, schema)
					}
				})
			}
			for b.Loop() {
				jobs <- struct{}{}
			}
			close(jobs)
			wg.Wait()
		})
	}
	b.Run("connect", func(b *testing.B) {
		dsn := pgtest.Server(b).DSN()
		for b.Loop() {
			conn, err := pgx.Connect(context.Background(), dsn)
			if err != nil {
				b.Fatal(err)
			}
			conn.Close(context.Background())
		}
	})
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			began := time.Now()
			s := pgtest.Start(b, nil)
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "last-ms")
			_ = s
		}
	})
}
