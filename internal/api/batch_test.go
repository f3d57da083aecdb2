package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/api/apitest"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

func batch(transfers ...string) string { return `{"transfers":[` + strings.Join(transfers, ",") + `]}` }

func oneOf(source, destination string, amount int, txID string) string {
	return fmt.Sprintf(`{"source":%q,"destination":%q,"amount":%d,"transaction_id":%q}`, source, destination, amount, txID)
}

// result returns a result of a batch, as the answer that its transfer alone would have got.
func (a answer) result(i int) map[string]any {
	a.t.Helper()
	results, _ := a.at("data", "results").([]any)
	if i >= len(results) {
		a.t.Fatalf("there are %d results: %s", len(results), a.Text)
	}
	result, _ := results[i].(map[string]any)
	return result
}

func TestBatch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.post("/transfers", oneOf("alice", "bob", 5, "before")).want(201, "")
	got := e.post("/transfers/batch", batch(
		oneOf("alice", "bob", 100, "b1"),
		oneOf("alice", "far-carol", 100, "b2"),
		oneOf("bob", "alice", 106, "b3"),
		oneOf("alice", "bob", 100, "b1"),
		oneOf("alice", "bob", 101, "b1"),
		oneOf("alice", "bob", 5, "before"),
		oneOf("nobody", "bob", 5, "b4"),
		oneOf("alice", "nobody", 5, "b5"),
		oneOf("alice", "far-nobody", 5, "b6"),
		oneOf("alice", "alice", 5, "b7"),
		oneOf("bob", "alice", 5, "b1"),
		`{"source":"alice","destination":"bob","amount":7,"currency":"EUR","description":"f\u00fcr \"Eis\""}`,
	)).want(200, "").says(`{"success": true, "message": "request successful!", "status_code": 200, "data": {"results": [
		{"status_code": 201, "transaction_id": "b1", "status": "COMPLETED", "current_balance": 895, "currency": "USD", "version": 3},
		{"status_code": 201, "transaction_id": "b2", "status": "COMPLETED", "current_balance": 795, "currency": "USD", "version": 4},
		{"status_code": 422, "transaction_id": "b3", "status": "REFUSED", "code": "insufficient_funds", "message": "insufficient funds"},
		{"status_code": 201, "transaction_id": "b1", "status": "COMPLETED", "current_balance": 895, "version": 3, "replayed": true},
		{"status_code": 409, "transaction_id": "b1", "code": "transaction_id_conflict"},
		{"status_code": 201, "transaction_id": "before", "current_balance": 995, "version": 2, "replayed": true},
		{"status_code": 404, "transaction_id": "b4", "status": "REFUSED", "code": "user_not_found", "message": "user not found"},
		{"status_code": 422, "transaction_id": "b5", "status": "REFUSED", "code": "payee_not_found"},
		{"status_code": 422, "transaction_id": "b6", "status": "REFUNDED", "code": "payee_not_found"},
		{"status_code": 422, "transaction_id": "b7", "status": "REFUSED", "code": "same_account"},
		{"status_code": 201, "transaction_id": "b1", "current_balance": 100},
		{"status_code": 422, "code": "insufficient_funds"}
	]}}`)
	for _, i := range []int{0, 1, 2, 4, 6} {
		if got.result(i)["replayed"] != nil || got.result(i)["location"] != nil {
			t.Errorf("result %d is %v", i, got.result(i))
		}
	}
	if got.Header.Get("Location") != "" || got.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("headers are %v", got.Header)
	}
	generated, _ := got.result(11)["transaction_id"].(string)
	e.get("/users/alice/transfers/"+generated).want(200, "").says(`{"data": {"currency": "EUR", "description": "für \"Eis\"", "status": "REFUSED"}}`)
	e.get("/users/alice/balance").says(`{"data": {"balance": 800}}`)

	// All of it again: nothing is done, and all but the conflict and the new id say so.
	for i, result := range e.post("/transfers/batch", batch(
		oneOf("alice", "bob", 100, "b1"), oneOf("bob", "alice", 106, "b3"), oneOf("nobody", "bob", 5, "b4"), oneOf("alice", "far-nobody", 5, "b6"),
	)).want(200, "").at("data", "results").([]any) {
		if result.(map[string]any)["replayed"] != true {
			t.Errorf("result %d is %v", i, result)
		}
	}
}

