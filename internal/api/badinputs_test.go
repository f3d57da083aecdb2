package api_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
)

func TestBadInputs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, c := range apitest.Setup() {
		e.send(c).want(c.Status, "")
	}
	for _, c := range apitest.Setup() { // as often as you like
		if got := e.send(c); got.StatusCode/100 != 2 {
			t.Fatalf("setup again: %d %s", got.StatusCode, got.Text)
		}
	}
	names := make(map[string]bool)
	for _, c := range apitest.BadInputs() {
		if names[c.Name] {
			t.Errorf("two cases are called %q", c.Name)
		}
		names[c.Name] = true
		balances, operations := e.bank.state()
		env := *e
		t.Run(c.Name, func(t *testing.T) {
			env.t = t
			checkBadInput(t, c, env.send(c))
			balancesAfter, operationsAfter := env.bank.state()
			if balances != balancesAfter {
				t.Errorf("users or balances changed:\n%s\n%s", balances, balancesAfter)
			}
			if (operations != operationsAfter) != c.Refused {
				t.Errorf("operations: %s before, %s after", operations, operationsAfter)
			}
		})
	}
	if log := e.log.String(); log != "" {
		t.Errorf("bad inputs are not worth a log line:\n%s", log)
	}
}

// internals are what no answer may show.
var internals = regexp.MustCompile(`pq:|SQLSTATE|goroutine|\.go:|/root/|/home/|panic`)

func checkBadInput(t *testing.T, c apitest.Case, got answer) {
	t.Helper()
	if got.StatusCode != c.Status {
		t.Fatalf("answer is %d, want %d: %s", got.StatusCode, c.Status, got.Text)
	}
	if c.Allow != "" && got.Header.Get("Allow") != c.Allow {
		t.Errorf("Allow is %q, want %q", got.Header.Get("Allow"), c.Allow)
	}
	if c.Outside || c.Method == http.MethodHead {
		return
	}
	if c.Code != "" && got.str("code") != c.Code {
		t.Errorf("code is %q, want %q: %s", got.str("code"), c.Code, got.Text)
	}
	if c.Message != "" && got.str("message") != c.Message {
		t.Errorf("message is %q, want %q", got.str("message"), c.Message)
	}
	if got.at("success") != false || got.str("message") == "" || got.str("trace_id") == "" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("no envelope: %v %s", got.Header, got.Text)
	}
	if internals.MatchString(got.Text) || len(got.Text) > 600 {
		t.Errorf("answer shows too much: %s", got.Text)
	}
	for name := range got.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("header %s", name)
		}
	}
}
