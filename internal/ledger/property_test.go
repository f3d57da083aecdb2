package ledger_test

import (
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// drawOperation draws what might be sent to one book, sensible or not.
func drawOperation(t *rapid.T) ledger.Operation {
	user := rapid.SampledFrom([]ledger.UserID{"alice", "bob", "rich", "owed", "late", "nobody"})
	op := ledger.Operation{Step: rapid.SampledFrom([]ledger.Step{
		ledger.StepStart, ledger.StepStart, ledger.StepCredit, ledger.StepRefund,
	}).Draw(t, "step")}
	op.Initiator = user.Draw(t, "initiator")
	op.TxID = rapid.SampledFrom([]ledger.TxID{"t1", "t2", "t3"}).Draw(t, "tx")
	op.Kind = ledger.KindTransfer
	if op.Step == ledger.StepStart {
		op.Kind = rapid.SampledFrom([]ledger.Kind{ledger.KindAdd, ledger.KindWithdraw, ledger.KindTransfer}).Draw(t, "kind")
	}
	if op.Kind == ledger.KindTransfer {
		op.Payee = user.Draw(t, "payee")
		op.Saga = op.Step == ledger.StepStart && rapid.Bool().Draw(t, "saga")
	}
	if op.Step == ledger.StepRefund {
		op.Cause = ledger.PayeeNotFound
	}
	op.Amount = rapid.OneOf(
		rapid.SampledFrom([]ledger.Amount{1, 2, 50}),
		rapid.Custom(func(t *rapid.T) ledger.Amount {
			return ledger.MaxAmount - ledger.Amount(rapid.IntRange(0, 10).Draw(t, "below"))
		}),
		rapid.SampledFrom([]ledger.Amount{0, -1, ledger.MaxAmount + 1, math.MinInt64, math.MaxInt64}),
	).Draw(t, "amount")
	op.Currency = rapid.SampledFrom([]ledger.Currency{usd, usd, usd, jpy}).Draw(t, "currency")
	return op
}

// A book is conserved, never overdrawn, gapless, and keeps what it said, whatever it is sent.
func TestBookProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := book()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				b.AddUser("late")
			case 1:
				completeOne(t, b)
			default:
				applyOne(t, b, drawOperation(t))
			}
		}
	})
}

func completeOne(t *rapid.T, b *ledger.Book) {
	id := ledger.Identity{
		Initiator: rapid.SampledFrom([]ledger.UserID{"alice", "rich"}).Draw(t, "initiator"),
		TxID:      rapid.SampledFrom([]ledger.TxID{"t1", "t2", "t3"}).Draw(t, "tx"),
	}
	before, known := b.Saga(id)
	state, err := b.Complete(id)
	after, _ := b.Saga(id)
	possible := known && before.State != ledger.SagaRefunded
	if (err == nil) != possible || err != nil && !errors.Is(err, ledger.ErrImpossible) || state != after.State {
		t.Fatalf("complete %v in %v: %v, %v", id, before.State, state, err)
	}
	if possible && state != ledger.SagaCompleted || !possible && after != before {
		t.Fatalf("complete %v in %v led to %v", id, before.State, after.State)
	}
	b.TakeChanges()
}

func applyOne(t *rapid.T, b *ledger.Book, op ledger.Operation) {
	before := b.Clone()
	result, err := b.Apply(op)
	changes := b.TakeChanges()
	accounts := before.Accounts()
	sum := map[ledger.Currency]ledger.Amount{}
	for _, entry := range changes.Entries {
		account := accounts[entry.AccountKey]
		if entry.Version != account.Version+1 || entry.Balance != account.Balance+entry.Amount || entry.Balance < 0 || entry.Amount == 0 {
			t.Fatalf("entry %#v after %+v", entry, account)
		}
		accounts[entry.AccountKey] = ledger.Account{Balance: entry.Balance, Version: entry.Version}
		sum[entry.Currency] += entry.Amount
	}
	if !maps.Equal(accounts, b.Accounts()) {
		t.Fatalf("the entries lead to %v, the accounts say %v", accounts, b.Accounts())
	}
	for _, applied := range changes.Operations {
		if applied.Reason == ledger.Applied {
			_, amount := applied.System()
			sum[applied.Currency] += amount
		}
	}
	if sum[usd] != 0 || sum[jpy] != 0 {
		t.Fatalf("%#v does not sum to zero: %v", op, sum)
	}

	allowed := op.Accounts(nil)
	for _, entry := range changes.Entries {
		if entry.AccountKey != allowed[0] && entry.AccountKey != allowed[len(allowed)-1] {
			t.Fatalf("%#v changed %v, which Accounts does not name", op, entry.AccountKey)
		}
	}
	for key, known := range before.Operations() {
		if kept, _ := b.Operation(key); kept != known {
			t.Fatalf("%#v changed the record of %v", op, key)
		}
	}
	for id, saga := range before.Sagas() {
		if kept, _ := b.Saga(id); kept != saga && saga.State != ledger.SagaPending {
			t.Fatalf("%#v changed the ended saga %v", op, id)
		}
	}

	nothing := len(changes.Operations)+len(changes.Entries)+len(changes.Opened)+len(changes.Ended) == 0
	_, known := before.Operation(op.Key())
	switch {
	case err != nil:
		if !errors.Is(err, ledger.ErrImpossible) && ledger.CodeOf(err) != ledger.CodeConflict || !nothing {
			t.Fatalf("%#v: %v, %#v", op, err, changes)
		}
		return
	case result.Replayed != known || nothing != known:
		t.Fatalf("%#v, known %t: %#v, %#v", op, known, result, changes)
	case result.Reason != ledger.Applied && len(changes.Entries) != 0:
		t.Fatalf("%#v was refused and has entries %#v", op, changes.Entries)
	}
	again, err := b.Apply(op)
	result.Replayed = true
	if changes := b.TakeChanges(); err != nil || again != result || len(changes.Operations)+len(changes.Entries) != 0 {
		t.Fatalf("%#v: first %#v, again %#v, %v, %#v", op, result, again, err, changes)
	}
}

