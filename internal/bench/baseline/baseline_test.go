package baseline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench/baseline"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// database is one of Create's with users who have 100 each.
func database(t *testing.T, serverDSN, name string, users ...ledger.UserID) (dsn string) {
	t.Helper()
	dsn, err := baseline.Create(t.Context(), serverDSN, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sql(t, serverDSN, "drop database "+name+" with (force)") })
	if err := baseline.Fund(t.Context(), dsn, 100, users); err != nil {
		t.Fatal(err)
	}
	return dsn
}

// sql runs a statement as superuser and returns its one value as text, if it has one.
func sql(t *testing.T, dsn, statement string) (value string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, statement, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		return string(row.RawValues()[0]), nil
	})
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return strings.Join(values, " ")
}

func balanceOf(t *testing.T, dsn string, user ledger.UserID) string {
	t.Helper()
	return sql(t, dsn, fmt.Sprintf(`select balance::text from saldo.accounts where user_id = '%s'`, user))
}

func mustBeSound(t *testing.T, dsns ...string) {
	t.Helper()
	if err := baseline.Check(t.Context(), dsns...); err != nil {
		t.Error(err)
	}
}

func pay(payer ledger.UserID, tx ledger.TxID, payee ledger.UserID, amount ledger.Amount) ledger.Transfer {
	return ledger.Transfer{
		Identity: ledger.Identity{Initiator: payer, TxID: tx}, Kind: ledger.KindTransfer,
		Payee: payee, Amount: amount, Currency: "USD",
	}
}

// together lets so many callers do the same at once.
func together(callers int, do func(caller int)) {
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() { do(c) })
	}
	group.Wait()
}

func codeOf(err error) string {
	var coded load.Coded
	if errors.As(err, &coded) {
		return coded.ErrorCode()
	}
	return ""
}

func TestFunctionDoesATransferOnce(t *testing.T) {
	t.Parallel()
	dsn := database(t, pgtest.Server(t).DSN(), "baseline_function", "a", "b", "c")
	f, err := baseline.OpenFunction(t.Context(), dsn, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		transfer ledger.Transfer
		want     ledger.Outcome
	}{
		{pay("a", "1", "b", 30), ledger.Outcome{Balance: 70, Version: 2}},
		{pay("a", "1", "b", 30), ledger.Outcome{Balance: 70, Version: 2}}, // a repeat
		{pay("b", "1", "a", 30), ledger.Outcome{Balance: 100, Version: 3}},
		{pay("a", "2", "b", 101), ledger.Outcome{Reason: ledger.InsufficientFunds}},
		{pay("b", "2", "a", 100), ledger.Outcome{Balance: 0, Version: 4}},
		{pay("a", "2", "b", 101), ledger.Outcome{Reason: ledger.InsufficientFunds}}, // as it was told
		{pay("b", "2", "a", 100), ledger.Outcome{Balance: 0, Version: 4}},           // though nothing is left
		{pay("a", "3", "nobody", 1), ledger.Outcome{Reason: ledger.PayeeNotFound}},
		{pay("nobody", "3", "a", 1), ledger.Outcome{Reason: ledger.UserNotFound}},
		{pay("a", "4", "a", 1), ledger.Outcome{Reason: ledger.SameAccount}},
		{pay("a", "5", "b", 200), ledger.Outcome{Balance: 0, Version: 5}},
	} {
		if got, err := f.Transfer(t.Context(), 0, c.transfer); got != c.want || err != nil {
			t.Errorf("%+v: %+v, %v, not %+v", c.transfer, got, err, c.want)
		}
	}
	mustBeSound(t, dsn)

	together(8, func(caller int) {
		for n := range 20 {
			id := ledger.TxID(fmt.Sprintf("twin-%d", n))
			for _, transfer := range []ledger.Transfer{pay("b", id, "c", 2), pay("c", id, "b", 1)} {
				if outcome, err := f.Transfer(t.Context(), caller, transfer); err != nil || outcome.Reason != ledger.Applied {
					t.Errorf("%+v: %+v, %v", transfer, outcome, err)
				}
			}
		}
	})
	if b, c := balanceOf(t, dsn, "b"), balanceOf(t, dsn, "c"); b != "180" || c != "120" {
		t.Errorf("b has %s, c has %s", b, c)
	}
	mustBeSound(t, dsn)

	call := f.Call(func(caller int, n int64) ledger.Transfer {
		return pay("c", ledger.TxID(fmt.Sprint("call-", n)), "a", 100)
	})
	if units, err := call(t.Context(), 0, 1); units != 1 || err != nil {
		t.Errorf("%d, %v", units, err)
	}
	if units, err := call(t.Context(), 0, 2); units != 0 || codeOf(err) != "insufficient_funds" {
		t.Errorf("%d, %v", units, err)
	}
	sql(t, dsn, "drop function saldo.transfer")
	if units, err := call(t.Context(), 1, 3); units != 0 || codeOf(err) != "sqlstate_42883" {
		t.Errorf("%d, %v", units, err)
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for i, break_ := range []string{
		`update saldo.accounts set balance = balance + 1 where user_id = 'a'`,
		`update saldo.accounts set version = version + 1 where user_id = 'a'`,
		`update saldo.entries set balance = balance + 1 where user_id = 'a'`,
		`delete from saldo.entries where user_id = 'a'; delete from saldo.accounts where user_id = 'a'`,
		`delete from saldo.operations where initiator = 'a'`,
		`insert into saldo.operations (amount, balance, version, system_amount, created_at, slot, step, kind, saga,
		                              initiator, tx_id, payee, currency, reason, system_account, description)
		 values (5, 0, 0, -5, now(), 1, 1, 1, false, 'a', 'x', '', 'USD', '', '@world', '')`,
	} {
		dsn := database(t, pgtest.Server(t).DSN(), fmt.Sprintf("baseline_wrong_%d", i), "a", "b")
		mustBeSound(t, dsn)
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.Exec(t.Context(), break_)
		conn.Close(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := baseline.Check(t.Context(), dsn); err == nil {
			t.Errorf("sound after %s", break_)
		}
	}
}

func TestInsertWritesTheRowsOfTransfers(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]func(*baseline.Insert) *baseline.Insert{
		"insert": func(b *baseline.Insert) *baseline.Insert { return b }, "copy": (*baseline.Insert).Copy,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := database(t, pgtest.Server(t).DSN(), "baseline_"+name)
			b, err := baseline.OpenInsert(t.Context(), dsn, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			writesTheRowsOfTransfers(t, dsn, as(b))
		})
	}
}

