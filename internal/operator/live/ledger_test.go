package live_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator"
	"github.com/saldo-ledger/saldo/internal/operator/live"
	"github.com/saldo-ledger/saldo/internal/operator/operatortest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(etcdtest.With(m)) }

// connect connects to the cluster under a prefix, whose shards are on the server that dsn is of.
func connect(t *testing.T, prefix, dsn string) *live.Ledger {
	t.Helper()
	address := parse(t, dsn)
	password, _ := address.User.Password()
	l, err := live.Connect(t.Context(), operator.Connection{
		Endpoints: etcdtest.Endpoints(t), Prefix: prefix,
		ShardPassword: password, Owner: address.User.Username(), OwnerPassword: password,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func parse(t *testing.T, dsn string) *url.URL {
	t.Helper()
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// withoutPassword is how the registry has it.
func withoutPassword(t *testing.T, dsn string) string {
	t.Helper()
	address := parse(t, dsn)
	address.User = url.User(address.User.Username())
	return address.String()
}

func TestLedgerConforms(t *testing.T) {
	t.Parallel()
	full := make(map[string]string) // with their passwords
	run := func(dsn, statement string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	operatortest.Conform(t, operatortest.World{
		Ledger: connect(t, etcdtest.Prefix(t), pgtest.Server(t).DSN()),
		Database: func() string {
			dsn := pgtest.Database(t, nil)
			bare := withoutPassword(t, dsn)
			full[bare] = dsn
			return bare
		},
		Down: func(dsn string) {
			run(pgtest.Server(t).DSN(), `alter database "`+parse(t, dsn).Path[1:]+`" allow_connections false`)
		},
		Sagas: func(_ ledger.ShardID, dsn string) {
			run(full[dsn], `insert into saldo.sagas (amount, created_at, slot, state, initiator, tx_id, payee, currency, trace)
				values (1, now(), 7, 1, 'a', 't', 'b', 'USD', '')`)
		},
	})
}

// What makes a shard's database leaves nobody but the server itself a superuser; the owner can migrate and adopt, and the
// services can do what they are there for.
func TestLogins(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("needs psql")
	}
	server := pgtest.Start(t, nil)
	secrets := t.TempDir()
	for name, content := range map[string]string{
		"owner/username": "saldo_owner", "owner/password": "one's own", "service/username": "saldo_app", "service/password": "ours",
	} {
		file := filepath.Join(secrets, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	address := parse(t, server.DSN())
	psql := func(args ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "psql", append([]string{"-qX", "-v", "ON_ERROR_STOP=1", "-d", address.String()}, args...)...)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("psql %v: %v\n%s", args, err, out)
		}
	}
	psql("-c", "create database saldo")
	address.Path = "/saldo"
	scripts, err := filepath.Glob("../sql/*.sql")
	if err != nil || len(scripts) != 2 {
		t.Fatal(scripts, err)
	}
	var files []string
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(secrets, filepath.Base(script))
		if err := os.WriteFile(moved, []byte(strings.ReplaceAll(string(text), "/run/secrets", secrets)), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, "-f", moved)
	}
	psql(files...) // in one session: the superuser has no password after it

	l, err := live.Connect(t.Context(), operator.Connection{
		Endpoints: etcdtest.Endpoints(t), Prefix: etcdtest.Prefix(t), ShardPassword: "ours", Owner: "saldo_owner", OwnerPassword: "one's own",
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	address.User = url.User("saldo_app")
	if err := errors.Join(l.Create(t.Context(), 1), l.Join(t.Context(), "s1", address.String())); err != nil {
		t.Fatal(err)
	}
	if a, err := l.Ask(t.Context(), "s1"); err != nil || a.Slots != 4096 {
		t.Errorf("the services see %+v, %v", a, err)
	}
	if err := l.Adopt(t.Context(), "s1"); err != nil {
		t.Errorf("the owner cannot adopt: %v", err)
	}
	refused := func(user, password, statement string) {
		t.Helper()
		address.User = url.UserPassword(user, password)
		conn, err := pgx.Connect(t.Context(), address.String())
		if err == nil {
			defer conn.Close(context.Background())
			_, err = conn.Exec(t.Context(), statement)
		}
		if err == nil {
			t.Errorf("%s may %s", user, statement)
		}
	}
	refused("saldo_app", "ours", "set role saldo_owner")
	refused("saldo_app", "ours", "drop table saldo.entries")
	refused("saldo_app", "ours", "create table mine ()")
	refused("saldo_owner", "one's own", "create role another")
	refused("postgres", server.Password(), "select 1")
}

// A primary that was promoted is told apart from a database that is something else, and can be adopted.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, nil)
	standby := pgtest.Standby(t, primary, true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	prefix := etcdtest.Prefix(t)
	l := connect(t, prefix, primary.DSN())
	if err := l.Create(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := l.Join(ctx, "s1", withoutPassword(t, primary.DSN())); err != nil {
		t.Fatal(err)
	}
	if a, err := l.Ask(ctx, "s1"); err != nil || a.Slots != 4096 {
		t.Fatalf("before the failover: %+v, %v", a, err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	follow(t, prefix, withoutPassword(t, standby.DSN()))
	_, err := l.Ask(ctx, "s1")
	var failover *operator.NotAdoptedError
	if !errors.As(err, &failover) || failover.Timeline != 2 || len(failover.Lost) > 0 || failover.Unknown != "" {
		t.Fatalf("after the failover: %+v, %v", failover, err)
	}
	for range 2 {
		if err := l.Adopt(ctx, "s1"); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := l.Ask(ctx, "s1"); err != nil || a.Slots != 4096 {
		t.Errorf("after the adoption: %+v, %v", a, err)
	}
}

// follow has the address of s1 lead to another server, as a Service does that follows the primary.
func follow(t *testing.T, prefix, dsn string) {
	t.Helper()
	c, err := cluster.Connect(t.Context(), cluster.Config{Endpoints: etcdtest.Endpoints(t), Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	config, err := c.LoadConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Readdress(t.Context(), config, "s1", dsn); err != nil {
		t.Fatal(err)
	}
}

func TestConnectFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := live.Connect(ctx, operator.Connection{Endpoints: []string{"http://127.0.0.1:1"}}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("connected to nobody")
	}
	if _, err := live.Connect(ctx, operator.Connection{Endpoints: []string{"https://127.0.0.1:1"}, CA: []byte("no PEM")}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("connected with a broken certificate")
	}
}
