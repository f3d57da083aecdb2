package api_test

import "testing"

// The seeds' own examples, with POST where they wrote money by GET.

func TestFirstSeed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)

	// "balance": 100 is the demo user's; the seed's add makes 160 of 140.
	e.post("/users/"+demo+"/add", `{"amount": 20, "transaction_id": "tx_1as4ndakd"}`).want(202, "")
	e.post("/users/"+demo+"/add", `{"amount": 20, "transaction_id": "tx_1as4ndakda"}`).want(202, "")
	const add = `{
    "amount": 20,
    "transaction_id": "tx_1as4ndakdab"
}`
	e.post("/users/"+demo+"/add", add).want(202, "").says(`{
   "success": true,
   "message": "transaction successful!",
   "status_code": 202,
   "data": {
      "current_balance": 160
   }
}`)
	e.post("/users/"+demo+"/add", add).want(422, "already_processed").says(`{
   "success": false,
   "message": "transaction was already processed",
   "status_code": 422
}`)
	e.post("/users/"+demo+"/add", `{"amount": 20, "transaction_id": ""}`).want(400, "invalid_transaction_id").says(`{
   "success": false,
   "message": "valid transaction id required",
   "status_code": 400
}`)
	e.get("/users/"+demo+"/balance").want(200, "").says(`{
   "success": true,
   "message": "request successful!",
   "status_code": 200,
   "data": {
      "balance": 160
   }
}`)
	e.get("/users/7d7750a1-c3f2-4765-bf8f-33bc80f3f809/balance").want(404, "user_not_found").says(`{
   "success": false,
   "message": "user not found",
   "status_code": 404
}`)
	e.get("/users/"+demo+"/history?page_size=20").want(200, "").says(`{
   "success": true,
   "message": "request successful!",
   "status_code": 200,
   "data": {
      "total": 4,
      "page_size": 20,
      "next_page": "",
      "histories": [
         {"amount": 20, "transaction_id": "tx_1as4ndakdab"},
         {"amount": 20, "transaction_id": "tx_1as4ndakda"},
         {"amount": 20, "transaction_id": "tx_1as4ndakd"},
         {"amount": 100}
      ]
   }
}`)
	e.get("/users/"+demo+"/history?page_size=2").want(200, "").says(`{"data": {"next_page": "Mw=="}}`)
	e.get("/users/"+demo+"/history?page_size=10&page=Mw==").want(200, "").says(`{"data": {"histories": [{"version": 2}, {"version": 1}]}}`)
	e.get("/users/"+demo+"/history?page_size=x").want(400, "invalid_page_size").says(`{
   "success": false,
   "message": "page size should be a valid integer",
   "status_code": 400
}`)
	e.get("/users/"+demo+"/history?page_size=10&page=x").want(400, "invalid_cursor").says(`{
    "success": false,
    "message": "invalid pagination cursor",
    "status_code": 400
}`)
}

func TestSecondSeed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for range 2 {
		got := e.post("/app/create_user/bobby/someemail", "").want(200, "")
		if got.Text != `{"status":"created"}` {
			t.Errorf("create_user: %s", got.Text)
		}
	}
	e.post("/app/create_user/emil/emilchess@yandex.ru", "").want(200, "")
	e.post("/app/create_user/emil/other@yandex.ru", "").want(409, "user_id_conflict")
	if got := e.get("/app/get_user/emil"); got.Text != `{"name":"emil","email":"emilchess@yandex.ru","balance":0}` {
		t.Errorf("get_user: %s", got.Text)
	}
	e.get("/users/emil").want(200, "").says(`{"data": {"id": "emil", "name": "emil", "email": "emilchess@yandex.ru"}}`)

	got := e.post("/app/transfer/alice/bob/100", "").want(200, "").says(`{"status": "COMPLETED"}`)
	e.get("/users/alice/transfers/"+got.str("tx_id")).want(200, "").says(`{"data": {"amount": 100, "status": "COMPLETED"}}`)
	e.bank.farDown = true
	e.post("/app/transfer/alice/far-carol/100", "", "Idempotency-Key", "coin").want(200, "").says(`{"tx_id": "coin", "status": "PENDING"}`)
	again := e.post("/app/transfer/alice/far-carol/100", "", "Idempotency-Key", "coin").want(200, "").says(`{"tx_id": "coin", "status": "PENDING"}`)
	if again.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("a repeat does not say so")
	}
	e.post("/app/transfer/alice/far-carol/101", "", "Idempotency-Key", "coin").want(409, "transaction_id_conflict")
	e.post("/app/transfer/alice/bob/1000", "").want(422, "insufficient_funds").says(`{"success": false, "data": {"status": "REFUSED"}}`)
	e.post("/app/transfer/nobody/bob/1", "").want(404, "user_not_found")
	e.get("/app/get_user/alice").want(200, "").says(`{"balance": 800}`)
}
