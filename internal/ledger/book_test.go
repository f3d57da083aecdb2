package ledger_test

import (
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

const usd, jpy ledger.Currency = "USD", "JPY"

// alice has 100 USD, bob has nothing, rich has MaxAmount - 5, owed has more than MaxAmount (a refund did that).
func book() *ledger.Book {
	b := ledger.NewBook(0)
	b.LoadAccount(ledger.AccountKey{User: "alice", Currency: usd}, ledger.Account{Balance: 100, Version: 7})
	b.LoadAccount(ledger.AccountKey{User: "rich", Currency: usd}, ledger.Account{Balance: ledger.MaxAmount - 5, Version: 1})
	b.LoadAccount(ledger.AccountKey{User: "owed", Currency: usd}, ledger.Account{Balance: ledger.MaxAmount + 1, Version: 3})
	b.AddUser("bob")
	return b
}

func add(user ledger.UserID, amount ledger.Amount) ledger.Operation {
	return ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: user, TxID: "t1"}, Kind: ledger.KindAdd, Amount: amount, Currency: usd,
	}}
}

func withdraw(user ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := add(user, amount)
	op.Kind = ledger.KindWithdraw
	return op
}

func pay(payer, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := add(payer, amount)
	op.Kind, op.Payee = ledger.KindTransfer, payee
	return op
}

func saga(payer, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, payee, amount)
	op.Saga, op.Trace = true, "trace"
	return op
}

func credit(payer, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, payee, amount)
	op.Step = ledger.StepCredit
	return op
}

func refund(payer, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, payee, amount)
	op.Step, op.Cause = ledger.StepRefund, ledger.PayeeNotFound
	return op
}

func with(op ledger.Operation, change func(*ledger.Operation)) ledger.Operation {
	change(&op)
	return op
}

func apply(t *testing.T, b *ledger.Book, op ledger.Operation) ledger.Result {
	t.Helper()
	result, err := b.Apply(op)
	if err != nil {
		t.Fatalf("%v %v: %v", op.Step, op.Identity, err)
	}
	return result
}

func balance(b *ledger.Book, user ledger.UserID) ledger.Amount {
	return b.Account(ledger.AccountKey{User: user, Currency: usd}).Balance
}

