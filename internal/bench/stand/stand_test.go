package stand_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// options are those of a stand that starts fast.
func options(t *testing.T, o stand.Options) stand.Options {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Postgres, which -short leaves out")
	}
	if dir, err := os.UserCacheDir(); err == nil {
		o.InitCache = filepath.Join(dir, "saldo-pgtest")
	}
	return o
}

func start(t *testing.T, o stand.Options) *stand.Stand {
	t.Helper()
	s, err := stand.Start(t.Context(), options(t, o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // for when the test fails before it does
	return s
}

// mustEnd closes a stand and checks that nothing of it runs.
func mustEnd(t *testing.T, s *stand.Stand) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, shard := range s.Shards {
		if shard.PID == 0 || !errors.Is(syscall.Kill(shard.PID, 0), syscall.ESRCH) {
			t.Errorf("the Postgres of %s, pid %d, still runs", shard.ID, shard.PID)
		}
	}
}

func mustBeClean(t *testing.T, s *stand.Stand, users int) {
	t.Helper()
	report, err := s.Audit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var counted int64
	for _, shard := range report.Shards {
		counted += shard.Users
	}
	if report.ExitCode() != 0 || counted != int64(users) {
		t.Errorf("exit code %d, %d users, not %d", report.ExitCode(), counted, users)
	}
}

func balance(t *testing.T, s *stand.Stand, user ledger.UserID) ledger.Account {
	t.Helper()
	lane, err := s.Open(s.Shards[s.ShardOf(user)].ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close()
	account, err := lane.Balance(t.Context(), user, stand.Currency)
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func TestStand(t *testing.T) {
	t.Parallel()
	var said []string
	s := start(t, stand.Options{Shards: 2, Progress: func(text string) { said = append(said, text) }})

	users, err := s.Seed(t.Context(), 300, 500)
	if err != nil {
		t.Fatal(err)
	}
	if len(users) != 2 || len(users[0])+len(users[1]) != 300 || len(users[0]) < 100 || len(users[1]) < 100 {
		t.Fatalf("%d and %d users", len(users[0]), len(users[1]))
	}
	for on, of := range users {
		for _, user := range of {
			if s.ShardOf(user) != on {
				t.Fatalf("%s is on shard %d, not %d", user, s.ShardOf(user), on)
			}
		}
		if account := balance(t, s, of[0]); account.Balance != 500 {
			t.Errorf("%s has %+v", of[0], account)
		}
	}
	more, err := s.Seed(t.Context(), 400, 500)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(more[0][:len(users[0])], users[0]) || !slices.Equal(more[1][:len(users[1])], users[1]) {
		t.Error("others were made")
	}
	if account := balance(t, s, users[0][0]); account != (ledger.Account{Balance: 500, Version: 1}) {
		t.Errorf("who was there has got something: %+v", account)
	}
	if _, err := s.Seed(t.Context(), 1, 501); err == nil || !strings.Contains(err.Error(), "another amount") {
		t.Errorf("with another amount: %v", err)
	}
	for _, depth := range []int64{50, 40, 120} {
		deep, err := s.Deepen(t.Context(), depth)
		if err != nil {
			t.Fatal(err)
		}
		if account := balance(t, s, deep); account.Version != max(depth, 50) {
			t.Errorf("the history has %d entries, not %d", account.Version, depth)
		}
	}
	mustBeClean(t, s, 401)
	if !slices.ContainsFunc(said, func(text string) bool { return strings.HasPrefix(text, "making users: ") }) {
		t.Errorf("it told no progress: %q", said)
	}
	machine, settings, err := s.Describe(t.Context())
	if err != nil || machine.CPUs == 0 || machine.Postgres == "" || machine.Etcd == "" || machine.FlushMS <= 0 || settings["fsync"] != "on" {
		t.Errorf("%+v, %v, %v", machine, settings, err)
	}

	// The same cluster, as one that runs.
	attached, err := stand.Attach(t.Context(), stand.Running{
		Etcd:      cluster.Config{Endpoints: s.Etcd, Prefix: s.Prefix},
		Passwords: func(ledger.ShardID) string { return password(s.Shards[0].DSN) }, // they share it: see local.PostgresOptions
		URLs:      []string{"http://127.0.0.1:1/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(attached.Shards) != 2 || attached.Shards[1].DSN != s.Shards[1].DSN || attached.URLs()[0] != "http://127.0.0.1:1" {
		t.Errorf("%+v", attached)
	}
	if _, err := attached.AddRouter(t.Context()); err == nil {
		t.Error("a cluster that runs got a router")
	}
	if _, err := attached.Seed(t.Context(), 410, 500); err != nil {
		t.Fatal(err)
	}
	if err := attached.Close(); err != nil {
		t.Error(err)
	}
	mustBeClean(t, s, 411)
	mustEnd(t, s)
	if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", s.Dir, err)
	}
}

func password(dsn string) string {
	_, rest, _ := strings.Cut(dsn, "postgres:")
	_, rest, _ = strings.Cut(rest, ":")
	secret, _, _ := strings.Cut(rest, "@")
	return secret
}

func TestDataAreKeptWhereTheyAreToBe(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	s := start(t, stand.Options{Shards: 1, Dir: dir})
	if _, err := s.Seed(t.Context(), 10, 500); err != nil {
		t.Fatal(err)
	}
	if _, err := stand.Start(t.Context(), options(t, stand.Options{Shards: 1, Dir: dir})); err == nil {
		t.Error("two stands share a folder")
	}
	mustEnd(t, s)

	s = start(t, stand.Options{Shards: 1, Dir: dir})
	mustBeClean(t, s, 10)
	mustEnd(t, s)

	if s, err := stand.Start(t.Context(), options(t, stand.Options{Shards: 2, Dir: dir})); err == nil {
		t.Errorf("a cluster of one shard has become one of %d", len(s.Shards))
		_ = s.Close()
	}
}

// A service that does not start, or a start that is given up, leaves nothing.
func TestAStartThatFails(t *testing.T) {
	temporary, programs := pgtest.Dir(t), t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("SALDO_BIN_DIR", programs)
	begin := func(ctx context.Context, o stand.Options) error {
		s, err := stand.Start(ctx, options(t, o))
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	if err := begin(t.Context(), stand.Options{Shards: 1, Routers: 1}); err == nil || !strings.Contains(err.Error(), "SALDO_BIN_DIR") {
		t.Errorf("without programs: %v", err)
	}
	script := "#!/bin/sh\necho out of order$SALDO_WORD$SALDO_OTHER\nexit 3\n"
	if err := os.WriteFile(filepath.Join(programs, "router"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SALDO_OTHER", "not to be heard of")
	said := map[string]string{"SALDO_WORD": ", as it was told"}
	outOfOrder := func(err error) bool { return err != nil && strings.Contains(err.Error(), "out of order") }
	if err := begin(t.Context(), stand.Options{Shards: 1, Routers: 1, Services: said}); !outOfOrder(err) ||
		!strings.Contains(err.Error(), "as it was told") || strings.Contains(err.Error(), "not to be heard of") {
		t.Errorf("with a router that ends: %v", err)
	}
	s := start(t, stand.Options{Shards: 1})
	if _, err := s.AddRouter(t.Context()); !outOfOrder(err) {
		t.Errorf("with an added router that ends: %v", err)
	}
	if err := s.Close(); !outOfOrder(err) {
		t.Errorf("the added router is forgotten: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := begin(ctx, stand.Options{Shards: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("given up: %v", err)
	}
	t.Setenv("SALDO_BIN_DIR", "")
	t.Setenv("PATH", "/nowhere")
	if err := begin(t.Context(), stand.Options{Shards: 1, Routers: 1}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without programs anywhere: %v", err)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
