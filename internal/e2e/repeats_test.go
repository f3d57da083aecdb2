package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// One transfer, one effect, whatever is repeated: one request after the other, at both routers.
func testRepeats(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	rosa, ruth, remo := c.user(0, "rosa"), c.user(0, "ruth"), c.user(1, "remo")
	for _, id := range []string{rosa, ruth, remo} {
		a.newUser(id, 1000)
	}

	// Transfers: the first answer again.
	for _, to := range []string{ruth, remo} {
		first := a.transfer(rosa, to, 100, "r-"+to).want(201, "").replayed(false)
		for _, f := range []face{b, a} {
			again := f.post("/transfers", `{ "transaction_id": "r-`+to+`", "currency": "USD", "amount": 100, "destination": "`+to+`", "source": "`+rosa+`" }`).
				want(201, "").replayed(true)
			if again.Text != first.Text {
				t.Errorf("the repeat is answered\n%s\nthe first was\n%s", again.Text, first.Text)
			}
		}
		a.wantBalance(to, 1100)
	}
	b.wantBalance(rosa, 800)

	// Adds and withdrawals: 422 as the seed says, or the first answer for who sends a key.
	for _, kind := range []string{"add", "withdraw"} {
		path, body := "/users/"+rosa+"/"+kind, `{"amount":10,"transaction_id":"r-`+kind+`"}`
		first := a.post(path, body).want(202, "").replayed(false)
		b.post(path, body).want(422, "already_processed").replayed(true)
		for _, keyed := range []answer{
			b.post(path, `{"amount":10}`, "Idempotency-Key", "r-"+kind),
			a.post(path, body, "Idempotency-Key", `"r-`+kind+`"`),
		} {
			keyed.want(202, "").replayed(true)
			if keyed.Text != first.Text {
				t.Errorf("the repeat is answered\n%s\nthe first was\n%s", keyed.Text, first.Text)
			}
		}
	}
	b.wantBalance(rosa, 800)

	// Other contents.
	before := digest(t, c)
	for _, body := range []string{
		transferBody(rosa, ruth, 101, "r-"+ruth),
		transferBody(rosa, remo, 100, "r-"+ruth), // across instead of here
		transferBody(rosa, ruth, 100, "r-"+remo), // here instead of across
		transferBody(rosa, remo, 101, "r-"+remo),
		`{"source":"` + rosa + `","destination":"` + ruth + `","amount":100,"currency":"EUR","transaction_id":"r-` + ruth + `"}`,
		transferBody(rosa, ruth, 10, "r-add"),
	} {
		b.post("/transfers", body).want(409, "transaction_id_conflict").replayed(false)
	}
	b.post("/users/"+rosa+"/add", `{"amount":11,"transaction_id":"r-add"}`).want(409, "transaction_id_conflict")
	b.post("/users/"+rosa+"/add", `{"amount":10,"transaction_id":"r-withdraw"}`).want(409, "transaction_id_conflict")
	b.post("/users/"+rosa+"/withdraw", `{"amount":100}`, "Idempotency-Key", "r-"+remo).want(409, "transaction_id_conflict")
	wantSame(t, "a conflict", before, digest(t, c))

	// A refusal is remembered, though there would be money by now.
	poor := c.user(0, "poor")
	a.newUser(poor, 0)
	refusals := []struct{ path, body string }{
		{"/transfers", transferBody(poor, ruth, 500, "p-same")},
		{"/transfers", transferBody(poor, remo, 500, "p-across")},
		{"/users/" + poor + "/withdraw", `{"amount":500,"transaction_id":"p-cash"}`},
	}
	for _, r := range refusals {
		a.post(r.path, r.body).want(422, "insufficient_funds").replayed(false)
	}
	a.post("/users/"+poor+"/add", `{"amount":5000,"transaction_id":"top-up"}`).want(202, "")
	for _, r := range refusals {
		b.post(r.path, r.body).want(422, "insufficient_funds").replayed(true)
		a.post(r.path, strings.Replace(r.body, "500", "400", 1)).want(409, "transaction_id_conflict")
	}
	b.wantBalance(poor, 5000)
	// So is one of a user who was not there.
	late, lateFar := c.user(0, "late"), c.user(1, "late")
	a.transfer(poor, late, 5, "p-late").want(422, "payee_not_found")
	a.transfer(poor, lateFar, 5, "p-late-far").want(422, "payee_not_found").says(`{"data": {"status": "REFUNDED"}}`)
	a.post("/users/"+late+"/add", `{"amount":5,"transaction_id":"early"}`).want(404, "user_not_found")
	a.newUser(late, 0)
	a.newUser(lateFar, 0)
	b.transfer(poor, late, 5, "p-late").want(422, "payee_not_found").replayed(true).says(`{"data": {"status": "REFUSED"}}`)
	b.transfer(poor, lateFar, 5, "p-late-far").want(422, "payee_not_found").replayed(true).says(`{"data": {"status": "REFUNDED"}}`)
	b.post("/users/"+late+"/add", `{"amount":5,"transaction_id":"early"}`).want(404, "user_not_found").replayed(true)
	b.wantBalance(poor, 5000)
	b.wantBalance(late, 0)

	// The same id from somebody else is another transfer.
	for i, from := range []string{rosa, poor, remo} {
		[]face{a, b}[i%2].transfer(from, ruth, 7, "everybodys").want(201, "").replayed(false)
	}
	b.wantBalance(ruth, 1100+21)

	// Users.
	a.post("/users", `{"id":"twice","name":"Twice"}`).want(201, "")
	b.post("/users", `{"id":"twice","name":"Twice"}`).want(200, "")
	b.post("/users", `{"id":"twice","name":"Other"}`).want(409, "user_id_conflict")
}

