// Package pgtest gives each test its own database on a real Postgres server. For
// tests only.
//
// It owns one server per test process, started when the first test asks and
// stopped by [Main], and the databases on it, cloned from templates, so that
// commits, locks and crashes of sessions are real and tests run in parallel. It
// refuses to know any schema: whoever has one prepares a [Template].
//
// The shared server does not flush to disk (fsync, full_page_writes off): what
// is tested on it is isolation and rules, not durability. A test of durability,
// or one that stops the server, takes a private server from [Start], which
// flushes as in production.
//
// The server and the goroutine that watches it are this process's, hence the one
// package variable below. If the process is killed, the kernel stops the server
// (on Linux), and a later test process removes the directory it left.
//
// With `go test -short`, tests that ask for a server are skipped.
package pgtest

import (
	"context"
	"errors"
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
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/local"
)

// shared is the server of this test process.
var shared process

type process struct {
	mu sync.Mutex
	// Guarded by mu:
	inMain bool // Main is there to stop the server
	server *local.Postgres
	admin  *pgxpool.Pool // as superuser, for create and drop database
	err    error         // why there is no server; not tried again

	preparing sync.Mutex   // held while a template is prepared
	lastName  atomic.Int64 // of a database
}

// Main runs a package's tests, stops the server, and exits. Call it from
// TestMain of each package that uses pgtest:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// Goroutines that outlive the tests and the server fail the run, but for those
// that leaks ignores. m may be a wrapper that brings something down by itself,
// such as etcdtest.With(m).
func Main(m interface{ Run() int }, leaks ...goleak.Option) {
	shared.mu.Lock()
	shared.inMain = true
	shared.mu.Unlock()
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: stop the server:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(leaks...); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Server is the shared server. A test must not stop it.
func Server(t testing.TB) *local.Postgres {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Postgres, which -short leaves out")
	}
	server, _, err := shared.start()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// Schema is a database to clone, prepared once per test process.
type Schema struct {
	name    string
	prepare func(dsn string) error

	once sync.Once
	err  error // of once
}

// Template names a database that prepare fills (runs the migrations) when the
// first test asks for a clone. prepare gets the DSN of an empty database, as
// superuser, and must have closed its connections when it returns. name is lower
// case letters and underscores, and unique in the process. Preparations run one
// at a time, so they may create roles, which belong to the whole server.
func Template(name string, prepare func(dsn string) error) *Schema {
	return &Schema{name: "template_" + name, prepare: prepare}
}

// Database is the DSN, as superuser, of a database of the test's own: a clone of
// the template, or an empty one if s is nil. It is dropped when the test ends,
// whoever is still connected.
func Database(t testing.TB, s *Schema) (dsn string) {
	t.Helper()
	server := Server(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	source := "template0"
	if s != nil {
		if s.once.Do(func() { s.err = shared.prepare(ctx, s) }); s.err != nil {
			t.Fatalf("prepare %s: %v", s.name, s.err)
		}
		source = s.name
	}
	name := fmt.Sprintf("test_%d", shared.lastName.Add(1))
	if err := createDatabase(ctx, name, source); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := shared.admin.Exec(ctx, "drop database if exists "+name+" with (force)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return withDatabase(server.DSN(), name)
}

// Start starts a server of the test's own, which flushes to disk as in
// production, and may be stopped, killed and started again. change, if not nil,
// alters its options. It is stopped and removed when the test ends.
func Start(t testing.TB, change func(*local.PostgresOptions)) *local.Postgres {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Postgres, which -short leaves out")
	}
	opts := local.PostgresOptions{
		Binaries:  Binaries(t),
		Dir:       filepath.Join(Dir(t), "postgres"),
		InitCache: initCache(),
		NoSync:    true, // of initdb alone
		LastWish:  syscall.SIGQUIT,
	}
	if change != nil {
		change(&opts)
	}
	server := local.NewPostgres(opts)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(atOnce()); err != nil {
			t.Error(err)
		}
	})
	return server
}

// Standby starts a hot standby of a server that Start has started. If the
// primary is to be synchronous, it acknowledges no commit that the standby does
// not have on disk, from when this returns. The standby is stopped and removed
// when the test ends, before its primary.
func Standby(t testing.TB, primary *local.Postgres, synchronous bool) *local.Postgres {
	t.Helper()
	standby := Start(t, func(o *local.PostgresOptions) {
		o.Name = filepath.Base(primary.Dir()) + "-standby"
		o.Primary = primary
	})
	if !synchronous {
		return standby
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, primary.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, statement := range []string{`alter system set synchronous_standby_names = '*'`, `select pg_reload_conf()`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	for synced := false; !synced; {
		if ctx.Err() != nil {
			t.Fatal("the standby does not become synchronous")
		}
		time.Sleep(10 * time.Millisecond)
		err := conn.QueryRow(ctx, `select exists (select from pg_stat_replication where sync_state = 'sync')`).Scan(&synced)
		if err != nil {
			t.Fatal(err)
		}
	}
	return standby
}

// Binaries are the Postgres programs on this machine.
func Binaries(t testing.TB) local.Binaries {
	t.Helper()
	b, err := local.FindPostgres(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Dir is a temporary folder of the test's own in which servers can run. (For
// root t.TempDir is not one: the unprivileged user who runs Postgres cannot pass
// it.) Call it before whatever has to be stopped before the folder is removed.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := makeDir("saldo-test-*", diskBases())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's folder: %v", err)
		}
	})
	return dir
}

