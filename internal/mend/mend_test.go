package mend_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/mend"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// books are two shards as rows of steps, and a real ledger.Book each. ann lives on s1, bob on s2.
type books struct {
	m       *placement.Map
	ledgers map[ledger.ShardID]*ledger.Book
	rows    map[ledger.ShardID]*rows
}

type rows struct {
	audit.Snapshot // nil: what is not told here is not asked
	down           bool
	slots          map[ledger.Slot]audit.Slot
	starts         map[ledger.Identity]ledger.Recorded
	sagas          map[ledger.Identity]ledger.Saga
	credits        map[audit.CreditID]ledger.Recorded
}

const ann, bob = "ann", "bob"

func newBooks(t *testing.T) *books {
	t.Helper()
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = placement.Owner{Shard: "s1", Epoch: 1}
	}
	owners[placement.SlotOf(bob)] = placement.Owner{Shard: "s2", Epoch: 1}
	m, err := placement.NewMap(1, owners)
	if err != nil || placement.SlotOf(ann) == placement.SlotOf(bob) {
		t.Fatal("ann and bob do not live apart", err)
	}
	b := &books{m: m, ledgers: make(map[ledger.ShardID]*ledger.Book), rows: make(map[ledger.ShardID]*rows)}
	for id, user := range map[ledger.ShardID]ledger.UserID{"s1": ann, "s2": bob} {
		b.ledgers[id] = ledger.NewBook(0)
		b.ledgers[id].AddUser(user)
		b.rows[id] = &rows{
			slots:  make(map[ledger.Slot]audit.Slot),
			starts: make(map[ledger.Identity]ledger.Recorded), sagas: make(map[ledger.Identity]ledger.Saga),
			credits: make(map[audit.CreditID]ledger.Recorded),
		}
	}
	for slot, owner := range owners {
		b.rows[owner.Shard].slots[slot] = audit.Slot{State: "owned", Epoch: 1}
	}
	return b
}

func (r *rows) Slots() map[ledger.Slot]audit.Slot { return r.slots }

func (b *books) View(context.Context) (audit.View, error) {
	return audit.View{Shards: []ledger.ShardID{"s1", "s2"}, Map: b.m}, nil
}

func (b *books) Snapshot(_ context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	if b.rows[id].down {
		return nil, errors.New("down")
	}
	return b.rows[id], nil
}

func (r *rows) Close() {}

func (r *rows) Credits(_ context.Context, found func(ledger.Recorded) error) error {
	for _, credit := range r.credits {
		if err := found(credit); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows) EndedSagas(_ context.Context, found func(ledger.Saga) error) error {
	for _, saga := range r.sagas {
		if saga.State == ledger.SagaPending {
			continue
		}
		if err := found(saga); err != nil {
			return err
		}
	}
	return nil
}

func (r *rows) FindCredits(_ context.Context, ids []audit.CreditID) (map[audit.CreditID]ledger.Recorded, error) {
	found := make(map[audit.CreditID]ledger.Recorded)
	for _, id := range ids {
		if credit, ok := r.credits[id]; ok {
			found[id] = credit
		}
	}
	return found, nil
}

func (r *rows) FindHomes(_ context.Context, ids []ledger.Identity) (map[ledger.Identity]audit.Home, error) {
	found := make(map[ledger.Identity]audit.Home)
	for _, id := range ids {
		if start, ok := r.starts[id]; ok {
			found[id] = audit.Home{Start: &start}
		}
	}
	return found, nil
}

func (b *books) Balance(_ context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	book := b.ledgers[b.m.OwnerOf(user).Shard]
	if !book.HasUser(user) {
		return ledger.Account{}, &ledger.Error{Code: ledger.CodeUserNotFound}
	}
	return book.Account(ledger.AccountKey{User: user, Currency: currency}), nil
}

func (b *books) Submit(_ context.Context, op ledger.Operation) (ledger.Result, error) {
	id := b.m.OwnerOf(op.Owner()).Shard
	result, err := b.ledgers[id].Apply(op)
	if err != nil {
		return result, err
	}
	switch op.Step {
	case ledger.StepStart:
		b.rows[id].starts[op.Identity] = result.Recorded
	case ledger.StepCredit:
		b.rows[id].credits[audit.CreditID{Payee: op.Payee, Identity: op.Identity}] = result.Recorded
	}
	return result, nil
}

func (b *books) Complete(_ context.Context, id ledger.Identity) (ledger.SagaState, error) {
	return b.ledgers[b.m.OwnerOf(id.Initiator).Shard].Complete(id)
}

func pay(txID ledger.TxID, amount ledger.Amount) ledger.Transfer {
	return ledger.Transfer{Identity: ledger.Identity{Initiator: ann, TxID: txID}, Kind: ledger.KindTransfer, Payee: bob, Amount: amount, Currency: "USD"}
}

func (b *books) fund(t *testing.T, user ledger.UserID, amount ledger.Amount) {
	t.Helper()
	op := ledger.Operation{Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: user, TxID: "fund"}, Kind: ledger.KindAdd, Amount: amount, Currency: "USD",
	}, Step: ledger.StepStart}
	if result, err := b.Submit(t.Context(), op); err != nil || result.Reason != ledger.Applied {
		t.Fatal(result, err)
	}
}

func (b *books) submit(t *testing.T, transfer ledger.Transfer, step ledger.Step) {
	t.Helper()
	if _, err := b.Submit(t.Context(), ledger.Operation{Transfer: transfer, Step: step, Saga: step == ledger.StepStart}); err != nil {
		t.Fatal(err)
	}
}