// Each row is one operation on a fresh book: its outcome, and what each entry adds to whom.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	type entries map[ledger.UserID]ledger.Amount
	for _, test := range []struct {
		name    string
		op      ledger.Operation
		reason  ledger.Reason
		entries entries
	}{
		{"add", add("alice", 5), ledger.Applied, entries{"alice": 5}},
		{"add opens an account", add("bob", 5), ledger.Applied, entries{"bob": 5}},
		{"add to nobody", add("nobody", 5), ledger.UserNotFound, nil},
		{"add up to the limit", add("rich", 5), ledger.Applied, entries{"rich": 5}},
		{"add over the limit", add("rich", 6), ledger.BalanceLimit, nil},
		{"add the most there is", add("bob", ledger.MaxAmount), ledger.Applied, entries{"bob": ledger.MaxAmount}},
		{"add the most there is to more", add("alice", ledger.MaxAmount), ledger.BalanceLimit, nil},
		{"add to who is over the limit", add("owed", 1), ledger.BalanceLimit, nil},

		{"withdraw", withdraw("alice", 30), ledger.Applied, entries{"alice": -30}},
		{"withdraw all", withdraw("alice", 100), ledger.Applied, entries{"alice": -100}},
		{"withdraw too much", withdraw("alice", 101), ledger.InsufficientFunds, nil},
		{"withdraw from no account", withdraw("bob", 1), ledger.InsufficientFunds, nil},
		{"withdraw another currency", with(withdraw("alice", 1), func(op *ledger.Operation) { op.Currency = jpy }), ledger.InsufficientFunds, nil},
		{"withdraw from nobody", withdraw("nobody", 1), ledger.UserNotFound, nil},
		{"withdraw over the limit", withdraw("owed", ledger.MaxAmount), ledger.Applied, entries{"owed": -ledger.MaxAmount}},

		{"pay", pay("alice", "bob", 30), ledger.Applied, entries{"alice": -30, "bob": 30}},
		{"pay all", pay("alice", "bob", 100), ledger.Applied, entries{"alice": -100, "bob": 100}},
		{"pay too much", pay("alice", "bob", 101), ledger.InsufficientFunds, nil},
		{"pay nobody", pay("alice", "nobody", 1), ledger.PayeeNotFound, nil},
		{"pay from nobody", pay("nobody", "alice", 1), ledger.UserNotFound, nil},
		{"pay oneself", pay("alice", "alice", 1), ledger.SameAccount, nil},
		{"pay up to the limit", pay("alice", "rich", 5), ledger.Applied, entries{"alice": -5, "rich": 5}},
		{"pay over the limit", pay("alice", "rich", 6), ledger.BalanceLimit, nil},

		{"saga debits", saga("alice", "bob", 30), ledger.Applied, entries{"alice": -30}},
		{"saga does not ask for the payee", saga("alice", "nobody", 30), ledger.Applied, entries{"alice": -30}},
		{"saga does not ask for room", saga("alice", "rich", 30), ledger.Applied, entries{"alice": -30}},
		{"saga of too much", saga("alice", "bob", 101), ledger.InsufficientFunds, nil},
		{"saga from nobody", saga("nobody", "bob", 1), ledger.UserNotFound, nil},
		{"saga to oneself", saga("alice", "alice", 1), ledger.SameAccount, nil},

		{"credit", credit("away", "alice", 5), ledger.Applied, entries{"alice": 5}},
		{"credit opens an account", credit("away", "bob", 5), ledger.Applied, entries{"bob": 5}},
		{"credit to nobody", credit("away", "nobody", 5), ledger.PayeeNotFound, nil},
		{"credit up to the limit", credit("away", "rich", 5), ledger.Applied, entries{"rich": 5}},
		{"credit over the limit", credit("away", "rich", 6), ledger.BalanceLimit, nil},

		// The order of the checks, first to last: payer, same account, funds, payee, limit.
		{"nobody pays oneself", pay("nobody", "nobody", 1), ledger.UserNotFound, nil},
		{"nobody pays nobody", pay("nobody", "noone", 1), ledger.UserNotFound, nil},
		{"paying oneself too much", pay("alice", "alice", 101), ledger.SameAccount, nil},
		{"paying nobody too much", pay("alice", "nobody", 101), ledger.InsufficientFunds, nil},
		{"paying the rich too much", pay("alice", "rich", 101), ledger.InsufficientFunds, nil},
		{"nobody's saga to oneself", saga("nobody", "nobody", 1), ledger.UserNotFound, nil},
		{"a saga to oneself of too much", saga("alice", "alice", 101), ledger.SameAccount, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := book()
			before := b.Accounts()
			result := apply(t, b, test.op)
			if result.Reason != test.reason || result.Replayed || result.Operation != test.op {
				t.Errorf("result %#v, want reason %q", result, test.reason)
			}
			if recorded, ok := b.Operation(test.op.Key()); !ok || recorded != result.Recorded {
				t.Errorf("recorded %#v, want %#v", recorded, result.Recorded)
			}

			changes := b.TakeChanges()
			if len(changes.Operations) != 1 || changes.Operations[0] != result.Recorded {
				t.Errorf("changes have operations %#v", changes.Operations)
			}
			if len(changes.Entries) != len(test.entries) {
				t.Fatalf("entries %#v, want %v", changes.Entries, test.entries)
			}
			for _, entry := range changes.Entries {
				was, now := before[entry.AccountKey], b.Account(entry.AccountKey)
				want := ledger.Entry{
					AccountKey: ledger.AccountKey{User: entry.User, Currency: test.op.Currency},
					Version:    was.Version + 1, Amount: test.entries[entry.User], Balance: was.Balance + test.entries[entry.User],
					Identity: test.op.Identity, Step: test.op.Step, Kind: test.op.Kind, Counterparty: counterparty(test.op, entry.User),
				}
				if entry != want || now != (ledger.Account{Balance: want.Balance, Version: want.Version}) {
					t.Errorf("entry %#v, account %+v, want %#v", entry, now, want)
				}
				delete(before, entry.AccountKey)
			}
			for key, was := range before {
				if now := b.Account(key); now != was {
					t.Errorf("%v has changed from %+v to %+v without an entry", key, was, now)
				}
			}

			owner := b.Account(ledger.AccountKey{User: test.op.Owner(), Currency: test.op.Currency})
			if test.reason != ledger.Applied {
				owner = ledger.Account{}
			}
			if result.Balance != owner.Balance || result.Version != owner.Version {
				t.Errorf("told balance %d at version %d, want %+v", result.Balance, result.Version, owner)
			}
			opened := test.op.Saga && test.reason == ledger.Applied
			want := []ledger.Saga(nil)
			if opened {
				want = []ledger.Saga{{Transfer: test.op.Transfer, State: ledger.SagaPending, Trace: "trace"}}
			}
			if !slices.Equal(changes.Opened, want) || len(changes.Ended) != 0 || (result.State == ledger.SagaPending) != opened {
				t.Errorf("opened %#v, ended %#v, state %v", changes.Opened, changes.Ended, result.State)
			}
		})
	}
}