func TestBatchThatIsOnItsWay(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.bank.farDown = true
	var waits []time.Duration
	e.bank.seen = func(_ context.Context, _ ledger.Operation, wait time.Duration) { waits = append(waits, wait) }
	body := batch(oneOf("alice", "far-carol", 1, "p1"), oneOf("alice", "bob", 1, "p2"))
	got := e.post("/transfers/batch", body).want(200, "").says(`{"success": true, "data": {"results": [
		{"status_code": 202, "transaction_id": "p1", "status": "PENDING", "current_balance": 999, "location": "/users/alice/transfers/p1"},
		{"status_code": 201, "transaction_id": "p2", "status": "COMPLETED"}]}}`)
	e.get(got.result(0)["location"].(string)).want(200, "").says(`{"data": {"status": "PENDING"}}`)
	if waits[0] != time.Second || got.Header.Get("Preference-Applied") != "" {
		t.Errorf("waits %v, answers %v", waits, got.Header)
	}
	got = e.post("/transfers/batch", body, "Prefer", "respond-async").want(200, "").says(`{"data": {"results": [
		{"status_code": 202, "location": "/users/alice/transfers/p1", "replayed": true}, {"status_code": 201, "replayed": true}]}}`)
	if waits[2] != 0 || got.Header.Get("Preference-Applied") != "respond-async" {
		t.Errorf("Prefer waits %v, answers %v", waits, got.Header)
	}
}

func TestBatchCarriesTheTrace(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	var traces []string
	e.bank.seen = func(_ context.Context, op ledger.Operation, _ time.Duration) { traces = append(traces, op.Trace) }
	body := batch(oneOf("alice", "far-carol", 1, "1"), oneOf("alice", "bob", 1, "2"))
	e.post("/transfers/batch", body, "traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").want(200, "")
	for _, trace := range traces {
		if !strings.HasPrefix(trace, "00-4bf92f3577b34da6a3ce929d0e0e4736-") {
			t.Errorf("a start carries %q", trace)
		}
	}
}

// troubled answers some transfers with errors.
type troubled struct {
	*bank
	errs map[ledger.TxID]error
}

func (l troubled) TransferAll(ctx context.Context, starts []ledger.Operation, wait time.Duration) []ledger.Answer {
	answers := l.bank.TransferAll(ctx, starts, wait)
	for i := range starts {
		if err := l.errs[starts[i].TxID]; err != nil {
			answers[i] = ledger.Answer{Err: err}
		}
	}
	return answers
}

func TestBatchInTrouble(t *testing.T) {
	t.Parallel()
	cause := errors.New("SQLSTATE 57P01 on 10.0.0.1")
	ledgerOf := troubled{errs: map[ledger.TxID]error{
		"unknown": fmt.Errorf("at the lane: %w", ledger.Unknown(cause)), "deadline": fmt.Errorf("lane: %w", context.DeadlineExceeded),
		"unavailable": ledger.Unavailable("shard is away", cause), "overloaded": ledger.Overloaded("queue is full"),
		"internal": cause, "impossible": ledger.ErrImpossible,
	}}
	e := newEnv(t, func(c *api.Config) {
		ledgerOf.bank = c.Ledger.(*bank)
		c.Ledger = ledgerOf
	})
	var transfers []string
	for _, id := range []string{"unknown", "deadline", "unavailable", "overloaded", "internal", "impossible", "fine"} {
		transfers = append(transfers, oneOf("alice", "bob", 1, id))
	}
	got := e.post("/transfers/batch", batch(transfers...)).want(200, "").says(`{"success": true, "data": {"results": [
		{"status_code": 504, "code": "outcome_unknown", "transaction_id": "unknown"},
		{"status_code": 504, "code": "outcome_unknown", "transaction_id": "deadline"},
		{"status_code": 503, "code": "unavailable", "message": "shard is away", "transaction_id": "unavailable"},
		{"status_code": 503, "code": "overloaded", "message": "queue is full", "transaction_id": "overloaded"},
		{"status_code": 500, "code": "internal", "message": "internal error", "transaction_id": "internal"},
		{"status_code": 500, "code": "internal", "transaction_id": "impossible"},
		{"status_code": 201, "transaction_id": "fine"}]}}`)
	if strings.Contains(got.Text, "SQLSTATE") {
		t.Errorf("answer shows too much: %s", got.Text)
	}
	if log := e.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "2 transfers of a batch of 7, the first: SQLSTATE") {
		t.Errorf("log is %s", log)
	}

	// A fault of the whole: the ids are told, also those that nobody else knows.
	ledgerOf.after = func() { panic("bug") }
	got = e.post("/transfers/batch", batch(oneOf("alice", "bob", 1, "mine"), `{"source":"alice","destination":"bob","amount":1}`)).want(500, "internal")
	ids, _ := got.at("data", "transaction_ids").([]any)
	if len(ids) != 2 || ids[0] != "mine" || len(ids[1].(string)) != 36 {
		t.Errorf("answer is %s", got.Text)
	}
}

