package api_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// bank is a small honest Ledger in memory: two books, and a saga for every transfer between them. Users whose id begins
// with "far" live in the second one.
type bank struct {
	mu      sync.Mutex
	books   [2]*ledger.Book
	users   map[ledger.UserID]ledger.User
	lines   map[ledger.AccountKey][]ledger.HistoryLine // oldest first
	started map[ledger.Identity]time.Time
	ended   map[ledger.Identity]time.Time

	farDown bool                                                   // sagas do not end
	fault   error                                                  // answered by everything
	after   func()                                                 // called when a transfer has been done, before it is answered
	seen    func(context.Context, ledger.Operation, time.Duration) // called with each start
	ready   api.Readiness
}

func newBank() *bank {
	return &bank{
		books:   [2]*ledger.Book{ledger.NewBook(0), ledger.NewBook(0)},
		users:   make(map[ledger.UserID]ledger.User),
		lines:   make(map[ledger.AccountKey][]ledger.HistoryLine),
		started: make(map[ledger.Identity]time.Time),
		ended:   make(map[ledger.Identity]time.Time),
		ready:   api.Readiness{Ready: true, Parts: []api.Part{{Name: "etcd", State: "connected"}}},
	}
}

func (b *bank) Readiness(context.Context) api.Readiness { return b.ready }

func (b *bank) home(user ledger.UserID) *ledger.Book {
	if strings.HasPrefix(string(user), "far") {
		return b.books[1]
	}
	return b.books[0]
}

func (b *bank) CreateUser(_ context.Context, user ledger.User) (ledger.User, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != nil {
		return ledger.User{}, false, b.fault
	}
	if known, ok := b.users[user.ID]; ok {
		if known.Name != user.Name || known.Email != user.Email {
			return ledger.User{}, false, &ledger.Error{Code: ledger.CodeUserConflict, Message: "user id is taken"}
		}
		return b.view(known), false, nil
	}
	user.CreatedAt = now()
	user.UpdatedAt = user.CreatedAt
	b.users[user.ID] = user
	b.home(user.ID).AddUser(user.ID)
	return user, true, nil
}

func (b *bank) User(_ context.Context, id ledger.UserID) (ledger.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	user, err := b.user(id)
	return b.view(user), err
}

func (b *bank) user(id ledger.UserID) (ledger.User, error) {
	if b.fault != nil {
		return ledger.User{}, b.fault
	}
	user, ok := b.users[id]
	if !ok {
		return user, &ledger.Error{Code: ledger.CodeUserNotFound, Message: "user not found"}
	}
	return user, nil
}

func (b *bank) view(user ledger.User) ledger.User {
	user.Holdings = nil
	for key, account := range b.home(user.ID).Accounts() {
		if key.User == user.ID {
			user.Holdings = append(user.Holdings, ledger.Holding{Currency: key.Currency, Account: account})
		}
	}
	slices.SortFunc(user.Holdings, func(x, y ledger.Holding) int { return strings.Compare(string(x.Currency), string(y.Currency)) })
	return user
}

func (b *bank) Balance(_ context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.user(id)
	return b.home(id).Account(ledger.AccountKey{User: id, Currency: currency}), err
}

func (b *bank) History(_ context.Context, id ledger.UserID, currency ledger.Currency, before int64, limit int) (ledger.HistoryPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.user(id); err != nil {
		return ledger.HistoryPage{}, err
	}
	lines := b.lines[ledger.AccountKey{User: id, Currency: currency}]
	page := ledger.HistoryPage{Total: int64(len(lines))}
	for _, line := range slices.Backward(lines) {
		if (before == 0 || line.Version < before) && len(page.Lines) < limit {
			page.Lines = append(page.Lines, line)
		}
	}
	return page, nil
}

func (b *bank) Transfer(ctx context.Context, start ledger.Operation, wait time.Duration) (ledger.TransferRecord, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen != nil {
		b.seen(ctx, start, wait)
	}
	if b.fault != nil {
		return ledger.TransferRecord{}, false, b.fault
	}
	start.Saga = start.Kind == ledger.KindTransfer && b.home(start.Payee) != b.home(start.Initiator)
	result, err := b.home(start.Initiator).Apply(start)
	if err != nil {
		return ledger.TransferRecord{}, false, err
	}
	if !result.Replayed {
		b.started[start.Identity] = now()
	}
	if result.State == ledger.SagaPending && !b.farDown {
		b.settle(start)
	}
	b.collect()
	if b.after != nil {
		b.after()
	}
	record, err := b.record(start.Identity)
	return record, result.Replayed, err
}

func (b *bank) TransferAll(ctx context.Context, starts []ledger.Operation, wait time.Duration) []ledger.Answer {
	answers := make([]ledger.Answer, len(starts))
	for i, start := range starts {
		record, replayed, err := b.Transfer(ctx, start, wait)
		answers[i].Result = ledger.Result{Recorded: record.Recorded, Replayed: replayed, State: record.State, Cause: record.Cause}
		answers[i].Err = err
	}
	return answers
}

// settle ends a saga.
func (b *bank) settle(op ledger.Operation) {
	home := b.home(op.Initiator)
	op.Saga, op.Step = false, ledger.StepCredit
	credit := must(b.home(op.Payee).Apply(op))
	if credit.Reason == ledger.Applied {
		must(home.Complete(op.Identity))
	} else {
		op.Step, op.Cause = ledger.StepRefund, credit.Reason
		must(home.Apply(op))
	}
	b.ended[op.Identity] = now()
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func (b *bank) collect() {
	for _, book := range b.books {
		for _, entry := range book.TakeChanges().Entries {
			b.lines[entry.AccountKey] = append(b.lines[entry.AccountKey], ledger.HistoryLine{Entry: entry, CreatedAt: now()})
		}
	}
}

func (b *bank) record(id ledger.Identity) (ledger.TransferRecord, error) {
	start, ok := b.home(id.Initiator).Operation(ledger.Key{Identity: id, Step: ledger.StepStart})
	if !ok {
		return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeTransferNotFound, Message: "transfer not found"}
	}
	record := ledger.TransferRecord{Recorded: start, CreatedAt: b.started[id], EndedAt: b.started[id]}
	if saga, ok := b.home(id.Initiator).Saga(id); ok {
		record.State, record.Cause, record.EndedAt = saga.State, saga.Cause, b.ended[id]
	}
	return record, nil
}

func (b *bank) Find(_ context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != nil {
		return ledger.TransferRecord{}, b.fault
	}
	return b.record(id)
}

func (b *bank) FindByTxID(_ context.Context, txID ledger.TxID) (ledger.TransferRecord, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault != nil {
		return ledger.TransferRecord{}, b.fault
	}
	var found []ledger.Identity
	for id := range b.started {
		if id.TxID == txID {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeTransferNotFound, Message: "transfer not found"}
	case 1:
		return b.record(found[0])
	}
	return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeAmbiguous, Message: "several initiators used this transaction id"}
}

// state is all that the bank knows, as text: users and balances, and the operations.
func (b *bank) state() (balances, operations string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var known int
	accounts := make(map[ledger.AccountKey]ledger.Amount)
	for _, book := range b.books {
		for key, account := range book.Accounts() {
			accounts[key] = account.Balance
		}
		known += len(book.Operations())
	}
	return fmt.Sprint(b.users, accounts), fmt.Sprint(known)
}

func now() time.Time { return time.Now().Truncate(time.Microsecond) }