func counterparty(op ledger.Operation, user ledger.UserID) ledger.UserID {
	if user == op.Payee {
		return op.Initiator
	}
	return op.Payee
}

// Whatever happens to the accounts in between, a known operation is answered from its record.
func TestReplays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		op   ledger.Operation
	}{
		{"add", add("alice", 5)},
		{"withdraw", withdraw("alice", 100)},
		{"payment", pay("alice", "bob", 5)},
		{"saga", saga("alice", "bob", 5)},
		{"credit", credit("away", "bob", 5)},
		{"refused for funds", withdraw("alice", 101)},
		{"refused for the payer", pay("late", "bob", 5)},
		{"refused for the payee", pay("alice", "late", 5)},
		{"credit refused for the payee", credit("away", "late", 5)},
		{"refused for room", pay("alice", "rich", 50)},
		{"credit refused for room", credit("away", "rich", 50)},
		{"refused for oneself", pay("alice", "alice", 5)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := book()
			first := apply(t, b, test.op)
			// Now all that was refused could be applied.
			b.AddUser("late")
			apply(t, b, with(add("alice", 1000), func(op *ledger.Operation) { op.TxID = "top-up" }))
			apply(t, b, with(add("late", 1000), func(op *ledger.Operation) { op.TxID = "top-up" }))
			apply(t, b, with(withdraw("rich", 1000), func(op *ledger.Operation) { op.TxID = "spend" }))
			b.TakeChanges()
			accounts := b.Accounts()

			for _, change := range []func(*ledger.Operation){
				func(*ledger.Operation) {},
				func(op *ledger.Operation) { op.Description = "another" },
				func(op *ledger.Operation) { op.Trace = "another" },
				func(op *ledger.Operation) { op.Saga = op.Kind == ledger.KindTransfer && !op.Saga },
			} {
				again := apply(t, b, with(test.op, change))
				want := first
				want.Replayed = true
				if again != want {
					t.Errorf("first %#v, again %#v", first, again)
				}
			}
			if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries)+len(changes.Opened)+len(changes.Ended) != 0 {
				t.Errorf("a replay has changes: %#v", changes)
			}
			for key, account := range accounts {
				if b.Account(key) != account {
					t.Errorf("a replay changed %v", key)
				}
			}
		})
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ledger.Operation){
		"kind":     func(op *ledger.Operation) { op.Kind, op.Payee, op.Saga = ledger.KindWithdraw, "", false },
		"payee":    func(op *ledger.Operation) { op.Payee = "rich" },
		"amount":   func(op *ledger.Operation) { op.Amount++ },
		"currency": func(op *ledger.Operation) { op.Currency = jpy },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, first := range []ledger.Operation{
				pay("alice", "bob", 5), saga("alice", "bob", 5), pay("alice", "bob", 101), credit("alice", "bob", 5),
			} {
				if name == "kind" && first.Step != ledger.StepStart {
					continue // a credit has no other kind
				}
				b := book()
				known := apply(t, b, first)
				b.TakeChanges()
				accounts := b.Accounts()
				result, err := b.Apply(with(first, change))
				if ledger.CodeOf(err) != ledger.CodeConflict || result != (ledger.Result{}) {
					t.Errorf("got %#v, %v", result, err)
				}
				if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries) != 0 || balance(b, "alice") != accounts[ledger.AccountKey{User: "alice", Currency: usd}].Balance {
					t.Errorf("a conflict changed the book: %#v", changes)
				}
				if kept, _ := b.Operation(first.Key()); kept != known.Recorded {
					t.Errorf("a conflict changed the record: %#v", kept)
				}
			}
		})
	}
}

