package shard

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// batch is one attempt at one transaction: what it loads, what the book made of it, what it stores.
type batch struct {
	config Config
	items  []*item

	accounts   []accountKey // sorted, each once; the other keys too
	operations []operationKey
	ends       []sagaKey // sagas that are to end: refunds and completions
	users      []*item   // to be created, sorted by slot and id

	book    *ledger.Book
	seen    []time.Time // by index into accounts: when the account's latest entry was made
	now     time.Time
	tx      int64
	txOf    map[ledger.Key]int64 // the transactions that recorded the known operations
	stored  map[ledger.UserID]storedUser
	changes ledger.Changes
	answers []answer // by index into items
}

type accountKey struct {
	slot ledger.Slot
	ledger.AccountKey
}

type operationKey struct {
	slot ledger.Slot
	ledger.Key
}

type sagaKey struct {
	slot ledger.Slot
	ledger.Identity
}

type storedUser struct {
	ledger.User
	tx int64
}

// Keys are compared as the tables' primary keys are: this is the lock order.

func (k accountKey) compare(other accountKey) int {
	return cmp.Or(cmp.Compare(k.slot, other.slot), strings.Compare(string(k.User), string(other.User)),
		strings.Compare(string(k.Currency), string(other.Currency)))
}

func (k operationKey) compare(other operationKey) int {
	return cmp.Or(cmp.Compare(k.slot, other.slot), strings.Compare(string(k.TxID), string(other.TxID)),
		strings.Compare(string(k.Initiator), string(other.Initiator)), cmp.Compare(k.Step, other.Step))
}

func (k sagaKey) compare(other sagaKey) int {
	return cmp.Or(cmp.Compare(k.slot, other.slot), strings.Compare(string(k.TxID), string(other.TxID)),
		strings.Compare(string(k.Initiator), string(other.Initiator)))
}

func newBatch(config Config, items []*item) *batch {
	b := &batch{config: config, items: items, book: ledger.NewBook(len(items)), answers: make([]answer, len(items))}
	var keys [2]ledger.AccountKey
	for _, it := range items {
		switch {
		case it.op != nil:
			for _, key := range it.op.Accounts(keys[:0]) {
				b.accounts = append(b.accounts, accountKey{placement.SlotOf(key.User), key})
			}
			b.operations = append(b.operations, operationKey{placement.SlotOf(it.op.Owner()), it.op.Key()})
			if it.op.Step == ledger.StepRefund {
				b.ends = append(b.ends, sagaKey{placement.SlotOf(it.op.Initiator), it.op.Identity})
			}
		case it.end != nil:
			b.ends = append(b.ends, sagaKey{placement.SlotOf(it.end.Initiator), *it.end})
		case it.user != nil:
			b.users = append(b.users, it)
		}
	}
	b.accounts = sortedSet(b.accounts, accountKey.compare)
	b.operations = sortedSet(b.operations, operationKey.compare)
	b.ends = sortedSet(b.ends, sagaKey.compare)
	slices.SortStableFunc(b.users, func(x, y *item) int {
		return cmp.Or(cmp.Compare(placement.SlotOf(x.user.ID), placement.SlotOf(y.user.ID)),
			strings.Compare(string(x.user.ID), string(y.user.ID)))
	})
	return b
}

func sortedSet[K comparable](keys []K, compare func(K, K) int) []K {
	slices.SortFunc(keys, compare)
	return slices.Compact(keys)
}

// load is the first round trip.
func (b *batch) load(ctx context.Context, conn *pgx.Conn) error {
	var pipeline pgx.Batch
	pipeline.Queue("begin")
	pipeline.Queue(lockSharedStatement, advisoryKey)
	slots, epochs := b.holds()
	pipeline.Queue(guardStatement, b.config.Cluster, string(b.config.ID), slots, epochs)
	if len(b.users) > 0 {
		b.queueUsers(&pipeline)
	}
	if len(b.accounts) > 0 {
		b.queueAccounts(&pipeline)
	}
	if len(b.ends) > 0 {
		b.queueSagas(&pipeline)
	}
	pipeline.Queue(clockStatement).QueryRow(func(row pgx.Row) error { return row.Scan(&b.now, &b.tx) })
	if len(b.operations) > 0 {
		b.queueOperations(&pipeline)
	}
	if err := conn.SendBatch(ctx, &pipeline).Close(); err != nil {
		return fmt.Errorf("load a batch: %w", err)
	}
	return nil
}

