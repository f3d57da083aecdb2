// Package etcdtest gives tests a real etcd. For tests only.
//
// It owns one embedded etcd per test process, started when the first test asks
// and stopped by [Main] or [With]; tests share it under key prefixes of their
// own. A test that stops or restarts etcd takes a private one from [Start]. It
// refuses to know any key layout.
//
// The servers tick ten times as fast as in production and do not flush to disk,
// so a lease may be as short as 1 s and a start takes some 50 ms. They live in
// this process, hence the one package variable below.
//
// With `go test -short`, tests that ask for a server are skipped.
package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/local"
)

// shared is the server of this test process.
var shared process

type process struct {
	mu sync.Mutex
	// Guarded by mu:
	inMain bool // With is there to stop the server
	dir    string
	server *local.Etcd
	err    error // why there is no server; not tried again

	lastPrefix atomic.Int64
}

// Runner is a set of tests to run, such as *testing.M.
type Runner interface{ Run() int }

// Main runs a package's tests, stops the server, and exits; goroutines that
// outlive both, but for those that leaks ignores, fail the run. Call it from
// TestMain of each package that uses etcdtest but not pgtest.
func Main(m Runner, leaks ...goleak.Option) {
	code := With(m).Run()
	if code == 0 {
		if err := goleak.Find(leaks...); err != nil {
			fmt.Fprintln(os.Stderr, "etcdtest: goroutines left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// With runs m and then stops the server, for a package that uses pgtest too:
//
//	func TestMain(m *testing.M) { pgtest.Main(etcdtest.With(m)) }
func With(m Runner) Runner { return with{m} }

type with struct{ m Runner }

func (w with) Run() int {
	shared.mu.Lock()
	shared.inMain = true
	shared.mu.Unlock()
	code := w.m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest: stop the server:", err)
		code = max(code, 1)
	}
	return code
}

// Endpoints are the client URLs of the shared server. A test keeps to its
// [Prefix] there.
func Endpoints(t testing.TB) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs etcd, which -short leaves out")
	}
	server, err := shared.start()
	if err != nil {
		t.Fatal(err)
	}
	return server.Endpoints()
}

// Prefix is a key prefix that no other call gets, such as "/test/17/".
func Prefix(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("/test/%d/", shared.lastPrefix.Add(1))
}

// Client is a client of the shared server, closed when the test ends.
func Client(t testing.TB) *clientv3.Client {
	t.Helper()
	return Connect(t, Endpoints(t))
}

// Connect is a client of these endpoints, closed when the test ends.
func Connect(t testing.TB, endpoints []string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// Start starts a server of the test's own, which it may Stop and Start again
// (on the same port and data, unless another process took the port meanwhile).
// It is stopped when the test ends.
func Start(t testing.TB) *local.Etcd {
	t.Helper()
	if testing.Short() {
		t.Skip("needs etcd, which -short leaves out")
	}
	server := local.NewEtcd(local.EtcdOptions{Dir: filepath.Join(t.TempDir(), "etcd"), ForTests: true})
	if err := start(server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return server
}

func start(server *local.Etcd) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return server.Start(ctx)
}

const dirPattern = "saldo-etcdtest-*"

func (p *process) start() (*local.Etcd, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil && p.err == nil {
		p.err = p.startLocked()
	}
	return p.server, p.err
}

func (p *process) startLocked() error {
	if !p.inMain {
		return errors.New("etcdtest: TestMain must call etcdtest.Main, or With, or nobody stops the server")
	}
	dir, err := os.MkdirTemp("", strings.TrimSuffix(dirPattern, "*"))
	if err != nil {
		return err
	}
	sweep(filepath.Join(filepath.Dir(dir), dirPattern))
	server := local.NewEtcd(local.EtcdOptions{Dir: dir, ForTests: true})
	if err := start(server); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	p.dir, p.server = dir, server
	return nil
}

func (p *process) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	p.server.Stop()
	p.server, p.err = nil, errors.New("etcdtest: the server is stopped")
	return os.RemoveAll(p.dir)
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
		if lock, err := local.LockDir(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Unlock()
		}
	}
}
