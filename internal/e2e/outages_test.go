package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
	"github.com/saldo-ledger/saldo/internal/audit"
)

// What goes on while a part is away, and that it all ends when the part is back. The tests share a cluster, which each of
// them leaves whole.
func TestOutages(t *testing.T) {
	t.Parallel()
	c := newServers(t, size{shards: 3})
	t.Run("a cluster begins", func(t *testing.T) { testBeginning(t, c) })
	// Coordinators carry all there is between shards: in TestKills and the others routers carry what they begin.
	c.startServices(t, size{
		uncoordinate: true, router: []string{"SALDO_HANDOVER=0"}, coordinator: []string{"SALDO_HANDOVER=0", "SALDO_POLL=50ms"},
	})
	for _, test := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"without a coordinator", testNoCoordinator},
		{"without the payee's shard", testPayeeDown},
		{"without etcd", testEtcdAway},
		{"a frozen shard", testFrozenShard},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.test(t, c) }) {
			return // who knows what is still away
		}
	}
	until(t, "every saga has ended", long, func() bool { return pending(t, c) == 0 })
	c.wantClean(t)
	readWorld(t, c).check(t)
	for _, p := range append(c.routers, c.coordinators...) {
		p.stop(t)
	}
}

// pending counts the sagas that have not ended.
func pending(t *testing.T, c *cluster) (sum int64) {
	t.Helper()
	for i := range c.servers {
		sum += sql[int64](t, c, i, `select count(*) from saldo.sagas where state = 1`)
	}
	return sum
}

// A cluster without a number of shards to wait for is founded by a coordinator, when no shard has joined for a while.
// Here nobody coordinates until all have joined; then one does, for as long as this takes.
func testBeginning(t *testing.T, c *cluster) {
	for i := range c.servers {
		c.addShard(t, i)
		c.addShard(t, i) // again: nothing changes
	}
	list := func() string {
		stdout, stderr, code, err := run(c.env, c.saldo, "shard", "list")
		if err != nil || code != 0 {
			t.Fatalf("saldo shard list exits with %d: %v\n%s", code, err, stderr)
		}
		return stdout + stderr
	}
	if text := list(); !strings.Contains(text, "not spread yet") || strings.Contains(text, "of-s1") {
		t.Errorf("saldo shard list says\n%s", text)
	}
	n := c.addRouter(t)
	f := c.face(t, n)
	f.get("/livez").want(200, "")
	until(t, "the router knows that the cluster is not founded", long, func() bool {
		return strings.Contains(f.get("/readyz").want(503, "not_ready").Text, "3 shards registered")
	})
	got := f.post("/users", `{"id":"early","name":"Early"}`).want(503, "unavailable")
	if got.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}

	coordinator := newProcess(t, "founder", append(append([]string{}, c.env...), "SALDO_SETTLE=100ms"), program(t, "coordinator"))
	if err := coordinator.start(); err != nil {
		t.Fatal(err)
	}
	c.ready(t, n)
	until(t, "a user can be made", long, func() bool { // the shards learn what they own
		got, err := f.try(postCase("/users", `{"id":"early","name":"Early"}`))
		return err == nil && got.StatusCode == 201
	})
	text := list()
	for i := range c.servers {
		if line := lineWith(text, c.shard(i)+" "); !strings.Contains(line, "136") || !strings.Contains(line, "yes") { // 1365 or 1366 slots
			t.Errorf("saldo shard list says\n%s", text)
		}
	}
	coordinator.stop(t)
	c.routers[n].stop(t)
	c.routers, c.addresses = nil, nil
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// Without a coordinator debits are durable and wait, unless the router itself goes on.
func testNoCoordinator(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	n := c.addRouter(t)
	c.ready(t, n)
	carries := c.face(t, n)
	norm, nele := c.user(0, "norm"), c.user(1, "nele")
	carries.newUser(norm, 1000)
	carries.newUser(nele, 1000)
	carries.transfer(norm, nele, 100, "n-carried").want(201, "").replayed(false)
	carries.transfer(norm, c.user(1, "no-one"), 100, "n-carried-back").want(422, "payee_not_found").replayed(false)
	b.wantBalance(norm, 900)
	b.wantBalance(nele, 1100)
	c.routers[n].stop(t)
	c.routers, c.addresses = c.routers[:n], c.addresses[:n]

	nina, nora, nils := c.user(0, "nina"), c.user(0, "nora"), c.user(1, "nils")
	for _, id := range []string{nina, nora, nils} {
		a.newUser(id, 1000)
	}
	a.transfer(nina, nora, 1, "n-same").want(201, "")
	within(t, 20*time.Second, "a transfer that nobody ends", func() {
		a.transfer(nina, nils, 100, "n-across").want(202, "").replayed(false).
			says(`{"success": true, "message": "transaction pending", "data": {"status": "PENDING", "current_balance": 899}}`)
	})
	a.transfer(nina, c.user(1, "no-one"), 50, "n-ghost", "Prefer", "respond-async").want(202, "")
	b.wantBalance(nina, 849)
	b.wantBalance(nils, 1000)
	b.get("/users/"+nina+"/transfers/n-across").want(200, "").says(`{"data": {"status": "PENDING"}}`)
	b.get("/transfers/n-across").want(200, "").says(`{"data": {"status": "PENDING"}}`)
	b.transfer(nina, nils, 100, "n-across", "Prefer", "respond-async").want(202, "").replayed(true)
	b.transfer(nina, nils, 101, "n-across").want(409, "transaction_id_conflict")

	report := c.audit(t)
	if report.Verdict != audit.Clean || report.Pending != 2 || inTransit(report, "USD") != 150 {
		t.Errorf("the audit says %q, %d pending, %d in transit: %s", report.Verdict, report.Pending, inTransit(report, "USD"), complaints(report))
	}
	// Durable: the debit outlives the home's crash.
	c.stopShard(t, 0)
	c.startShard(t, 0)
	a, b = a.patiently(), b.patiently()
	b.wantBalance(nina, 849)

	if err := c.coordinators[0].start(); err != nil {
		t.Fatal(err)
	}
	b.settles(nina, "n-across", "COMPLETED")
	b.settles(nina, "n-ghost", "REFUNDED")
	a.wantBalance(nina, 899)
	a.wantBalance(nils, 1100)
	b.transfer(nina, nils, 100, "n-across").want(201, "").replayed(true)
	b.transfer(nina, c.user(1, "no-one"), 50, "n-ghost").want(422, "payee_not_found").replayed(true)
	if err := c.coordinators[1].start(); err != nil { // the next tests have two
		t.Fatal(err)
	}
}