// The same request at two routers at once: one does it, the other waits and tells the same.
func testTwins(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	tina, tom, toni := c.user(0, "tina"), c.user(0, "tom"), c.user(1, "toni")
	for _, id := range []string{tina, tom, toni} {
		a.newUser(id, 1000)
	}
	const rounds = 8
	for i := range rounds {
		for _, twin := range []struct {
			name, path, body string
			status           int
		}{
			{"same shard", "/transfers", transferBody(tina, tom, 1, fmt.Sprint("twin-same-", i)), 201},
			{"across", "/transfers", transferBody(tina, toni, 1, fmt.Sprint("twin-across-", i)), 201},
			{"keyed add", "/users/" + tina + "/add", `{"amount":1}`, 202},
			{"refused", "/transfers", transferBody(tina, tom, 5000, fmt.Sprint("twin-refused-", i)), 422},
			{"unknown payer", "/transfers", transferBody(c.user(0, "no-tim"), toni, 5, fmt.Sprint("twin-unknown-", i)), 404},
		} {
			request := postCase(twin.path, twin.body)
			if twin.name == "keyed add" {
				request.Header.Set("Idempotency-Key", fmt.Sprint("twin-add-", i))
			}
			x, y := both(t, a, request, b, request)
			if x.StatusCode != twin.status || y.StatusCode != twin.status {
				t.Errorf("%s: answers are %d and %d, not %d: %s %s", twin.name, x.StatusCode, y.StatusCode, twin.status, x.Text, y.Text)
			}
			if x, y := x.Header.Get("Idempotent-Replayed"), y.Header.Get("Idempotent-Replayed"); (x == "true") == (y == "true") {
				t.Errorf("%s: Idempotent-Replayed is %q and %q", twin.name, x, y)
			}
			if twin.status < 300 && x.Text != y.Text {
				t.Errorf("%s: the answers differ:\n%s\n%s", twin.name, x.Text, y.Text)
			}
		}
		// The seed's way: one is told that it was processed.
		request := postCase("/users/"+tina+"/withdraw", fmt.Sprintf(`{"amount":1,"transaction_id":"twin-withdraw-%d"}`, i))
		x, y := both(t, a, request, b, request)
		if x.StatusCode+y.StatusCode != 202+422 {
			t.Errorf("two withdrawals: answers are %d and %d", x.StatusCode, y.StatusCode)
		}
		// Other contents: one of the two.
		x, y = both(t, a, postCase("/transfers", transferBody(tina, tom, 2, fmt.Sprint("rivals-", i))),
			b, postCase("/transfers", transferBody(tina, toni, 2, fmt.Sprint("rivals-", i))))
		if x.StatusCode+y.StatusCode != 201+409 {
			t.Errorf("rivals: answers are %d and %d", x.StatusCode, y.StatusCode)
		}
		// A new user, twice.
		user := postCase("/users", fmt.Sprintf(`{"id":"twin-user-%d","name":"x"}`, i))
		x, y = both(t, a, user, b, user)
		if x.StatusCode+y.StatusCode != 201+200 {
			t.Errorf("new user: answers are %d and %d", x.StatusCode, y.StatusCode)
		}
	}
	// One unit to each in turn, one in, one out, two to one of them.
	a.wantBalance(tina, 1000-rounds*(1+1-1+1+2))
	if sum := a.balance(tom) + a.balance(toni); sum != 2000+rounds*(1+1+2) {
		t.Errorf("the payees have %d", sum)
	}
}

