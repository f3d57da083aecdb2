package work_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// people are n users on each of so many shards; a user's id begins with the shard's number.
func people(shards, n int) [][]ledger.UserID {
	users := make([][]ledger.UserID, shards)
	for s := range users {
		for i := range n {
			users[s] = append(users[s], ledger.UserID(fmt.Sprintf("%d-%d", s, i)))
		}
	}
	return users
}

func shardOf(id ledger.UserID) string {
	shard, _, _ := strings.Cut(string(id), "-")
	return shard
}

func TestWithinAndPartly(t *testing.T) {
	t.Parallel()
	users := people(3, 20)
	const n = 20_000
	for share, transfers := range map[float64]work.Transfers{
		0: work.Within(1, "run", users), 0.1: work.Partly(1, "run", users, 0.1), 0.5: work.Partly(1, "run", users, 0.5),
		1: work.Partly(1, "run", users, 1),
	} {
		across, payers, ids := 0, make(map[ledger.UserID]int), make(map[ledger.TxID]bool)
		for i := range n {
			caller, k := i%7, int64(i/7)
			transfer := transfers(caller, k)
			if transfer.Initiator == transfer.Payee || transfer.Amount < 1 || transfer != transfers(caller, k) {
				t.Fatalf("%+v", transfer)
			}
			if shardOf(transfer.Initiator) != shardOf(transfer.Payee) {
				across++
			}
			payers[transfer.Initiator]++
			ids[transfer.TxID] = true
		}
		if got := float64(across) / n; math.Abs(got-share) > 0.02 {
			t.Errorf("a share of %g goes to another shard, not %g", got, share)
		}
		if len(payers) != 60 || len(ids) != n {
			t.Errorf("%d payers and %d ids", len(payers), len(ids))
		}
		for payer, times := range payers {
			if mean := n / 60.; math.Abs(float64(times)-mean) > 6*math.Sqrt(mean) {
				t.Errorf("%s pays %d times, others %g", payer, times, mean)
			}
		}
	}
}

func TestSkewed(t *testing.T) {
	t.Parallel()
	const n, s, callers = 100_000, 1.3, 3
	transfers := work.Skewed(5, "run", people(2, 1000), s, callers)
	parts := make(map[ledger.UserID]float64)
	for i := range n {
		transfer := transfers(i%callers, int64(i))
		if shardOf(transfer.Initiator) != shardOf(transfer.Payee) || transfer.Initiator == transfer.Payee {
			t.Fatalf("%+v", transfer)
		}
		if again := transfers(i%callers, int64(i)); again != transfer {
			t.Fatalf("%+v, then %+v", transfer, again)
		}
		parts[transfer.Initiator]++
		parts[transfer.Payee]++
	}
	// That the two ends differ evens the first few out, so look behind them.
	for _, shard := range []string{"0", "1"} {
		for _, rank := range []float64{10, 30} {
			near := func(rank float64) (sum float64) {
				for k := rank - 3; k <= rank+3; k++ {
					sum += parts[ledger.UserID(fmt.Sprintf("%s-%g", shard, k-1))]
				}
				return sum
			}
			if got, want := near(rank)/near(3*rank), math.Pow(3, s); math.Abs(got/want-1) > 0.15 {
				t.Errorf("shard %s: rank %g takes part %g times as often as rank %g, not %g", shard, rank, got, 3*rank, want)
			}
		}
	}
}