func TestSameTxIDOfAnotherInitiatorIsAnother(t *testing.T) {
	t.Parallel()
	b := book()
	apply(t, b, pay("alice", "bob", 60))
	if result := apply(t, b, pay("bob", "alice", 10)); result.Replayed || result.Reason != ledger.Applied {
		t.Errorf("result %#v", result)
	}
	if balance(b, "alice") != 50 || balance(b, "bob") != 50 {
		t.Errorf("alice has %d, bob has %d", balance(b, "alice"), balance(b, "bob"))
	}
}

func TestSagaEnds(t *testing.T) {
	t.Parallel()
	id := ledger.Identity{Initiator: "alice", TxID: "t1"}

	t.Run("completed", func(t *testing.T) {
		t.Parallel()
		b := book()
		apply(t, b, saga("alice", "bob", 30))
		b.TakeChanges()
		for again := range 2 {
			state, err := b.Complete(id)
			if state != ledger.SagaCompleted || err != nil {
				t.Errorf("complete: %v, %v", state, err)
			}
			changes := b.TakeChanges()
			if len(changes.Operations)+len(changes.Entries)+len(changes.Opened) != 0 || len(changes.Ended) != 1-again {
				t.Errorf("changes, time %d: %#v", again, changes)
			}
		}
		if _, err := b.Apply(refund("alice", "bob", 30)); !errors.Is(err, ledger.ErrImpossible) {
			t.Errorf("refund of a completed saga: %v", err)
		}
		if start := apply(t, b, saga("alice", "bob", 30)); start.State != ledger.SagaCompleted || start.Status() != ledger.StatusCompleted {
			t.Errorf("the start says %v, %v", start.State, start.Status())
		}
		if balance(b, "alice") != 70 {
			t.Errorf("alice has %d", balance(b, "alice"))
		}
	})

	t.Run("refunded", func(t *testing.T) {
		t.Parallel()
		b := book()
		apply(t, b, saga("alice", "bob", 30))
		b.TakeChanges()
		first := apply(t, b, refund("alice", "bob", 30))
		if first.Reason != ledger.Applied || first.Replayed || first.Balance != 100 || first.Version != 9 {
			t.Errorf("refund: %#v", first)
		}
		changes := b.TakeChanges()
		entry := ledger.Entry{
			AccountKey: ledger.AccountKey{User: "alice", Currency: usd}, Version: 9, Amount: 30, Balance: 100,
			Identity: id, Step: ledger.StepRefund, Kind: ledger.KindTransfer, Counterparty: "bob",
		}
		ended := ledger.Saga{
			Transfer: saga("alice", "bob", 30).Transfer, State: ledger.SagaRefunded, Cause: ledger.PayeeNotFound, Trace: "trace",
		}
		if !slices.Equal(changes.Entries, []ledger.Entry{entry}) || !slices.Equal(changes.Ended, []ledger.Saga{ended}) ||
			!slices.Equal(changes.Operations, []ledger.Recorded{first.Recorded}) {
			t.Errorf("changes: %#v", changes)
		}
		again := apply(t, b, refund("alice", "bob", 30))
		if !again.Replayed || again.Recorded != first.Recorded || balance(b, "alice") != 100 {
			t.Errorf("refunded again: %#v", again)
		}
		if state, err := b.Complete(id); state != ledger.SagaRefunded || !errors.Is(err, ledger.ErrImpossible) {
			t.Errorf("complete of a refunded saga: %v, %v", state, err)
		}
		if start := apply(t, b, saga("alice", "bob", 30)); start.State != ledger.SagaRefunded || start.Status() != ledger.StatusRefunded {
			t.Errorf("the start says %v, %v", start.State, start.Status())
		}
	})

	t.Run("refund with other contents", func(t *testing.T) {
		t.Parallel()
		b := book()
		apply(t, b, saga("alice", "bob", 30))
		if _, err := b.Apply(refund("alice", "bob", 31)); ledger.CodeOf(err) != ledger.CodeConflict {
			t.Errorf("before the refund: %v", err)
		}
		apply(t, b, refund("alice", "bob", 30))
		if _, err := b.Apply(refund("alice", "bob", 31)); ledger.CodeOf(err) != ledger.CodeConflict {
			t.Errorf("after the refund: %v", err)
		}
		if balance(b, "alice") != 100 {
			t.Errorf("alice has %d", balance(b, "alice"))
		}
	})

	t.Run("no saga", func(t *testing.T) {
		t.Parallel()
		for _, start := range []ledger.Operation{
			pay("alice", "bob", 30), saga("alice", "bob", 101), withdraw("alice", 30), add("alice", 30),
		} {
			b := book()
			apply(t, b, start)
			b.TakeChanges()
			if _, err := b.Apply(refund("alice", "bob", 30)); !errors.Is(err, ledger.ErrImpossible) {
				t.Errorf("refund: %v", err)
			}
			if state, err := b.Complete(id); state != 0 || !errors.Is(err, ledger.ErrImpossible) {
				t.Errorf("complete: %v, %v", state, err)
			}
			if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries)+len(changes.Ended) != 0 {
				t.Errorf("changes: %#v", changes)
			}
		}
	})
}

