package api_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

const transfer = `{"source":"alice","destination":"%s","amount":%d,"transaction_id":"%s"}`

func TestTransfer(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	body := fmt.Sprintf(transfer, "bob", 10, "t1")
	first := e.post("/transfers", body).want(201, "").says(`{"message": "transaction successful!", "data": {
		"transaction_id": "t1", "status": "COMPLETED", "current_balance": 990, "version": 2, "currency": "USD"}}`)
	if first.Header.Get("Location") != "/users/alice/transfers/t1" || first.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("headers are %v", first.Header)
	}
	e.post("/users/alice/add", `{"amount":5,"transaction_id":"meanwhile"}`).want(202, "")

	// Whatever a repeat looks like, it answers what the first one did.
	for _, again := range []answer{
		e.post("/transfers", body),
		e.post("/transfers", body, "Prefer", "respond-async"),
		e.post("/transfers", body, "Idempotency-Key", "t1"),
		e.post("/transfers", body, "Idempotency-Key", `"t1"`),
		e.post("/transfers", `{ "amount" : 1`+`0, "destination":"b\u006fb", "description":"other", "currency":"USD", "source":"alice" }`,
			"Idempotency-Key", "t1", "Content-Type", "Application/JSON; Charset=UTF-8"),
	} {
		again.want(201, "")
		if again.Text != first.Text || again.Header.Get("Idempotent-Replayed") != "true" || again.Header.Get("Location") != first.Header.Get("Location") {
			t.Errorf("repeat answers %v\n%s\nwant\n%s", again.Header, again.Text, first.Text)
		}
	}
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 11, "t1")).want(409, "transaction_id_conflict")
	e.post("/transfers", `{"source":"bob","destination":"alice","amount":3,"transaction_id":"t1"}`).want(201, "")
	e.get("/transfers/t1").want(409, "ambiguous_transaction_id")
	e.get("/users/alice/transfers/t1").want(200, "").says(`{"data": {"transaction_id": "t1", "status": "COMPLETED", "kind": "transfer",
		"source": "alice", "destination": "bob", "amount": 10, "currency": "USD", "description": ""}}`)
	e.get("/users/alice/transfers/first").want(200, "").says(`{"data": {"kind": "add", "source": "", "destination": "alice"}}`)
	e.get("/users/bob/balance").says(`{"data": {"balance": 7}}`)

	generated := e.post("/transfers", `{"source":"alice","destination":"bob","amount":1,"description":"<script>${jndi:x}"}`).want(201, "")
	id := generated.str("data", "transaction_id")
	if len(id) != 36 {
		t.Errorf("generated id is %q", id)
	}
	e.get("/transfers/"+id).want(200, "").says(`{"data": {"description": "<script>${jndi:x}", "amount": 1}}`)
}

