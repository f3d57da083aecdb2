package baseline_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench/baseline"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

const preparedCount = `select count(*)::text from pg_prepared_xacts`

// One server with two databases is to a coordinator what two servers are.
func TestTwoPhase(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, func(o *local.PostgresOptions) {
		o.Settings = map[string]string{"max_prepared_transactions": "50", "fsync": "off"}
	}).DSN()
	shardOf := func(user ledger.UserID) int { return strings.Index("ab", string(user[0])) }
	var world []string
	open := func(t *testing.T, callers int) *baseline.TwoPhase {
		t.Helper()
		p, err := baseline.OpenTwoPhase(t.Context(), world, callers, shardOf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	fresh := func(t *testing.T) {
		world = []string{database(t, server, "left_side", "a1", "a2"), database(t, server, "right_side", "b1", "b2")}
	}
	mustBe := func(t *testing.T, prepared string, balances map[ledger.UserID]string) {
		t.Helper()
		if got := sql(t, server, preparedCount); got != prepared {
			t.Errorf("%s transactions are prepared, not %s", got, prepared)
		}
		for user, want := range balances {
			if got := balanceOf(t, world[shardOf(user)], user); got != want {
				t.Errorf("%s has %s, not %s", user, got, want)
			}
		}
	}

	t.Run("does a transfer once", func(t *testing.T) {
		fresh(t)
		p := open(t, 1)
		for _, c := range []struct {
			transfer ledger.Transfer
			want     ledger.Outcome
		}{
			{pay("a1", "1", "b1", 30), ledger.Outcome{Balance: 70, Version: 2}},
			{pay("a1", "1", "b1", 30), ledger.Outcome{Balance: 70, Version: 2}}, // a repeat
			{pay("b1", "1", "a1", 130), ledger.Outcome{Balance: 0, Version: 3}},
			{pay("b1", "1", "a1", 130), ledger.Outcome{Balance: 0, Version: 3}}, // though nothing is left
			{pay("b1", "2", "a1", 1), ledger.Outcome{Reason: ledger.InsufficientFunds}},
			{pay("a1", "3", "b-nobody", 1), ledger.Outcome{Reason: ledger.PayeeNotFound}},
			{pay("a-nobody", "3", "b1", 1), ledger.Outcome{Reason: ledger.UserNotFound}},
			{pay("a1", "4", "b1", 1), ledger.Outcome{Balance: 199, Version: 4}},
		} {
			if got, err := p.Transfer(t.Context(), 0, c.transfer); got != c.want || err != nil {
				t.Errorf("%+v: %+v, %v, not %+v", c.transfer, got, err, c.want)
			}
		}
		if _, err := p.Transfer(t.Context(), 0, pay("a1", "5", "a2", 1)); err == nil {
			t.Error("a transfer within one database was done")
		}
		mustBe(t, "0", map[ledger.UserID]string{"a1": "199", "a2": "100", "b1": "1", "b2": "100"})
		mustBeSound(t, world...)
	})

	t.Run("by many clients at once, twins among them", func(t *testing.T) {
		fresh(t)
		p, unlogged := open(t, 4), open(t, 4).Unlogged()
		together(4, func(caller int) {
			for n := range 5 {
				id := ledger.TxID(fmt.Sprintf("twin-%d", n))
				for _, transfer := range []ledger.Transfer{pay("a1", id, "b1", 6), pay("b2", id, "a2", 3)} {
					p := p
					if caller%2 == 1 {
						p = unlogged
					}
					outcome, err := p.Transfer(t.Context(), caller, transfer)
					for err != nil && strings.Contains(err.Error(), "55P03") { // see the type's comment
						time.Sleep(time.Duration(caller) * 20 * time.Millisecond)
						outcome, err = p.Transfer(t.Context(), caller, transfer)
					}
					if err != nil || outcome.Reason != ledger.Applied {
						t.Errorf("%+v: %+v, %v", transfer, outcome, err)
					}
				}
			}
		})
		mustBe(t, "0", map[ledger.UserID]string{"a1": "70", "a2": "115", "b1": "130", "b2": "85"})
		mustBeSound(t, world...)
	})

	t.Run("a client that is cut off before the decision leaves what can be undone", func(t *testing.T) {
		fresh(t)
		p, err := baseline.OpenTwoPhase(t.Context(), []string{world[0], world[1] + "&lock_timeout=60s"}, 1, shardOf)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		blocker, err := pgx.Connect(t.Context(), world[1])
		if err != nil {
			t.Fatal(err)
		}
		defer blocker.Close(t.Context())
		if _, err := blocker.Exec(t.Context(), `begin; select from saldo.accounts where user_id = 'b1' for update`); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			_, err := p.Transfer(t.Context(), 0, pay("a1", "1", "b1", 30))
			ended <- err
		}()
		eventually(t, "one side is prepared and the other waits", func() bool {
			return sql(t, server, preparedCount) == "1" &&
				sql(t, server, `select count(*)::text from pg_stat_activity where wait_event_type = 'Lock'`) == "1"
		})
		// The prepared side first: told of the other's end, a client that still has it would roll it back.
		for _, side := range []string{"left_side", "right_side"} {
			others := ` from pg_stat_activity where datname = '` + side + `' and query not like 'begin; select from%'`
			sql(t, server, `select count(pg_terminate_backend(pid))::text`+others)
			eventually(t, side+" has no client any more", func() bool {
				return sql(t, server, `select count(*)::text`+others) == "0"
			})
		}
		if err := <-ended; err == nil {
			t.Error("it was told as done")
		}
		if err := blocker.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustBe(t, "1", nil)
		if n, err := baseline.Clean(t.Context(), world...); n != 1 || err != nil {
			t.Errorf("cleaned %d, %v", n, err)
		}
		mustBe(t, "0", map[ledger.UserID]string{"a1": "100", "b1": "100"})
		mustBeSound(t, world...)
		if outcome, err := open(t, 1).Transfer(t.Context(), 0, pay("a1", "1", "b1", 30)); err != nil || outcome.Balance != 70 {
			t.Errorf("again: %+v, %v", outcome, err)
		}
		mustBeSound(t, world...)
	})

	t.Run("a client that is cut off after one side has committed leaves what is completed", func(t *testing.T) {
		fresh(t)
		sql(t, world[0], `begin; select from saldo.debit(`+slot("a1")+`, 'a1', '1', 'b1', 30, 'USD', '');
		                  prepare transaction 'debit:a1/1'`)
		sql(t, world[1], `begin; select from saldo.credit(`+slot("b1")+`, 'b1', '1', 'a1', 30, 'USD', '');
		                  prepare transaction 'credit:a1/1'`)
		sql(t, world[0], `commit prepared 'debit:a1/1'`)
		if err := baseline.Check(t.Context(), world...); err == nil {
			t.Error("nothing is in transit")
		}
		if n, err := baseline.Clean(t.Context(), world...); n != 1 || err != nil {
			t.Errorf("cleaned %d, %v", n, err)
		}
		mustBe(t, "0", map[ledger.UserID]string{"a1": "70", "b1": "130"})
		mustBeSound(t, world...)
		if outcome, err := open(t, 1).Transfer(t.Context(), 0, pay("a1", "1", "b1", 30)); err != nil || outcome.Balance != 70 {
			t.Errorf("again: %+v, %v", outcome, err)
		}
	})

	t.Run("a client that is cut off after the decision leaves what is completed", func(t *testing.T) {
		fresh(t)
		p := open(t, 1)
		if _, err := p.Transfer(t.Context(), 0, pay("a1", "0", "b1", 1)); err != nil {
			t.Fatal(err)
		}
		if got := sql(t, world[0], `select string_agg(id, ' ') from saldo.decisions`); got != "a1/0" {
			t.Errorf("decided: %q", got)
		}
		sql(t, world[0], `begin; select from saldo.debit(`+slot("a1")+`, 'a1', '1', 'b1', 30, 'USD', '');
		                  prepare transaction 'debit:a1/1'`)
		sql(t, world[1], `begin; select from saldo.credit(`+slot("b1")+`, 'b1', '1', 'a1', 30, 'USD', '');
		                  prepare transaction 'credit:a1/1'`)
		sql(t, world[0], `insert into saldo.decisions values ('a1/1')`)
		if n, err := baseline.Clean(t.Context(), world...); n != 2 || err != nil {
			t.Errorf("cleaned %d, %v", n, err)
		}
		mustBe(t, "0", map[ledger.UserID]string{"a1": "69", "b1": "131"})
		mustBeSound(t, world...)
	})
}