// holds returns what the items hold, each slot and epoch once.
func (b *batch) holds() (slots []int16, epochs []int64) {
	held := make(map[placement.Hold]struct{}, 2*len(b.items))
	for _, it := range b.items {
		for _, hold := range it.holds {
			if _, ok := held[hold]; !ok {
				held[hold] = struct{}{}
				slots, epochs = append(slots, int16(hold.Slot)), append(epochs, int64(hold.Epoch))
			}
		}
	}
	return slots, epochs
}

const insertUsersStatement = `
insert into users (slot, id, name, email)
select slot, id, name, email
from unnest($1::smallint[], $2::text[], $3::text[], $4::text[]) with ordinality as new(slot, id, name, email, n)
order by n
on conflict do nothing`

const selectUsersStatement = `
select u.id, u.name, u.email, u.created_at, u.updated_at, u.tx
from unnest($1::smallint[], $2::text[]) as wanted(slot, id)
join users u on u.slot = wanted.slot and u.id = wanted.id`

func (b *batch) queueUsers(pipeline *pgx.Batch) {
	n := len(b.users)
	slots, ids, names, emails := make([]int16, n), make([]string, n), make([]string, n), make([]string, n)
	for i, it := range b.users {
		slots[i], ids[i] = int16(placement.SlotOf(it.user.ID)), string(it.user.ID)
		names[i], emails[i] = it.user.Name, it.user.Email
	}
	pipeline.Queue(insertUsersStatement, slots, ids, names, emails)
	b.stored = make(map[ledger.UserID]storedUser, n)
	pipeline.Queue(selectUsersStatement, slots, ids).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var u storedUser
			if err := rows.Scan(&u.ID, &u.Name, &u.Email, &u.CreatedAt, &u.UpdatedAt, &u.tx); err != nil {
				return err
			}
			b.stored[u.ID] = u
		}
		return rows.Err()
	})
}

// A row that is not there cannot be locked: two first credits would each find nothing and one would be lost. The users
// are looked up here, so an account that comes back from the next statement is one whose user exists.
const insertAccountsStatement = `
insert into accounts (slot, user_id, currency)
select slot, user_id, currency
from (
    select *
    from unnest($1::smallint[], $2::text[], $3::text[]) with ordinality as wanted(slot, user_id, currency, n)
    where not exists (select from accounts a
                      where a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency)
    offset 0 -- most accounts are there: look for them first, and for the users of the others only
) absent
where exists (select from users u where u.slot = absent.slot and u.id = absent.user_id)
order by n
on conflict do nothing`

// Rows are locked above the sort, in the order of the keys.
const lockAccountsStatement = `
select wanted.n, a.balance, a.version, a.updated_at
from unnest($1::smallint[], $2::text[], $3::text[]) with ordinality as wanted(slot, user_id, currency, n)
join accounts a on a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency
order by wanted.n
for no key update of a`

func (b *batch) queueAccounts(pipeline *pgx.Batch) {
	n := len(b.accounts)
	slots, users, currencies := make([]int16, n), make([]string, n), make([]string, n)
	for i, key := range b.accounts {
		slots[i], users[i], currencies[i] = int16(key.slot), string(key.User), string(key.Currency)
	}
	pipeline.Queue(insertAccountsStatement, slots, users, currencies)
	b.seen = make([]time.Time, n)
	pipeline.Queue(lockAccountsStatement, slots, users, currencies).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var (
				i       int64
				account ledger.Account
				at      time.Time
			)
			if err := rows.Scan(&i, &account.Balance, &account.Version, &at); err != nil {
				return err
			}
			b.book.LoadAccount(b.accounts[i-1].AccountKey, account)
			b.seen[i-1] = at
		}
		return rows.Err()
	})
}

const lockSagasStatement = `
select wanted.n, s.payee, s.amount, s.currency, s.state, s.cause, s.trace
from unnest($1::smallint[], $2::text[], $3::text[]) with ordinality as wanted(slot, tx_id, initiator, n)
join sagas s on s.slot = wanted.slot and s.tx_id = wanted.tx_id and s.initiator = wanted.initiator
order by wanted.n
for no key update of s`

