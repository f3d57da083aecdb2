package suite

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench/work"
)

// watchRefusals makes a transfer now and then, beside the load, to look at how it is refused. The function that it returns
// ends that and says how many answers were 503 and did not say when to come back.
func (b *bed) watchRefusals(ctx context.Context) (end func() int64) {
	ctx, stop := context.WithCancel(ctx)
	client := &http.Client{Timeout: 10 * time.Second}
	transfers := work.Within(b.Seed, fmt.Sprintf("w%d", b.made), b.users)
	var (
		watching sync.WaitGroup
		without  atomic.Int64
	)
	for caller := range 4 {
		watching.Go(func() {
			for n := int64(0); ctx.Err() == nil; n++ {
				t := transfers(caller, n)
				body := fmt.Sprintf(`{"source":%q,"destination":%q,"amount":%d,"currency":%q,"transaction_id":%q}`,
					t.Initiator, t.Payee, t.Amount, t.Currency, t.TxID)
				response, err := client.Post(b.stand.URLs()[0]+"/transfers", "application/json", bytes.NewReader([]byte(body)))
				if err == nil {
					if response.StatusCode == http.StatusServiceUnavailable && response.Header.Get("Retry-After") == "" {
						without.Add(1)
					}
					_ = response.Body.Close() // only the head matters
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() int64 {
		stop()
		watching.Wait()
		client.CloseIdleConnections()
		return without.Load()
	}
}
