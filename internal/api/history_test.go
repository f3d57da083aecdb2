package api_test

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestHistoryPages(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for i := range 6 {
		e.post("/users/alice/withdraw", fmt.Sprintf(`{"amount":1,"transaction_id":"w%d"}`, i)).want(202, "")
	}
	// Entries arrive between the pages and do not move them.
	want, page := int64(7), ""
	for n := 0; ; n++ {
		got := e.get("/users/alice/history?page_size=3"+page).want(200, "")
		for _, line := range got.at("data", "histories").([]any) {
			version, err := line.(map[string]any)["version"].(json.Number).Int64()
			if err != nil || version != want {
				t.Fatalf("version is %d, want %d: %s", version, want, got.Text)
			}
			want--
		}
		next := got.str("data", "next_page")
		if next == "" {
			break
		}
		page = "&page=" + next
		e.post("/users/alice/add", fmt.Sprintf(`{"amount":1,"transaction_id":"a%d"}`, n)).want(202, "")
	}
	if want != 0 {
		t.Errorf("the pages end before entry %d", want)
	}
	e.get("/users/alice/history?page_size=1").says(`{"data": {"total": 9, "page_size": 1, "histories": [{"amount": 1, "kind": "add", "counterparty": ""}]}}`)
	e.get("/users/alice/history?page_size=1&page=Mw==").says(`{"data": {"histories": [{"amount": -1, "kind": "withdraw", "transaction_id": "w0", "balance": 999, "version": 2}]}}`)
	// A page of another length that ends with the first entry is the last one.
	e.get("/users/alice/history?page_size=2&page=Mw==").says(`{"data": {"next_page": ""}}`)
	e.get("/users/alice/history?page_size=1000&currency=EUR").says(`{"data": {"total": 0, "next_page": "", "histories": []}}`)
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 4, "t1")).want(201, "")
	e.get("/users/alice/history?page_size=1").says(`{"data": {"histories": [{"amount": -4, "kind": "transfer", "counterparty": "bob"}]}}`)
	e.get("/users/bob/history?page_size=1").says(`{"data": {"histories": [{"amount": 4, "kind": "transfer", "counterparty": "alice"}]}}`)
}