func TestTransferBetweenShards(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.post("/transfers", fmt.Sprintf(transfer, "far-carol", 10, "done")).want(201, "").says(`{"data": {"status": "COMPLETED", "current_balance": 990}}`)

	e.bank.farDown = true
	pending := e.post("/transfers", fmt.Sprintf(transfer, "far-carol", 10, "slow")).want(202, "").says(`{
		"success": true, "data": {"transaction_id": "slow", "status": "PENDING", "current_balance": 980, "version": 3}}`)
	poll := e.get(pending.Header.Get("Location")).want(200, "").says(`{"data": {"status": "PENDING", "amount": 10}}`)
	if poll.at("data", "ended_at") != nil || poll.at("data", "reason") != nil {
		t.Errorf("a pending transfer has an end: %s", poll.Text)
	}
	e.post("/transfers", fmt.Sprintf(transfer, "far-nobody", 10, "gone")).want(202, "")

	e.bank.mu.Lock()
	e.bank.farDown = false
	for _, id := range []ledger.Identity{{Initiator: "alice", TxID: "slow"}, {Initiator: "alice", TxID: "gone"}} {
		record := must(e.bank.record(id))
		e.bank.settle(record.Operation)
	}
	e.bank.collect()
	e.bank.mu.Unlock()

	// A repeat has the status of today.
	again := e.post("/transfers", fmt.Sprintf(transfer, "far-carol", 10, "slow")).want(201, "").says(`{"data": {"status": "COMPLETED", "current_balance": 980, "version": 3}}`)
	if again.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("a repeat does not say so")
	}
	e.post("/transfers", fmt.Sprintf(transfer, "far-nobody", 10, "gone")).want(422, "payee_not_found").says(`{
		"message": "payee not found", "data": {"transaction_id": "gone", "status": "REFUNDED"}}`)
	refunded := e.get("/users/alice/transfers/gone").want(200, "").says(`{"success": true, "data": {"status": "REFUNDED", "reason": "payee_not_found"}}`)
	if refunded.str("data", "ended_at") == "" {
		t.Errorf("a refunded transfer has no end: %s", refunded.Text)
	}
	e.get("/users/alice/history?page_size=1").says(`{"data": {"total": 5, "histories": [
		{"kind": "refund", "amount": 10, "counterparty": "far-nobody", "balance": 980, "transaction_id": "gone"}]}}`)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const short = `{"amount":101,"transaction_id":"w1"}`
	e.post("/users/"+demo+"/withdraw", short).want(422, "insufficient_funds").says(`{"message": "insufficient funds"}`)
	e.post("/users/"+demo+"/add", `{"amount":500,"transaction_id":"top-up"}`).want(202, "")
	for _, header := range [][]string{nil, {"Idempotency-Key", "w1"}} {
		again := e.post("/users/"+demo+"/withdraw", short, header...).want(422, "insufficient_funds")
		if again.Header.Get("Idempotent-Replayed") != "true" || again.at("data") != nil {
			t.Errorf("a repeated refusal answers %v %s", again.Header, again.Text)
		}
	}
	e.post("/users/nobody/add", `{"amount":1,"transaction_id":"a1"}`).want(404, "user_not_found").says(`{"message": "user not found"}`)

	for range 2 {
		e.post("/transfers", fmt.Sprintf(transfer, "nobody", 1, "t1")).want(422, "payee_not_found").says(`{"data": {"transaction_id": "t1", "status": "REFUSED"}}`)
	}
	e.get("/users/alice/transfers/t1").want(200, "").says(`{"data": {"status": "REFUSED", "reason": "payee_not_found"}}`)
	generated := e.post("/transfers", `{"source":"nobody","destination":"bob","amount":1}`).want(404, "user_not_found")
	e.get("/users/nobody/transfers/"+generated.str("data", "transaction_id")).want(200, "").says(`{"data": {"status": "REFUSED", "reason": "user_not_found"}}`)
}

func TestRepeatedAdd(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	first := e.post("/users/alice/add", `{"amount":5}`, "Idempotency-Key", "k1").want(202, "")
	e.post("/users/alice/withdraw", `{"amount":7,"transaction_id":"w1"}`).want(202, "").says(`{"data": {"current_balance": 998, "version": 3}}`)
	for _, body := range []string{`{"amount":5}`, `{"amount":5,"transaction_id":"k1"}`} {
		again := e.post("/users/alice/add", body, "Idempotency-Key", "k1").want(202, "")
		if again.Text != first.Text || again.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("repeat with the header answers %v %s", again.Header, again.Text)
		}
	}
	for path, body := range map[string]string{
		"/users/alice/add": `{"amount":5,"transaction_id":"k1"}`, "/users/alice/withdraw": `{"amount":7,"transaction_id":"w1"}`,
	} {
		again := e.post(path, body).want(422, "already_processed")
		if again.Header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("repeat answers %v", again.Header)
		}
	}
	e.post("/users/alice/withdraw", `{"amount":5}`, "Idempotency-Key", "k1").want(409, "transaction_id_conflict")
	e.post("/users/bob/add", `{"amount":9}`, "Idempotency-Key", "k1").want(202, "") // another initiator, another transfer
	e.get("/users/alice/balance").says(`{"data": {"balance": 998}}`)
}

