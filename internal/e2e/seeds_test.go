package e2e

import "testing"

const demo = "6d7750a1-c3f2-4765-bf8f-33bc80f3f809"

// The seeds' own examples, with POST where they wrote money by GET, sent to both routers in turn.

func testFirstSeed(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	a.newUser(demo, 100)
	// The seed's add leads to 160: its user had 140 by then.
	a.post("/users/"+demo+"/add", `{"amount": 20, "transaction_id": "tx_1as4ndakd"}`).want(202, "")
	b.post("/users/"+demo+"/add", `{"amount": 20, "transaction_id": "tx_1as4ndakda"}`).want(202, "")
	const add = `{
    "amount": 20,
    "transaction_id": "tx_1as4ndakdab"
}`
	a.post("/users/"+demo+"/add", add).want(202, "").says(`{
   "success": true,
   "message": "transaction successful!",
   "status_code": 202,
   "data": {
      "current_balance": 160
   }
}`)
	for _, f := range []face{a, b} {
		f.post("/users/"+demo+"/add", add).want(422, "already_processed").says(`{
   "success": false,
   "message": "transaction was already processed",
   "status_code": 422
}`)
	}
	for _, body := range []string{`{"amount": 20, "transaction_id": ""}`, `{"amount": 20}`} {
		a.post("/users/"+demo+"/add", body).want(400, "invalid_transaction_id").says(`{
   "success": false,
   "message": "valid transaction id required",
   "status_code": 400
}`)
	}
	b.get("/users/"+demo+"/balance").want(200, "").says(`{
   "success": true,
   "message": "request successful!",
   "status_code": 200,
   "data": {
      "balance": 160
   }
}`)
	b.get("/users/7d7750a1-c3f2-4765-bf8f-33bc80f3f809/balance").want(404, "user_not_found").says(`{
   "success": false,
   "message": "user not found",
   "status_code": 404
}`)
	a.get("/users/"+demo+"/history?page_size=20").want(200, "").says(`{
   "success": true,
   "message": "request successful!",
   "status_code": 200,
   "data": {
      "total": 4,
      "page_size": 20,
      "next_page": "",
      "histories": [
         {"amount": 20, "transaction_id": "tx_1as4ndakdab", "balance": 160, "version": 4, "kind": "add"},
         {"amount": 20, "transaction_id": "tx_1as4ndakda"},
         {"amount": 20, "transaction_id": "tx_1as4ndakd"},
         {"amount": 100, "version": 1}
      ]
   }
}`)
	a.get("/users/"+demo+"/history?page_size=2").want(200, "").says(`{"data": {"total": 4, "page_size": 2, "next_page": "Mw==", "histories": [{"version": 4}, {"version": 3}]}}`)
	// The page stays what it was when an entry arrives.
	a.post("/users/"+demo+"/withdraw", `{"amount": 60, "transaction_id": "w"}`).want(202, "").says(`{"data": {"current_balance": 100}}`)
	b.get("/users/"+demo+"/history?page_size=10&page=Mw==").want(200, "").says(`{"data": {"total": 5, "next_page": "", "histories": [{"version": 2}, {"version": 1}]}}`)
	for _, size := range []string{"?page_size=x", "?page_size=0", ""} {
		a.get("/users/"+demo+"/history"+size).want(400, "invalid_page_size").says(`{
   "success": false,
   "message": "page size should be a valid integer",
   "status_code": 400
}`)
	}
	b.get("/users/"+demo+"/history?page_size=10&page=x").want(400, "invalid_cursor").says(`{
    "success": false,
    "message": "invalid pagination cursor",
    "status_code": 400
}`)
}

func testSecondSeed(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	for _, f := range []face{a, b} { // a repeat is no error
		got := f.post("/app/create_user/bob/someemail", "").want(200, "")
		if got.Text != `{"status":"created"}` {
			t.Errorf("create_user: %s", got.Text)
		}
	}
	a.post("/app/create_user/emil/emilchess@yandex.ru", "").want(200, "")
	if got := b.get("/app/get_user/emil").want(200, ""); got.Text != `{"name":"emil","email":"emilchess@yandex.ru","balance":0}` {
		t.Errorf("get_user: %s", got.Text)
	}
	a.newUser("alice", 1000)
	got := b.post("/app/transfer/alice/bob/100", "").want(200, "")
	var transferred struct {
		TxID   string `json:"tx_id"`
		Status string `json:"status"`
	}
	decode(t, got.Text, &transferred)
	if transferred.TxID == "" || transferred.Status != "PENDING" && transferred.Status != "COMPLETED" {
		t.Errorf("transfer: %s", got.Text)
	}
	a.settles("alice", transferred.TxID, "COMPLETED")
	a.get("/app/get_user/bob").want(200, "").says(`{"name": "bob", "email": "someemail", "balance": 100}`)
	b.get("/app/get_user/alice").want(200, "").says(`{"balance": 900}`)
	a.get("/app/get_user/nobody").want(404, "user_not_found")
	a.post("/app/transfer/alice/bob/901", "").want(422, "insufficient_funds")
}