func (b *batch) queueSagas(pipeline *pgx.Batch) {
	n := len(b.ends)
	slots, txIDs, initiators := make([]int16, n), make([]string, n), make([]string, n)
	for i, key := range b.ends {
		slots[i], txIDs[i], initiators[i] = int16(key.slot), string(key.TxID), string(key.Initiator)
	}
	pipeline.Queue(lockSagasStatement, slots, txIDs, initiators).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var i int64
			saga := ledger.Saga{Transfer: ledger.Transfer{Kind: ledger.KindTransfer}}
			if err := rows.Scan(&i, &saga.Payee, &saga.Amount, &saga.Currency, &saga.State, &saga.Cause, &saga.Trace); err != nil {
				return err
			}
			saga.Identity = b.ends[i-1].Identity
			b.book.LoadSaga(saga)
		}
		return rows.Err()
	})
}

// After the locks, so that times do not go back along an account.
const clockStatement = `select clock_timestamp(), pg_current_xact_id()::text::bigint`

const selectOperationsStatement = `
select wanted.n, o.kind, o.saga, o.payee, o.amount, o.currency, o.reason, o.balance, o.version, o.description, o.tx,
       coalesce(s.state, 0), coalesce(s.cause, '')
from unnest($1::smallint[], $2::text[], $3::text[], $4::smallint[]) with ordinality
     as wanted(slot, tx_id, initiator, step, n)
join operations o on o.slot = wanted.slot and o.tx_id = wanted.tx_id
                 and o.initiator = wanted.initiator and o.step = wanted.step
left join sagas s on (o.saga or o.step = 3) -- a start that opened it, or the refund that ended it
                 and s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator`

func (b *batch) queueOperations(pipeline *pgx.Batch) {
	n := len(b.operations)
	slots, txIDs, initiators, steps := make([]int16, n), make([]string, n), make([]string, n), make([]int16, n)
	for i, key := range b.operations {
		slots[i], txIDs[i], initiators[i], steps[i] = int16(key.slot), string(key.TxID), string(key.Initiator), int16(key.Step)
	}
	pipeline.Queue(selectOperationsStatement, slots, txIDs, initiators, steps).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var (
				i, tx int64
				op    ledger.Recorded
				saga  ledger.Saga
			)
			err := rows.Scan(&i, &op.Kind, &op.Saga, &op.Payee, &op.Amount, &op.Currency, &op.Reason, &op.Balance, &op.Version,
				&op.Description, &tx, &saga.State, &saga.Cause)
			if err != nil {
				return err
			}
			op.Identity, op.Step = b.operations[i-1].Identity, b.operations[i-1].Step
			if op.Step == ledger.StepRefund {
				op.Cause = saga.Cause
			}
			b.book.LoadOperation(op)
			if saga.State != 0 {
				saga.Transfer = op.Transfer
				b.book.LoadSaga(saga)
			}
			if b.txOf == nil {
				b.txOf = make(map[ledger.Key]int64)
			}
			b.txOf[op.Key()] = tx
		}
		return rows.Err()
	})
}

// decide lets the book answer every item.
func (b *batch) decide() {
	for i, it := range b.items {
		a := &b.answers[i]
		switch {
		case it.op != nil:
			a.result, a.err = b.book.Apply(*it.op)
			if key := it.op.Key(); a.result.Replayed && slices.Contains(it.lost, b.txOf[key]) {
				// Recorded by an attempt of this item whose answer was lost: new to its caller. A twin in the same
				// batch stays a repeat.
				a.result.Replayed = false
				delete(b.txOf, key)
			}
		case it.end != nil:
			a.state, a.err = b.book.Complete(*it.end)
		case it.user != nil:
			*a = b.decideUser(it)
		}
	}
	b.changes = b.book.TakeChanges()
}

func (b *batch) decideUser(it *item) answer {
	stored, ok := b.stored[it.user.ID]
	switch {
	case !ok:
		return answer{err: fmt.Errorf("user %s is gone after its insert", it.user.ID)}
	case stored.Name != it.user.Name || stored.Email != it.user.Email:
		return answer{err: &ledger.Error{Code: ledger.CodeUserConflict, Message: "user id is taken"}}
	}
	a := answer{user: stored.User, created: stored.tx == b.tx || slices.Contains(it.lost, stored.tx)}
	stored.tx = 0 // a twin in the same batch finds it there
	b.stored[it.user.ID] = stored
	return a
}