// A client that hangs up may have been heard or not. Its repeat at the other router finds out.
func testHangUps(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	hugo, hana, hedi := c.user(2, "hugo"), c.user(2, "hana"), c.user(0, "hedi")
	for _, id := range []string{hugo, hana, hedi} {
		a.newUser(id, 1000)
	}
	heard := 0
	for i := range 12 {
		to, txID := []string{hana, hedi}[i%2], fmt.Sprint("hang-up-", i)
		body := transferBody(hugo, to, 3, txID)
		text := fmt.Sprintf("POST /transfers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		conn, err := net.Dial("tcp", a.address)
		if err != nil {
			t.Fatal(err)
		}
		whole := i%4 != 0
		if !whole {
			text = text[:len(text)-1-i]
		}
		_, err = io.WriteString(conn, text)
		time.Sleep(time.Duration(i/2) * time.Millisecond)
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Fatal(err)
		}
		got := b.transfer(hugo, to, 3, txID).want(201, "")
		if got.Header.Get("Idempotent-Replayed") == "true" {
			heard++
			if !whole {
				t.Errorf("half a request was executed: %s", text)
			}
		}
	}
	b.wantBalance(hugo, 1000-12*3)
	if sum := b.balance(hana) + b.balance(hedi); sum != 2000+12*3 {
		t.Errorf("the payees have %d", sum)
	}
	t.Logf("%d of 12 requests were heard before the client hung up", heard)
}

// The services' login can write history but not change it.
func testRoles(t *testing.T, c *cluster) {
	ctx := context.Background()
	config, err := pgx.ParseConfig(c.dsn(0))
	if err != nil {
		t.Fatal(err)
	}
	config.Password = "of-s1"
	config.RuntimeParams["role"] = "saldo_service"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, forbidden := range []string{
		`update saldo.entries set amount = amount + 1`,
		`delete from saldo.entries`,
		`truncate saldo.entries`,
		`update saldo.operations set reason = ''`,
		`delete from saldo.operations`,
		`delete from saldo.accounts`,
		`delete from saldo.sagas`,
		`update saldo.accounts set user_id = 'x'`,
		`insert into saldo.entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at, tx) values (0, 'x', 'USD', 1, 1, 1, 'x', 1, 1, '', now(), 1)`,
		`insert into saldo.accounts (slot, user_id, currency, balance) values (0, 'x', 'USD', 5)`,
		`update saldo.slots set epoch = epoch + 1`,
		`create table saldo.x ()`,
		`create temporary table accounts ()`,
		`alter table saldo.entries disable trigger all`,
	} {
		_, err := conn.Exec(ctx, forbidden)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "42501" {
			t.Errorf("%s: %v, want insufficient_privilege", forbidden, err)
		}
	}
	if _, err := conn.Exec(ctx, `select count(*) from saldo.entries`); err != nil {
		t.Error(err)
	}
}
