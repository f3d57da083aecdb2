package meter_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func onLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
}

// burn uses about so much processor time.
func burn(d time.Duration) {
	for deadline := time.Now().Add(d); time.Now().Before(deadline); {
		for range 1000 {
			_ = os.Getpid()
		}
	}
}

func start(t *testing.T, target meter.Target) *meter.Meter {
	t.Helper()
	m, err := meter.New(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestProcessorTimeAndMemory(t *testing.T) {
	onLinux(t)
	other := exec.Command("sh", "-c", "sleep 0.3; while :; do :; done")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	target := meter.Target{}
	target.Add("other", other.Process.Pid)
	target.Add("gone", 1<<22+1) // above the largest pid there is
	target.Add("unknown", 0)
	m := start(t, target)
	m.Start()
	burn(200 * time.Millisecond)
	kept := make([]byte, 64<<20)
	for i := range kept {
		kept[i] = 1
	}
	runtime.KeepAlive(kept)
	for used := time.Duration(0); used < 100*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		var ok bool
		if used, ok = meter.ServerTime(other.Process.Pid); !ok || t.Context().Err() != nil {
			t.Fatal("it does not work")
		}
	}
	m.Stop()
	cost, err := m.Cost(500)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"load", "other"} {
		if seconds := cost.CPU[kind] / 2; seconds < 0.02 || seconds > 30 {
			t.Errorf("%s used %g s", kind, seconds)
		}
	}
	if len(cost.CPU) != 2 {
		t.Errorf("processes that are not there: %v", cost.CPU)
	}
	if peak := cost.RSSBytes["load"]; peak < 64<<20 || peak > 1<<30 {
		t.Errorf("the peak of memory is %g", peak)
	}
}

// The kernel books what a process has used to its parent once it has ended: none of a server's processes is lost.
func TestChildrenThatEndedCount(t *testing.T) {
	onLinux(t)
	parent := exec.Command("sh", "-c", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo over; exec sleep 60")
	said, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Process.Kill(); _ = parent.Wait() }()
	time.Sleep(100 * time.Millisecond)
	during, ok := meter.ServerTime(parent.Process.Pid)
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	after, okToo := meter.ServerTime(parent.Process.Pid)
	if !ok || !okToo || after < 50*time.Millisecond || after < during {
		t.Errorf("%v (%v) while the child ran, %v (%v) when it had ended", during, ok, after, okToo)
	}
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, nil)
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	do := func(statement string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(ctx, statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	do(`create table rows (n int primary key, text text) with (autovacuum_enabled = off)`)
	m := start(t, meter.Target{Postgres: []meter.Postgres{{DSN: server.DSN(), PID: server.PID()}}})

	m.Start()
	const transactions, rows = 50, 200
	for i := range transactions {
		do(`insert into rows select $1 * 1000 + n, repeat('x', 100) from generate_series(1, $2) n`, i, rows)
		do(`select count(*) from rows`) // reads are no commits
	}
	m.Stop()
	cost, err := m.Cost(transactions * rows)
	if err != nil {
		t.Fatal(err)
	}
	if cost.Commits != 1000.0/rows || cost.BatchSize != rows {
		t.Errorf("%g commits for a thousand rows, %g rows in each, not %g and %d", cost.Commits, cost.BatchSize, 1000.0/rows, rows)
	}
	if cost.WALBytes < 100 || cost.WALBytes > 1000 || cost.TableBytes < 100 || cost.TableBytes > 400 {
		t.Errorf("a row takes %g bytes of WAL and %g of the table", cost.WALBytes, cost.TableBytes)
	}
	if runtime.GOOS == "linux" {
		if cost.CPU["postgres"] <= 0 || cost.RSSBytes["postgres"] < 1<<20 || cost.RSSBytes["postgres"] > 1<<30 {
			t.Errorf("Postgres used %v s and %v bytes", cost.CPU, cost.RSSBytes)
		}
	}

	m.Start()
	m.Stop()
	if cost, err := m.Cost(0); err != nil || cost.Commits != 0 || cost.CPU != nil {
		t.Errorf("nothing costs %+v, %v", cost, err)
	}

	settings, version, err := meter.Settings(ctx, server.DSN())
	if err != nil || version == "" {
		t.Fatal(version, err)
	}
	for name, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_connections": "100"} {
		if settings[name] != want {
			t.Errorf("%s is %q, not %q", name, settings[name], want)
		}
	}
	for name := range settings {
		if name == "port" || name == "cluster_name" {
			t.Errorf("%s says where, not how", name)
		}
	}
	if _, _, err := meter.Settings(ctx, "postgres://127.0.0.1:1/nowhere"); err == nil {
		t.Error("a server that is not there has settings")
	}
	if _, err := meter.New(ctx, meter.Target{Postgres: []meter.Postgres{{DSN: "postgres://127.0.0.1:1/nowhere"}}}); err == nil {
		t.Error("a server that is not there can be measured")
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := meter.Machine(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.CPUs != runtime.NumCPU() || m.Go != runtime.Version() || m.System == "" || m.FlushMS <= 0 || m.FlushMS > 10_000 {
		t.Errorf("%+v", m)
	}
	if runtime.GOOS == "linux" && (m.MemoryGB < 0.1 || m.Kernel == "") {
		t.Errorf("%+v", m)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := meter.Machine(dir + "/nowhere"); err == nil {
		t.Error("a flush was timed in no folder")
	}
}
