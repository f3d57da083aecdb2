package growth

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// alone is a cluster of one shard, as an audit sees it.
type alone struct {
	*shard.Shard
	m *placement.Map
}

const cluster = "growth-test"

func (a alone) View(context.Context) (audit.View, error) {
	return audit.View{Cluster: cluster, Shards: a.m.Shards(), Map: a.m}, nil
}

func (a alone) Snapshot(ctx context.Context, _ ledger.ShardID) (audit.Snapshot, error) {
	return a.Shard.Snapshot(ctx)
}

func open(t *testing.T) (a alone, dsn string) {
	t.Helper()
	dsn = pgtest.Database(t, nil)
	var err error
	if a.m, err = placement.NewMap(1, placement.Found([]ledger.ShardID{"s1"})); err != nil {
		t.Fatal(err)
	}
	if _, err := shard.Migrate(t.Context(), dsn, ""); err != nil {
		t.Fatal(err)
	}
	if err := shard.Enroll(t.Context(), dsn, "", cluster, "s1"); err != nil {
		t.Fatal(err)
	}
	if err := shard.Found(t.Context(), dsn, "", cluster, "s1", a.m); err != nil {
		t.Fatal(err)
	}
	if a.Shard, err = shard.Open(shard.Config{Cluster: cluster, ID: "s1", DSN: dsn}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a, dsn
}

// inOrder are the first n users in the order of the tables.
func inOrder(n int) members {
	users := make(members, n)
	for i := range users {
		users[i] = uint32(i)
	}
	slices.SortStableFunc(users, func(a, b uint32) int {
		return int(placement.SlotOf(userID(a))) - int(placement.SlotOf(userID(b)))
	})
	return users
}

func TestBooksAreAsTheLanesWouldHaveLeftThem(t *testing.T) {
	t.Parallel()
	for _, each := range []int64{1, 2, 3, 4, 11} {
		t.Run(fmt.Sprint(each), func(t *testing.T) {
			t.Parallel()
			const accounts = 60
			a, dsn := open(t)
			users := inOrder(accounts)
			if err := fill(t.Context(), dsn, users, each); err != nil {
				t.Fatal(err)
			}
			clean := func(operations int64) {
				t.Helper()
				report, err := audit.Run(t.Context(), a, audit.Options{})
				if err != nil {
					t.Fatal(err)
				}
				if report.ExitCode() != 0 {
					t.Errorf("the audit: %+v", report)
				}
				counts := []int64{accounts, accounts, accounts + 2*(operations-accounts), operations}
				got := make([]int64, len(counts))
				query(t, dsn, `select (select count(*) from saldo.users), (select count(*) from saldo.accounts),
					(select count(*) from saldo.entries), (select count(*) from saldo.operations)`, &got[0], &got[1], &got[2], &got[3])
				if !slices.Equal(got, counts) {
					t.Errorf("users, accounts, entries, operations are %d, not %d", got, counts)
				}
			}
			loaded := accounts + accounts*(each-1)/2
			clean(loaded)

			pay := work.Lane(a.Shard, a.m, transfers(1, "test", users))
			for n := range int64(50) {
				if units, err := pay(t.Context(), 0, n); units != 1 || err != nil {
					t.Fatal(units, err)
				}
			}
			clean(loaded + 50)
		})
	}
}

func query(t *testing.T, dsn, text string, into ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), text).Scan(into...); err != nil {
		t.Fatal(err)
	}
}

func TestFillRefusesWhatAreNoPairs(t *testing.T) {
	t.Parallel()
	if err := fill(t.Context(), "", make(members, 3), 1); err == nil {
		t.Error("three accounts were taken")
	}
}

func TestUserIDs(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint32]ledger.UserID{
		0: "grow-00000000", 7: "grow-00000007", 10: "grow-00000010", 1234567: "grow-01234567", mostUsers - 1: "grow-99999999",
	} {
		if got := userID(n); got != want {
			t.Errorf("user %d is %s, not %s", n, got, want)
		}
	}
}

func TestTransfersAreBetweenTwoAndNew(t *testing.T) {
	t.Parallel()
	users := inOrder(10)
	name, ids, met := transfers(1, "test", users), map[ledger.TxID]bool{}, map[ledger.UserID]bool{}
	for caller := range 40 {
		for n := range int64(40) {
			tr := name(caller, n)
			if _, err := ledger.ParseTxID(string(tr.TxID)); err != nil || ids[tr.TxID] {
				t.Fatalf("%q is not a new id: %v", tr.TxID, err)
			}
			if tr.Initiator == tr.Payee || tr.Currency != stand.Currency {
				t.Fatalf("%+v", tr)
			}
			ids[tr.TxID], met[tr.Initiator], met[tr.Payee] = true, true, true
		}
	}
	if len(met) != len(users) {
		t.Errorf("of %d users only %d were met", len(users), len(met))
	}
}
