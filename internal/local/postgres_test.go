package local_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/local"
)

// TestMain's leak check holds for these tests too: nothing of a stopped server
// is left, in this process or beside it.

func binaries(t *testing.T) local.Binaries {
	t.Helper()
	b, err := local.FindPostgres(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serverDir is a temporary folder that the server's user can reach, which
// t.TempDir is not for root. It is in memory where there is room, since an
// initialised directory is a thousand files.
func serverDir(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Postgres, which -short leaves out")
	}
	base, memory := os.TempDir(), "/dev/shm"
	var fs syscall.Statfs_t
	if syscall.Statfs(memory, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= 4<<30 {
		base = memory
	}
	dir, err := os.MkdirTemp(base, "saldo-local-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := local.PrepareDir(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "shard")
}

// events collects what a server reports.
type events struct {
	mu  sync.Mutex
	all []local.Event
}

func (e *events) add(ev local.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) has(kind local.EventKind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, ev := range e.all {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

func options(t *testing.T, dir string) local.PostgresOptions {
	return local.PostgresOptions{
		Binaries: binaries(t),
		Dir:      dir,
		NoSync:   true, // of initdb alone: what is tested here is durability
	}
}

func start(t *testing.T, opts local.PostgresOptions) *local.Postgres {
	t.Helper()
	p := local.NewPostgres(opts)
	began := time.Now()
	if err := p.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("postgres started in %v", time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() { stop(t, p) })
	return p
}

func stop(t *testing.T, p *local.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, p *local.Postgres) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), p.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, p *local.Postgres, sql string) {
	t.Helper()
	conn := connect(t, p)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(testContext(t), sql); err != nil {
		t.Fatal(err)
	}
}

func query1(t *testing.T, p *local.Postgres, sql string) string {
	t.Helper()
	conn := connect(t, p)
	defer conn.Close(context.Background())
	var got string
	if err := conn.QueryRow(testContext(t), sql).Scan(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil && !zombie(pid) }

func TestPostgresKeepsDataPortAndPasswordOverARestart(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	p := start(t, opts)
	exec1(t, p, "create table kept as select 7 as n")
	dsn, pid := p.DSN(), p.PID()
	began := time.Now()
	stop(t, p)
	t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
	stop(t, p) // twice does nothing
	if alive(pid) || p.PID() != 0 {
		t.Errorf("after Stop process %d lives: %v; PID() is %d", pid, alive(pid), p.PID())
	}

	// The same object, then another one as after a restart of the program.
	if err := p.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	stop(t, p)
	again := start(t, opts)
	if again.DSN() != dsn {
		t.Errorf("the DSN changed from %s to %s", dsn, again.DSN())
	}
	if got := query1(t, again, "select n::text from kept"); got != "7" {
		t.Errorf("kept %s", got)
	}
}

func TestPostgresIsDurableCheckedAndPrivate(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	opts.Settings = map[string]string{"work_mem": "5MB", "application_name": `it's a \ test`}
	p := start(t, opts)
	for setting, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "server_encoding": "UTF8",
		"lc_collate": "C", "TimeZone": "UTC", "max_connections": "100",
		"work_mem": "5MB", "application_name": `it's a \ test`,
	} {
		if got := query1(t, p, "show "+setting); got != want {
			t.Errorf("%s is %q, not %q", setting, got, want)
		}
	}

	if conn, err := pgx.Connect(testContext(t), p.DSNWithoutPassword()); err == nil {
		conn.Close(context.Background())
		t.Error("connected without a password")
	}
	if strings.Contains(p.DSNWithoutPassword(), p.Password()) || !strings.Contains(p.DSN(), p.Password()) {
		t.Error("the password stands in the wrong DSN")
	}
	for file, want := range map[string]os.FileMode{"password": 0o600, "data": 0o700} {
		st, err := os.Stat(filepath.Join(opts.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, not %04o", file, st.Mode().Perm(), want)
		}
	}
	if _, err := os.Stat(filepath.Join(opts.Dir, "initdb-password")); err == nil {
		t.Error("the copy of the password for initdb is still there")
	}
}

func TestPostgresIsNotRunByRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("this process is not root")
	}
	p := start(t, options(t, serverDir(t)))
	st, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID()))
	if err != nil {
		t.Skip("no /proc here")
	}
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid == 0 {
		t.Error("the server runs as root")
	}
}

func TestPostgresSaysWhichFolderItCannotReach(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "shard")
	err := local.NewPostgres(options(t, dir)).Start(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "chmod o+x ") {
		t.Errorf("the error is %v", err)
	}
}

func TestPostgresComesBackAfterKill(t *testing.T) {
	t.Parallel()
	var seen events
	opts := options(t, serverDir(t))
	opts.OnEvent = seen.add
	p := start(t, opts)
	exec1(t, p, "create table kept as select 7 as n")
	// A backend that is busy does not notice its postmaster's death at once.
	busy := connect(t, p)
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		busy.Exec(context.Background(), "select count(*) from generate_series(1, 1e11::bigint)")
	}()
	eventually(t, "a busy backend", func() bool {
		return query1(t, p, "select count(*)::text from pg_stat_activity where query like '%1e11%' and state = 'active' and pid <> pg_backend_pid()") == "1"
	})

	pid, port := p.PID(), p.Port()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	eventually(t, "a new server", func() bool { return seen.has(local.Ready) == 2 })
	t.Logf("back in %v", time.Since(killed).Round(time.Millisecond))
	<-asked
	if p.PID() == pid || p.Port() != port {
		t.Errorf("pid %d, port %d; before the kill %d, %d", p.PID(), p.Port(), pid, port)
	}
	if got := query1(t, p, "select n::text from kept"); got != "7" {
		t.Errorf("kept %s", got)
	}
	if seen.has(local.Died) != 1 {
		t.Errorf("%d deaths reported", seen.has(local.Died))
	}
}