// router is a fake one, which answers what answer returns.
func router(t *testing.T, answer func(r *http.Request, body map[string]any) (status int, reply string)) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if content, _ := io.ReadAll(r.Body); len(content) > 0 {
			if err := json.Unmarshal(content, &body); err != nil || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%v: %s", err, content)
			}
		}
		status, reply := answer(r, body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, reply)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func newHTTP(t *testing.T, name string, options work.HTTPOptions) *work.HTTP {
	t.Helper()
	kind, err := work.HTTPWorkNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	if options.Callers == 0 {
		options.Callers = 1
	}
	h, err := work.NewHTTP(kind, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func codeIn(err error) string {
	var coded load.Coded
	if errors.As(err, &coded) {
		return coded.ErrorCode()
	}
	return fmt.Sprint(err)
}

// What each answer to a transfer counts as.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const sent = "source destination amount currency transaction_id"
	for _, tt := range []struct {
		status int
		reply  string
		units  int
		code   string
	}{
		{201, `{"success":true,"data":{"status":"COMPLETED"}}`, 1, "<nil>"},
		{202, `{"success":true,"data":{"status":"PENDING"}}`, 0, "pending"},
		{422, `{"success":false,"status_code":422,"code":"insufficient_funds","trace_id":"x"}`, 0, "insufficient_funds"},
		{503, `{"success":false,"status_code":503,"code":"overloaded"}`, 0, "overloaded"},
		{502, `<html>`, 0, "http_502"},
		{200, `{}`, 0, "http_200"},
	} {
		url := router(t, func(r *http.Request, body map[string]any) (int, string) {
			for field := range strings.FieldsSeq(sent) {
				if body[field] == nil {
					t.Errorf("%s is not sent", field)
				}
			}
			if r.Method != http.MethodPost || r.URL.Path != "/transfers" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			return tt.status, tt.reply
		})
		h := newHTTP(t, "same", work.HTTPOptions{URLs: []string{url}, Users: people(1, 5)})
		if units, err := h.Call(t.Context(), 0, 0); units != tt.units || codeIn(err) != tt.code {
			t.Errorf("%d: %d units, %v", tt.status, units, err)
		}
	}
}

// The ends of pending transfers are awaited, and those that are not COMPLETED are told.
func TestSettle(t *testing.T) {
	t.Parallel()
	var asked sync.Map
	url := router(t, func(r *http.Request, body map[string]any) (int, string) {
		if r.Method == http.MethodPost {
			return 202, `{"data":{"status":"PENDING"}}`
		}
		before, _ := asked.LoadOrStore(r.URL.Path, new(atomic.Int64))
		switch n := before.(*atomic.Int64).Add(1); {
		case n == 1:
			return 503, `{"code":"unavailable"}`
		case n == 2:
			return 200, `{"data":{"status":"PENDING"}}`
		case strings.HasSuffix(r.URL.Path, "-0"):
			return 200, `{"data":{"status":"REFUNDED"}}`
		}
		return 200, `{"data":{"status":"COMPLETED"}}`
	})
	h := newHTTP(t, "cross", work.HTTPOptions{URLs: []string{url}, Users: people(2, 5), Cross: 1, Callers: 3})
	for caller := range 3 {
		for n := range int64(4) {
			if _, err := h.Call(t.Context(), caller, n); codeIn(err) != "pending" {
				t.Fatal(err)
			}
		}
	}
	result := bench.Result{Errors: map[string]int64{"pending": 12}}
	if err := h.Settle(t.Context(), &result); err != nil {
		t.Fatal(err)
	}
	if len(result.Errors) != 2 || result.Errors["ended_REFUNDED"] != 3 {
		t.Errorf("%v", result.Errors)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	const all = 6
	results := func(of func(i int) string) string {
		var each []string
		for i := range all {
			each = append(each, of(i))
		}
		return `{"success":true,"status_code":200,"data":{"results":[` + strings.Join(each, ",") + `]}}`
	}
	done := func(int) string { return `{"success":true,"status_code":201,"data":{"status":"COMPLETED"}}` }
	some := func(i int) string {
		switch i {
		case 1:
			return `{"success":false,"status_code":422,"code":"insufficient_funds"}`
		case 2:
			return `{"success":true,"status_code":202,"data":{"status":"PENDING"}}`
		}
		return done(i)
	}
	for _, tt := range []struct {
		name   string
		status int
		reply  string
		units  int
		code   string
		items  map[string]int64
	}{
		{"all are done", 200, results(done), all, "<nil>", nil},
		{"not all are", 200, results(some), all - 2, "<nil>", map[string]int64{"insufficient_funds": 1, "pending": 1, "ended_REFUNDED": 1}},
		{"none is", 503, `{"code":"overloaded"}`, 0, "overloaded", nil},
		{"not so many were sent", 200, `{"data":{"results":[]}}`, 0, "bad_answer", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := router(t, func(r *http.Request, body map[string]any) (int, string) {
				if r.Method == http.MethodGet {
					return 200, `{"data":{"status":"REFUNDED"}}`
				}
				if sent := body["transfers"].([]any); r.URL.Path != "/transfers/batch" || len(sent) != all {
					t.Errorf("%d transfers to %s", len(sent), r.URL)
				}
				return tt.status, tt.reply
			})
			h := newHTTP(t, "batch", work.HTTPOptions{URLs: []string{url}, Users: people(1, 5), Batch: all})
			if _, err := h.Call(t.Context(), 0, 0); codeIn(err) != tt.code {
				t.Error(err)
			}
			h.Begin() // what the warm-up left does not count, but for the ends
			if units, err := h.Call(t.Context(), 0, 1); units != tt.units || codeIn(err) != tt.code {
				t.Errorf("%d units, %v", units, err)
			}
			var result bench.Result
			if err := h.Settle(t.Context(), &result); err != nil {
				t.Fatal(err)
			}
			if tt.items["ended_REFUNDED"] > 0 {
				tt.items["ended_REFUNDED"]++ // that of the warm-up
			}
			if fmt.Sprint(result.Errors) != fmt.Sprint(tt.items) {
				t.Errorf("%v, not %v", result.Errors, tt.items)
			}
		})
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := make(map[string]int) // guarded by mu
	url := router(t, func(r *http.Request, _ map[string]any) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Method+" "+r.URL.Path]++
		if strings.HasSuffix(r.URL.Path, "/history") {
			return 200, `{"data":{"histories":[` + strings.Repeat(`{"created_at":""}`, 3) + `]}}`
		}
		return 200, `{}`
	})
	for _, tt := range []struct {
		name  string
		calls int
		check func() string
	}{
		{"balance", 100, func() string {
			if len(asked) != 10 {
				return "not all users' balances"
			}
			return ""
		}},
		{"mixed", 1000, func() string {
			if writes := asked["POST /transfers"]; writes < 150 || writes > 250 {
				return fmt.Sprint(writes, " transfers of 1000")
			}
			return ""
		}},
		{"history", 3, func() string {
			if asked["GET /users/deep/history"] != 3 {
				return "not the deep history"
			}
			return ""
		}},
	} {
		mu.Lock()
		clear(asked)
		mu.Unlock()
		h := newHTTP(t, tt.name, work.HTTPOptions{URLs: []string{url}, Users: people(2, 5), Deep: "deep", Depth: 1000, PageSize: 3})
		for n := range tt.calls {
			if _, err := h.Call(t.Context(), 0, int64(n)); err != nil && codeIn(err) != "http_200" { // a transfer's
				t.Fatal(err)
			}
		}
		mu.Lock()
		if problem := tt.check(); problem != "" {
			t.Errorf("%s: %s: %v", tt.name, problem, asked)
		}
		mu.Unlock()
	}
	short := newHTTP(t, "history", work.HTTPOptions{URLs: []string{url}, Deep: "deep", Depth: 1000, PageSize: 4})
	if _, err := short.Call(t.Context(), 0, 0); codeIn(err) != "short_page" {
		t.Error(err)
	}
}

