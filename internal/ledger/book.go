package ledger

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Book is the part of one shard's ledger that a batch touches, or all of it. It is not safe for concurrent use.
type Book struct {
	users      map[UserID]struct{}
	accounts   map[AccountKey]Account
	operations map[Key]int // index into records
	records    []Recorded  // only appended to: clones share what there is
	sagas      map[Identity]Saga
	changes    Changes
}

// Changes is what a book's operations did since it was made or last taken: what must be stored, all of it in one
// transaction. The order within each list is the order in which the operations were applied.
type Changes struct {
	Operations []Recorded
	Entries    []Entry
	Opened     []Saga // new, pending
	Ended      []Saga // no longer pending
}

// Result is the answer to an operation.
type Result struct {
	Recorded
	// Replayed is set if the operation was known already and nothing changed.
	Replayed bool
	// State is the saga's state, for a start that opened one; 0 otherwise.
	State SagaState
	// Cause is why the payee's book refused, of a refunded saga's start.
	Cause Reason
}

// Answer is a Result or why there is none: the answer to one of several operations.
type Answer struct {
	Result Result
	Err    error
}

// Status is what a client is told about the transfer that the operation belongs to.
func (r *Result) Status() Status {
	switch {
	case r.Reason != Applied:
		return StatusRefused
	case r.State != 0:
		return r.State.Status()
	case r.Saga:
		return StatusPending // the book was not given the saga: an end that is not known is not claimed
	}
	return StatusCompleted
}

// ErrImpossible is returned for an operation that no correct caller sends: a refund or an end of a saga that this book
// does not have or that ended the other way, an operation that is not well formed, or a refund that int64 cannot hold.
// Nothing is recorded. It is never an outcome, and whoever meets it should tell a person.
var ErrImpossible = errors.New("impossible operation")

// NewBook returns an empty book with room for n operations.
func NewBook(n int) *Book {
	return &Book{
		users:      make(map[UserID]struct{}, 2*n),
		accounts:   make(map[AccountKey]Account, 2*n),
		operations: make(map[Key]int, n),
		records:    make([]Recorded, 0, n),
		sagas:      make(map[Identity]Saga),
		changes:    Changes{Operations: make([]Recorded, 0, n), Entries: make([]Entry, 0, 2*n)},
	}
}

// AddUser makes a user known, with no money.
func (b *Book) AddUser(user UserID) { b.users[user] = struct{}{} }

// LoadAccount makes an account and its user known.
func (b *Book) LoadAccount(key AccountKey, account Account) {
	b.AddUser(key.User)
	b.accounts[key] = account
}

// LoadOperation makes an operation known.
func (b *Book) LoadOperation(op Recorded) {
	b.operations[op.Key()] = len(b.records)
	b.records = append(b.records, op)
}

// LoadSaga makes a saga known.
func (b *Book) LoadSaga(saga Saga) { b.sagas[saga.Identity] = saga }

// HasUser tells whether the user is known.
func (b *Book) HasUser(user UserID) bool {
	_, ok := b.users[user]
	return ok
}

// Account returns an account, zero if there is none.
func (b *Book) Account(key AccountKey) Account { return b.accounts[key] }

// Operation returns a known operation.
func (b *Book) Operation(key Key) (Recorded, bool) {
	i, ok := b.operations[key]
	if !ok {
		return Recorded{}, false
	}
	return b.records[i], true
}

// Saga returns a known saga.
func (b *Book) Saga(id Identity) (Saga, bool) {
	saga, ok := b.sagas[id]
	return saga, ok
}

// Accounts, Sagas and Operations return all that is known, as copies.
func (b *Book) Accounts() map[AccountKey]Account { return maps.Clone(b.accounts) }
func (b *Book) Sagas() map[Identity]Saga         { return maps.Clone(b.sagas) }

func (b *Book) Operations() map[Key]Recorded {
	operations := make(map[Key]Recorded, len(b.operations))
	for key, i := range b.operations {
		operations[key] = b.records[i]
	}
	return operations
}

// TakeChanges returns what must be stored, and forgets it.
func (b *Book) TakeChanges() Changes {
	changes := b.changes
	b.changes = Changes{}
	return changes
}

// Clone returns an independent copy.
func (b *Book) Clone() *Book {
	c := *b
	c.users, c.accounts = maps.Clone(b.users), maps.Clone(b.accounts)
	c.operations, c.sagas = maps.Clone(b.operations), maps.Clone(b.sagas)
	c.records = slices.Clip(b.records)
	c.changes = Changes{}
	return &c
}

