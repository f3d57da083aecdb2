package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// dev is a `saldo dev` under test, from start to start on one data directory.
type dev struct {
	*process
	data    string
	address string
	client  *http.Client
}

// parts is cluster.json.
type parts struct {
	HTTP   string   `json:"http"`
	Etcd   []string `json:"etcd"`
	Prefix string   `json:"etcd_prefix"`
	PID    int      `json:"pid"`
	Log    string   `json:"log"`
	Shards []struct {
		ID   string `json:"id"`
		DSN  string `json:"dsn"`
		PID  int    `json:"pid"`
		Data string `json:"data"`
	} `json:"shards"`
}

// One cluster on this machine through all that a person may do to it.
func TestDev(t *testing.T) {
	t.Parallel()
	saldo := program(t, "saldo")
	data := filepath.Join(pgtest.Dir(t), "saldo")
	d := &dev{data: data, address: freeAddress(t), client: &http.Client{Timeout: 40 * time.Second}}
	t.Cleanup(d.client.CloseIdleConnections)
	d.process = newProcess(t, "saldo-dev", cleanEnv("SALDO_HTTP="+d.address, "SALDO_DATA="+data, "SALDO_SHARDS=2"), saldo, "dev", "--observe")
	t.Cleanup(func() { d.leaveNothing(t) })
	t.Cleanup(d.process.kill)
	f := face{t: t, client: d.client, address: d.address}

	banner := d.comesUp(t)
	for _, words := range []string{"http://" + d.address, "curl ", demo, data} {
		if !strings.Contains(banner, words) {
			t.Errorf("the banner does not say %q:\n%s", words, banner)
		}
	}
	if n := strings.Count(banner, "\n  curl "); n != 3 {
		t.Errorf("the banner has %d curl lines, not 3:\n%s", n, banner)
	}
	d.isObservable(t)
	f.get("/users/"+demo).want(200, "").says(`{"data": {"id": "` + demo + `", "name": "Test", "balance": 100}}`)
	f.get("/readyz").want(200, "").says(`{"data": {"ready": true, "parts": {"etcd": "connected"}}}`)
	first := d.parts(t)
	d.wantParts(t, first)
	far, near := userOn(0, 2, "kept"), userOn(1, 2, "kept")
	for _, id := range []string{far, near} {
		f.newUser(id, 0)
		f.transfer(demo, id, 10, "to-"+id)
		f.settles(demo, "to-"+id, "COMPLETED")
	}
	env := cleanEnv("SALDO_DATA=" + data)
	if stdout, stderr, code, err := run(env, saldo, "shard", "list"); err != nil || code != 0 || strings.Count(stdout, "yes") != 2 {
		t.Errorf("saldo shard list exits with %d: %v\n%s%s", code, err, stdout, stderr)
	}
	wantCleanAudit(t, env, saldo)

	t.Run("what cannot start says why", func(t *testing.T) {
		refused := func(what string, words []string, args ...string) {
			begun := time.Now()
			stdout, stderr, code, err := run(cleanEnv(), saldo, append([]string{"dev"}, args...)...)
			if err != nil || code == 0 || stdout != "" {
				t.Errorf("%s: exit code %d, output %q: %v", what, code, stdout, err)
			}
			for _, words := range words {
				if !strings.Contains(stderr, words) {
					t.Errorf("%s: the message does not say %q: %s", what, words, stderr)
				}
			}
			if took := time.Since(begun); took > 30*time.Second {
				t.Errorf("%s: refused after %v", what, took)
			}
		}
		refused("a second one on the same data", []string{"is in use by another process", strconv.Itoa(d.pid()), "--data", "SALDO_DATA"},
			"--data", data, "--http", freeAddress(t))
		refused("a taken port", []string{"address already in use", d.address, "--http", "SALDO_HTTP"},
			"--data", filepath.Join(pgtest.Dir(t), "other"), "--http", d.address)
		refused("no shards", []string{"--shards is 0"}, "--data", filepath.Join(pgtest.Dir(t), "none"), "--shards", "0")
		f.get("/users/"+demo+"/balance").want(200, "").says(`{"data": {"balance": 80}}`)
	})

	// A Postgres that dies is started again.
	killed := first.Shards[0]
	if err := syscall.Kill(killed.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "a line says that Postgres died", long, func() bool {
		return strings.Contains(d.output(), "postgres died and will be started again")
	})
	until(t, "cluster.json has the new pid", long, func() bool {
		now := d.parts(t).Shards[0]
		return now.PID != 0 && now.PID != killed.PID && alive(now.PID)
	})
	until(t, "the shard answers again", long, func() bool {
		got, err := f.try(postCase("/users/"+far+"/add", `{"amount":5}`, "Idempotency-Key", "after-the-kill"))
		return err == nil && got.StatusCode == 202
	})
	d.wantParts(t, d.parts(t))

	// Ctrl-C ends everything.
	last := d.parts(t)
	d.stop(t)
	d.wantGone(t, last)
	if _, err := os.Stat(filepath.Join(data, "cluster.json")); !os.IsNotExist(err) {
		t.Errorf("cluster.json is left: %v", err)
	}

	// The data is kept, and the demo user is not given money again.
	begun := time.Now()
	d.comesUp(t)
	t.Logf("the second start took %v", time.Since(begun).Round(time.Millisecond))
	f.wantBalance(demo, 80)
	f.wantBalance(far, 15)
	f.get("/users/"+demo+"/history?page_size=10").want(200, "").says(`{"data": {"total": 3}}`)

	// Killed, it leaves nothing that the next start trips over.
	last = d.parts(t)
	d.kill()
	d.comesUp(t)
	d.wantParts(t, d.parts(t))
	if now := d.parts(t); now.PID == last.PID || now.Shards[0].PID == last.Shards[0].PID {
		t.Errorf("cluster.json is of the killed one: %+v", now)
	}
	f.wantBalance(demo, 80)
	f.wantBalance(near, 10)
	f.post("/users/"+near+"/add", `{"amount":5,"transaction_id":"after-all"}`).want(202, "")
	// So it does when its servers are killed with it, and cannot have shut down.
	last = d.parts(t)
	d.kill()
	for _, shard := range last.Shards {
		_ = syscall.Kill(shard.PID, syscall.SIGKILL) // it may be gone already
	}
	d.comesUp(t)
	f.wantBalance(near, 15)
	wantCleanAudit(t, env, saldo)
	last = d.parts(t)
	d.stop(t)
	d.wantGone(t, last)
}