func TestWait(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var waits []time.Duration
	e.bank.seen = func(_ context.Context, _ ledger.Operation, wait time.Duration) { waits = append(waits, wait) }
	for i, prefer := range []string{"", "respond-async", "handling=strict, Respond-Async;x=1", "wait=5", "respond-asynchronously"} {
		var header []string
		if prefer != "" {
			header = []string{"Prefer", prefer}
		}
		got := e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, fmt.Sprint("t", i)), header...).want(201, "")
		async := i == 1 || i == 2
		if (waits[i] == 0) != async || (got.Header.Get("Preference-Applied") == "respond-async") != async {
			t.Errorf("Prefer %q waits %v and answers %v", prefer, waits[i], got.Header)
		}
	}
}

func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const generated = `{"source":"alice","destination":"bob","amount":1}`
	cause := errors.New("SQLSTATE 57P01 on 10.0.0.1")
	for _, c := range []struct {
		name   string
		fault  error
		status int
		code   string
		logged bool
	}{
		{"unknown", ledger.Unknown(cause), 504, "outcome_unknown", false},
		{"wrapped", fmt.Errorf("at the lane: %w", ledger.Unknown(cause)), 504, "outcome_unknown", false},
		{"deadline", fmt.Errorf("lane: %w", context.DeadlineExceeded), 504, "outcome_unknown", false},
		{"unavailable", ledger.Unavailable("shard is away", cause), 503, "unavailable", false},
		{"overloaded", ledger.Overloaded("queue is full"), 503, "overloaded", false},
		{"internal", cause, 500, "internal", true},
		{"impossible", ledger.ErrImpossible, 500, "internal", true},
		{"code without a meaning", &ledger.Error{Code: "new", Message: "new"}, 500, "internal", true},
	} {
		e.bank.fault = c.fault
		before := e.log.String()
		for path, body := range map[string]string{
			"/transfers":                generated,
			"/users/alice/add":          `{"amount":1,"transaction_id":"u1"}`,
			"/app/transfer/alice/bob/1": "",
		} {
			got := e.post(path, body).want(c.status, c.code)
			if has := got.str("data", "transaction_id") != ""; has != (c.status != 503) {
				t.Errorf("%s: %s answers %s", c.name, path, got.Text)
			}
			if (got.Header.Get("Retry-After") == "1") != (c.status == 503) {
				t.Errorf("%s: Retry-After is %q", c.name, got.Header.Get("Retry-After"))
			}
			if strings.Contains(got.Text, "SQLSTATE") {
				t.Errorf("%s: %s answers %s", c.name, path, got.Text)
			}
		}
		if logged := e.log.String() != before; logged != c.logged {
			t.Errorf("%s: logged: %v", c.name, logged)
		}
	}
	for code, fault := range map[string]error{"outcome_unknown": ledger.Unknown(cause), "internal": cause} {
		e.bank.fault = fault
		if got := e.post("/users", `{"name":"x"}`); got.str("code") != code || len(got.str("data", "id")) != 36 {
			t.Errorf("a user's unknown outcome is answered %s", got.Text)
		}
	}
}

func TestReadsInTrouble(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for fault, want := range map[error]struct {
		status int
		code   string
	}{
		context.DeadlineExceeded:                 {503, "unavailable"},
		ledger.Unavailable("shard is away", nil): {503, "unavailable"},
		errors.New("bug"):                        {500, "internal"},
	} {
		e.bank.fault = fault
		for _, path := range []string{
			"/users/alice", "/users/alice/balance", "/users/alice/history?page_size=1", "/users/alice/transfers/x", "/transfers/x", "/app/get_user/alice",
		} {
			if got := e.get(path).want(want.status, want.code); got.at("data") != nil {
				t.Errorf("%s answers %s", path, got.Text)
			}
		}
	}
}

func TestTimeoutBoundsTheLedger(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *api.Config) { c.Timeout = time.Minute })
	e.bank.seen = func(ctx context.Context, _ ledger.Operation, _ time.Duration) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > time.Minute {
			t.Errorf("deadline is %v, %v", deadline, ok)
		}
	}
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "t1")).want(201, "")
}
