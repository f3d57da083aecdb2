package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// long bounds the wait for what should come in a moment.
const long = 60 * time.Second

// size says what a cluster is made of. Zero values mean two shards, two routers and two coordinators.
type size struct {
	shards       int
	founders     int // of the shards, which join at the beginning; 0: all do
	weight       int // of the founders; 0 means 1
	coordinators int
	durable      bool     // Postgres flushes to disk
	gated        bool     // the services reach Postgres through gates
	router       []string // more environment of the routers
	coordinator  []string // and of the coordinators
	uncoordinate bool     // the coordinators are described but not started

	postgres func(i int, o *local.PostgresOptions) // more about a shard's server; nil: nothing
}

// cluster is a whole Saldo of separate processes.
type cluster struct {
	etcd         *local.Etcd
	servers      []*local.Postgres // by shard, s1 first
	gates        []*gate           // by shard; nil if there are none
	routers      []*process
	addresses    []string // of the routers
	coordinators []*process
	saldo        string   // the program
	env          []string // of a person at a terminal: etcd, PGPASSFILE
	client       *http.Client
}

// newCluster starts a cluster as an operator would: servers, `saldo shard add` for each, routers, coordinators.
func newCluster(t *testing.T, s size) *cluster {
	t.Helper()
	c := newServers(t, s)
	if s.founders == 0 {
		s.founders = len(c.servers)
	}
	for i := range s.founders {
		c.addShard(t, i, "--initial-shards", strconv.Itoa(s.founders), "--weight", strconv.Itoa(max(s.weight, 1)))
	}
	c.startServices(t, s)
	return c
}