// empty tells whether there is nothing to commit.
func (b *batch) empty() bool {
	return len(b.users) == 0 && len(b.changes.Operations) == 0 && len(b.changes.Ended) == 0
}

// store is the second round trip. Its last statement is the commit, which Postgres skips after any error before it.
func (b *batch) store(ctx context.Context, conn *pgx.Conn) error {
	var pipeline pgx.Batch
	if len(b.changes.Operations) > 0 {
		b.queueNewOperations(&pipeline)
	}
	if len(b.changes.Entries) > 0 {
		b.queueNewEntries(&pipeline)
		b.queueChangedAccounts(&pipeline)
	}
	if len(b.changes.Opened) > 0 {
		b.queueNewSagas(&pipeline)
	}
	if len(b.changes.Ended) > 0 {
		b.queueEndedSagas(&pipeline)
	}
	pipeline.Queue("commit")

	results := conn.SendBatch(ctx, &pipeline)
	defer results.Close()
	var last string
	for range pipeline.Len() {
		tag, err := results.Exec()
		if err != nil {
			return fmt.Errorf("store a batch: %w", err)
		}
		last = tag.String()
	}
	if last != "COMMIT" {
		return fmt.Errorf("commit was answered %q", last)
	}
	return nil
}

// at is when an entry of an account is made: now, or with the entry before it if the clock has gone back since.
func (b *batch) at(key ledger.AccountKey) time.Time {
	i, ok := slices.BinarySearchFunc(b.accounts, accountKey{placement.SlotOf(key.User), key}, accountKey.compare)
	if ok && b.seen[i].After(b.now) {
		return b.seen[i]
	}
	return b.now
}

const insertOperationsStatement = `
insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                        system_account, system_amount, description, created_at)
select *
from unnest($1::smallint[], $2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::boolean[], $7::text[], $8::bigint[],
            $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::text[], $14::bigint[], $15::text[], $16::timestamptz[])`

func (b *batch) queueNewOperations(pipeline *pgx.Batch) {
	operations := b.changes.Operations
	slices.SortFunc(operations, func(x, y ledger.Recorded) int {
		return operationKey{placement.SlotOf(x.Owner()), x.Key()}.compare(operationKey{placement.SlotOf(y.Owner()), y.Key()})
	})
	n := len(operations)
	var (
		slots, steps, kinds                            = make([]int16, n), make([]int16, n), make([]int16, n)
		initiators, txIDs, payees, currencies, reasons = make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		sagas                                          = make([]bool, n)
		amounts, balances, versions, systemAmounts     = make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
		systemAccounts, descriptions                   = make([]string, n), make([]string, n)
		times                                          = make([]time.Time, n)
	)
	for i := range operations {
		op := &operations[i]
		slots[i], steps[i], kinds[i] = int16(placement.SlotOf(op.Owner())), int16(op.Step), int16(op.Kind)
		initiators[i], txIDs[i], payees[i] = string(op.Initiator), string(op.TxID), string(op.Payee)
		currencies[i], reasons[i], sagas[i] = string(op.Currency), string(op.Reason), op.Saga
		amounts[i], balances[i], versions[i] = int64(op.Amount), int64(op.Balance), op.Version
		if op.Reason == ledger.Applied {
			account, amount := op.System()
			systemAccounts[i], systemAmounts[i] = string(account), int64(amount)
		}
		descriptions[i] = op.Description
		times[i] = b.at(ledger.AccountKey{User: op.Owner(), Currency: op.Currency})
	}
	pipeline.Queue(insertOperationsStatement, slots, initiators, txIDs, steps, kinds, sagas, payees, amounts, currencies,
		reasons, balances, versions, systemAccounts, systemAmounts, descriptions, times)
}

const insertEntriesStatement = `
insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
select *
from unnest($1::smallint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::smallint[],
            $9::smallint[], $10::text[], $11::timestamptz[])`

