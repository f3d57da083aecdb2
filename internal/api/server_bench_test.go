package api_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// instant answers at once: what is left is the face.
type instant struct{ *bank }

func (instant) Transfer(_ context.Context, start ledger.Operation, _ time.Duration) (ledger.TransferRecord, bool, error) {
	return ledger.TransferRecord{Recorded: ledger.Recorded{Operation: start, Outcome: ledger.Outcome{Balance: 125, Version: 4}}}, false, nil
}

func (instant) Balance(context.Context, ledger.UserID, ledger.Currency) (ledger.Account, error) {
	return ledger.Account{Balance: 160, Version: 4}, nil
}

func (instant) TransferAll(_ context.Context, starts []ledger.Operation, _ time.Duration) []ledger.Answer {
	answers := make([]ledger.Answer, len(starts))
	for i := range starts {
		answers[i].Result.Recorded = ledger.Recorded{Operation: starts[i], Outcome: ledger.Outcome{Balance: 125, Version: 4}}
	}
	return answers
}

// blank is a ResponseWriter that keeps nothing.
type blank struct{ header http.Header }

func (w blank) Header() http.Header         { return w.header }
func (w blank) Write(p []byte) (int, error) { return len(p), nil }
func (w blank) WriteHeader(int)             {}

func BenchmarkTransfer(b *testing.B) {
	const body = `{"source":"6d7750a1-c3f2-4765-bf8f-33bc80f3f809","destination":"7e8861b2-d403-4876-8a90-44cd91040910","amount":1500,"transaction_id":"tx_1as4ndakdab"}`
	request := httptest.NewRequest("POST", "/transfers", nil)
	request.Header.Set("Content-Type", "application/json")
	request.Body = again{strings.NewReader(body)}
	serve(b, request)
}

// BenchmarkBatch is 500 transfers in one request: decoded, and their results encoded.
func BenchmarkBatch(b *testing.B) {
	const one = `{"source":"6d7750a1-c3f2-4765-bf8f-33bc80f3f809","destination":"7e8861b2-d403-4876-8a90-44cd91040910","amount":1500,"transaction_id":"tx_1as4ndakd%03d"}`
	transfers := make([]string, 500)
	for i := range transfers {
		transfers[i] = fmt.Sprintf(one, i)
	}
	body := batch(transfers...)
	request := httptest.NewRequest("POST", "/transfers/batch", nil)
	request.Header.Set("Content-Type", "application/json")
	request.Body, request.ContentLength = again{strings.NewReader(body)}, int64(len(body))
	b.SetBytes(int64(len(body)))
	serve(b, request)
}

func BenchmarkBalance(b *testing.B) {
	serve(b, httptest.NewRequest("GET", "/users/6d7750a1-c3f2-4765-bf8f-33bc80f3f809/balance", nil))
}

// again is a body that can be read again.
type again struct{ *strings.Reader }

func (again) Close() error { return nil }

func serve(b *testing.B, r *http.Request) {
	handler := api.New(api.Config{
		Ledger: instant{newBank()}, Health: newBank(), Currency: "USD", Wait: time.Second, Timeout: 10 * time.Second,
		MaxRequests: 4096, Tracer: noop.NewTracerProvider(),
	})
	r = r.WithContext(api.NewServer(handler, slog.Default()).ConnContext(b.Context(), nil)) // as on a connection
	b.ReportAllocs()
	for b.Loop() {
		if seeker, ok := r.Body.(io.Seeker); ok {
			if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
		}
		handler.ServeHTTP(blank{header: make(http.Header)}, r)
	}
}
