package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	registry "github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/shard"
)

// replicated is a cluster whose first shard has a standby, and an address that names both servers.
type replicated struct {
	*cluster
	standby *local.Postgres // until it takes over
	old     *local.Postgres // the primary, when it does not serve any more
}

func newReplicated(t *testing.T, synchronous bool) *replicated {
	t.Helper()
	c := newServers(t, size{})
	r := &replicated{cluster: c, standby: pgtest.Standby(t, c.servers[0], synchronous)}
	for i := range c.servers {
		dsn := c.dsn(i)
		if i == 0 {
			dsn = fmt.Sprintf("postgres://saldo_login@127.0.0.1:%d,127.0.0.1:%d/ledger?sslmode=disable&target_session_attrs=read-write",
				c.servers[0].Port(), r.standby.Port())
		}
		r.run(t, 0, "shard", "add", "--id", c.shard(i), "--dsn", dsn, "--owner-dsn", c.ownerDSN(i),
			"--initial-shards", strconv.Itoa(len(c.servers)))
	}
	// Whoever takes the standby for the first shard logs in there as well.
	for _, setting := range c.env {
		if path, ok := strings.CutPrefix(setting, "PGPASSFILE="); ok {
			file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = fmt.Fprintf(file, "127.0.0.1:%d:ledger:saldo_login:of-s1\n", r.standby.Port())
				file.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	c.startServices(t, size{})
	return r
}

// run runs saldo, checks its exit code, and returns what it says.
func (r *replicated) run(t *testing.T, want int, args ...string) string {
	t.Helper()
	stdout, stderr, code, err := run(r.env, r.saldo, args...)
	if err != nil || code != want {
		t.Fatalf("saldo %s exits with %d, not %d: %v\n%s%s", strings.Join(args, " "), code, want, err, stdout, stderr)
	}
	return stdout + stderr
}

// promote has the standby take over. The first shard is that server from now on, to the test.
func (r *replicated) promote(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := r.standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	r.old, r.servers[0], r.standby = r.servers[0], r.standby, nil
}

func (r *replicated) adopt(t *testing.T) string {
	t.Helper()
	return r.run(t, 0, "shard", "adopt", "s1", "--owner-dsn", r.ownerDSN(0))
}

// wantTold checks that the books are clean, that nothing is torn, and that what clients were told is so.
func (r *replicated) wantTold(t *testing.T, all *told) {
	t.Helper()
	r.wantClean(t)
	w := readWorld(t, r.cluster)
	w.check(t)
	for _, id := range all.acknowledged {
		if status, _ := w.outcome(id); status != "COMPLETED" {
			t.Errorf("%v was acknowledged and is %q", id, status)
		}
	}
	for _, id := range all.nothing {
		if w.starts[id] != nil {
			t.Errorf("%v was answered 503 and is recorded", id)
		}
	}
	if says := r.run(t, 0, "shard", "doctor"); !strings.Contains(says, "torn         nothing") {
		t.Errorf("the doctor says\n%s", says)
	}
}

// told is what a client heard of its transfers.
type told struct {
	mu           sync.Mutex
	acknowledged []identity
	nothing      []identity // was recorded, it was told
}

// pay sends transfers from one user to another through a router until ctx ends.
func (c *told) pay(ctx context.Context, f face, from, to, name string) {
	for i := 0; ctx.Err() == nil; i++ {
		id := identity{from, name + "-" + strconv.Itoa(i)}
		got, err := f.try(postCase("/transfers", transferBody(from, to, 1, id.txID)))
		c.mu.Lock()
		switch {
		case err != nil:
			f.t.Errorf("%v is not answered: %v", id, err)
		case got.StatusCode == http.StatusCreated || got.StatusCode == http.StatusAccepted:
			c.acknowledged = append(c.acknowledged, id)
		case got.StatusCode == http.StatusServiceUnavailable:
			c.nothing = append(c.nothing, id)
		case got.StatusCode != http.StatusGatewayTimeout:
			f.t.Errorf("%v is answered %d %s", id, got.StatusCode, got.Text)
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *told) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.acknowledged)
}

// A primary with a synchronous standby dies under load: the standby accepts nothing until it is adopted, and has every
// acknowledged transfer. The old primary comes back and gets nothing.
func TestFailover(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, true)
	a, b := r.faces(t)
	ann, alf, bob := r.user(0, "ann"), r.user(0, "alf"), r.user(1, "bob")
	for _, id := range []string{ann, alf, bob} {
		a.newUser(id, 1_000_000)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	var all told
	for i, pair := range [][2]string{{ann, alf}, {ann, bob}, {bob, alf}, {alf, ann}} {
		clients.Go(func() { all.pay(ctx, []face{a, b}[i%2], pair[0], pair[1], "load"+strconv.Itoa(i)) })
	}
	until(t, "the load runs", long, func() bool { return all.count() > 100 })

	if err := r.servers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	r.promote(t)
	written := sql[int64](t, r.cluster, 0, `select count(*) from saldo.operations`)
	for i := range 6 {
		f := []face{a, b}[i%2]
		add := f.post("/users/"+ann+"/add", `{"amount":1,"transaction_id":"early-`+strconv.Itoa(i)+`"}`)
		read := f.get("/users/" + ann + "/balance")
		if add.StatusCode != http.StatusServiceUnavailable || read.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("before the adoption: %d %s, %d %s", add.StatusCode, add.Text, read.StatusCode, read.Text)
		}
	}
	if now := sql[int64](t, r.cluster, 0, `select count(*) from saldo.operations`); now != written {
		t.Errorf("%d operations were written before the new primary was adopted", now-written)
	}
	if says := r.run(t, 1, "shard", "doctor", "s1"); !strings.Contains(says, "not adopted (adopted: 1)") {
		t.Errorf("before the adoption the doctor says\n%s", says)
	}
	for range 2 { // again: nothing changes
		if says := r.adopt(t); !strings.Contains(says, "timeline 2 is adopted") || strings.Contains(says, "LOST") {
			t.Errorf("the adoption says\n%s", says)
		}
	}
	before := all.count()
	until(t, "the load goes on", long, func() bool { return all.count() > before+100 })

	// The old primary, first in the shard's address, comes back. Those who connect anew pass it by.
	if err := r.old.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := r.face(t, r.addRouter(t))
	r.ready(t, 2)
	fresh.post("/users/"+ann+"/add", `{"amount":1,"transaction_id":"fresh"}`).want(202, "")
	fresh.patiently().get("/users/"+ann+"/transfers/fresh").want(200, "")
	before = all.count()
	until(t, "the load goes on beside the old primary", long, func() bool { return all.count() > before+100 })
	stop()
	clients.Wait()

	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })
	r.wantTold(t, &all)

	// The old primary becomes the new one's standby.
	if err := r.old.Kill(); err != nil {
		t.Fatal(err)
	}
	r.exec(t, r.ownerDSN(0), `checkpoint`)
	rewind, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := r.old.Rewind(rewind, r.servers[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.old.Start(rewind); err != nil {
		t.Fatal(err)
	}
	until(t, "the old primary follows", long, func() bool {
		return strings.Contains(r.run(t, 0, "shard", "doctor", "s1", "--owner-dsn", r.ownerDSN(0)), ": async, streaming, 0 bytes behind")
	})
	t.Logf("%d transfers acknowledged, %d certainly not recorded", len(all.acknowledged), len(all.nothing))
}

// A primary dies whose asynchronous standby lacks the latest commits: that is found, said, and mended as far as it can be.
func TestFailoverThatLoses(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, false)
	a, b := r.faces(t)
	ann, carl, zoe, ghost, bob := r.user(0, "ann"), r.user(0, "carl"), r.user(0, "zoe"), r.user(0, "ghost"), r.user(1, "bob")
	for _, id := range []string{ann, carl, bob} {
		a.newUser(id, 1000)
	}
	a.transfer(ann, bob, 1, "kept").want(201, "")
	end := sql[string](t, r.cluster, 0, `select pg_current_wal_insert_lsn()::text`)
	until(t, "the standby has caught up", long, func() bool {
		return value[bool](t, r.standby, `select pg_last_wal_replay_lsn() >= $1::pg_lsn`, end)
	})
	if err := r.standby.Kill(); err != nil {
		t.Fatal(err)
	}
	// All that happens on s1 from here on will be lost.
	a.transfer(bob, ann, 30, "credit").want(201, "")
	a.transfer(ann, bob, 50, "start").want(201, "")
	a.transfer(carl, ann, 700, "inside").want(201, "")
	a.transfer(ann, bob, 1500, "much").want(201, "")
	a.newUser(zoe, 0)
	a.transfer(bob, zoe, 7, "to-zoe").want(201, "")
	a.transfer(bob, ghost, 9, "refused").want(422, "payee_not_found")
	untilNoted(t, r.cluster, 0)

	if err := r.servers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	if err := r.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r.promote(t)
	if says := r.adopt(t); !strings.Contains(says, "LOST: the log was durable up to") {
		t.Errorf("the adoption says\n%s", says)
	}
	a, b = a.patiently(), b.patiently()
	b.wantBalance(ann, 999)

	torn := func(what string, code int, want []string, args ...string) {
		t.Helper()
		says := r.run(t, code, append([]string{"shard", "doctor"}, args...)...)
		var got []string
		for line := range strings.Lines(says) {
			if words := strings.Fields(line); len(words) > 3 && (words[1] == "lost" || words[1] == "refused") {
				got = append(got, strings.Join(words[:2], " ")+" "+strings.TrimSuffix(words[2], ":"))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s the doctor finds torn %q, want %q:\n%s", what, got, want, says)
		}
		if !strings.Contains(says, "bytes between are lost") {
			t.Errorf("%s the doctor says nothing of the log:\n%s", what, says)
		}
	}
	all := []string{
		"credit lost " + bob + "/credit", "credit lost " + bob + "/to-zoe",
		"start lost " + ann + "/much", "start lost " + ann + "/start", "refusal lost " + bob + "/refused",
	}
	torn("at first", 1, all)
	torn("when it drives them", 1, all, "--redrive")
	torn("then", 1, []string{"credit lost " + bob + "/to-zoe", "start lost " + ann + "/much", "refusal lost " + bob + "/refused"})
	b.wantBalance(ann, 999+30-50)

	// A person creates the user again, and gives the payer what was lost with the books of s1.
	a.newUser(zoe, 0)
	a.transfer(carl, ann, 700, "inside").want(201, "").replayed(false)
	torn("with enough money", 1, []string{"credit lost " + bob + "/to-zoe", "start lost " + ann + "/much", "refusal lost " + bob + "/refused"}, "--redrive")
	torn("in the end", 1, []string{"refusal lost " + bob + "/refused"})
	b.wantBalance(ann, 999+30-50+700-1500)
	b.wantBalance(zoe, 7)
	b.wantBalance(bob, 1001-30+50+1500-7)
	b.get("/users/"+ann+"/transfers/much").want(200, "").says(`{"data": {"status": "COMPLETED"}}`)
	a.transfer(ann, bob, 50, "start").want(201, "").replayed(true)
	until(t, "every saga has ended", long, func() bool { return pending(t, r.cluster) == 0 })

	// What no other shard knows of stays lost, and the audit finds nothing but the refusal.
	report := r.audit(t)
	for _, check := range report.Checks {
		for _, v := range check.Violations {
			if v.ID != bob+"/refused" {
				t.Errorf("the audit finds %s %s: %s", check.Name, v.ID, v.Problem)
			}
		}
	}
	if len(report.Failed()) != 1 {
		t.Errorf("the audit finds %s", complaints(report))
	}
}

// value returns the one value of a query on a server that need not be a shard's primary.
func value[T any](t *testing.T, server *local.Postgres, query string, args ...any) (value T) {
	t.Helper()
	conn := connect(t, server.DSN())
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), query, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

func parseLSN(t *testing.T, text string) shard.LSN {
	t.Helper()
	lsn, err := shard.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// untilNoted waits until all that a shard has written is noted as durable, outside of it. That is done only when something is
// written, and what the server writes of its own accord is no transaction.
func untilNoted(t *testing.T, c *cluster, i int) {
	t.Helper()
	end := parseLSN(t, sql[string](t, c, i, `select pg_current_wal_insert_lsn()::text`))
	until(t, "the position is noted", long, func() bool {
		sql[string](t, c, i, `select pg_current_xact_id()::text`)
		return noted(t, c, c.shard(i)) >= end
	})
}

// noted is how far a shard's log is known to be durable, outside of it.
func noted(t *testing.T, c *cluster, id string) shard.LSN {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	etcd, err := registry.Connect(ctx, registry.Config{Endpoints: c.etcd.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	positions, err := etcd.Positions(ctx, ledger.ShardID(id))
	if err != nil {
		t.Fatal(err)
	}
	if len(positions) == 0 {
		return 0
	}
	return parseLSN(t, positions[len(positions)-1].LSN)
}
