package api_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// holding is a Ledger whose calls begin, and then wait until they may go on.
type holding struct {
	api.Ledger
	begun chan time.Duration // what each transfer would wait for its end
	goOn  chan struct{}
}

func (h holding) Transfer(ctx context.Context, start ledger.Operation, wait time.Duration) (ledger.TransferRecord, bool, error) {
	h.begun <- wait
	<-h.goOn
	return h.Ledger.Transfer(ctx, start, wait)
}

func (h holding) Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	h.begun <- 0
	<-h.goOn
	return h.Ledger.Balance(ctx, id, currency)
}

func TestNoMoreRequestsThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	h := holding{begun: make(chan time.Duration), goOn: make(chan struct{})}
	const most = 4
	e := newEnv(t, func(c *api.Config) { h.Ledger = c.Ledger })
	e.server.Config.Handler = api.New(api.Config{Ledger: h, Health: e.bank, Currency: "USD", Wait: time.Second, MaxRequests: most})
	letGo := sync.OnceFunc(func() { close(h.goOn) })
	t.Cleanup(letGo)
	answers := make(chan answer, 3*most)
	begin := func(n int) {
		go func() { answers <- e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, fmt.Sprint("t", n))) }()
	}

	for n := range most {
		begin(n)
		// From the third on more than half of the room is taken.
		if wait, want := <-h.begun, time.Second; n < 2 && wait != want || n >= 2 && wait != 0 {
			t.Errorf("transfer %d waits %v for its end", n, wait)
		}
	}
	got := e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "more")).want(503, "overloaded")
	if got.Header.Get("Retry-After") == "" {
		t.Error("a refusal does not say when to try again")
	}
	e.post("/users", `whatever it is`).want(503, "overloaded")
	e.post("/nowhere", `{}`).want(404, "not_found")

	for range most { // reads have room of their own
		go func() { answers <- e.get("/users/alice/balance") }()
		<-h.begun
	}
	e.get("/users/alice").want(503, "overloaded")
	for _, path := range []string{"/livez", "/readyz", "/openapi.yaml"} {
		if got := e.get(path); got.StatusCode != 200 {
			t.Errorf("%s is answered %d", path, got.StatusCode)
		}
	}

	letGo()
	for range 2 * most {
		if got := <-answers; got.StatusCode != 200 && got.StatusCode != 201 {
			t.Errorf("what was let in is answered %d: %s", got.StatusCode, got.Text)
		}
	}
	begin(most)
	if wait := <-h.begun; wait != time.Second {
		t.Errorf("when all is done a transfer waits %v for its end", wait)
	}
	(<-answers).want(201, "")
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bank := newBank()
		server := api.NewServer(api.New(api.Config{
			Ledger: slowReads{bank}, Health: bank, Currency: "USD", Timeout: time.Second, Tracer: noop.NewTracerProvider(),
		}), slog.New(slog.DiscardHandler))
		client, conn := net.Pipe()
		listener := &oneConn{conn: conn, closed: make(chan struct{})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = server.Serve(listener)
		}()
		defer func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			<-served
		}()
		if _, _, err := bank.CreateUser(t.Context(), ledger.User{ID: "alice", Name: "alice"}); err != nil {
			t.Fatal(err)
		}
		reader := bufio.NewReader(client)
		ask := func(currency string) *http.Response {
			t.Helper()
			fmt.Fprintf(client, "GET /users/alice/balance?currency=%s HTTP/1.1\r\nHost: x\r\n\r\n", currency)
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := reader.Discard(int(response.ContentLength)); err != nil {
				t.Fatal(err)
			}
			return response
		}
		for range 3 { // each has the whole time
			if got := ask("EUR"); got.StatusCode != 200 || got.Close {
				t.Errorf("in time the answer is %d, close %v", got.StatusCode, got.Close)
			}
		}
		begun := time.Now()
		if got := ask("USD"); got.StatusCode != 503 || !got.Close || time.Since(begun) != time.Second {
			t.Errorf("after %v the answer is %d, close %v", time.Since(begun), got.StatusCode, got.Close)
		}
	})
}

// slowReads reads a balance in less than a second, and one of USD not at all.
type slowReads struct{ *bank }

func (s slowReads) Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	if currency == "USD" {
		<-ctx.Done()
		return ledger.Account{}, ctx.Err()
	}
	time.Sleep(900 * time.Millisecond)
	return s.bank.Balance(ctx, id, currency)
}

// oneConn is a listener to which one connection comes.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	if conn, l.conn = l.conn, nil; conn != nil {
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