// Without the payee's Postgres a transfer is pending, its money in transit; the others do not notice.
func testPayeeDown(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	paul, pia, petra, pit := c.user(0, "paul"), c.user(0, "pia"), c.user(1, "petra"), c.user(2, "pit")
	for _, id := range []string{paul, pia, petra, pit} {
		a.newUser(id, 1000)
	}
	a.transfer(paul, pit, 1, "p-elsewhere").want(201, "")
	c.stopShard(t, 1)

	within(t, 20*time.Second, "a transfer to a shard that is down", func() {
		a.transfer(paul, petra, 100, "p-down").want(202, "").replayed(false).says(`{"data": {"status": "PENDING", "current_balance": 899}}`)
	})
	b.transfer(paul, petra, 100, "p-down", "Prefer", "respond-async").want(202, "").replayed(true).
		says(`{"data": {"status": "PENDING", "current_balance": 899}}`)
	b.transfer(paul, petra, 99, "p-down").want(409, "transaction_id_conflict")
	b.get("/users/"+paul+"/transfers/p-down").want(200, "").says(`{"data": {"status": "PENDING"}}`)

	// Who lives there gets 503 in time, and nothing is recorded.
	for _, request := range []apitest.Case{
		{Method: "GET", Path: "/users/" + petra + "/balance"},
		{Method: "GET", Path: "/users/" + petra},
		{Method: "GET", Path: "/users/" + petra + "/history?page_size=5"},
		{Method: "GET", Path: "/users/" + petra + "/transfers/opening"},
		{Method: "GET", Path: "/transfers/p-down"}, // another user may have used the id
		{Method: "GET", Path: "/transfers/never"},
		postCase("/users/"+petra+"/add", `{"amount":5,"transaction_id":"p-add"}`),
		postCase("/transfers", transferBody(petra, paul, 5, "p-from-down")),
	} {
		within(t, 20*time.Second, request.Method+" "+request.Path, func() {
			got := b.send(request).want(503, "unavailable")
			if got.Header.Get("Retry-After") == "" {
				t.Errorf("%s: 503 without Retry-After", request.Path)
			}
		})
	}
	// The others go on. (Their waits for a dead shard are over soon, but not always within the router's second.)
	within(t, 20*time.Second, "a transfer on another shard", func() { a.transfer(paul, pia, 1, "p-same").want(201, "") })
	a.transfer(paul, pit, 1, "p-across")
	b.settles(paul, "p-across", "COMPLETED")

	report := c.audit(t)
	if report.Verdict != audit.Incomplete || !report.Partial || inTransit(report, "USD") < 100 {
		t.Errorf("the audit says %q, partial %v, %d in transit: %s", report.Verdict, report.Partial, inTransit(report, "USD"), complaints(report))
	}

	c.startShard(t, 1)
	a, b = a.patiently(), b.patiently()
	b.settles(paul, "p-down", "COMPLETED")
	b.wantBalance(petra, 1100)
	b.wantBalance(paul, 1000-1-100-1-1)
	a.get("/transfers/p-down").want(200, "").says(`{"data": {"status": "COMPLETED"}}`)
	for _, id := range []string{"p-add", "p-from-down"} {
		a.get("/users/"+petra+"/transfers/"+id).want(404, "transfer_not_found")
	}
	a.post("/users/"+petra+"/add", `{"amount":5,"transaction_id":"p-add"}`).want(202, "").replayed(false)
	until(t, "every saga has ended", long, func() bool { return pending(t, c) == 0 })
	c.wantClean(t)
}

