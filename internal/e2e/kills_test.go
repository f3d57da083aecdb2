package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
	"github.com/saldo-ledger/saldo/internal/audit"
)

// Parts are killed, frozen and cut off under load, each in turn, and come back. Then everything comes to rest and the
// judge compares what clients were told with what there is.
func TestKills(t *testing.T) {
	c := newCluster(t, size{shards: 3, durable: true, gated: true})
	l := newLoad(t, c, uint64(setting(t, "SALDO_E2E_SEED", 1)))
	duration := time.Duration(setting(t, "SALDO_E2E_SECONDS", 20)) * time.Second
	t.Logf("SALDO_E2E_SEED=%d SALDO_E2E_SECONDS=%.0f", l.seed, duration.Seconds())

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	const clientCount = 8
	for n := range clientCount {
		clients.Go(func() { l.client(ctx, n) })
	}
	clients.Go(func() { l.auditAlong(ctx, t) })
	harm(t, c, l, duration)
	l.wantAudited(t)
	stop()
	clients.Wait()

	// Rest. Some of what is not known is asked for once more, some is not.
	c.ready(t, 0)
	c.ready(t, 1)
	l.resolve(t)
	until(t, "every saga has ended", 2*long, func() bool { return pending(t, c) == 0 })
	c.wantClean(t)
	w := readWorld(t, c)
	w.check(t)
	h := l.history()
	h.check(t, w)
	l.wantTold(t, w)
	l.wantCovered(t, h, w, map[string]int{
		"lost commits": 3, "ok": 300, "rejected": 10, "conflict": 5, "replayed": 20, "unknown": 3, "none": 3,
		"saga COMPLETED": 50, "saga REFUNDED": 3, "COMPLETED": 50, "REFUSED": 5,
	})
}

// auditAlong audits the cluster while it runs: shards may be missing, but nothing may be wrong.
func (l *load) auditAlong(ctx context.Context, t *testing.T) {
	verdicts := make(map[audit.Verdict]int)
	stuck := 0 // audits in a row that have found a move to take too long, and nothing else
	for {
		select {
		case <-ctx.Done():
			t.Logf("the audits that ran along say %v", verdicts)
			return
		case <-time.After(4 * time.Second):
		}
		report, err := runAudit(l.c.env, l.c.saldo)
		if err != nil {
			t.Error(err)
			continue
		}
		verdicts[report.Verdict]++
		if report.Verdict == audit.Clean {
			l.clean.Add(1)
		}
		if slices.Equal(report.Failed(), []audit.Name{audit.CheckMoves}) {
			if stuck++; stuck < 4 { // this machine may be slow
				continue
			}
		} else {
			stuck = 0
		}
		if report.Verdict == audit.Violations {
			t.Errorf("an audit says %q while parts are killed: %s", report.Verdict, complaints(report))
		}
	}
}

// wantAudited waits until an audit that ran along has come to its end.
func (l *load) wantAudited(t *testing.T) {
	t.Helper()
	until(t, "an audit that runs along comes to its end", 3*long, func() bool { return l.clean.Load() > 0 })
}