// diskBases are the usual temporary folders: several, since TMPDIR may be one
// that the server's user cannot reach.
func diskBases() []string { return []string{os.TempDir(), "/tmp", "/var/tmp"} }

// fastBases are the folders for the shared server. A database is some 300 files,
// so what a clone costs is the creation of files, and that is where a memory
// file system is much faster than some disks (10 times and more on ext4 without
// a journal, after many deletions). It is used if it has room and nobody asked
// for another place.
func fastBases() []string {
	const memory, roomBytes = "/dev/shm", 4 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= roomBytes {
		return append([]string{memory}, diskBases()...)
	}
	return diskBases()
}

func makeDir(pattern string, bases []string) (string, error) {
	var errs []error
	for _, base := range bases {
		dir, err := os.MkdirTemp(base, pattern)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := local.PrepareDir(dir); err != nil {
			errs = append(errs, err, os.Remove(dir))
			continue
		}
		return dir, nil
	}
	return "", fmt.Errorf("make a temporary folder for a server: %w", errors.Join(errs...))
}

// initCache is where initialised data directories are kept between test
// processes: a folder of this user alone, since its content is run on. Empty if
// the user has none.
func initCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "saldo-pgtest")
}

// atOnce is the context of a Stop that does not wait for a checkpoint.
func atOnce() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

const dirPattern = "saldo-pgtest-*"

func (p *process) start() (*local.Postgres, *pgxpool.Pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil && p.err == nil {
		p.err = p.startLocked()
	}
	return p.server, p.admin, p.err
}

func (p *process) startLocked() error {
	if !p.inMain {
		return errors.New("pgtest: TestMain must call pgtest.Main, or nobody stops the server")
	}
	binaries, err := local.FindPostgres(os.Getenv)
	if err != nil {
		return err
	}
	dir, err := makeDir(dirPattern, fastBases())
	if err != nil {
		return err
	}
	sweep(filepath.Join(filepath.Dir(dir), dirPattern))
	opts := local.PostgresOptions{
		Binaries:  binaries,
		Dir:       filepath.Join(dir, "postgres"),
		InitCache: initCache(),
		NoSync:    true,
		LastWish:  syscall.SIGQUIT,
		Settings: map[string]string{
			"fsync":              "off",
			"full_page_writes":   "off",
			"max_connections":    "300",
			"checkpoint_timeout": "1h",
			"max_wal_size":       "256MB", // it may be memory
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	server := local.NewPostgres(opts)
	if err := server.Start(ctx); err != nil {
		// The cache is not flushed: after a power cut it may hold rubbish.
		if opts.InitCache == "" || os.RemoveAll(opts.InitCache) != nil || os.RemoveAll(opts.Dir) != nil {
			return err
		}
		server = local.NewPostgres(opts)
		if err := server.Start(ctx); err != nil {
			return err
		}
	}
	config, err := pgxpool.ParseConfig(server.DSN())
	if err != nil {
		return errors.Join(err, server.Stop(atOnce()))
	}
	config.MaxConns = 4
	admin, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return errors.Join(err, server.Stop(atOnce()))
	}
	p.server, p.admin = server, admin
	return nil
}

func (p *process) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	p.admin.Close()
	err := p.server.Stop(atOnce())
	err = errors.Join(err, os.RemoveAll(filepath.Dir(p.server.Dir())))
	p.server, p.admin, p.err = nil, nil, errors.New("pgtest: the server is stopped")
	return err
}

// sweep removes what killed test processes left. Errors do not matter: the next
// process sweeps again.
func sweep(pattern string) {
	dirs, _ := filepath.Glob(pattern)
	for _, dir := range dirs {
		// A young one may belong to a process that is about to lock it.
		if st, err := os.Stat(dir); err != nil || time.Since(st.ModTime()) < time.Minute {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := local.Discard(ctx, filepath.Join(dir, "postgres"))
		cancel()
		if err == nil || errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(dir)
		}
	}
}

func (p *process) prepare(ctx context.Context, s *Schema) error {
	p.preparing.Lock()
	defer p.preparing.Unlock()
	if err := createDatabase(ctx, s.name, "template0"); err != nil {
		return err
	}
	if err := s.prepare(withDatabase(p.server.DSN(), s.name)); err != nil {
		return err
	}
	// Clones fail while someone is connected to the source, and a backend outlives
	// its connection by a moment.
	for _, statement := range []string{
		"alter database " + s.name + " with allow_connections false",
		"select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '" + s.name + "'",
	} {
		if _, err := p.admin.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func createDatabase(ctx context.Context, name, source string) error {
	// Copying files beats writing them to the log (5 to 10 ms against 10 to 40,
	// measured by BenchmarkDatabase) as long as a checkpoint costs nothing, which
	// is so without fsync.
	if _, err := shared.admin.Exec(ctx, "create database "+name+" template "+source+" strategy file_copy"); err != nil {
		return fmt.Errorf("create a database from %s: %w", source, err)
	}
	return nil
}

func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // local made it
	}
	u.Path = "/" + name
	return u.String()
}