func TestPostgresStopsAFrozenServer(t *testing.T) {
	t.Parallel()
	p := start(t, options(t, serverDir(t)))
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pid := p.PID()
	stop(t, p)
	if alive(pid) {
		t.Errorf("process %d lives", pid)
	}
}

func TestPostgresTakesAnotherPortWhenItsOwnIsTaken(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	p := start(t, opts)
	port := p.Port()
	stop(t, p)
	ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	opts.Port = port // even one that was asked for
	again := start(t, opts)
	if again.Port() == port {
		t.Errorf("still port %d", port)
	}
	query1(t, again, "select 'up'")
}

func TestPostgresRefusesADirectoryInUse(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	p := start(t, opts)
	pid := p.PID()
	wantLocked(t, local.NewPostgres(opts).Start(testContext(t)))
	if p.PID() != pid || !alive(pid) {
		t.Error("the server that holds the directory was touched")
	}
}

func TestPostgresStartSaysWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	opts.Settings = map[string]string{"no_such_setting": "1"}
	err := local.NewPostgres(opts).Start(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("the error is %v", err)
	}
}

func TestPostgresStartIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	opts := options(t, serverDir(t))
	if err := local.NewPostgres(opts).Start(ctx); err == nil {
		t.Fatal("started in 50 ms")
	}
	// What the cancelled initdb left does not block the next start.
	query1(t, start(t, opts), "select 'up'")
}

func TestPostgresRefusesDataOfAnotherVersion(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	stop(t, start(t, opts))
	opts.Binaries.Major++
	err := local.NewPostgres(opts).Start(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "SALDO_POSTGRES_BIN") {
		t.Errorf("the error is %v", err)
	}
}

func TestInitCacheIsSharedByConcurrentStarts(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "cache")
	var servers sync.WaitGroup
	for range 3 {
		opts := options(t, serverDir(t))
		opts.InitCache = cache
		servers.Go(func() {
			p := local.NewPostgres(opts)
			if err := p.Start(testContext(t)); err != nil {
				t.Error(err)
				return
			}
			query1(t, p, "select 'up'")
			stop(t, p)
		})
	}
	servers.Wait()
	opts := options(t, serverDir(t))
	opts.InitCache = cache
	query1(t, start(t, opts), "select 'from the cache'")
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the cache holds %v", entries)
	}
}

// A supervisor in another process, to be killed: this test binary, told by the
// environment to run TestSupervisorProcess.

const supervisorDir = "SALDO_TEST_SUPERVISOR_DIR"

func TestSupervisorProcess(t *testing.T) {
	dir := os.Getenv(supervisorDir)
	if dir == "" {
		t.Skip("not the helper process")
	}
	opts := options(t, dir)
	if os.Getenv("SALDO_TEST_LAST_WISH") == "none" {
		opts.LastWish = syscall.SIGCONT // as where there is no death signal
	}
	p := local.NewPostgres(opts)
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nserver %d\n", p.PID())
	time.Sleep(time.Minute)
}

func startSupervisor(t *testing.T, dir string, env ...string) (supervisor *exec.Cmd, server int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSupervisorProcess$", "-test.v")
	cmd.Env = append(os.Environ(), append(env, supervisorDir+"="+dir)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if number, ok := strings.CutPrefix(lines.Text(), "server "); ok {
			pid, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return cmd, pid
		}
		t.Log(lines.Text())
	}
	t.Fatal("the supervisor process ended")
	return nil, 0
}

func TestPostgresDiesWithItsSupervisor(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		t.Skip("there is no death signal on this system")
	}
	cmd, server := startSupervisor(t, serverDir(t))
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "the end of the server", func() bool { return !alive(server) })
}

func TestPostgresReplacesALeftoverServer(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(supervisor *exec.Cmd, server int){
		"of a killed supervisor": func(supervisor *exec.Cmd, server int) {
			supervisor.Process.Kill()
		},
		"frozen": func(supervisor *exec.Cmd, server int) {
			syscall.Kill(server, syscall.SIGSTOP)
			supervisor.Process.Kill()
		},
		"without its postmaster": func(supervisor *exec.Cmd, server int) {
			supervisor.Process.Kill()
			syscall.Kill(server, syscall.SIGKILL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := serverDir(t)
			cmd, server := startSupervisor(t, dir, "SALDO_TEST_LAST_WISH=none")
			kill(cmd, server)
			cmd.Wait()
			if name == "of a killed supervisor" && !alive(server) {
				t.Fatal("there is no leftover to test with")
			}
			p := start(t, options(t, dir))
			query1(t, p, "select 'up'")
			eventually(t, "the end of the leftover", func() bool { return !alive(server) })
		})
	}
}

// zombie says whether the process is dead but not reaped, as orphans stay where
// nobody does the duty of init.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestPostgresStartsWithAStalePidFile(t *testing.T) {
	t.Parallel()
	opts := options(t, serverDir(t))
	p := start(t, opts)
	stop(t, p)
	// The pid of a living process that is no server on this directory, as after a
	// reboot.
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	stale := fmt.Sprintf("%d\n%s\n0\n%d\n\n127.0.0.1\n        1         1\nready   \n", other.Process.Pid, p.Data(), p.Port())
	if err := os.WriteFile(filepath.Join(p.Data(), "postmaster.pid"), []byte(stale), 0o644); err != nil {
		t.Fatal(err)
	}
	query1(t, start(t, opts), "select 'up'")
	if !alive(other.Process.Pid) {
		t.Error("a process that had nothing to do with it was killed")
	}
}