func setting(t *testing.T, name string, fallback int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// harm injects every fault at least once, in an order that the seed chooses, and goes on for the duration.
func harm(t *testing.T, c *cluster, l *load, duration time.Duration) {
	t.Helper()
	random := rand.New(rand.NewPCG(l.seed, 0))
	restart := func(parts ...*process) {
		for _, p := range parts {
			old := p.pid()
			p.kill()
			if alive(old) {
				t.Errorf("%s survives", p.name)
			}
		}
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		for _, p := range parts {
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	router := func(i int) func() {
		return func() {
			restart(c.routers[i])
			c.ready(t, i)
		}
	}
	postgres := func(i int) func() {
		return func() {
			old := c.servers[i].PID()
			if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
				t.Errorf("kill the postmaster of %s: %v", c.shard(i), err)
			}
			until(t, c.shard(i)+" is started again", long, func() bool {
				pid := c.servers[i].PID()
				return pid != 0 && pid != old
			})
		}
	}
	// A killed backend makes Postgres end all the others and recover.
	backend := func(i int) func() {
		return func() {
			const find = `
				select coalesce((array_agg(pid order by state = 'active' desc, pid))[1], 0)
				from pg_stat_activity
				where application_name = 'saldo router' and query = 'commit'`
			var pid int
			until(t, "a router has a writer on "+c.shard(i), long, func() bool {
				pid = sql[int](t, c, i, find)
				return pid != 0
			})
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Errorf("kill a backend of %s: %v", c.shard(i), err)
			}
		}
	}
	// Down for a while, and what it said last was lost. Longer than a router goes on asking: it has to say that it does
	// not know.
	down := func(i int, pause time.Duration) func() {
		return func() {
			atOnce, cancel := context.WithCancel(context.Background())
			cancel()
			c.gates[i].deaf.Store(true)
			time.Sleep(150 * time.Millisecond)
			if err := c.servers[i].Stop(atOnce); err != nil {
				t.Error(err)
			}
			c.gates[i].deaf.Store(false)
			time.Sleep(pause)
			c.startShard(t, i)
		}
	}
	deaf := func(i int) func() {
		return func() {
			lost := c.gates[i].lost.Load()
			for n := 0; n < 3 || n < 50 && c.gates[i].lost.Load() == lost; n++ {
				c.gates[i].loseAnswers(time.Duration(20+random.IntN(150)) * time.Millisecond)
				time.Sleep(time.Duration(50+random.IntN(100)) * time.Millisecond)
			}
		}
	}
	frozen := func(p *process, pause time.Duration) func() {
		return func() {
			p.signal(syscall.SIGSTOP)
			time.Sleep(pause)
			p.signal(syscall.SIGCONT)
		}
	}
	faults := []struct {
		name   string
		inject func()
	}{
		{"router 1 killed", router(0)}, {"router 2 killed", router(1)},
		{"coordinator 1 killed", func() { restart(c.coordinators[0]) }},
		{"both coordinators killed", func() { restart(c.coordinators...) }},
		{"Postgres of s1 killed", postgres(0)}, {"Postgres of s2 killed", postgres(1)}, {"Postgres of s3 killed", postgres(2)},
		{"a backend of s1 killed", backend(0)},
		{"s2 down", down(1, 2*time.Second)}, {"s3 down", down(2, 6500*time.Millisecond)},
		{"answers of s1 lost", deaf(0)}, {"answers of s2 lost", deaf(1)}, {"answers of s3 lost", deaf(2)},
		// Longer than a session may be idle in a transaction, and than an election lasts.
		{"router 1 frozen", frozen(c.routers[0], 2500*time.Millisecond)},
		{"coordinator 2 frozen", frozen(c.coordinators[1], 5500*time.Millisecond)},
	}
	begun := time.Now()
	l.fairWeather(t)
	injected := 0
	for injected == 0 || time.Since(begun) < duration {
		random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
		for i, fault := range faults {
			if injected >= len(faults) && time.Since(begun) >= duration {
				break
			}
			before := l.done.Load()
			fault.inject()
			injected++
			t.Logf("%6.1fs: %s, %d requests answered meanwhile", time.Since(l.begun).Seconds(), fault.name, l.done.Load()-before)
			// The rest of the time is shared by the rest of the round.
			left := max(duration-time.Since(begun), 0) / time.Duration(len(faults)-i)
			time.Sleep(500*time.Millisecond + time.Duration(random.Int64N(int64(min(left, 3*time.Second)+1))))
		}
	}
	t.Logf("%d faults in %v", injected, time.Since(begun).Round(time.Second))
}

// load is clients that move money among a few users.
type load struct {
	c        *cluster
	seed     uint64
	begun    time.Time
	routers  int           // that are asked, the first ones
	rest     time.Duration // of a client between two requests, besides a little
	light    bool          // answers are not held against openapi.yaml, which takes more time than to make them
	users    []string
	ghosts   []string // users that are not there
	opening  map[identity]bool
	done     atomic.Int64 // answers
	clean    atomic.Int64 // audits that ran along
	mu       sync.Mutex
	attempts []*attempt // guarded by mu
}

func newLoad(t *testing.T, c *cluster, seed uint64) *load {
	t.Helper()
	var users, ghosts []string
	for i := range c.servers {
		for n := range 3 {
			users = append(users, c.user(i, fmt.Sprintf("k%d%d", i, n)))
		}
		ghosts = append(ghosts, c.user(i, fmt.Sprintf("ghost%d", i)))
	}
	return newLoadOf(t, c, seed, users, ghosts)
}

func newLoadOf(t *testing.T, c *cluster, seed uint64, users, ghosts []string) *load {
	t.Helper()
	l := &load{c: c, seed: seed, routers: 2, users: users, ghosts: ghosts, opening: make(map[identity]bool)}
	f, _ := c.faces(t)
	for _, id := range users {
		f.newUser(id, 2000)
		l.opening[identity{id, "opening"}] = true
	}
	l.begun = time.Now()
	return l
}

func (l *load) history() *history {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &history{opening: l.opening, attempts: slices.Clone(l.attempts)}
}

// fairWeather waits until the load is under way.
func (l *load) fairWeather(t *testing.T) {
	t.Helper()
	until(t, "200 answers without a fault", long, func() bool { return l.done.Load() > 200 })
}

// client sends requests, one after the other, until ctx ends.
func (l *load) client(ctx context.Context, n int) {
	random := rand.New(rand.NewPCG(l.seed, uint64(n)+1))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	var known []*attempt // with a definite answer
	for i := 0; ctx.Err() == nil; i++ {
		time.Sleep(l.rest + time.Duration(random.IntN(10))*time.Millisecond)
		router := random.IntN(l.routers)
		switch dice := random.IntN(100); {
		case dice < 12:
			l.read(router, pick(l.users))
			continue
		case dice < 24 && len(known) > 0: // a repeat, long after
			old := known[random.IntN(len(known))]
			l.write(router, old.identity, old.contents, false, random.IntN(2) == 0)
			continue
		case dice < 27 && len(known) > 0: // with other contents
			old := known[random.IntN(len(known))]
			other := old.contents
			other.amount++
			l.write(router, old.identity, other, true, false)
			continue
		}
		id := identity{pick(l.users), fmt.Sprintf("k%d-%d", n, i)}
		what := contents{kind: "transfer", payee: pick(l.users), amount: 1 + random.Int64N(400), currency: "USD"}
		switch dice := random.IntN(100); {
		case dice < 12:
			what.kind, what.payee = "add", ""
		case dice < 20:
			what.kind, what.payee = "withdraw", ""
		case dice < 26:
			what.payee = pick(l.ghosts)
		case dice < 28:
			id.initiator = pick(l.ghosts)
		}
		keyed := random.IntN(3) == 0
		var a *attempt
		if random.IntN(20) == 0 { // both routers at once
			var other sync.WaitGroup
			other.Go(func() { l.write((router+1)%l.routers, id, what, false, keyed) })
			a = l.write(router, id, what, false, keyed)
			other.Wait()
		} else {
			a = l.write(router, id, what, false, keyed)
		}
		for range 4 {
			if a.definite() || ctx.Err() != nil || random.IntN(4) == 0 { // some are never asked for again
				break
			}
			time.Sleep(time.Duration(20+random.IntN(200)) * time.Millisecond)
			router = (router + 1) % l.routers
			a = l.write(router, id, what, false, keyed)
		}
		if a.definite() {
			known = append(known, a)
		}
	}
}

// write sends a transfer and notes the answer.
func (l *load) write(router int, id identity, what contents, mutated, keyed bool) *attempt {
	var request apitest.Case
	if what.kind == "transfer" {
		request = postCase("/transfers", transferBody(id.initiator, what.payee, what.amount, id.txID))
	} else {
		request = postCase("/users/"+id.initiator+"/"+what.kind, fmt.Sprintf(`{"amount":%d,"transaction_id":%q}`, what.amount, id.txID))
	}
	if keyed {
		request.Header.Set("Idempotency-Key", id.txID)
	}
	a := &attempt{identity: id, contents: what, mutated: mutated, of: account{id.initiator, what.currency}}
	b, status := l.send(router, request, a)
	switch {
	case status == http.StatusCreated && what.kind == "transfer" && b.Data.Status == "COMPLETED",
		status == http.StatusAccepted && what.kind != "transfer":
		a.class, a.told = ok, true
	case status == http.StatusAccepted && b.Data.Status == "PENDING":
		a.class, a.told = pending_, true
	case status == http.StatusUnprocessableEntity && b.Code == "already_processed" && what.kind != "transfer" && !keyed:
		a.class = ok
	case status == http.StatusUnprocessableEntity && slices.Contains([]string{"insufficient_funds", "payee_not_found", "same_account"}, b.Code),
		status == http.StatusNotFound && b.Code == "user_not_found":
		a.class, a.reason, a.status = rejected, b.Code, b.Data.Status
	case status == http.StatusConflict && b.Code == "transaction_id_conflict":
		a.class = conflict
	case status == http.StatusGatewayTimeout && b.Code == "outcome_unknown" && b.Data.TransactionID == id.txID:
		a.class = unknown
	}
	if a.told {
		a.balance, a.version = b.Data.CurrentBalance, b.Data.Version
	}
	return l.note(a)
}

// read asks for a balance and notes the answer.
func (l *load) read(router int, user string) *attempt {
	a := &attempt{of: account{user, "USD"}}
	b, status := l.send(router, apitest.Case{Method: "GET", Path: "/users/" + user + "/balance"}, a)
	if status == http.StatusOK {
		a.class, a.told, a.balance, a.version = ok, true, b.Data.Balance, b.Data.Version
	}
	return l.note(a)
}

// send sends a request. The class is what the status alone says: unknown if there is none, none of a proper 503, else
// broken, unless the caller knows better.
func (l *load) send(router int, request apitest.Case, a *attempt) (b body, status int) {
	a.router, a.invoke = router, time.Since(l.begun)
	got, err := request.Send(context.Background(), l.c.client, l.c.addresses[router])
	a.ret = time.Since(l.begun)
	if err != nil {
		a.class, a.what = unknown, err.Error()
		return b, 0
	}
	a.class, a.what = broken, strconv.Itoa(got.StatusCode)+" "+got.Text
	a.replayed = got.Header.Get("Idempotent-Replayed") == "true"
	if !l.light {
		checker, valid := validator()
		if err = valid; err == nil {
			err = checker.Check(got.Response)
		}
	}
	if err == nil {
		err = json.Unmarshal([]byte(got.Text), &b)
	}
	if err != nil {
		a.what += ": " + err.Error()
		return b, 0
	}
	if got.StatusCode == http.StatusServiceUnavailable && got.Header.Get("Retry-After") != "" {
		a.class = none
	}
	return b, got.StatusCode
}

func (l *load) note(a *attempt) *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
	l.done.Add(1)
	return a
}

