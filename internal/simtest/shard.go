package simtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// shardState is the durable state of a simulated shard between two commits. It never changes; a commit makes another.
type shardState struct {
	users []ledger.UserID
	book  *ledger.Book
	// effects counts how often each step moved money. The book should know as much, but a book with a planted bug forgets.
	effects map[effect]int
	sides   map[side]ledger.Amount // balances of the system accounts
}

type effect struct {
	ledger.Transfer
	Step ledger.Step
}

type side struct {
	account  ledger.SystemAccount
	currency ledger.Currency
}

func emptyShard() *shardState { return &shardState{book: ledger.NewBook(0)} }

func (s *shardState) createUser(user ledger.UserID) *shardState {
	if s.book.HasUser(user) {
		return s
	}
	next := *s
	next.users = slices.Sorted(slices.Values(append(slices.Clone(s.users), user)))
	next.book = s.book.Clone()
	next.book.AddUser(user)
	return &next
}

// submit applies one operation in one commit. The last result is the broken promise, if any.
func (s *shardState) submit(op ledger.Operation, bug Bug) (*shardState, Answer, error) {
	book := s.book.Clone()
	result, err := book.Apply(op)
	answer := Answer{Result: result, Err: err}
	if err != nil {
		if len(book.Operations()) != len(s.book.Operations()) {
			return s, answer, fmt.Errorf("an error changed the book: %w", err)
		}
		return s, answer, nil
	}
	next, broken := s.commit(book)
	if !result.Replayed {
		next = next.plant(bug, result.Recorded)
	}
	return next, answer, broken
}

// complete ends a saga in one commit.
func (s *shardState) complete(id ledger.Identity) (*shardState, CompleteAnswer, error) {
	book := s.book.Clone()
	state, err := book.Complete(id)
	answer := CompleteAnswer{State: state, Err: err}
	if err != nil {
		return s, answer, nil
	}
	next, broken := s.commit(book)
	return next, answer, broken
}

// commit makes the state after a book's changes, and checks what one commit can break.
func (s *shardState) commit(book *ledger.Book) (*shardState, error) {
	next := &shardState{users: s.users, book: book, effects: maps.Clone(s.effects), sides: maps.Clone(s.sides)}
	if next.effects == nil {
		next.effects, next.sides = map[effect]int{}, map[side]ledger.Amount{}
	}
	changes := book.TakeChanges()
	for _, op := range changes.Operations {
		if op.Reason == ledger.Applied {
			next.effects[effect{op.Transfer, op.Step}]++
			if account, amount := op.System(); account != "" {
				next.sides[side{account, op.Currency}] += amount
			}
		}
	}
	return next, errors.Join(
		checkOperations(changes),
		checkEntries(s.book.Accounts(), changes.Entries, book.Accounts()),
		checkKept(s.book, book),
		checkStored(s.book, book, changes),
		next.checkSum(),
	)
}