// newServers starts the servers of a cluster that has no shard yet.
func newServers(t *testing.T, s size) *cluster {
	t.Helper()
	if s.shards == 0 {
		s.shards = 2
	}
	c := &cluster{saldo: program(t, "saldo"), etcd: etcdtest.Start(t)}
	begun := time.Now()
	var passwords strings.Builder
	for i := range s.shards {
		server := pgtest.Start(t, func(o *local.PostgresOptions) {
			o.Name = c.shard(i)
			if !s.durable {
				o.Settings = map[string]string{"fsync": "off", "full_page_writes": "off"}
			}
			if s.postgres != nil {
				s.postgres(i, o)
			}
		})
		t.Cleanup(func() {
			if log, err := os.ReadFile(server.LogFile()); err == nil && t.Failed() {
				t.Logf("the end of %s's Postgres log:\n%s", c.shard(i), tail(string(log), 20))
			}
		})
		c.servers = append(c.servers, server)
		// The services log in as a user who is nobody: all that it may do comes from the two roles.
		c.exec(t, server.DSN(), `
			create role saldo_service nologin;
			create role saldo_mover nologin;
			create role saldo_login login password 'of-`+c.shard(i)+`' in role saldo_service, saldo_mover`)
		c.exec(t, server.DSN(), `create database ledger`)
		if s.gated {
			c.gates = append(c.gates, newGate(t, server.Port()))
		}
		fmt.Fprintf(&passwords, "127.0.0.1:%d:ledger:saldo_login:of-%s\n", c.port(i), c.shard(i))
	}
	passFile := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passFile, []byte(passwords.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = cleanEnv("SALDO_ETCD="+strings.Join(c.etcd.Endpoints(), ","), "PGPASSFILE="+passFile)
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	c.client = &http.Client{Transport: transport, Timeout: 40 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	t.Logf("%d servers up after %v", s.shards, time.Since(begun).Round(time.Millisecond))
	return c
}

func (c *cluster) shard(i int) string { return "s" + strconv.Itoa(i+1) }

// dsn is how services reach a shard.
func (c *cluster) dsn(i int) string {
	return fmt.Sprintf("postgres://saldo_login@127.0.0.1:%d/ledger?sslmode=disable", c.port(i))
}

func (c *cluster) port(i int) int {
	if c.gates != nil {
		return c.gates[i].port()
	}
	return c.servers[i].Port()
}

// ownerDSN is a superuser's.
func (c *cluster) ownerDSN(i int) string {
	dsn, err := url.Parse(c.servers[i].DSN())
	if err != nil {
		panic(err) // package local made it
	}
	dsn.Path = "/ledger"
	return dsn.String()
}

// addShard is what an operator does to make a database a shard.
func (c *cluster) addShard(t *testing.T, i int, args ...string) {
	t.Helper()
	args = append([]string{"shard", "add", "--id", c.shard(i), "--dsn", c.dsn(i), "--owner-dsn", c.ownerDSN(i)}, args...)
	if stdout, stderr, code, err := run(c.env, c.saldo, args...); err != nil || code != 0 {
		t.Fatalf("saldo shard add of %s exits with %d: %v\n%s%s", c.shard(i), code, err, stdout, stderr)
	}
}

func (c *cluster) startServices(t *testing.T, s size) {
	t.Helper()
	for i := range max(2, s.coordinators) {
		env := append(append([]string{}, c.env...), s.coordinator...)
		p := newProcess(t, "coordinator"+strconv.Itoa(i+1), env, program(t, "coordinator"), "--name", "c"+strconv.Itoa(i+1))
		c.coordinators = append(c.coordinators, p)
		if !s.uncoordinate {
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		c.addRouter(t, s.router...)
	}
}

// addRouter starts one more router and returns its number. It serves when this returns, but need not be ready.
func (c *cluster) addRouter(t *testing.T, env ...string) int {
	t.Helper()
	for range 5 {
		address := freeAddress(t)
		p := newProcess(t, "router"+strconv.Itoa(len(c.routers)+1), append(append([]string{}, c.env...), env...), program(t, "router"), "--http", address)
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		until(t, "a router serves on "+address, long, func() bool { return p.gone() || c.serves(address) })
		if !p.gone() {
			c.routers, c.addresses = append(c.routers, p), append(c.addresses, address)
			return len(c.routers) - 1
		}
		if !strings.Contains(p.output(), "address already in use") {
			t.Fatalf("a router ended: %s", p.output())
		}
	}
	t.Fatal("no address for a router")
	return 0
}

func (c *cluster) serves(address string) bool {
	response, err := c.client.Get("http://" + address + "/livez")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// freeAddress is one that nobody serves on now. A killed router wants its own again, so it is below the ports that
// outgoing connections get, and below those that package local chooses.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(11000+rand.IntN(8000)))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// ready waits until a router has its map.
func (c *cluster) ready(t *testing.T, router int) {
	t.Helper()
	until(t, "router "+c.addresses[router]+" is ready", long, func() bool {
		response, err := c.client.Get("http://" + c.addresses[router] + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// user returns an id that lives on a shard, beginning with name.
func (c *cluster) user(shard int, name string) string {
	return userOn(shard, len(c.servers), name)
}

func userOn(shard, shards int, name string) string {
	for i := 0; ; i++ {
		id := name
		if i > 0 {
			id = name + "-" + strconv.Itoa(i)
		}
		if shardOf(id, shards) == shard {
			return id
		}
	}
}

// shardOf is where a user lives in a cluster that was founded with so many shards and never changed.
func shardOf(id string, shards int) int {
	ids := make([]ledger.ShardID, shards)
	for i := range ids {
		ids[i] = ledger.ShardID("s" + strconv.Itoa(i+1))
	}
	owner := placement.Found(ids)[placement.SlotOf(ledger.UserID(id))]
	n, err := strconv.Atoi(strings.TrimPrefix(string(owner.Shard), "s"))
	if err != nil {
		panic(err)
	}
	return n - 1
}

func (c *cluster) exec(t *testing.T, dsn, statements string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), statements); err != nil {
		t.Fatal(err)
	}
}

// connect opens a connection that the caller closes.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// sql returns the one value of a query on a shard, as a superuser.
func sql[T any](t *testing.T, c *cluster, shard int, query string, args ...any) (value T) {
	t.Helper()
	conn := connect(t, c.ownerDSN(shard))
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&value); err != nil {
		t.Fatalf("%s on %s: %v", query, c.shard(shard), err)
	}
	return value
}

// stopShard shuts a shard's Postgres down; startShard starts it again on its port.
func (c *cluster) stopShard(t *testing.T, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	if err := c.servers[i].Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) startShard(t *testing.T, i int) {
	t.Helper()
	port := c.servers[i].Port()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	if err := c.servers[i].Start(ctx); err != nil {
		t.Fatal(err)
	}
	if c.servers[i].Port() != port {
		t.Fatalf("somebody took port %d of %s", port, c.shard(i))
	}
}

// audit runs `saldo audit --json`.
func (c *cluster) audit(t *testing.T) audit.Report {
	t.Helper()
	report, err := runAudit(c.env, c.saldo)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func runAudit(env []string, saldo string) (report audit.Report, err error) {
	stdout, stderr, code, err := run(env, saldo, "audit", "--json")
	if err != nil {
		return report, err
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		return report, fmt.Errorf("saldo audit --json exits with %d and prints no report: %w: %s%s", code, err, stdout, stderr)
	}
	if code != report.ExitCode() {
		return report, fmt.Errorf("saldo audit exits with %d, its verdict is %q", code, report.Verdict)
	}
	return report, nil
}

// wantClean audits the cluster and checks that nothing is wrong and nothing is on its way.
func (c *cluster) wantClean(t *testing.T) {
	t.Helper()
	wantCleanAudit(t, c.env, c.saldo)
}

func wantCleanAudit(t *testing.T, env []string, saldo string) {
	t.Helper()
	report, err := runAudit(env, saldo)
	if err != nil {
		t.Fatal(err)
	}
	if report.Verdict != audit.Clean {
		t.Errorf("the audit's verdict is %q: %s", report.Verdict, complaints(report))
	}
	if report.Pending != 0 {
		t.Errorf("%d sagas are pending", report.Pending)
	}
	for _, total := range report.Totals {
		if total.InTransit.Sign() != 0 {
			t.Errorf("%v %s are in transit", total.InTransit, total.Currency)
		}
	}
}

func complaints(report audit.Report) string {
	var text strings.Builder
	for _, check := range report.Checks {
		for _, v := range check.Violations {
			fmt.Fprintf(&text, "%s: %s %s: %s\n", check.Name, v.Shard, v.ID, v.Problem)
		}
		for _, gap := range check.Gaps {
			fmt.Fprintf(&text, "%s: %s\n", check.Name, gap)
		}
	}
	for _, s := range report.Shards {
		if s.Error != "" {
			fmt.Fprintf(&text, "%s: %s\n", s.ID, s.Error)
		}
	}
	return text.String()
}

// inTransit is the money between shards that an audit finds.
func inTransit(report audit.Report, currency ledger.Currency) int64 {
	for _, total := range report.Totals {
		if total.Currency == currency {
			return total.InTransit.Int64()
		}
	}
	return 0
}
