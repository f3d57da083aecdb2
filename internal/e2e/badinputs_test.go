package e2e

import (
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api/apitest"
)

// Whatever a bad request is, it leaves nothing.
func testBadInputs(t *testing.T, c *cluster) {
	a, b := c.faces(t)
	for _, setup := range apitest.Setup() {
		a.send(setup)
	}
	tried := 0
	send := func(f face, bad apitest.Case) {
		tried++
		begun := time.Now()
		got, err := f.try(bad)
		switch {
		case err != nil:
			t.Errorf("%s: %v", bad.Name, err)
			return
		case got.StatusCode != bad.Status:
			t.Errorf("%s: answer is %d, want %d: %.200s", bad.Name, got.StatusCode, bad.Status, got.Text)
		case bad.Code != "" && bad.Method != "HEAD" && got.body().Code != bad.Code:
			t.Errorf("%s: code is %q, want %q: %.200s", bad.Name, got.body().Code, bad.Code, got.Text)
		case bad.Message != "" && got.body().Message != bad.Message:
			t.Errorf("%s: message is %q, want %q", bad.Name, got.body().Message, bad.Message)
		case bad.Allow != "" && got.Header.Get("Allow") != bad.Allow:
			t.Errorf("%s: Allow is %q, want %q", bad.Name, got.Header.Get("Allow"), bad.Allow)
		}
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("%s: answered after %v", bad.Name, took)
		}
	}

	before := digest(t, c)
	var refused []apitest.Case
	for _, bad := range apitest.BadInputs() {
		if bad.Refused {
			refused = append(refused, bad)
			continue
		}
		send(a, bad)
	}
	wantSame(t, "bad input", before, digest(t, c))

	// These reach the book, which remembers the refusal and moves nothing.
	books := readWorld(t, c)
	for _, bad := range refused {
		send(a, bad)
		send(b, bad) // and once more
	}
	after := readWorld(t, c)
	if n := len(after.starts) - len(books.starts); n != len(refused) {
		t.Errorf("%d refusals are remembered, not %d", n, len(refused))
	}
	for of, now := range after.balances {
		if was := books.balances[of]; was.balance != now.balance {
			t.Errorf("%v has %d, had %d", of, now.balance, was.balance)
		}
	}
	if tried < 300 {
		t.Errorf("only %d bad inputs", tried)
	}
	t.Logf("%d bad inputs", tried)
}
