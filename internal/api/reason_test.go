package api_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// newerBank has refused transfers for a reason that this version does not know.
type newerBank struct{ *bank }

func (b newerBank) Transfer(
	ctx context.Context, start ledger.Operation, wait time.Duration,
) (record ledger.TransferRecord, replayed bool, err error) {
	if start.Currency != "EUR" {
		return b.bank.Transfer(ctx, start, wait)
	}
	record.Operation, record.Reason = start, "account_frozen"
	return record, true, nil
}

func (b newerBank) TransferAll(_ context.Context, starts []ledger.Operation, _ time.Duration) []ledger.Answer {
	answers := make([]ledger.Answer, len(starts))
	for i, start := range starts {
		answers[i].Result.Operation, answers[i].Result.Reason = start, "account_frozen"
	}
	return answers
}

// While routers are replaced by newer ones, an old one answers repeats of what these have refused.
func TestReasonOfANewerVersion(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *api.Config) { c.Ledger = newerBank{c.Ledger.(*bank)} })
	const transfer = `{"source":"alice","destination":"bob","amount":1,"currency":"EUR","transaction_id":"t"}`
	for path, body := range map[string]string{
		"/transfers":       transfer,
		"/transfers/batch": `{"transfers":[` + transfer + `]}`,
		"/users/alice/add": `{"amount":1,"currency":"EUR","transaction_id":"t"}`,
	} {
		// Not by e.post: the code is in no document yet.
		response, err := e.server.Client().Post(e.server.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		status := http.StatusUnprocessableEntity
		if path == "/transfers/batch" {
			status = http.StatusOK
		}
		if err != nil || response.StatusCode != status ||
			!strings.Contains(string(text), `"status_code":422`) || !strings.Contains(string(text), `"code":"account_frozen"`) {
			t.Errorf("%s: %d %s %v", path, response.StatusCode, text, err)
		}
	}
}
