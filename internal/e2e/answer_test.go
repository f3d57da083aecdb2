package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
)

var validator = sync.OnceValues(apitest.NewValidator)

// face is one router as a test's client sees it. Every answer that it returns agrees with openapi.yaml.
type face struct {
	t       *testing.T
	client  *http.Client
	address string
	patient bool
}

// patiently returns the face for a time after an outage: reads that are answered 503 are repeated. (A router finds out
// connection by connection that a server was away.)
func (f face) patiently() face {
	f.patient = true
	return f
}

func (c *cluster) face(t *testing.T, router int) face {
	return face{t: t, client: c.client, address: c.addresses[router]}
}

// faces returns the first two routers, ready.
func (c *cluster) faces(t *testing.T) (a, b face) {
	t.Helper()
	c.ready(t, 0)
	c.ready(t, 1)
	return c.face(t, 0), c.face(t, 1)
}

// answer is a response that has been read.
type answer struct {
	apitest.Answer
	t *testing.T
}

func (f face) post(path, body string, header ...string) answer {
	f.t.Helper()
	return f.send(postCase(path, body, header...))
}

func postCase(path, body string, header ...string) apitest.Case {
	c := apitest.Case{Method: "POST", Path: path, Body: body, Header: make(http.Header)}
	if body != "" {
		c.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		c.Header.Set(header[i], header[i+1])
	}
	return c
}

func (f face) get(path string) answer {
	f.t.Helper()
	return f.send(getCase(path))
}

func getCase(path string) apitest.Case { return apitest.Case{Method: "GET", Path: path} }

func (f face) send(c apitest.Case) answer {
	f.t.Helper()
	for deadline := time.Now().Add(long); ; time.Sleep(50 * time.Millisecond) {
		got, err := f.try(c)
		if err != nil {
			f.t.Fatal(err)
		}
		if !f.patient || c.Method != "GET" || got.StatusCode != http.StatusServiceUnavailable || time.Now().After(deadline) {
			return got
		}
	}
}

// try is send for another goroutine than the test's.
func (f face) try(c apitest.Case) (answer, error) {
	got, err := c.Send(context.Background(), f.client, f.address)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s: %w", c.Method, c.Path, err)
	}
	if c.Raw == "" {
		checker, err := validator()
		if err == nil {
			err = checker.Check(got.Response)
		}
		if err != nil {
			f.t.Errorf("openapi.yaml does not allow this answer: %v", err)
		}
	}
	return answer{Answer: got, t: f.t}, nil
}

// want checks the status and the error's code, "" for none.
func (a answer) want(status int, code string) answer {
	a.t.Helper()
	if got := a.body().Code; a.StatusCode != status || got != code {
		a.t.Fatalf("answer is %d %q, want %d %q: %s", a.StatusCode, got, status, code, a.Text)
	}
	return a
}

// replayed checks whether the answer says that it is a repeat.
func (a answer) replayed(want bool) answer {
	a.t.Helper()
	if got := a.Header.Get("Idempotent-Replayed") == "true"; got != want {
		a.t.Errorf("Idempotent-Replayed is %v, want %v: %d %s", got, want, a.StatusCode, a.Text)
	}
	return a
}

// body is the envelope, with what of the data tests look at.
type body struct {
	Success bool   `json:"success"`
	Message string `json:"message"`
	Code    string `json:"code"`
	Data    struct {
		TransactionID  string `json:"transaction_id"`
		Status         string `json:"status"`
		Reason         string `json:"reason"`
		CurrentBalance int64  `json:"current_balance"`
		Balance        int64  `json:"balance"`
		Version        int64  `json:"version"`
		Amount         int64  `json:"amount"`
		Source         string `json:"source"`
		Destination    string `json:"destination"`
		NextPage       string `json:"next_page"`
		Total          int64  `json:"total"`
	} `json:"data"`
}