func (b *books) ended(transfer ledger.Transfer, state ledger.SagaState) {
	b.rows["s1"].sagas[transfer.Identity] = ledger.Saga{Transfer: transfer, State: state}
}

// find returns what is torn, as text.
func (b *books) find(t *testing.T) (found *mend.Found, text []string) {
	t.Helper()
	found, err := mend.Find(t.Context(), b, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, tear := range found.Tears {
		text = append(text, fmt.Sprintf("%s %s %s", tear.Kind, tear.Transfer.TxID, tear.Shard))
	}
	return found, text
}

func want(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("torn: %q, want %q", got, want)
	}
}

func TestFindAndDrive(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.fund(t, ann, 100)
	b.submit(t, pay("whole", 1), ledger.StepStart)
	b.submit(t, pay("whole", 1), ledger.StepCredit)
	b.ended(pay("whole", 1), ledger.SagaCompleted)
	b.submit(t, pay("pending", 2), ledger.StepStart)
	b.submit(t, pay("no-credit", 10), ledger.StepStart)
	b.ended(pay("no-credit", 10), ledger.SagaCompleted)
	b.submit(t, pay("no-start", 20), ledger.StepCredit)
	b.submit(t, pay("no-money", 500), ledger.StepCredit)
	b.submit(t, pay("refused", 501), ledger.StepStart) // by ann's shard
	b.submit(t, pay("refused", 501), ledger.StepCredit)
	b.ended(pay("no-refusal", 5), ledger.SagaRefunded)

	found, text := b.find(t)
	want(t, text, "credit lost no-credit s2", "start lost no-money s1", "start lost no-start s1", "refusal lost no-refusal s2", "start refused refused s1")
	for range 2 { // again: nothing changes
		for _, tear := range found.Tears {
			err := mend.Drive(t.Context(), b, tear)
			switch {
			case strings.HasPrefix(string(tear.Transfer.TxID), "no-c"), tear.Transfer.TxID == "no-start":
				if err != nil {
					t.Errorf("%s: %v", tear.Transfer.TxID, err)
				}
			case !errors.Is(err, mend.ErrForPerson):
				t.Errorf("%s: %v", tear.Transfer.TxID, err)
			}
		}
	}
	_, text = b.find(t)
	want(t, text, "start lost no-money s1", "refusal lost no-refusal s2", "start refused refused s1")
	for user, balance := range map[ledger.UserID]ledger.Amount{ann: 100 - 1 - 2 - 10 - 20, bob: 1 + 10 + 20 + 500 + 501} {
		if account, err := b.Balance(t.Context(), user, "USD"); err != nil || account.Balance != balance {
			t.Errorf("%s has %d, want %d (%v)", user, account.Balance, balance, err)
		}
	}
	// Nothing was recorded that would stand in the way: with the money it can be done.
	if _, ok := b.rows["s1"].starts[pay("no-money", 500).Identity]; ok {
		t.Error("a start that could not be paid is recorded")
	}
}

func TestDriveRefusesWhatWouldStand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tear   mend.Tear
		change func(t *testing.T, b *books)
	}{
		"the payee is gone": {mend.Tear{Kind: mend.CreditLost, Transfer: pay("t", 1)}, func(_ *testing.T, b *books) { b.ledgers["s2"] = ledger.NewBook(0) }},
		"the payer is gone": {mend.Tear{Kind: mend.StartLost, Transfer: pay("t", 1)}, func(_ *testing.T, b *books) { b.ledgers["s1"] = ledger.NewBook(0) }},
		"the payee is full": {mend.Tear{Kind: mend.CreditLost, Transfer: pay("t", 1)}, func(t *testing.T, b *books) { b.fund(t, bob, ledger.MaxAmount) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBooks(t)
			test.change(t, b)
			if err := mend.Drive(t.Context(), b, test.tear); !errors.Is(err, mend.ErrForPerson) {
				t.Errorf("the error is %v", err)
			}
			for id, r := range b.rows {
				delete(r.starts, ledger.Identity{Initiator: bob, TxID: "fund"})
				if len(r.starts)+len(r.credits) > 0 {
					t.Errorf("something was recorded on %s", id)
				}
			}
		})
	}
}

func TestFindSeesSlotsAstray(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	if found, _ := b.find(t); len(found.Astray) > 0 {
		t.Errorf("astray: %v", found.Astray)
	}
	s1 := b.rows["s1"].slots
	first, second, third, fourth := placement.SlotOf("a"), placement.SlotOf("b"), placement.SlotOf("c"), placement.SlotOf("d")
	s1[first] = audit.Slot{State: "fenced", Epoch: 1} // about to move
	s1[second] = audit.Slot{State: "incoming", Epoch: 1}
	s1[third] = audit.Slot{State: "owned", Epoch: 2}
	delete(s1, fourth)
	if found, _ := b.find(t); len(found.Astray) != 1 || found.Astray["s1"] != 3 {
		t.Errorf("astray: %v", found.Astray)
	}
}

func TestFindSaysWhatItCouldNotRead(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.submit(t, pay("no-start", 20), ledger.StepCredit)
	b.rows["s1"].down = true
	found, text := b.find(t)
	want(t, text)
	if len(found.Unread) != 1 || found.Unread["s1"] == nil {
		t.Errorf("unread: %v", found.Unread)
	}
}