// A connection that the router closed while it was idle costs no error; one that it closes in the middle of a call does.
func TestConnections(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var accepted atomic.Int64
	closed := make(chan struct{}, 10)
	go func() { // each connection gets one answer; the third only half of one
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			if accepted.Add(1) == 3 {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Le")
			} else {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
			}
			_ = conn.Close()
			closed <- struct{}{}
		}
	}()
	h := newHTTP(t, "balance", work.HTTPOptions{URLs: []string{"http://" + listener.Addr().String()}, Users: people(1, 5)})
	for i, want := range []string{"<nil>", "<nil>", "connection", "<nil>"} {
		if _, err := h.Call(t.Context(), 0, int64(i)); codeIn(err) != want {
			t.Errorf("call %d: %v, not %s", i+1, err, want)
		}
		<-closed
	}
	listener.Close()
	if _, err := h.Call(t.Context(), 0, 4); codeIn(err) != "connection" {
		t.Errorf("nobody listens: %v", err)
	}
}

// The end of the context ends a call that is not answered.
func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	h := newHTTP(t, "balance", work.HTTPOptions{URLs: []string{"http://" + listener.Addr().String()}, Users: people(1, 5)})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := h.Call(ctx, 0, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	good := work.HTTPOptions{URLs: []string{"http://127.0.0.1:1"}, Callers: 1, Users: people(2, 5), Cross: 1}
	for name, change := range map[string]func(*work.HTTPOptions){
		"no router":         func(o *work.HTTPOptions) { o.URLs = nil },
		"no URL":            func(o *work.HTTPOptions) { o.URLs = []string{"127.0.0.1:8080"} },
		"a URL with a path": func(o *work.HTTPOptions) { o.URLs = []string{"http://127.0.0.1:8080/users"} },
		"no callers":        func(o *work.HTTPOptions) { o.Callers = 0 },
		"no users":          func(o *work.HTTPOptions) { o.Users = nil },
		"too few users":     func(o *work.HTTPOptions) { o.Users = people(2, 1) },
		"one shard":         func(o *work.HTTPOptions) { o.Users = people(1, 5) },
		"too large a share": func(o *work.HTTPOptions) { o.Cross = 1.5 },
		"too flat":          func(o *work.HTTPOptions) { o.Zipf = 1 },
		"an empty batch":    func(o *work.HTTPOptions) { o.Batch = -1 },
	} {
		options := good
		change(&options)
		kind, err := work.HTTPWorkNamed("cross")
		if err != nil {
			t.Fatal(err)
		}
		if h, err := work.NewHTTP(kind, options); err == nil {
			h.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	kind, err := work.HTTPWorkNamed("history")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := work.NewHTTP(kind, good); err == nil {
		t.Error("a history of nobody was accepted")
	}
	if _, err := work.HTTPWorkNamed("nothing"); err == nil {
		t.Error("there is a workload called nothing")
	}
}