// A refund is given back even where a credit would be refused.
func TestRefundKnowsNoLimit(t *testing.T) {
	t.Parallel()
	b := book()
	apply(t, b, saga("rich", "bob", 100))
	apply(t, b, with(add("rich", 105), func(op *ledger.Operation) { op.TxID = "fill" }))
	if result := apply(t, b, refund("rich", "bob", 100)); result.Reason != ledger.Applied || result.Balance != ledger.MaxAmount+100 {
		t.Errorf("refund: %#v", result)
	}
}

func TestRefundDoesNotOverflow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		balance ledger.Amount
		err     error
	}{
		{math.MaxInt64 - 30, nil},
		{math.MaxInt64 - 29, ledger.ErrImpossible},
		{math.MaxInt64, ledger.ErrImpossible},
	} {
		b := book()
		apply(t, b, saga("alice", "bob", 30))
		b.TakeChanges()
		key := ledger.AccountKey{User: "alice", Currency: usd}
		b.LoadAccount(key, ledger.Account{Balance: test.balance, Version: 8})
		_, err := b.Apply(refund("alice", "bob", 30))
		if !errors.Is(err, test.err) {
			t.Errorf("refund to %d: %v", test.balance, err)
		}
		if err == nil {
			continue
		}
		if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries)+len(changes.Ended) != 0 || balance(b, "alice") != test.balance {
			t.Errorf("a refund that overflows changed the book: %#v", changes)
		}
		// Some of it is spent; now there is room.
		b.LoadAccount(key, ledger.Account{Balance: test.balance - 30, Version: 9})
		if result := apply(t, b, refund("alice", "bob", 30)); result.Reason != ledger.Applied {
			t.Errorf("refund: %#v", result)
		}
	}
}

