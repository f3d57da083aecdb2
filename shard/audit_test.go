package shard_test

import (
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// What the audit finds is tested in package audit, on several shards.

func snapshot(t *testing.T, b *book) *shard.Snapshot {
	t.Helper()
	s, err := b.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func total(t *testing.T, s *shard.Snapshot) audit.Totals {
	t.Helper()
	totals, err := s.Totals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return totals
}

// A snapshot is taken when Snapshot returns, and stays while it is idle for longer than any other session may be.
func TestSnapshotStays(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "t1", 100))
	s := snapshot(t, b)
	b.must(pay("alice", "t2", "bob", 30))
	time.Sleep(2500 * time.Millisecond) // idle_in_transaction_session_timeout of the others is 2 s
	if before := total(t, s); before.Operations != 1 || before.Entries != 1 || before.Money["USD"].Entries.Int64() != 100 {
		t.Errorf("before: %+v", before)
	}
	if now := total(t, snapshot(t, b)); now.Operations != 2 || now.Entries != 3 || now.Money["USD"].System.Int64() != -100 {
		t.Errorf("now: %+v", now)
	}
	if id := s.Identity(); id.Shard != "s1" || id.Cluster != cluster || id.Timeline != 1 || id.Running != 1 || len(s.Slots()) != 4096 {
		t.Errorf("identity: %+v, %d slots", id, len(s.Slots()))
	}
}

// An audit needs no rights but the services'.
func TestSnapshotOfTheService(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.alter(`revoke select on saldo.entries from saldo_service`)
	_, err := snapshot(t, b).Totals(t.Context())
	if err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("it is somebody else who reads: %v", err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice", "bob")
	b.must(add("alice", "t1", 100))
	op := debit("alice", "t2", "bob", 40)
	b.must(op)
	credit := op
	credit.Step, credit.Saga = ledger.StepCredit, false
	b.must(credit)

	s := snapshot(t, b)
	known := audit.CreditID{Payee: "bob", Identity: op.Identity}
	elsewhere := audit.CreditID{Payee: "alice", Identity: op.Identity}
	credits, err := s.FindCredits(t.Context(), []audit.CreditID{elsewhere, known})
	if err != nil || len(credits) != 1 || credits[known].Transfer != op.Transfer || credits[known].Step != ledger.StepCredit {
		t.Errorf("credits: %+v, %v", credits, err)
	}
	local, none := ledger.Identity{Initiator: "alice", TxID: "t1"}, ledger.Identity{Initiator: "alice", TxID: "t3"}
	homes, err := s.FindHomes(t.Context(), []ledger.Identity{none, op.Identity, local})
	if err != nil || len(homes) != 2 {
		t.Fatalf("homes: %+v, %v", homes, err)
	}
	if home := homes[op.Identity]; home.Start == nil || !home.Start.Saga || home.Start.Transfer != op.Transfer ||
		home.Saga == nil || home.Saga.State != ledger.SagaPending || home.Saga.Transfer != op.Transfer {
		t.Errorf("home of a saga: %+v", home)
	}
	if home := homes[local]; home.Start == nil || home.Start.Kind != ledger.KindAdd || home.Start.Identity != local || home.Saga != nil {
		t.Errorf("home of an add: %+v", home)
	}
}

func TestSnapshotOfAShardThatIsDown(t *testing.T) {
	t.Parallel()
	b := openAt(t, "postgres://saldo@127.0.0.1:1/none")
	if _, err := b.Snapshot(t.Context()); err == nil {
		t.Error("no error")
	}
}