func TestCloneIsIndependent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := book()
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			_, _ = b.Apply(drawOperation(t))
		}
		clone := b.Clone()
		if changes := clone.TakeChanges(); len(changes.Operations)+len(changes.Entries)+len(changes.Opened)+len(changes.Ended) != 0 {
			t.Fatalf("the book's changes are the clone's: %#v", changes)
		}
		b.TakeChanges()
		accounts, operations, sagas := b.Accounts(), b.Operations(), b.Sagas()
		for range rapid.IntRange(1, 20).Draw(t, "after") {
			_, _ = clone.Apply(drawOperation(t))
		}
		clone.AddUser("late")
		clone.LoadAccount(ledger.AccountKey{User: "alice", Currency: jpy}, ledger.Account{Balance: 1, Version: 1})
		for id := range clone.Sagas() {
			_, _ = clone.Complete(id)
		}
		if !maps.Equal(accounts, b.Accounts()) || !maps.Equal(operations, b.Operations()) || !maps.Equal(sagas, b.Sagas()) || b.HasUser("late") {
			t.Fatal("the clone's operations changed the book")
		}
		if changes := b.TakeChanges(); len(changes.Operations)+len(changes.Entries)+len(changes.Opened)+len(changes.Ended) != 0 {
			t.Fatalf("the clone's changes are the book's: %#v", changes)
		}
	})
}

// A book with room for more must not share that room with its clone.
func TestCloneHasItsOwnRoom(t *testing.T) {
	t.Parallel()
	b := ledger.NewBook(8)
	b.AddUser("bob")
	clone := b.Clone()
	in, out := add("bob", 5), withdraw("bob", 5)
	apply(t, clone, in)
	apply(t, b, out)
	if kept, _ := clone.Operation(in.Key()); kept.Operation != in {
		t.Errorf("the book's operation became the clone's: %#v", kept)
	}
}

// A shard loads what Accounts names, the users of the operation, the operation's record and the saga, and nothing else.
// That must be enough.
func TestPartOfABookAnswersLikeTheWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		whole := book()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			op := drawOperation(t)
			part := ledger.NewBook(0)
			for _, user := range []ledger.UserID{op.Initiator, op.Payee} {
				if whole.HasUser(user) {
					part.AddUser(user)
				}
			}
			for _, key := range op.Accounts(nil) {
				if account := whole.Account(key); account.Version > 0 {
					part.LoadAccount(key, account)
				}
			}
			if known, ok := whole.Operation(op.Key()); ok {
				part.LoadOperation(known)
			}
			if saga, ok := whole.Saga(op.Identity); ok {
				part.LoadSaga(saga)
			}
			got, gotErr := part.Apply(op)
			want, wantErr := whole.Apply(op)
			if got != want || (gotErr == nil) != (wantErr == nil) || ledger.CodeOf(gotErr) != ledger.CodeOf(wantErr) {
				t.Fatalf("%#v: the part says %#v, %v; the whole %#v, %v", op, got, gotErr, want, wantErr)
			}
			if got, want := part.TakeChanges(), whole.TakeChanges(); !slices.Equal(got.Operations, want.Operations) ||
				!slices.Equal(got.Entries, want.Entries) || !slices.Equal(got.Opened, want.Opened) || !slices.Equal(got.Ended, want.Ended) {
				t.Fatalf("%#v: the part changed %#v, the whole %#v", op, got, want)
			}
		}
	})
}
