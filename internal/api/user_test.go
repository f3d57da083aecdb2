package api_test

import (
	"strings"
	"testing"
)

func TestCreateUser(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const dora = `{"name":"Dora","id":"a.b_c-d:e+f~g@h","email":"dora@example.com"}`
	got := e.post("/users", dora).want(201, "").says(`{"message": "request successful!", "data": {
		"id": "a.b_c-d:e+f~g@h", "name": "Dora", "email": "dora@example.com", "balance": 0, "currency": "USD", "balances": []}}`)
	if location := got.Header.Get("Location"); location != "/users/a.b_c-d:e+f~g@h" {
		t.Errorf("Location is %q", location)
	}
	e.post("/users", dora).want(200, "").says(`{"data": {"id": "a.b_c-d:e+f~g@h"}}`)
	e.post("/users", strings.Replace(dora, "Dora", "Eve", 1)).want(409, "user_id_conflict")

	one := e.post("/users", `{"name":"Zoë 😀"}`).want(201, "")
	two := e.post("/users", `{"email":"","name":"Zo\u00eb \ud83d\ude00"}`).want(201, "")
	if one.str("data", "name") != "Zoë 😀" || two.str("data", "name") != "Zoë 😀" {
		t.Errorf("names are %s and %s", one.Text, two.Text)
	}
	if one.str("data", "id") == two.str("data", "id") || len(one.str("data", "id")) != 36 {
		t.Errorf("generated ids are %s and %s", one.str("data", "id"), two.str("data", "id"))
	}
	e.get(one.Header.Get("Location")).want(200, "")

	// Each way to write a path means the same user; "+" is not a blank.
	for _, id := range []string{"a.b_c-d:e+f~g@h", "a.b_c-d:e+f~g%40h", "a.b_c-d%3Ae%2Bf%7eg@h", "%61.b_c-d:e+f~g%40h"} {
		e.get("/users/"+id).want(200, "").says(`{"data": {"name": "Dora"}}`)
		e.get("/users/"+id+"/balance").want(200, "")
	}
}

func TestUserHasBalances(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.post("/users/alice/add", `{"amount":7,"transaction_id":"eur","currency":"EUR"}`).want(202, "")
	e.get("/users/alice").want(200, "").says(`{"data": {"balance": 1000, "currency": "USD", "balances": [
		{"balance": 7, "currency": "EUR", "version": 1}, {"balance": 1000, "currency": "USD", "version": 1}]}}`)
	e.get("/users/alice/balance").want(200, "").says(`{"data": {"balance": 1000, "currency": "USD", "version": 1}}`)
	e.get("/users/alice/balance?currency=EUR").want(200, "").says(`{"data": {"balance": 7, "currency": "EUR", "version": 1}}`)
	e.get("/users/alice/balance?currency=JPY").want(200, "").says(`{"data": {"balance": 0, "currency": "JPY", "version": 0}}`)
}