// Apply decides an operation and records its outcome, applied or refused. A known operation is answered from its record.
// Errors change nothing: an *Error with CodeConflict if the identity is known with other contents, or ErrImpossible (with
// the saga's State, if that is what forbids a refund).
func (b *Book) Apply(op Operation) (Result, error) {
	if err := op.validate(); err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrImpossible, err)
	}
	if known, ok := b.Operation(op.Key()); ok {
		if known.Transfer != op.Transfer {
			return Result{}, Conflict()
		}
		return b.result(known, true), nil
	}
	switch op.Step {
	case StepStart:
		return b.start(op)
	case StepCredit:
		return b.record(op, b.credit(op.Payee, op))
	default:
		return b.refund(op)
	}
}

// Complete ends a saga whose credit is applied, and returns the state it is in. Completing a completed saga changes
// nothing.
func (b *Book) Complete(id Identity) (SagaState, error) {
	saga, ok := b.sagas[id]
	if !ok || saga.State == SagaRefunded {
		return saga.State, fmt.Errorf("%w: complete saga %v in state %v", ErrImpossible, id, saga.State)
	}
	if saga.State == SagaPending {
		saga.State = SagaCompleted
		b.end(saga)
	}
	return saga.State, nil
}

func (b *Book) start(op Operation) (Result, error) {
	if !b.HasUser(op.Initiator) {
		return b.record(op, UserNotFound)
	}
	if op.Kind == KindAdd {
		return b.record(op, b.credit(op.Initiator, op))
	}
	if op.Payee == op.Initiator {
		return b.record(op, SameAccount)
	}
	if b.accounts[AccountKey{op.Initiator, op.Currency}].Balance < op.Amount {
		return b.record(op, InsufficientFunds)
	}
	if op.movesLocally() {
		// The credit may be refused, the debit no longer can.
		if reason := b.credit(op.Payee, op); reason != Applied {
			return b.record(op, reason)
		}
	}
	b.enter(op.Initiator, -op.Amount, op)
	result, err := b.record(op, Applied)
	if op.Saga {
		saga := Saga{Transfer: op.Transfer, State: SagaPending, Trace: op.Trace}
		b.sagas[saga.Identity] = saga
		b.changes.Opened = append(b.changes.Opened, saga)
		result.State = SagaPending
	}
	return result, err
}

func (b *Book) credit(user UserID, op Operation) Reason {
	if !b.HasUser(user) { // an add's user was looked for by start
		return PayeeNotFound
	}
	if b.accounts[AccountKey{user, op.Currency}].Balance > MaxAmount-op.Amount {
		return BalanceLimit
	}
	b.enter(user, op.Amount, op)
	return Applied
}

func (b *Book) refund(op Operation) (Result, error) {
	saga, ok := b.sagas[op.Identity]
	switch {
	case !ok || saga.State != SagaPending:
		return Result{State: saga.State}, fmt.Errorf("%w: refund of saga %v in state %v", ErrImpossible, op.Identity, saga.State)
	case saga.Transfer != op.Transfer:
		return Result{}, Conflict()
	case b.accounts[AccountKey{op.Initiator, op.Currency}].Balance > math.MaxInt64-op.Amount:
		// A thousand refunds of MaxAmount each can get here. The money stays in transit until some of it is spent.
		return Result{}, fmt.Errorf("%w: refund of saga %v overflows the account", ErrImpossible, op.Identity)
	}
	b.enter(op.Initiator, op.Amount, op)
	saga.State, saga.Cause = SagaRefunded, op.Cause
	b.end(saga)
	return b.record(op, Applied)
}

// enter writes one entry of the operation to a user's account.
func (b *Book) enter(user UserID, amount Amount, op Operation) {
	key := AccountKey{user, op.Currency}
	account := b.accounts[key]
	account.Balance += amount
	account.Version++
	b.accounts[key] = account

	counterparty := op.Payee
	if user == op.Payee {
		counterparty = op.Initiator
	}
	b.changes.Entries = append(b.changes.Entries, Entry{
		AccountKey: key, Version: account.Version, Amount: amount, Balance: account.Balance,
		Identity: op.Identity, Step: op.Step, Kind: op.Kind, Counterparty: counterparty,
	})
}

func (b *Book) end(saga Saga) {
	b.sagas[saga.Identity] = saga
	b.changes.Ended = append(b.changes.Ended, saga)
}

// record makes the operation known with its outcome. The owner's account is already changed.
func (b *Book) record(op Operation, reason Reason) (Result, error) {
	recorded := Recorded{Operation: op, Outcome: Outcome{Reason: reason}}
	if reason == Applied {
		account := b.accounts[AccountKey{op.Owner(), op.Currency}]
		recorded.Balance, recorded.Version = account.Balance, account.Version
	}
	b.LoadOperation(recorded)
	b.changes.Operations = append(b.changes.Operations, recorded)
	return b.result(recorded, false), nil
}

func (b *Book) result(recorded Recorded, replayed bool) Result {
	result := Result{Recorded: recorded, Replayed: replayed}
	if recorded.Step == StepStart && recorded.Saga && recorded.Reason == Applied {
		saga := b.sagas[recorded.Identity]
		result.State, result.Cause = saga.State, saga.Cause
	}
	return result
}
