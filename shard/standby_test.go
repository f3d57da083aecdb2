package shard_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// A person may end a session whose COMMIT waits for a standby, or the wait alone, and so may a restart. Then everybody sees
// the transaction, though no standby has it, and a failover would forget it: nobody is told of it, nor acts on another shard
// for it.
func TestWhatNoStandbyHasIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"pg_terminate_backend", "pg_cancel_backend"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			server := private(t, nil)
			b := openAt(t, server.DSN(), func(c *shard.Config) {
				c.Writers, c.RoundTrip, c.LastPatience = 1, 300*time.Millisecond, 500*time.Millisecond
			})
			b.user("alice", "bob")
			b.must(add("alice", "fund", 100))
			b.alter(`alter system set synchronous_standby_names = 'nobody'`, `select pg_reload_conf()`)
			eventually(t, "the setting", func() bool { return b.sql(`show synchronous_standby_names`) == "nobody" })

			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
					b.sql(fmt.Sprintf(`select count(%s(pid))::text from pg_stat_activity where wait_event = 'SyncRep'`, end))
				}
			}()
			op := debit("alice", "t", "bob", 30)
			if _, err := b.submit(op); ledger.CodeOf(err) != ledger.CodeUnknown {
				t.Errorf("new: %v", err)
			}
			stop()
			<-ended
			if b.sql(`select count(*)::text from saldo.operations where tx_id = 't'`) == "0" {
				t.Error("nobody sees it: the test shows nothing")
			}
			if _, err := b.submit(op); ledger.CodeOf(err) != ledger.CodeUnknown {
				t.Errorf("again: %v", err)
			}
			bob := ledger.User{ID: "bob", Name: "bob"}
			if _, _, err := b.CreateUser(t.Context(), bob, b.hold("bob")); ledger.CodeOf(err) != ledger.CodeUnknown {
				t.Errorf("a user who is there: %v", err)
			}
			if page, err := b.PendingSagas(t.Context(), saga.Cursor{}, 1<<62, 10); ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Errorf("%d pending sagas: %v", len(page.Sagas), err)
			}

			b.alter(`alter system reset synchronous_standby_names`, `select pg_reload_conf()`)
			var r ledger.Result
			eventually(t, "the outcome", func() (done bool) {
				var err error
				r, err = b.submit(op)
				return err == nil
			})
			if !r.Replayed || r.Balance != 70 || r.State != ledger.SagaPending {
				t.Errorf("%+v", r)
			}
			if page, err := b.PendingSagas(t.Context(), saga.Cursor{}, 1<<62, 10); err != nil || len(page.Sagas) != 1 {
				t.Errorf("%d pending sagas: %v", len(page.Sagas), err)
			}
			b.mustBeSound()
		})
	}
}