// checkOperations checks that each operation's entries are those that its step should have, and that they and its system
// side sum to zero.
func checkOperations(changes ledger.Changes) error {
	for _, op := range changes.Operations {
		want := map[ledger.UserID]ledger.Amount{}
		if op.Reason == ledger.Applied {
			switch {
			case op.Step == ledger.StepCredit:
				want[op.Payee] = op.Amount
			case op.Step == ledger.StepRefund || op.Kind == ledger.KindAdd:
				want[op.Initiator] = op.Amount
			case op.Kind == ledger.KindWithdraw || op.Saga:
				want[op.Initiator] = -op.Amount
			default:
				want[op.Initiator], want[op.Payee] = -op.Amount, op.Amount
			}
		}
		got, sum := map[ledger.UserID]ledger.Amount{}, ledger.Amount(0)
		for _, entry := range changes.Entries {
			if entry.Identity == op.Identity && entry.Step == op.Step {
				got[entry.User] += entry.Amount
				sum += entry.Amount
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("conserved: the entries of %v %v are %v, not %v", op.Step, op.Identity, got, want)
		}
		if _, amount := op.System(); op.Reason == ledger.Applied && sum+amount != 0 {
			return fmt.Errorf("conserved: the entries of %v %v and its system side sum to %d", op.Step, op.Identity, sum+amount)
		}
	}
	return nil
}

// checkStored checks that a shard that stores the changes stores all that the book now knows.
func checkStored(before, after *ledger.Book, changes ledger.Changes) error {
	operations, sagas := before.Operations(), before.Sagas()
	for _, op := range changes.Operations {
		operations[op.Key()] = op
	}
	for _, saga := range changes.Opened {
		sagas[saga.Identity] = saga
	}
	for _, saga := range changes.Ended {
		if sagas[saga.Identity].State != ledger.SagaPending {
			return fmt.Errorf("exactly once: saga %v ends, but was %v", saga.Identity, sagas[saga.Identity].State)
		}
		sagas[saga.Identity] = saga
	}
	if !maps.Equal(operations, after.Operations()) || !maps.Equal(sagas, after.Sagas()) {
		return fmt.Errorf("durable: the changes %#v do not lead to what the book knows", changes)
	}
	return nil
}

// checkEntries checks that entries lead from one set of accounts to the other, without a gap and never below zero.
func checkEntries(accounts map[ledger.AccountKey]ledger.Account, entries []ledger.Entry, after map[ledger.AccountKey]ledger.Account) error {
	for _, entry := range entries {
		account := accounts[entry.AccountKey]
		if entry.Version != account.Version+1 {
			return fmt.Errorf("gapless: entry %d of %v follows entry %d", entry.Version, entry.AccountKey, account.Version)
		}
		if entry.Balance != account.Balance+entry.Amount {
			return fmt.Errorf("conserved: %v has %d after %+d on %d", entry.AccountKey, entry.Balance, entry.Amount, account.Balance)
		}
		if entry.Balance < 0 {
			return fmt.Errorf("no overdraft: %v has %d", entry.AccountKey, entry.Balance)
		}
		if entry.Amount > 0 && entry.Balance > ledger.MaxAmount && entry.Step != ledger.StepRefund {
			return fmt.Errorf("limit: %v has %d", entry.AccountKey, entry.Balance)
		}
		accounts[entry.AccountKey] = ledger.Account{Balance: entry.Balance, Version: entry.Version}
	}
	if !maps.Equal(accounts, after) {
		return fmt.Errorf("conserved: the entries lead to %v, the accounts say %v", accounts, after)
	}
	return nil
}

// checkKept checks that outcomes stand and that sagas only end.
func checkKept(before, after *ledger.Book) error {
	for key, op := range before.Operations() {
		if kept, ok := after.Operation(key); !ok || kept != op {
			return fmt.Errorf("a told outcome stands: %v %v was %+v and became %+v", key.Step, key.Identity, op.Outcome, kept.Outcome)
		}
	}
	for id, saga := range before.Sagas() {
		kept, ok := after.Saga(id)
		if !ok || kept != saga && saga.State != ledger.SagaPending {
			return fmt.Errorf("a told outcome stands: saga %v was %v and became %v", id, saga.State, kept.State)
		}
	}
	return nil
}

func (s *shardState) checkSum() error {
	sums := map[ledger.Currency]ledger.Amount{}
	for key, account := range s.book.Accounts() {
		sums[key.Currency] += account.Balance
	}
	for side, amount := range s.sides {
		sums[side.currency] += amount
	}
	for currency, sum := range sums {
		if sum != 0 {
			return fmt.Errorf("conserved: a shard's books sum to %d %s", sum, currency)
		}
	}
	return nil
}

// plant does to a commit of one operation what a planted bug does.
func (s *shardState) plant(bug Bug, op ledger.Recorded) *shardState {
	applied := op.Reason == ledger.Applied
	var forgetOperation, forgetSaga, forgetEnd bool
	switch bug {
	case ForgetsKeys:
		forgetOperation = applied
	case ForgetsRefusals:
		forgetOperation = !applied && op.Step == ledger.StepCredit
	case RefundsAgain:
		forgetOperation = op.Step == ledger.StepRefund
		forgetEnd = forgetOperation
	case SagaNotDurable:
		forgetSaga = applied && op.Step == ledger.StepStart && op.Saga
	}
	if !forgetOperation && !forgetSaga && !forgetEnd {
		return s
	}
	next := *s
	next.book = ledger.NewBook(0)
	for _, user := range s.users {
		next.book.AddUser(user)
	}
	for key, account := range s.book.Accounts() {
		next.book.LoadAccount(key, account)
	}
	for key, known := range s.book.Operations() {
		if !forgetOperation || key != op.Key() {
			next.book.LoadOperation(known)
		}
	}
	for id, saga := range s.book.Sagas() {
		if id == op.Identity && forgetEnd {
			saga.State, saga.Cause = ledger.SagaPending, ledger.Applied
		}
		if id != op.Identity || !forgetSaga {
			next.book.LoadSaga(saga)
		}
	}
	return &next
}

// saveSaga is the second commit of SagaNotDurable.
func (s *shardState) saveSaga(transfer ledger.Transfer) *shardState {
	next := *s
	next.book = s.book.Clone()
	next.book.LoadSaga(ledger.Saga{Transfer: transfer, State: ledger.SagaPending})
	return &next
}

// key is the same for equal states and for them only.
func (s *shardState) key() string {
	operations := slices.SortedFunc(maps.Values(s.book.Operations()), func(a, b ledger.Recorded) int {
		return cmp.Or(compareIdentities(a.Identity, b.Identity), cmp.Compare(a.Step, b.Step))
	})
	sagas := slices.SortedFunc(maps.Values(s.book.Sagas()), func(a, b ledger.Saga) int {
		return compareIdentities(a.Identity, b.Identity)
	})
	// %#v prints every field (%+v would stop at the String method that these types get from Identity), and maps in the
	// order of their keys.
	return fmt.Sprintf("%#v %#v %#v %#v %#v %#v", s.users, s.book.Accounts(), operations, sagas, s.effects, s.sides)
}

func compareIdentities(a, b ledger.Identity) int {
	return cmp.Or(cmp.Compare(a.Initiator, b.Initiator), cmp.Compare(a.TxID, b.TxID))
}

// SimulatedShard is the simulator's shard behind the interface of the real one, to be held to the same suite.
type SimulatedShard struct {
	bug   Bug
	mu    sync.Mutex
	state *shardState
}

// NewSimulatedShard returns a shard without users, with a planted bug or NoBug.
func NewSimulatedShard(bug Bug) *SimulatedShard {
	return &SimulatedShard{bug: bug, state: emptyShard()}
}

func (s *SimulatedShard) CreateUser(_ context.Context, user ledger.UserID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = s.state.createUser(user)
	return nil
}

func (s *SimulatedShard) Submit(_ context.Context, ops []ledger.Operation) []Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := make([]Answer, len(ops))
	for i, op := range ops {
		next, answer, broken := s.state.submit(op, s.bug)
		if broken != nil {
			answer = Answer{Err: broken}
		}
		s.state, answers[i] = next, answer
	}
	return answers
}

func (s *SimulatedShard) Complete(_ context.Context, ids []ledger.Identity) []CompleteAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := make([]CompleteAnswer, len(ids))
	for i, id := range ids {
		next, answer, broken := s.state.complete(id)
		if broken != nil {
			answer = CompleteAnswer{Err: broken}
		}
		s.state, answers[i] = next, answer
	}
	return answers
}

func (s *SimulatedShard) Balance(_ context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.state.book.HasUser(user) {
		return ledger.Account{}, &ledger.Error{Code: ledger.CodeUserNotFound, Message: "user not found"}
	}
	return s.state.book.Account(ledger.AccountKey{User: user, Currency: currency}), nil
}

func (s *SimulatedShard) Transfer(_ context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return transferRecord(s.state.book, id)
}

func transferRecord(book *ledger.Book, id ledger.Identity) (ledger.TransferRecord, error) {
	start, ok := book.Operation(ledger.Key{Identity: id, Step: ledger.StepStart})
	if !ok {
		return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeTransferNotFound, Message: "transfer not found"}
	}
	saga, _ := book.Saga(id)
	return ledger.TransferRecord{Recorded: start, State: saga.State, Cause: saga.Cause}, nil
}