// isObservable checks what --observe has written.
func (d *dev) isObservable(t *testing.T) {
	t.Helper()
	config := filepath.Join(d.data, "observe", "prometheus.yml")
	until(t, "it says how Prometheus sees it", long, func() bool { return strings.Contains(d.output(), "--config.file="+config) })
	content, err := os.ReadFile(config)
	if err != nil || !strings.Contains(string(content), d.address) {
		t.Errorf("%s does not name %s: %v\n%s", config, d.address, err, content)
	}
	dashboards, err := filepath.Glob(filepath.Join(d.data, "observe", "dashboards", "*.json"))
	if err != nil || len(dashboards) != 5 {
		t.Errorf("dashboards: %v, %v", dashboards, err)
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		if output, err := exec.CommandContext(t.Context(), promtool, "check", "config", config).CombinedOutput(); err != nil ||
			!strings.Contains(string(output), "rules found") {
			t.Errorf("promtool check config: %v\n%s", err, output)
		}
	}
}

// comesUp starts it and returns what it says from this start to its banner.
func (d *dev) comesUp(t *testing.T) string {
	t.Helper()
	said := len(d.output())
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	banner := func() string {
		output := d.output()[said:]
		before, _, found := strings.Cut(output, "Stop with Ctrl-C")
		if !found {
			return ""
		}
		return before
	}
	until(t, "the banner", 2*long, func() bool {
		if d.gone() {
			t.Fatalf("saldo dev ended with %v", d.process.err)
		}
		return banner() != ""
	})
	return banner()
}

func (d *dev) parts(t *testing.T) (p parts) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.data, "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &p); err != nil {
		t.Fatalf("cluster.json: %v: %s", err, content)
	}
	return p
}

// wantParts checks that cluster.json leads to what runs.
func (d *dev) wantParts(t *testing.T, p parts) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	if info, err := os.Stat(filepath.Join(d.data, "cluster.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("cluster.json: %v, %v", info, err)
	}
	if p.HTTP != "http://"+d.address || p.PID != d.pid() || p.Log == "" {
		t.Errorf("cluster.json has http %q, pid %d, log %q; it is %s, %d", p.HTTP, p.PID, p.Log, d.address, d.pid())
	}
	if len(p.Etcd) == 0 {
		t.Fatal("cluster.json names no etcd")
	}
	keys, err := etcdtest.Connect(t, p.Etcd).Get(ctx, p.Prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || keys.Count == 0 {
		t.Errorf("etcd of cluster.json: %v, %v", keys, err)
	}
	if len(p.Shards) != 2 {
		t.Fatalf("cluster.json has %d shards", len(p.Shards))
	}
	for i, shard := range p.Shards {
		if shard.ID != "s"+strconv.Itoa(i+1) {
			t.Errorf("shard %d is %q", i+1, shard.ID)
		}
		record, err := os.ReadFile(filepath.Join(shard.Data, "postmaster.pid"))
		if pid, _, _ := strings.Cut(string(record), "\n"); err != nil || pid != strconv.Itoa(shard.PID) || !alive(shard.PID) {
			t.Errorf("%s has pid %d in cluster.json, %q in its data: %v", shard.ID, shard.PID, pid, err)
		}
		conn, err := pgx.Connect(ctx, shard.DSN)
		if err != nil {
			t.Errorf("the DSN of %s: %v", shard.ID, err)
			continue
		}
		var durable string
		err = conn.QueryRow(ctx, `select current_setting('fsync') || current_setting('synchronous_commit') || current_setting('full_page_writes')`).Scan(&durable)
		if err != nil || durable != "ononon" {
			t.Errorf("%s runs with %q: %v", shard.ID, durable, err)
		}
		conn.Close(ctx)
	}
}

// wantGone checks that none of the parts runs any more.
func (d *dev) wantGone(t *testing.T, p parts) {
	t.Helper()
	for _, shard := range p.Shards {
		if alive(shard.PID) {
			t.Errorf("Postgres of %s still runs: pid %d", shard.ID, shard.PID)
		}
	}
	urls := append([]string{p.HTTP}, p.Etcd...)
	for _, url := range urls {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
			conn.Close()
			t.Errorf("somebody still serves on %s", url)
		}
	}
	if pids := running(p.PID, d.data); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
}

// running returns the processes whose working directory or command line is in a data directory.
func running(self int, data string) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // not Linux
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == self || !alive(pid) {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		command, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if strings.HasPrefix(cwd, data+"/") || strings.Contains(string(command), data+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// leaveNothing ends the servers of a test that failed halfway: the kernel has asked them to end with saldo dev.
func (d *dev) leaveNothing(t *testing.T) {
	for deadline := time.Now().Add(long); ; time.Sleep(50 * time.Millisecond) {
		pids := running(0, d.data)
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("killing processes %v, which are left", pids)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
	}
}