func TestBatchSizes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const most = 1000
	many := func(n int) []string {
		transfers := make([]string, n)
		for i := range transfers {
			transfers[i] = oneOf("nobody", "bob", 1, fmt.Sprint("s", i))
		}
		return transfers
	}
	e.post("/transfers/batch", batch(many(1)...)).want(200, "").result(0)
	e.post("/transfers/batch", batch(many(most)...)).want(200, "").result(most - 1)
	refused := e.post("/transfers/batch", batch(many(most+1)...)).want(400, "malformed_request")
	if refused.str("message") != "transfers must have 1 to 1000 items" {
		t.Errorf("answer is %s", refused.Text)
	}

	// A thousand of the largest, with every character escaped.
	escaped := func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		return `"` + b.String() + `"`
	}
	largest := strings.Join([]string{
		escaped("source") + ":" + escaped(strings.Repeat("s", ledger.MaxIDLength)),
		escaped("destination") + ":" + escaped(strings.Repeat("d", ledger.MaxIDLength)),
		escaped("transaction_id") + ":" + escaped(strings.Repeat("t", ledger.MaxIDLength)),
		escaped("description") + ":" + escaped(strings.Repeat("x", ledger.MaxDescriptionLength)),
		escaped("currency") + ":" + escaped("USD"),
		escaped("amount") + ":" + fmt.Sprint(ledger.MaxAmount),
	}, ",")
	transfers := make([]string, most)
	for i := range transfers {
		transfers[i] = "{" + largest + "}"
	}
	e.post("/transfers/batch", batch(transfers...)).want(200, "").says(`{"success": true}`)

	whole := batch(many(1)...)
	e.post("/transfers/batch", whole+strings.Repeat(" ", 8<<20-len(whole))).want(200, "")
	tooLong := e.post("/transfers/batch", whole+strings.Repeat(" ", 8<<20-len(whole)+1)).want(413, "payload_too_large")
	if tooLong.str("message") != "body must not be longer than 8192 KiB" {
		t.Errorf("answer is %s", tooLong.Text)
	}
}

// What all batches under way hold is bounded; the rest is told so, and may come again.
func TestTooManyBatches(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	block := make(chan struct{})
	e.bank.seen = func(context.Context, ledger.Operation, time.Duration) { <-block }
	transfers := make([]string, 1000)
	for i := range transfers {
		transfers[i] = oneOf("alice", "bob", 1, fmt.Sprint(i))
	}
	full := apitest.Case{Method: "POST", Path: "/transfers/batch", Body: batch(transfers...), Header: http.Header{"Content-Type": {"application/json"}}}
	var sending sync.WaitGroup
	statuses := make(chan int, 80)
	for range 80 {
		sending.Go(func() {
			got, err := full.Send(t.Context(), e.server.Client(), e.address())
			if err != nil {
				t.Error(err)
				return
			}
			statuses <- got.StatusCode
			if got.StatusCode == 200 {
				return // a long answer to check
			}
			if answer := (answer{Answer: got, t: t}); answer.str("code") != "overloaded" || got.Header.Get("Retry-After") != "1" {
				t.Errorf("answer is %v %s", got.Header, got.Text)
			}
			if err := e.checker.Check(got.Response); err != nil {
				t.Error(err)
			}
		})
	}
	if status := <-statuses; status != 503 {
		t.Errorf("the first answer is %d", status)
	}
	close(block)
	sending.Wait()
	close(statuses)
	done := 0
	for status := range statuses {
		if status == 200 {
			done++
		}
	}
	if done < 50 {
		t.Errorf("only %d of 80 batches were done", done)
	}
	e.post("/transfers/batch", batch(transfers[:3]...)).want(200, "") // there is room again
}