// Without etcd everything goes on from the last map.
func testEtcdAway(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	emma, erik, ella := c.user(0, "emma"), c.user(0, "erik"), c.user(1, "ella")
	for _, id := range []string{emma, erik, ella} {
		a.newUser(id, 1000)
	}
	etcdSays := func(f face, words string) func() bool {
		return func() bool {
			var ready struct {
				Data struct{ Parts struct{ Etcd string } }
			}
			got := f.get("/readyz").want(200, "")
			decode(t, got.Text, &ready)
			return strings.HasPrefix(ready.Data.Parts.Etcd, words)
		}
	}
	until(t, "etcd is connected", long, etcdSays(a, "connected"))
	deposed := func() int { // elected runners of sagas that have ended
		return strings.Count(c.coordinators[0].output()+c.coordinators[1].output(), `msg="not leading" election=sagas.`)
	}
	before := deposed()
	c.etcd.Stop()
	for _, f := range []face{a, b} {
		until(t, "a router notices that etcd is away", long, etcdSays(f, "away"))
	}
	for i := range 5 {
		from := []face{a, b}[i%2]
		from.transfer(emma, erik, 1, fmt.Sprint("e-same-", i)).want(201, "")
		if got := from.transfer(emma, ella, 1, fmt.Sprint("e-across-", i)); got.StatusCode != 201 && got.StatusCode != 202 {
			got.want(201, "")
		}
		b.settles(emma, fmt.Sprint("e-across-", i), "COMPLETED")
	}
	b.wantBalance(emma, 990)
	a.wantBalance(ella, 1005)
	// When those who were elected are not any more, all coordinators run the sagas.
	until(t, "nobody is elected", long, func() bool { return deposed()-before >= len(c.servers) })
	a.transfer(emma, ella, 1, "e-unelected")
	b.settles(emma, "e-unelected", "COMPLETED")
	// A router that starts now waits.
	n := c.addRouter(t)
	fresh := c.face(t, n)
	fresh.get("/readyz").want(503, "not_ready").says(`{"data": {"ready": false, "parts": {"etcd": "not reached yet"}}}`)
	fresh.post("/users/"+emma+"/add", `{"amount":1,"transaction_id":"e-add"}`).want(503, "unavailable")

	within(t, long, "etcd's start", func() {
		if err := c.etcd.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	for _, f := range []face{a, b} {
		until(t, "a router notices that etcd is back", long, etcdSays(f, "connected"))
	}
	c.ready(t, n)
	fresh.post("/users/"+emma+"/add", `{"amount":1,"transaction_id":"e-add"}`).want(202, "")
	a.transfer(emma, ella, 1, "e-after")
	b.settles(emma, "e-after", "COMPLETED")
	c.routers[n].stop(t)
	c.routers, c.addresses = c.routers[:n], c.addresses[:n]
}

// A shard that is frozen and not down: the queue fills, and everybody is answered in time all the same.
func testFrozenShard(t *testing.T, c *cluster) {
	a, _ := c.faces(t)
	n := c.addRouter(t, "SALDO_LANE_QUEUE=6", "SALDO_LANE_BATCH=2", "SALDO_LANE_WRITERS=1")
	c.ready(t, n)
	small := c.face(t, n)
	fred, finn, olga := c.user(0, "fred"), c.user(0, "finn"), c.user(1, "olga")
	for _, id := range []string{fred, finn, olga} {
		small.newUser(id, 1000)
	}

	thaw := freeze(t, c, 0)
	type sent struct {
		request apitest.Case
		txID    string
		answer  answer
		took    time.Duration
		err     error
	}
	const clients = 40
	results := make(chan sent, clients)
	for i := range clients {
		go func() {
			s := sent{txID: fmt.Sprint("f-", i)}
			s.request = postCase("/transfers", transferBody(fred, []string{finn, olga}[i%2], 1, s.txID))
			begun := time.Now()
			s.answer, s.err = small.try(s.request)
			s.took = time.Since(begun)
			results <- s
		}()
	}
	// Meanwhile the others' shards serve.
	within(t, 20*time.Second, "an add on another shard", func() {
		small.post("/users/"+olga+"/add", `{"amount":1,"transaction_id":"f-olga"}`).want(202, "")
	})
	got := small.get("/users/"+fred+"/balance").want(503, "unavailable")
	if got.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}

	codes := make(map[string]int)
	var all []sent
	for range clients {
		s := <-results
		all = append(all, s)
		if s.err != nil {
			t.Errorf("%s is not answered: %v", s.txID, s.err)
			continue
		}
		b := s.answer.body()
		codes[b.Code]++
		const deadline, slack = 8 * time.Second, 12 * time.Second
		if s.took > deadline+slack {
			t.Errorf("%s is answered after %v", s.txID, s.took)
		}
		switch {
		case s.answer.StatusCode == http.StatusServiceUnavailable && s.answer.Header.Get("Retry-After") != "":
		case s.answer.StatusCode == http.StatusGatewayTimeout && b.Data.TransactionID == s.txID:
		default:
			t.Errorf("%s is answered %d %q, Retry-After %q: %s", s.txID, s.answer.StatusCode, b.Code, s.answer.Header.Get("Retry-After"), s.answer.Text)
		}
	}
	t.Logf("a frozen shard is answered %v", codes)
	if codes["overloaded"] == 0 || codes["overloaded"] == clients {
		t.Errorf("the queue of 6 overflows for some of %d: %v", clients, codes)
	}
	thaw()
	a = a.patiently()

	// What was answered 503 was not recorded and will not be. Whatever was sent before the thaw is behind an add that
	// is done now.
	until(t, "the shard answers again", long, func() bool {
		got, err := a.try(postCase("/users/"+fred+"/add", `{"amount":1,"transaction_id":"f-thawed"}`))
		return err == nil && (got.StatusCode == 202 || got.StatusCode == 422)
	})
	time.Sleep(time.Second)
	books := readWorld(t, c)
	for _, s := range all {
		if s.err == nil && s.answer.StatusCode == http.StatusServiceUnavailable && books.starts[identity{fred, s.txID}] != nil {
			t.Errorf("%s was answered 503, and is recorded", s.txID)
		}
	}
	for _, s := range all { // repeated, each of them happens once
		until(t, s.txID+" is done", long, func() bool {
			got, err := a.try(s.request)
			return err == nil && (got.StatusCode == 201 || got.StatusCode == 202)
		})
	}
	a.wantBalance(fred, 1000+1-clients)
	a.wantBalance(finn, 1000+clients/2)
	until(t, "every saga has ended", long, func() bool { return pending(t, c) == 0 })
	a.wantBalance(olga, 1001+clients/2)
	c.routers[n].stop(t)
	c.routers, c.addresses = c.routers[:n], c.addresses[:n]
}
