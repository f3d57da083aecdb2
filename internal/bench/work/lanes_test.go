package work_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func some(prefix string, n int) (users []ledger.UserID) {
	for i := range n {
		users = append(users, ledger.UserID(fmt.Sprintf("%s-%d", prefix, i)))
	}
	return users
}

func TestTransfersAreAsTheirNameSays(t *testing.T) {
	t.Parallel()
	users, others := some("a", 50), some("b", 50)
	in := func(list []ledger.UserID) map[ledger.UserID]bool {
		set := make(map[ledger.UserID]bool)
		for _, user := range list {
			set[user] = true
		}
		return set
	}
	a, b := in(users), in(others)
	type user = ledger.UserID
	for name, c := range map[string]struct {
		transfers work.Transfers
		right     func(payer, payee user) bool
	}{
		"uniform":  {work.Uniform(1, "r", users), func(x, y user) bool { return a[x] && a[y] && x != y }},
		"to one":   {work.ToOne(1, "r", users, "hot"), func(x, y user) bool { return a[x] && y == "hot" }},
		"from one": {work.FromOne(1, "r", "hot", users), func(x, y user) bool { return x == "hot" && a[y] }},
		"across":   {work.Across(1, "r", [][]user{users, others}), func(x, y user) bool { return a[x] && b[y] || b[x] && a[y] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ids, pairs, met := map[ledger.TxID]bool{}, map[[2]ledger.UserID]bool{}, map[ledger.UserID]bool{}
			for caller := range 100 {
				for n := range int64(100) {
					tr := c.transfers(caller, n)
					if again := c.transfers(caller, n); tr != again {
						t.Fatalf("%+v, then %+v", tr, again)
					}
					if !c.right(tr.Initiator, tr.Payee) || tr.Kind != ledger.KindTransfer || tr.Amount != 1 {
						t.Fatalf("%+v", tr)
					}
					if _, err := ledger.ParseTxID(string(tr.TxID)); err != nil || ids[tr.TxID] {
						t.Fatalf("%q is not a new id: %v", tr.TxID, err)
					}
					ids[tr.TxID], pairs[[2]ledger.UserID{tr.Initiator, tr.Payee}] = true, true
					met[tr.Initiator], met[tr.Payee] = true, true
				}
			}
			if len(met) < 50 || len(pairs) < 50 {
				t.Errorf("only %d users in %d pairs", len(met), len(pairs))
			}
		})
	}
	one, other := work.Uniform(1, "r", users), work.Uniform(2, "r", users)
	if one(0, 0) == other(0, 0) && one(0, 1) == other(0, 1) {
		t.Error("the seed does not matter")
	}
}

// lane is an open shard with all slots.
func lane(t *testing.T) (*shard.Shard, *placement.Map) {
	t.Helper()
	dsn, ctx := pgtest.Database(t, nil), t.Context()
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(shard.Enroll(ctx, dsn, "", "c", "s1"), shard.Found(ctx, dsn, "", "c", "s1", m)); err != nil {
		t.Fatal(err)
	}
	s, err := shard.Open(shard.Config{Cluster: "c", ID: "s1", DSN: dsn}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, m
}

func TestLaneMovesMoney(t *testing.T) {
	t.Parallel()
	s, m := lane(t)
	users := some("user", 5)
	for _, user := range users {
		_, hold := m.HoldOn(user)
		if _, _, err := s.CreateUser(t.Context(), ledger.User{ID: user, Name: "name"}, hold); err != nil {
			t.Fatal(err)
		}
	}
	payer, hold := users[0], func(user ledger.UserID) placement.Hold { _, h := m.HoldOn(user); return h }
	add := ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: payer, TxID: "add"}, Kind: ledger.KindAdd, Amount: 3, Currency: "USD",
	}}
	if _, err := s.Submit(t.Context(), add, hold(payer)); err != nil {
		t.Fatal(err)
	}

	call := work.Lane(s, m, work.FromOne(1, "r", payer, users[1:]))
	for n, want := range []string{"", "", "", "insufficient_funds"} {
		units, err := call(t.Context(), 0, int64(n))
		if want == "" && (units != 1 || err != nil) || want != "" && (units != 0 || codeOf(err) != want) {
			t.Errorf("transfer %d: %d units, %v", n, units, err)
		}
	}
	if units, err := call(t.Context(), 0, 1); err == nil || units != 0 {
		t.Errorf("a repeat counts: %d units, %v", units, err)
	}
	if account, err := s.Balance(t.Context(), payer, "USD"); err != nil || account.Balance != 0 || account.Version != 4 {
		t.Errorf("%+v, %v", account, err)
	}

	s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := call(ctx, 0, 9); codeOf(err) != string(ledger.CodeUnavailable) {
		t.Errorf("of a closed shard: %v", err)
	}
}

func codeOf(err error) string {
	var coded load.Coded
	if errors.As(err, &coded) {
		return coded.ErrorCode()
	}
	return ""
}
