package wire

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/assembly"
)

// One coordinator audits, and each of them knows what it has found; so does the one that audits next.
func TestCoordinatorsAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	dsn := w.register("s1", "")
	if _, err := w.c.FoundIfDue(w.ctx); err != nil {
		t.Fatal(err)
	}
	view, err := w.c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := assembly.Activate(w.ctx, view, w.passwords); err != nil {
		t.Fatal(err)
	}
	auditing := func(name string) (address string, stop func()) {
		config := Coordinator{
			Name: name, Settle: 500 * time.Millisecond, Poll: 50 * time.Millisecond, Postgres: postgres,
			Etcd:      Etcd{Endpoints: w.endpoints, Prefix: w.prefix},
			Rebalance: "manual", MoveSlots: 128, MoveShare: 1, Audit: 100 * time.Millisecond, AuditShare: 1,
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return listener.Addr().String(), w.background(func(ctx context.Context) error {
			return RunCoordinator(ctx, config, Process{Passwords: w.passwords, Log: w.log}, listener)
		})
	}
	ask := func(address string) (status admin.AuditStatus) {
		response, err := http.Get("http://" + address + admin.Prefix + "/audit")
		if err != nil {
			return status
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
			t.Error(err)
		}
		return status
	}
	one, stop := auditing("one")
	two, _ := auditing("two")
	for _, address := range []string{one, two} {
		w.eventually(long, "it knows that the books are clean", func() bool { return ask(address).State == admin.AuditClean })
	}
	w.sql(dsn, `insert into saldo.entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
		values (7, 'nobody', 'USD', 1, 5, 5, 'from-nowhere', 1, 1, '', now())`)
	for _, address := range []string{one, two} {
		w.eventually(long, "it knows what is wrong", func() bool {
			status := ask(address)
			return status.State == admin.AuditViolations && len(status.Violations) > 0 && strings.Contains(status.Violations[0].ID, "nobody")
		})
	}
	first := ask(two).Coordinator
	if first == "one" {
		stop()
		w.eventually(long, "the other one has found it by its sweep", func() bool {
			status := ask(two)
			return status.Coordinator == "two" && status.State == admin.AuditViolations
		})
	}
}

// What was found last says nothing any more when nobody audits.
func TestOldAuditIsNotClean(t *testing.T) {
	t.Parallel()
	d := &auditDesk{config: Coordinator{Audit: 10 * time.Second}}
	for age, want := range map[time.Duration]admin.AuditState{30 * time.Second: admin.AuditClean, time.Hour: admin.AuditIncomplete} {
		at := time.Now().Add(-age)
		d.latest.Store(&admin.AuditStatus{State: admin.AuditClean, CompleteAt: &at})
		if got := d.Status().State; got != want {
			t.Errorf("after %v it is %s", age, got)
		}
	}
}
