package api_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/api/apitest"
)

// FuzzRequest checks that no request is answered with a fault of ours, that every answer agrees with openapi.yaml, and
// that balances change only with a 2xx.
func FuzzRequest(f *testing.F) {
	for _, c := range append(apitest.Setup(), apitest.BadInputs()...) {
		if c.Raw == "" && len(c.Body) < 1000 {
			f.Add(c.Method, c.Path, c.Header.Get("Content-Type"), c.Header.Get("Idempotency-Key"), c.Body)
		}
	}
	f.Add("POST", "/transfers", "application/json", "", `{"source":"bad-alice","destination":"bad-bob","amount":1}`)
	f.Add("POST", "/transfers/batch", "application/json", "", `{"transfers":[{"source":"bad-alice","destination":"far-bob","amount":1}]}`)
	f.Add("POST", "/app/transfer/bad-alice/far-bob/1", "", "k", "")
	checker, err := validator()
	if err != nil {
		f.Fatal(err)
	}
	bank := newBank()
	handler := api.New(api.Config{Ledger: bank, Health: bank, Currency: "USD", Metrics: http.HandlerFunc(exposed)})
	send := func(method, path, contentType, key, body string) *http.Response {
		target, err := url.ParseRequestURI(path)
		if err != nil {
			return nil // net/http would not hand it to us
		}
		request := httptest.NewRequest("GET", "/", strings.NewReader(body))
		request.Method, request.URL, request.RequestURI = method, target, path
		request.Header.Set("Content-Type", contentType)
		if key != "" {
			request.Header.Set("Idempotency-Key", key)
		}
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		response := recorder.Result()
		response.Request = request
		return response
	}
	for _, c := range apitest.Setup() {
		send(c.Method, c.Path, c.Header.Get("Content-Type"), c.Header.Get("Idempotency-Key"), c.Body)
	}
	f.Fuzz(func(t *testing.T, method, path, contentType, key, body string) {
		before, _ := bank.state()
		response := send(method, path, contentType, key, body)
		if response == nil {
			return
		}
		after, _ := bank.state()
		if response.StatusCode >= 500 || before != after && response.StatusCode/100 != 2 {
			t.Errorf("%s %s: %d\n%s\n%s", method, path, response.StatusCode, before, after)
		}
		if method != http.MethodHead {
			if err := checker.Check(response); err != nil {
				t.Error(err)
			}
		}
	})
}