func TestImpossibleOperations(t *testing.T) {
	t.Parallel()
	for name, op := range map[string]ledger.Operation{
		"zero":                    {},
		"no initiator":            with(add("alice", 1), func(op *ledger.Operation) { op.Initiator = "" }),
		"no tx_id":                with(add("alice", 1), func(op *ledger.Operation) { op.TxID = "" }),
		"no currency":             with(add("alice", 1), func(op *ledger.Operation) { op.Currency = "" }),
		"amount zero":             add("alice", 0),
		"amount negative":         add("alice", -1),
		"amount smallest":         withdraw("alice", math.MinInt64),
		"amount too large":        add("alice", ledger.MaxAmount+1),
		"amount largest":          add("alice", math.MaxInt64),
		"no kind":                 with(add("alice", 1), func(op *ledger.Operation) { op.Kind = 0 }),
		"kind from the future":    with(add("alice", 1), func(op *ledger.Operation) { op.Kind = ledger.KindTransfer + 1 }),
		"no step":                 with(add("alice", 1), func(op *ledger.Operation) { op.Step = 0 }),
		"step from the future":    with(pay("alice", "bob", 1), func(op *ledger.Operation) { op.Step = ledger.StepRefund + 1 }),
		"payment without a payee": pay("alice", "", 1),
		"add with a payee":        with(add("alice", 1), func(op *ledger.Operation) { op.Payee = "bob" }),
		"withdraw with a payee":   with(withdraw("alice", 1), func(op *ledger.Operation) { op.Payee = "bob" }),
		"add as a saga":           with(add("alice", 1), func(op *ledger.Operation) { op.Saga = true }),
		"credit of an add":        with(add("alice", 1), func(op *ledger.Operation) { op.Step = ledger.StepCredit }),
		"refund of a withdraw": with(withdraw("alice", 1), func(op *ledger.Operation) {
			op.Step, op.Cause = ledger.StepRefund, ledger.PayeeNotFound
		}),
		"refund without a cause": with(refund("alice", "bob", 1), func(op *ledger.Operation) { op.Cause = ledger.Applied }),
		"credit with a cause":    with(credit("alice", "bob", 1), func(op *ledger.Operation) { op.Cause = ledger.PayeeNotFound }),
		"start with a cause":     with(pay("alice", "bob", 1), func(op *ledger.Operation) { op.Cause = ledger.PayeeNotFound }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := book()
			apply(t, b, saga("alice", "bob", 1)) // for what is taken for one of its steps
			b.TakeChanges()
			known := b.Operations()
			if result, err := b.Apply(op); !errors.Is(err, ledger.ErrImpossible) || result != (ledger.Result{}) {
				t.Errorf("got %#v, %v", result, err)
			}
			if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries) != 0 || !maps.Equal(known, b.Operations()) {
				t.Errorf("changes %#v", changes)
			}
		})
	}
}

func TestSystemSidesBalance(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		op      ledger.Operation
		account ledger.SystemAccount
		amount  ledger.Amount
	}{
		"add":      {add("alice", 5), ledger.World, -5},
		"withdraw": {withdraw("alice", 5), ledger.World, 5},
		"payment":  {pay("alice", "bob", 5), "", 0},
		"saga":     {saga("alice", "bob", 5), ledger.Transit, 5},
		"credit":   {credit("alice", "bob", 5), ledger.Transit, -5},
		"refund":   {refund("alice", "bob", 5), ledger.Transit, -5},
	} {
		if account, amount := test.op.System(); account != test.account || amount != test.amount {
			t.Errorf("%s: %q %d, want %q %d", name, account, amount, test.account, test.amount)
		}
	}
}

