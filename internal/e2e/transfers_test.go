package e2e

import "testing"

func testTransfers(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	anna, arno := c.user(0, "anna"), c.user(0, "arno")
	berta, carl := c.user(1, "berta"), c.user(2, "carl")
	for _, id := range []string{anna, arno, berta, carl} {
		a.newUser(id, 1000)
	}

	// On one shard.
	got := a.transfer(anna, arno, 100, "same").want(201, "").replayed(false)
	got.says(`{"success": true, "message": "transaction successful!", "status_code": 201,
		"data": {"transaction_id": "same", "status": "COMPLETED", "current_balance": 900, "currency": "USD", "version": 2}}`)
	if at := got.Header.Get("Location"); at != "/users/"+anna+"/transfers/same" {
		t.Errorf("Location is %q", at)
	}
	b.wantBalance(anna, 900)
	b.wantBalance(arno, 1100)

	// Between shards, each of the ways.
	for i, to := range []string{berta, carl} {
		b.transfer(anna, to, 100, "across-"+to).want(201, "").replayed(false).
			says(`{"data": {"status": "COMPLETED"}}`)
		a.wantBalance(anna, 800-int64(i)*100)
		a.wantBalance(to, 1100)
	}
	a.transfer(carl, anna, 50, "back", "Idempotency-Key", "back").want(201, "").says(`{"data": {"transaction_id": "back", "current_balance": 1050}}`)
	b.wantBalance(anna, 750)
	generated := a.post("/transfers", `{"source":"`+anna+`","destination":"`+carl+`","amount":1,"description":"a book, \"used\""}`).want(201, "").body().Data.TransactionID
	b.get("/users/"+anna+"/transfers/"+generated).want(200, "").says(`{"data": {"status": "COMPLETED", "kind": "transfer", "source": "` + anna + `",
		"destination": "` + carl + `", "amount": 1, "currency": "USD", "description": "a book, \"used\""}}`)

	// The payee is unknown: far away the money comes back, here it does not leave.
	far, near := c.user(1, "ghost"), c.user(0, "ghost")
	a.transfer(anna, far, 700, "to-far-ghost").want(422, "payee_not_found").
		says(`{"success": false, "message": "payee not found", "data": {"transaction_id": "to-far-ghost", "status": "REFUNDED"}}`)
	a.transfer(anna, near, 700, "to-near-ghost").want(422, "payee_not_found").says(`{"data": {"status": "REFUSED"}}`)
	b.wantBalance(anna, 749)
	b.get("/users/"+anna+"/history?page_size=2").want(200, "").says(`{"data": {"histories": [
		{"amount": 700, "kind": "refund", "transaction_id": "to-far-ghost", "balance": 749, "counterparty": "` + far + `"},
		{"amount": -700, "kind": "transfer", "transaction_id": "to-far-ghost", "balance": 49}]}}`)
	b.get("/users/"+anna+"/transfers/to-far-ghost").want(200, "").says(`{"data": {"status": "REFUNDED", "reason": "payee_not_found"}}`)
	b.get("/users/"+anna+"/transfers/to-near-ghost").want(200, "").says(`{"data": {"status": "REFUSED", "reason": "payee_not_found"}}`)

	// Refused at once.
	a.transfer(anna, carl, 750, "too-much").want(422, "insufficient_funds").says(`{"data": {"status": "REFUSED"}}`)
	a.transfer(anna, anna, 1, "to-self").want(422, "same_account")
	a.transfer(far, anna, 1, "from-ghost").want(404, "user_not_found")
	a.post("/users/"+anna+"/withdraw", `{"amount":750,"transaction_id":"too-much-cash"}`).want(422, "insufficient_funds")
	a.post("/users/"+far+"/add", `{"amount":1,"transaction_id":"x"}`).want(404, "user_not_found")
	a.wantBalance(anna, 749)

	// Not waited for.
	got = a.transfer(berta, carl, 10, "async", "Prefer", "respond-async").want(202, "").
		says(`{"message": "transaction pending", "data": {"status": "PENDING", "current_balance": 1090}}`)
	if got.Header.Get("Preference-Applied") != "respond-async" {
		t.Error("no Preference-Applied")
	}
	location := got.Header.Get("Location")
	until(t, location+" is completed", long, func() bool {
		return b.get(location).want(200, "").body().Data.Status == "COMPLETED"
	})
	a.wantBalance(carl, 1000+100-50+1+10)

	// Currencies are apart.
	a.post("/users/"+berta+"/add", `{"amount":500,"transaction_id":"euros","currency":"EUR"}`).want(202, "").says(`{"data": {"current_balance": 500, "version": 1}}`)
	b.post("/transfers", `{"source":"`+berta+`","destination":"`+carl+`","amount":200,"currency":"EUR","transaction_id":"euros-on"}`).want(201, "").
		says(`{"data": {"currency": "EUR", "current_balance": 300}}`)
	b.get("/users/"+carl+"/balance?currency=EUR").want(200, "").says(`{"data": {"balance": 200, "currency": "EUR", "version": 1}}`)
	b.get("/users/"+berta).want(200, "").says(`{"data": {"balance": 1090, "balances": [{"currency": "EUR", "balance": 300}, {"currency": "USD", "balance": 1090}]}}`)

	// By the transaction id alone.
	b.get("/transfers/across-"+berta).want(200, "").says(`{"data": {"source": "` + anna + `", "destination": "` + berta + `", "status": "COMPLETED"}}`)
	b.get("/transfers/never").want(404, "transfer_not_found")
	b.get("/users/"+anna+"/transfers/never").want(404, "transfer_not_found")
	a.transfer(arno, berta, 1, "same").want(201, "").replayed(false)
	b.get("/transfers/same").want(409, "ambiguous_transaction_id")
	b.get("/users/"+arno+"/transfers/same").want(200, "").says(`{"data": {"destination": "` + berta + `"}}`)
}