func (b *batch) queueNewEntries(pipeline *pgx.Batch) {
	entries := b.changes.Entries
	n := len(entries)
	var (
		slots, steps, kinds                     = make([]int16, n), make([]int16, n), make([]int16, n)
		users, currencies, txIDs, counterpartys = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		versions, amounts, balances             = make([]int64, n), make([]int64, n), make([]int64, n)
		times                                   = make([]time.Time, n)
	)
	for i := range entries {
		e := &entries[i]
		slots[i], steps[i], kinds[i] = int16(placement.SlotOf(e.User)), int16(e.Step), int16(e.Kind)
		users[i], currencies[i], txIDs[i], counterpartys[i] = string(e.User), string(e.Currency), string(e.TxID), string(e.Counterparty)
		versions[i], amounts[i], balances[i] = e.Version, int64(e.Amount), int64(e.Balance)
		times[i] = b.at(e.AccountKey)
	}
	pipeline.Queue(insertEntriesStatement, slots, users, currencies, versions, amounts, balances, txIDs, steps, kinds,
		counterpartys, times)
}

const updateAccountsStatement = `
update accounts a
set balance = new.balance, version = new.version, updated_at = new.at
from unnest($1::smallint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[])
     as new(slot, user_id, currency, balance, version, at)
where a.slot = new.slot and a.user_id = new.user_id and a.currency = new.currency`

// The rows are locked already, so their order does not matter here.
func (b *batch) queueChangedAccounts(pipeline *pgx.Batch) {
	changed := make(map[ledger.AccountKey]struct{}, len(b.accounts))
	var (
		slots              []int16
		users, currencies  []string
		balances, versions []int64
		times              []time.Time
	)
	for i := range b.changes.Entries {
		key := b.changes.Entries[i].AccountKey
		if _, ok := changed[key]; ok {
			continue
		}
		changed[key] = struct{}{}
		account := b.book.Account(key)
		slots, users, currencies = append(slots, int16(placement.SlotOf(key.User))), append(users, string(key.User)), append(currencies, string(key.Currency))
		balances, versions, times = append(balances, int64(account.Balance)), append(versions, account.Version), append(times, b.at(key))
	}
	pipeline.Queue(updateAccountsStatement, slots, users, currencies, balances, versions, times)
}

const insertSagasStatement = `
insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at)
select *
from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::smallint[], $8::text[], $9::timestamptz[])`

func (b *batch) queueNewSagas(pipeline *pgx.Batch) {
	sagas := b.changes.Opened
	n := len(sagas)
	var (
		slots, states                                 = make([]int16, n), make([]int16, n)
		initiators, txIDs, payees, currencies, traces = make([]string, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		amounts                                       = make([]int64, n)
		times                                         = make([]time.Time, n)
	)
	for i := range sagas {
		s := &sagas[i]
		slots[i], states[i] = int16(placement.SlotOf(s.Initiator)), int16(ledger.SagaPending)
		initiators[i], txIDs[i], payees[i], currencies[i], traces[i] = string(s.Initiator), string(s.TxID), string(s.Payee), string(s.Currency), s.Trace
		amounts[i] = int64(s.Amount)
		times[i] = b.at(ledger.AccountKey{User: s.Initiator, Currency: s.Currency})
	}
	pipeline.Queue(insertSagasStatement, slots, initiators, txIDs, payees, amounts, currencies, states, traces, times)
}

// The rows were locked and found pending.
const updateSagasStatement = `
update sagas s
set state = ended.state, cause = ended.cause, ended_at = greatest(s.created_at, $6), tx = pg_current_xact_id()::text::bigint
from unnest($1::smallint[], $2::text[], $3::text[], $4::smallint[], $5::text[]) as ended(slot, initiator, tx_id, state, cause)
where s.slot = ended.slot and s.tx_id = ended.tx_id and s.initiator = ended.initiator and s.state = 1`

func (b *batch) queueEndedSagas(pipeline *pgx.Batch) {
	sagas := b.changes.Ended
	n := len(sagas)
	slots, states := make([]int16, n), make([]int16, n)
	initiators, txIDs, causes := make([]string, n), make([]string, n), make([]string, n)
	for i := range sagas {
		s := &sagas[i]
		slots[i], states[i] = int16(placement.SlotOf(s.Initiator)), int16(s.State)
		initiators[i], txIDs[i], causes[i] = string(s.Initiator), string(s.TxID), string(s.Cause)
	}
	pipeline.Queue(updateSagasStatement, slots, initiators, txIDs, states, causes, b.now)
}

// markLost remembers that this transaction may have recorded the items.
func (b *batch) markLost() {
	for _, it := range b.items {
		it.lost = append(it.lost, b.tx)
	}
}

func (b *batch) answer() {
	for i, it := range b.items {
		it.answer(b.answers[i])
	}
}
