package e2e

import (
	"fmt"
	"strings"
	"testing"
)

func batchBody(transfers ...string) string {
	return `{"transfers":[` + strings.Join(transfers, ",") + `]}`
}

// Many transfers in one request, over all shards, and again at the other router.
func testBatches(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	bea, ben, brad, bill := c.user(0, "bea"), c.user(0, "ben"), c.user(1, "brad"), c.user(2, "bill")
	for _, id := range []string{bea, ben, brad, bill} {
		a.newUser(id, 1000)
	}
	ghost := c.user(1, "batch-ghost")
	mixed := batchBody(
		transferBody(bea, ben, 100, "b-1"),
		transferBody(brad, bill, 100, "b-2"),
		transferBody(bill, bea, 2000, "b-3"),
		transferBody(bea, ghost, 400, "b-4"),
		transferBody(ghost, bea, 1, "b-5"),
		transferBody(bea, ben, 100, "b-1"),
		transferBody(bea, ben, 101, "b-1"),
		transferBody(bill, ben, 300, "b-1"),
	)
	a.post("/transfers/batch", mixed).want(200, "").says(`{"success": true, "data": {"results": [
		{"status_code": 201, "transaction_id": "b-1", "status": "COMPLETED", "current_balance": 900, "currency": "USD", "version": 2},
		{"status_code": 201, "transaction_id": "b-2", "status": "COMPLETED", "current_balance": 900},
		{"status_code": 422, "transaction_id": "b-3", "status": "REFUSED", "code": "insufficient_funds"},
		{"status_code": 422, "transaction_id": "b-4", "status": "REFUNDED", "code": "payee_not_found"},
		{"status_code": 404, "transaction_id": "b-5", "status": "REFUSED", "code": "user_not_found"},
		{"status_code": 201, "transaction_id": "b-1", "current_balance": 900, "replayed": true},
		{"status_code": 409, "transaction_id": "b-1", "code": "transaction_id_conflict"},
		{"status_code": 201, "transaction_id": "b-1", "current_balance": 700}]}}`)
	b.post("/transfers/batch", mixed).want(200, "").says(`{"data": {"results": [
		{"status_code": 201, "replayed": true}, {"status_code": 201, "replayed": true}, {"status_code": 422, "replayed": true},
		{"status_code": 422, "status": "REFUNDED", "replayed": true}, {"status_code": 404, "replayed": true},
		{"status_code": 201, "replayed": true}, {"status_code": 409}, {"status_code": 201, "replayed": true}]}}`)
	for id, balance := range map[string]int64{bea: 900, ben: 1400, brad: 900, bill: 800} {
		b.wantBalance(id, balance)
	}

	// Not waited for.
	got := a.post("/transfers/batch", batchBody(transferBody(brad, bea, 10, "b-async")), "Prefer", "respond-async").want(200, "").
		says(`{"data": {"results": [{"status_code": 202, "status": "PENDING", "location": "/users/` + brad + `/transfers/b-async"}]}}`)
	if got.Header.Get("Preference-Applied") != "respond-async" {
		t.Error("no Preference-Applied")
	}
	b.settles(brad, "b-async", "COMPLETED")

	// As many as there may be; the money is enough for the first 500 of them.
	payer := c.user(0, "payer")
	a.newUser(payer, 500)
	transfers, want := make([]string, 1000), make([]string, 1000)
	for i := range transfers {
		transfers[i] = transferBody(payer, []string{ben, brad, bill}[i%3], 1, fmt.Sprint("wages-", i))
		want[i] = `{"status_code": 422, "code": "insufficient_funds"}`
		if i < 500 {
			want[i] = fmt.Sprintf(`{"status": "COMPLETED", "transaction_id": "wages-%d", "current_balance": %d}`, i, 499-i)
		}
	}
	within(t, long, "a thousand transfers", func() {
		a.post("/transfers/batch", batchBody(transfers...)).want(200, "").says(`{"data": {"results": [` + strings.Join(want, ",") + `]}}`)
	})
	b.wantBalance(payer, 0)

	// The path of a transfer that has this name.
	b.get("/transfers/batch").want(404, "transfer_not_found")
	a.transfer(ben, bea, 1, "batch").want(201, "")
	b.get("/transfers/batch").want(200, "").says(`{"data": {"source": "` + ben + `", "amount": 1}}`)
}