// Accounts must name every account that Apply may change, or a shard would change what it has not locked.
func TestAccountsAndOwners(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		op    ledger.Operation
		users []ledger.UserID // the owner first
	}{
		"add":             {add("alice", 5), []ledger.UserID{"alice"}},
		"withdraw":        {withdraw("alice", 5), []ledger.UserID{"alice"}},
		"payment":         {pay("alice", "bob", 5), []ledger.UserID{"alice", "bob"}},
		"oneself":         {pay("alice", "alice", 5), []ledger.UserID{"alice"}},
		"saga":            {saga("alice", "bob", 5), []ledger.UserID{"alice"}},
		"credit":          {credit("alice", "bob", 5), []ledger.UserID{"bob"}},
		"refund":          {refund("alice", "bob", 5), []ledger.UserID{"alice"}},
		"saga to oneself": {saga("alice", "alice", 5), []ledger.UserID{"alice"}},
	} {
		keys := test.op.Accounts([]ledger.AccountKey{{User: "kept"}})
		if len(keys) != 1+len(test.users) || keys[0].User != "kept" {
			t.Errorf("%s: accounts %v", name, keys)
			continue
		}
		for i, user := range test.users {
			if keys[1+i] != (ledger.AccountKey{User: user, Currency: usd}) {
				t.Errorf("%s: accounts %v, want %v", name, keys[1:], test.users)
			}
		}
		if test.op.Owner() != test.users[0] {
			t.Errorf("%s: owner %s", name, test.op.Owner())
		}
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	recorded := func(saga bool, reason ledger.Reason) ledger.Recorded {
		return ledger.Recorded{
			Operation: ledger.Operation{Step: ledger.StepStart, Saga: saga}, Outcome: ledger.Outcome{Reason: reason},
		}
	}
	for _, test := range []struct {
		record ledger.TransferRecord
		status ledger.Status
		whyNot ledger.Reason
	}{
		{ledger.TransferRecord{Recorded: recorded(false, ledger.Applied)}, ledger.StatusCompleted, ledger.Applied},
		{ledger.TransferRecord{Recorded: recorded(false, ledger.SameAccount)}, ledger.StatusRefused, ledger.SameAccount},
		{ledger.TransferRecord{Recorded: recorded(true, ledger.InsufficientFunds)}, ledger.StatusRefused, ledger.InsufficientFunds},
		{ledger.TransferRecord{Recorded: recorded(true, ledger.Applied), State: ledger.SagaPending}, ledger.StatusPending, ledger.Applied},
		{ledger.TransferRecord{Recorded: recorded(true, ledger.Applied)}, ledger.StatusPending, ledger.Applied}, // the saga was not loaded
		{ledger.TransferRecord{Recorded: recorded(true, ledger.Applied), State: ledger.SagaCompleted}, ledger.StatusCompleted, ledger.Applied},
		{
			ledger.TransferRecord{Recorded: recorded(true, ledger.Applied), State: ledger.SagaRefunded, Cause: ledger.BalanceLimit},
			ledger.StatusRefunded, ledger.BalanceLimit,
		},
	} {
		if test.record.Status() != test.status || test.record.WhyNot() != test.whyNot {
			t.Errorf("%#v: %s, %q; want %s, %q", test.record, test.record.Status(), test.record.WhyNot(), test.status, test.whyNot)
		}
	}
}

// The numbers are stored.
func TestStoredNumbers(t *testing.T) {
	t.Parallel()
	got := []int{
		int(ledger.StepStart), int(ledger.StepCredit), int(ledger.StepRefund),
		int(ledger.KindAdd), int(ledger.KindWithdraw), int(ledger.KindTransfer),
		int(ledger.SagaPending), int(ledger.SagaCompleted), int(ledger.SagaRefunded),
	}
	if want := []int{1, 2, 3, 1, 2, 3, 1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("numbers %v, want %v", got, want)
	}
	names := []string{
		ledger.StepStart.String(), ledger.StepCredit.String(), ledger.StepRefund.String(), ledger.Step(9).String(),
		ledger.KindAdd.String(), ledger.KindWithdraw.String(), ledger.KindTransfer.String(), ledger.Kind(9).String(),
		ledger.SagaPending.String(), ledger.SagaCompleted.String(), ledger.SagaRefunded.String(), ledger.SagaState(9).String(),
	}
	want := []string{
		"start", "credit", "refund", "step(9)", "add", "withdraw", "transfer", "kind(9)", "PENDING", "COMPLETED", "REFUNDED", "saga(9)",
	}
	if !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	reasons := []ledger.Reason{
		ledger.Applied, ledger.UserNotFound, ledger.PayeeNotFound, ledger.SameAccount, ledger.InsufficientFunds, ledger.BalanceLimit,
	}
	if want := []ledger.Reason{"", "user_not_found", "payee_not_found", "same_account", "insufficient_funds", "balance_limit"}; !slices.Equal(reasons, want) {
		t.Errorf("reasons %q, want %q", reasons, want)
	}
}
