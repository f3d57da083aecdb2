package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// bank answers as routers do, from memory. It can be made to do wrong.
type bank struct {
	mu       sync.Mutex
	accounts map[string]*account
	done     map[string]bool // transfers
	asked    int             // transfers, again and again

	fault  func(w http.ResponseWriter, asked int, before bool) bool // answers in the bank's stead
	forget bool                                                     // transfers are done, and not remembered
	stale  bool                                                     // balances are shown without the last entry
}

type account struct{ balance, version int64 }

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	type one map[string]any
	answer := func(status int, data one) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(one{"status_code": status, "data": data})
	}
	var body struct {
		ID        string         `json:"id"`
		Amount    int64          `json:"amount"`
		Transfers []transferBody `json:"transfers"`
	}
	var text json.RawMessage
	if r.Method == http.MethodPost {
		_ = json.NewDecoder(r.Body).Decode(&text)
		_ = json.Unmarshal(text, &body)
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/users":
		b.accounts[body.ID] = &account{}
		answer(http.StatusCreated, nil)
	case strings.HasSuffix(r.URL.Path, "/add"):
		*b.accounts[parts[1]] = account{body.Amount, 1}
		answer(http.StatusAccepted, nil)
	case strings.HasSuffix(r.URL.Path, "/balance"):
		a := *b.accounts[parts[1]]
		if b.stale && a.version > 1 {
			a.version--
		}
		answer(http.StatusOK, one{"balance": a.balance, "version": a.version})
	case r.URL.Path == "/transfers/batch":
		var results []one
		for _, t := range body.Transfers {
			b.transfer(t)
			results = append(results, one{"status_code": 201, "status": "COMPLETED", "transaction_id": t.TransactionID})
		}
		answer(http.StatusOK, one{"results": results})
	default:
		b.asked++
		if b.fault != nil && b.fault(w, b.asked, true) {
			return
		}
		var t transferBody
		_ = json.Unmarshal(text, &t)
		version := b.transfer(t)
		if b.fault != nil && b.fault(w, b.asked, false) {
			return
		}
		answer(http.StatusCreated, one{"status": "COMPLETED", "version": version})
	}
}

func (b *bank) transfer(t transferBody) int64 {
	from, to := b.accounts[t.Source], b.accounts[t.Destination]
	if !b.done[t.TransactionID] {
		b.done[t.TransactionID] = !b.forget
		from.balance -= t.Amount
		from.version++
		to.balance += t.Amount
		to.version++
	}
	return from.version
}

func TestPayerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	status := func(status int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"message":"so it is"}`))
		}
	}
	cut := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	// every answers each third request with a fault, before or after it was done.
	every := func(before bool, fault func(http.ResponseWriter)) func(http.ResponseWriter, int, bool) bool {
		return func(w http.ResponseWriter, asked int, now bool) bool {
			if asked%3 != 0 || now != before {
				return false
			}
			fault(w)
			return true
		}
	}
	for name, test := range map[string]struct {
		bank  *bank
		wrong string // a part of it; "": nothing is
		line  string // pattern: what the step was like
	}{
		"all is well":                 {&bank{}, "", "failed=0"},
		"some are refused for now":    {&bank{fault: every(true, status(503))}, "", `\d 503\)`},
		"some outcomes are not known": {&bank{fault: every(false, status(504))}, "", `\d 504\)`},
		"some are pending":            {&bank{fault: every(false, status(202))}, "", "failed=0 pending=[1-9]"},
		"connections are cut":         {&bank{fault: every(false, cut)}, "", `resent=[1-9]`},

		"a transfer is refused":       {&bank{fault: every(true, status(422))}, "answered 422", ""},
		"what was done is done again": {&bank{forget: true}, "by what was acknowledged", ""},
		"an old balance is shown":     {&bank{stale: true}, "then shown entry", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.bank.accounts, test.bank.done = make(map[string]*account), make(map[string]bool)
			server := httptest.NewServer(test.bank)
			defer server.Close()
			p := newPayer(config{
				url: server.URL, name: "t", users: 5, callers: 8, rate: 200, patience: 10 * time.Second,
			}, slog.New(slog.DiscardHandler))
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			err := p.run(ctx)
			line := p.endStep()
			if wrong := err != nil; wrong != (test.wrong != "") || wrong && !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("the payer says %v, not %q; %s", err, test.wrong, line)
			}
			if !regexp.MustCompile(test.line).MatchString(line) || strings.HasPrefix(line, "completed=0") && test.wrong == "" {
				t.Errorf("the step was %q, not %q", line, test.line)
			}
		})
	}
}
