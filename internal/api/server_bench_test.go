package api_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

func BenchmarkBalance(b *testing.B) {
	serve(b, httptest.NewRequest("GET", "/users/6d7750a1-c3f2-4765-bf8f-33bc80f3f809/balance", nil))
}

// again is a body that can be read again.
type again struct{ *strings.Reader }

func (again) Close() error { return nil }

func serve(b *testing.B, r *http.Request) {
	handler := api.New(api.Config{Ledger: instant{newBank()}, Health: newBank(), Currency: "USD", Wait: time.Second, Timeout: 10 * time.Second})
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