func writesTheRowsOfTransfers(t *testing.T, dsn string, b *baseline.Insert) {
	t.Helper()
	call := b.Call(50, func(caller int, n int64) ledger.Transfer {
		payer, payee := ledger.UserID(fmt.Sprint("u", n%7)), ledger.UserID(fmt.Sprint("u", n%7+1))
		return pay(payer, ledger.TxID(fmt.Sprintf("%d-%d", caller, n)), payee, 3)
	})
	together(2, func(caller int) {
		for n := range int64(4) {
			if units, err := call(t.Context(), caller, n); units != 50 || err != nil {
				t.Errorf("%d, %v", units, err)
			}
		}
	})
	for query, want := range map[string]string{
		`select count(*)::text from saldo.operations
		 where kind = 3 and step = 1 and amount = 3 and currency = 'USD' and not saga and reason = '' and system_account = ''
		   and balance > 0 and version = 1 and description = ''`: "400",
		`select count(*)::text from saldo.entries e join saldo.operations o using (tx_id)
		 where e.currency = 'USD' and e.step = 1 and e.kind = 3 and e.created_at = o.created_at
		   and (e.amount = -3 and (e.slot, e.user_id, e.counterparty) = (o.slot, o.initiator, o.payee)
		    or e.amount = 3 and (e.user_id, e.counterparty) = (o.payee, o.initiator))`: "800",
		`select sum(amount)::text from saldo.entries`:           "0",
		`select count(distinct tx)::text from saldo.operations`: "8", // a transaction for each batch
		`select count(*)::text from saldo.operations where created_at between now() - interval '1 minute' and now()
		 and tx = any (select tx from saldo.entries)`: "400",
	} {
		if got := sql(t, dsn, query); got != want {
			t.Errorf("%s: %s, not %s", query, got, want)
		}
	}
	if units, err := call(t.Context(), 0, 0); units != 0 || codeOf(err) != "sqlstate_23505" {
		t.Errorf("the same batch again: %d, %v", units, err)
	}
}

func TestReadReadsBalances(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t).DSN()
	shardOf := func(user ledger.UserID) int { return strings.Index("ab", string(user)) }
	dsns := []string{database(t, server, "baseline_read_a", "a"), database(t, server, "baseline_read_b", "b")}
	r, err := baseline.OpenRead(t.Context(), dsns, 2, shardOf)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, user := range []ledger.UserID{"a", "b"} {
		if account, err := r.Balance(t.Context(), user); account != (ledger.Account{Balance: 100, Version: 1}) || err != nil {
			t.Errorf("%+v, %v", account, err)
		}
	}
	call := r.Call(func(caller int, n int64) ledger.UserID { return []ledger.UserID{"a", "b"}[n%2] })
	together(4, func(caller int) {
		for n := range int64(10) {
			if units, err := call(t.Context(), caller, n); units != 1 || err != nil {
				t.Errorf("%d, %v", units, err)
			}
		}
	})
}

// eventually polls.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func slot(user ledger.UserID) string { return fmt.Sprintf("%d::smallint", placement.SlotOf(user)) }