// POST alone has another meaning on the path of a transfer that is called batch.
func TestTransferNamedBatch(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.get("/transfers/batch").want(404, "transfer_not_found")
	e.post("/transfers/batch", batch(oneOf("alice", "bob", 3, "batch"))).want(200, "")
	e.get("/transfers/batch").want(200, "").says(`{"data": {"transaction_id": "batch", "amount": 3}}`)
	e.get("/users/alice/transfers/batch").want(200, "").says(`{"data": {"amount": 3}}`)
	if head := e.do("HEAD", "/transfers/batch", ""); head.StatusCode != 200 {
		t.Errorf("HEAD answers %d", head.StatusCode)
	}
	deleted := e.do("DELETE", "/transfers/batch", "").want(405, "method_not_allowed")
	if allow := deleted.Header.Get("Allow"); allow != "POST, GET, HEAD" {
		t.Errorf("Allow is %q", allow)
	}
	e.get("/transfers/batch?x=1").want(400, "malformed_request")
	e.post("/transfers", oneOf("bob", "alice", 1, "batch")).want(201, "")
	e.get("/transfers/batch").want(409, "ambiguous_transaction_id")

	// Its neighbours are as before.
	for _, id := range []string{"b", "bat", "batches", "batch-1"} {
		e.post("/transfers", oneOf("alice", "bob", 1, id)).want(201, "")
		e.get("/transfers/"+id).want(200, "").says(`{"data": {"transaction_id": "` + id + `"}}`)
		e.post("/transfers/"+id, batch(oneOf("alice", "bob", 3, "x"))).want(405, "method_not_allowed")
	}
	e.get("/transfers/batch/").want(404, "not_found")
}

// A batch and the same transfers one by one are answered alike.
func TestBatchAnswersLikeSingles(t *testing.T) {
	t.Parallel()
	transfers := []string{
		oneOf("alice", "bob", 100, "1"), oneOf("alice", "far-carol", 100, "2"), oneOf("alice", "bob", 5000, "3"), oneOf("bob", "far-nobody", 1, "4"),
		oneOf("nobody", "bob", 1, "5"), oneOf("alice", "bob", 101, "1"), oneOf("alice", "bob", 100, "1"), oneOf("alice", "bob", 5000, "3"),
	}
	together, alone := newEnv(t), newEnv(t)
	got := together.post("/transfers/batch", batch(transfers...)).want(200, "")
	for i, transfer := range transfers {
		single := alone.post("/transfers", transfer)
		want := map[string]any{"status_code": single.at("status_code")}
		if data, ok := single.at("data").(map[string]any); ok {
			for name, value := range data {
				want[name] = value
			}
		}
		for _, name := range []string{"code", "message"} {
			if value := single.at(name); value != nil && single.StatusCode >= 400 {
				want[name] = value
			}
		}
		if single.Header.Get("Idempotent-Replayed") == "true" {
			want["replayed"] = true
		}
		result := got.result(i)
		if single.StatusCode == 409 {
			delete(result, "transaction_id") // the client of a single transfer knows it
		}
		wanted, _ := json.Marshal(want)
		if text, _ := json.Marshal(result); string(text) != string(wanted) {
			t.Errorf("transfer %d is answered\n%s\nalone it is\n%s", i, text, wanted)
		}
	}
}
