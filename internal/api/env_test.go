package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/api/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const demo = "6d7750a1-c3f2-4765-bf8f-33bc80f3f809"

var validator = sync.OnceValues(apitest.NewValidator)

// env is a server over a bank. Every answer that it returns agrees with openapi.yaml.
type env struct {
	t       *testing.T
	bank    *bank
	server  *httptest.Server
	checker *apitest.Validator
	log     *lockedBuffer
}

// newEnv starts a server. Users demo (100 USD, one entry), alice (1000 USD), bob and far-carol exist.
func newEnv(t *testing.T, change ...func(*api.Config)) *env {
	t.Helper()
	checker, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, bank: newBank(), checker: checker, log: new(lockedBuffer)}
	config := api.Config{
		Ledger: e.bank, Health: e.bank, Currency: "USD", Wait: time.Second, Timeout: 5 * time.Second,
		Log: slog.New(slog.NewJSONHandler(e.log, nil)), Metrics: http.HandlerFunc(exposed),
	}
	for _, f := range change {
		f(&config)
	}
	e.server = httptest.NewUnstartedServer(nil)
	e.server.Config = api.NewServer(api.New(config), config.Log)
	e.server.Start()
	t.Cleanup(e.server.Close)
	for _, id := range []string{demo, "alice", "bob", "far-carol"} {
		e.post("/users", `{"name":"Test","id":"`+id+`"}`).want(201, "")
	}
	e.post("/users/"+demo+"/add", `{"amount":100,"transaction_id":"first"}`).want(202, "")
	e.post("/users/alice/add", `{"amount":1000,"transaction_id":"first"}`).want(202, "")
	return e
}

// exposed answers /metrics.
func exposed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte("# TYPE up gauge\nup 1\n"))
}

func (e *env) address() string { return strings.TrimPrefix(e.server.URL, "http://") }

// answer is a response that was checked against openapi.yaml.
type answer struct {
	apitest.Answer
	t *testing.T
}

func (e *env) post(path, body string, header ...string) answer {
	e.t.Helper()
	if body != "" {
		header = append([]string{"Content-Type", "application/json"}, header...)
	}
	return e.do("POST", path, body, header...)
}

func (e *env) get(path string, header ...string) answer {
	e.t.Helper()
	return e.do("GET", path, "", header...)
}

func (e *env) do(method, path, body string, header ...string) answer {
	e.t.Helper()
	c := apitest.Case{Method: method, Path: path, Body: body, Header: make(http.Header)}
	for i := 0; i < len(header); i += 2 {
		c.Header.Set(header[i], header[i+1]) // the last one counts
	}
	return e.send(c)
}

func (e *env) send(c apitest.Case) answer {
	e.t.Helper()
	got, err := c.Send(context.Background(), e.server.Client(), e.address())
	if err != nil {
		e.t.Fatal(err)
	}
	if c.Raw == "" {
		if err := e.checker.Check(got.Response); err != nil {
			e.t.Errorf("openapi.yaml does not allow this answer: %v", err)
		}
	}
	return answer{Answer: got, t: e.t}
}

// want checks the status and, unless it is empty, the error's code.
func (a answer) want(status int, code string) answer {
	a.t.Helper()
	got := a.str("code")
	if a.StatusCode != status || got != code {
		a.t.Fatalf("answer is %d %q, want %d %q: %s", a.StatusCode, got, status, code, a.Text)
	}
	return a
}

// at returns a field, as in at("data", "balance"), nil if there is none.
func (a answer) at(path ...string) any {
	a.t.Helper()
	if a.Text == "" {
		return nil
	}
	var value any
	decoder := json.NewDecoder(strings.NewReader(a.Text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		a.t.Fatalf("answer is not JSON: %v: %s", err, a.Text)
	}
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

// str returns a string or a number as text, "" if there is none.
func (a answer) str(path ...string) string {
	a.t.Helper()
	switch value := a.at(path...).(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	}
	return ""
}

// says checks that the answer holds a JSON value: every field of an object in want must be there and equal.
func (a answer) says(want string) answer {
	a.t.Helper()
	var wanted any
	decoder := json.NewDecoder(strings.NewReader(want))
	decoder.UseNumber()
	if err := decoder.Decode(&wanted); err != nil {
		a.t.Fatalf("the test wants what is not JSON: %v", err)
	}
	if !holds(a.at(), wanted) {
		a.t.Fatalf("answer is\n%s\nwant in it\n%s", a.Text, want)
	}
	return a
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

func traceOf(ctx context.Context) trace.SpanContext { return trace.SpanContextFromContext(ctx) }

// lockedBuffer is a log that a test can read.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