// resolve repeats most of what is not known, at either router, until it is.
func (l *load) resolve(t *testing.T) {
	t.Helper()
	latest := make(map[identity]*attempt)
	for _, a := range l.history().attempts {
		if a.identity == (identity{}) || a.mutated {
			continue
		}
		if b := latest[a.identity]; b == nil || !b.definite() || b.class == pending_ && a.class != pending_ && a.definite() {
			latest[a.identity] = a
		}
	}
	random := rand.New(rand.NewPCG(l.seed, 1000))
	var open []*attempt
	for _, a := range latest {
		if a.class != ok && a.class != rejected {
			open = append(open, a)
		}
	}
	slices.SortFunc(open, func(x, y *attempt) int { return strings.Compare(x.identity.String(), y.identity.String()) })
	open = slices.DeleteFunc(open, func(a *attempt) bool { return a.class != pending_ && random.IntN(3) == 0 })
	deadline := time.Now().Add(2 * long)
	var left atomic.Int64
	var workers sync.WaitGroup
	for n := range 4 {
		workers.Go(func() {
			for i := n; i < len(open); i += 4 {
				for router := i; ; router++ {
					a := l.write(router%2, open[i].identity, open[i].contents, false, true)
					if a.class == ok || a.class == rejected {
						break
					}
					if time.Now().After(deadline) {
						left.Add(1)
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d open requests were repeated to their ends", len(open))
	if n := left.Load(); n > 0 {
		t.Errorf("%d requests have no definite answer after %v", n, 2*long)
	}
}

// wantTold asks both routers for what the shards hold.
func (l *load) wantTold(t *testing.T, w *world) {
	t.Helper()
	for i, id := range l.users {
		f := l.c.face(t, i%2).patiently()
		f.wantBalance(id, w.balances[account{id, "USD"}].balance)
		entries := w.entries[account{id, "USD"}]
		page := f.get("/users/"+id+"/history?page_size=1000").want(200, "").body()
		if page.Data.Total != int64(len(entries)) {
			t.Errorf("%s has %d entries, told %d", id, len(entries), page.Data.Total)
		}
	}
	n := 0
	for id := range w.starts { // any of them will do
		if n++; n > 150 {
			break
		}
		status, reason := w.outcome(id)
		got := l.c.face(t, n%2).patiently().get("/users/"+id.initiator+"/transfers/"+id.txID).want(200, "").body().Data
		if got.Status != status || got.Reason != reason {
			t.Errorf("%v is told as %s %q, and is %s %q", id, got.Status, got.Reason, status, reason)
		}
	}
}

// wantCovered checks that the run was worth something.
func (l *load) wantCovered(t *testing.T, h *history, w *world, want map[string]int) {
	t.Helper()
	counts := make(map[string]int)
	for _, a := range h.attempts {
		counts[string(a.class)]++
		if strings.HasPrefix(a.what, "504 ") {
			counts["504"]++
		}
		if a.replayed {
			counts["replayed"]++
		}
	}
	for _, gate := range l.c.gates {
		counts["lost commits"] += int(gate.lost.Load())
	}
	for id := range w.starts {
		status, _ := w.outcome(id)
		if w.starts[id].saga {
			status = "saga " + status
		}
		counts[status]++
	}
	t.Logf("seed %d: %v", l.seed, counts)
	for what, least := range want {
		if counts[what] < least {
			t.Errorf("only %d %s: this run proves little", counts[what], what)
		}
	}
}