func (a answer) body() (b body) {
	a.t.Helper()
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") && a.Text != "" {
		if err := json.Unmarshal([]byte(a.Text), &b); err != nil {
			a.t.Fatalf("answer is not JSON: %v: %s", err, a.Text)
		}
	}
	return b
}

// says checks that the answer holds a JSON value: every field of an object in want must be there and equal.
func (a answer) says(want string) answer {
	a.t.Helper()
	got, err := parse(a.Text)
	if err != nil {
		a.t.Fatalf("answer is not JSON: %v: %s", err, a.Text)
	}
	wanted, err := parse(want)
	if err != nil {
		a.t.Fatalf("the test wants what is not JSON: %v", err)
	}
	if !holds(got, wanted) {
		a.t.Fatalf("answer is %d\n%s\nwant in it\n%s", a.StatusCode, a.Text, want)
	}
	return a
}

func parse(text string) (value any, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	err = decoder.Decode(&value)
	return value, err
}

func holds(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		for name, value := range want {
			ok = ok && holds(object[name], value)
		}
		return ok
	case []any:
		list, ok := got.([]any)
		ok = ok && len(list) == len(want)
		for i := range want {
			ok = ok && holds(list[i], want[i])
		}
		return ok
	}
	return got == want
}

// Shorthands.

func (f face) newUser(id string, balance int64) {
	f.t.Helper()
	f.post("/users", fmt.Sprintf(`{"id":%q,"name":%q}`, id, id)).want(201, "")
	if balance > 0 {
		f.post("/users/"+id+"/add", fmt.Sprintf(`{"amount":%d,"transaction_id":"opening"}`, balance)).want(202, "")
	}
}

func transferBody(source, destination string, amount int64, txID string) string {
	return fmt.Sprintf(`{"source":%q,"destination":%q,"amount":%d,"transaction_id":%q}`, source, destination, amount, txID)
}

func (f face) transfer(source, destination string, amount int64, txID string, header ...string) answer {
	f.t.Helper()
	return f.post("/transfers", transferBody(source, destination, amount, txID), header...)
}

func (f face) balance(id string) int64 {
	f.t.Helper()
	return f.get("/users/"+id+"/balance").want(200, "").body().Data.Balance
}

func (f face) wantBalance(id string, want int64) {
	f.t.Helper()
	if got := f.balance(id); got != want {
		f.t.Errorf("%s has %d, not %d", id, got, want)
	}
}

// settles polls a transfer until it is not pending any more, and checks how it ended.
func (f face) settles(initiator, txID, want string) {
	f.t.Helper()
	until(f.t, "the end of "+initiator+"/"+txID, long, func() bool {
		got, err := f.try(apitest.Case{Method: "GET", Path: "/users/" + initiator + "/transfers/" + txID})
		if err != nil || got.StatusCode == http.StatusServiceUnavailable {
			return false
		}
		status := got.want(200, "").body().Data.Status
		if status != "PENDING" && status != want {
			f.t.Fatalf("%s/%s is %s, not %s", initiator, txID, status, want)
		}
		return status == want
	})
}

// both sends two requests at once and returns the answers.
func both(t *testing.T, f face, x apitest.Case, g face, y apitest.Case) (answer, answer) {
	t.Helper()
	var (
		answers [2]answer
		errs    [2]error
		sending sync.WaitGroup
		go_     = make(chan struct{})
	)
	for i, one := range []struct {
		face
		apitest.Case
	}{{f, x}, {g, y}} {
		sending.Go(func() {
			<-go_
			answers[i], errs[i] = one.try(one.Case)
		})
	}
	close(go_)
	sending.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return answers[0], answers[1]
}

// within checks that something is over in time.
func within(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	begun := time.Now()
	do()
	if took := time.Since(begun); took > limit {
		t.Errorf("%s took %v, more than %v", what, took.Round(time.Millisecond), limit)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not JSON: %v: %s", err, text)
	}
}
