package shard

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// batch is one attempt at one transaction: what it loads, what the book made of it, what it stores.
type batch struct {
	lane  *lane
	items []*item

	accounts   []accountKey   // sorted, each once; the other keys too
	operations []operationKey // to be looked up
	ends       []sagaKey      // sagas that are to end: refunds and completions
	users      []*item        // to be created, sorted by slot and id

	book    *ledger.Book
	index   map[ledger.AccountKey]int   // into accounts
	found   []foundAccount              // by index into accounts
	ending  map[ledger.Identity]sagaRow // those that are to end
	now     instant
	tx      int64
	awaited bool                 // commits are to be on standbys
	txOf    map[ledger.Key]int64 // the transactions that recorded the known operations
	stored  map[ledger.UserID]storedUser
	changes ledger.Changes
	answers []answer // by index into items
}

// foundAccount is the locked row of an account.
type foundAccount struct {
	known bool // to be there, without having looked
	there bool
	at    place
	seen  instant // when the account's latest entry was made
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

// newBatch makes a batch that looks all operations up, or only those that must be: a refund that is known is no longer
// possible, so it would not get as far as the primary key; and what an earlier attempt may have recorded probably is there.
func newBatch(l *lane, items []*item, lookUp bool) *batch {
	b := &batch{
		lane: l, items: items, book: ledger.NewBook(len(items)), answers: make([]answer, len(items)),
		accounts: make([]accountKey, 0, 2*len(items)),
		index:    make(map[ledger.AccountKey]int, 2*len(items)),
	}
	if lookUp {
		b.operations = make([]operationKey, 0, len(items))
	}
	for _, it := range items {
		switch {
		case it.op != nil:
			for _, key := range it.accounts() {
				if _, ok := b.index[key]; !ok {
					b.index[key] = 0
					b.accounts = append(b.accounts, accountKey{placement.SlotOf(key.User), key})
				}
			}
			if lookUp || it.op.Step == ledger.StepRefund || len(it.lost) > 0 {
				b.operations = append(b.operations, operationKey{placement.SlotOf(it.op.Owner()), it.op.Key()})
			}
			if it.op.Step == ledger.StepRefund {
				b.ends = append(b.ends, sagaKey{placement.SlotOf(it.op.Initiator), it.op.Identity})
			}
		case it.end != nil:
			b.ends = append(b.ends, sagaKey{placement.SlotOf(it.end.Initiator), *it.end})
		case it.user != nil:
			b.users = append(b.users, it)
		}
	}
	slices.SortFunc(b.accounts, accountKey.compare)
	b.found = make([]foundAccount, len(b.accounts))
	for i, key := range b.accounts {
		b.index[key.AccountKey] = i
	}
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

// load adds the first round trip.
func (b *batch) load(t *trip) {
	t.run(beginStatement, nil)
	t.run(lockSharedStatement, nil)
	b.addGuard(t)
	if len(b.users) > 0 {
		b.addUsers(t)
	}
	if len(b.accounts) > 0 {
		b.addAccounts(t)
	}
	if len(b.ends) > 0 {
		b.addEnds(t)
	}
	t.run(clockStatement, func(row *row) { b.now, b.tx, b.awaited = row.instant(), row.int8(), row.bool() })
	if len(b.operations) > 0 {
		b.addOperations(t)
	}
}

var (
	beginStatement    = statement{"begin", "begin"}
	commitStatement   = statement{"commit", "commit"}
	awaitStatement    = statement{"await", `select pg_logical_emit_message(true, 'saldo', '')`}
	rollbackStatement = statement{"rollback", "rollback"}
)

// addGuard asks about what the items hold, each slot and epoch once.
func (b *batch) addGuard(t *trip) {
	held := make(map[placement.Hold]struct{}, 2*len(b.items))
	holds := make([]placement.Hold, 0, 2*len(b.items))
	for _, it := range b.items {
		for _, hold := range it.holds {
			if _, ok := held[hold]; !ok {
				held[hold] = struct{}{}
				holds = append(holds, hold)
			}
		}
	}
	t.raw([]byte(b.lane.config.Cluster))
	t.raw([]byte(b.lane.config.ID))
	t.int2s(len(holds), func(i int) int16 { return int16(holds[i].Slot) })
	t.int8s(len(holds), func(i int) int64 { return int64(holds[i].Epoch) })
	seen, known := b.lane.slots.seen(holds)
	if known {
		t.raw(seen[:])
	} else {
		t.raw(nil)
	}
	t.run(guardLaneStatement, func(row *row) {
		if now := row.revision(); !known || now != seen {
			b.lane.slots.add(now, holds)
		}
	})
}

// Lists of keys come as arrays that are unnested side by side in a select list, which Postgres does one row at a time;
// as a function in from it would first store each array.

var insertUsersStatement = statement{"insert_users", `
insert into users (slot, id, name, email)
select unnest($1::smallint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[])
on conflict do nothing`}

var selectUsersStatement = statement{"select_users", `
select u.id, u.name, u.email, u.created_at, u.updated_at, u.tx
from (select unnest($1::smallint[]) as slot, unnest($2::text[]) as id) wanted
join users u on u.slot = wanted.slot and u.id = wanted.id`}

func (b *batch) addUsers(t *trip) {
	n := len(b.users)
	slot := func(i int) int16 { return int16(placement.SlotOf(b.users[i].user.ID)) }
	id := func(i int) string { return string(b.users[i].user.ID) }
	t.int2s(n, slot)
	t.texts(n, id)
	t.texts(n, func(i int) string { return b.users[i].user.Name })
	t.texts(n, func(i int) string { return b.users[i].user.Email })
	t.run(insertUsersStatement, nil)
	b.stored = make(map[ledger.UserID]storedUser, n)
	t.int2s(n, slot)
	t.texts(n, id)
	t.run(selectUsersStatement, func(row *row) {
		var u storedUser
		u.ID, u.Name, u.Email = ledger.UserID(row.text()), row.text(), row.text()
		u.CreatedAt, u.UpdatedAt, u.tx = row.instant().time(), row.instant().time(), row.int8()
		b.stored[u.ID] = u
	})
}

// A row that is not there cannot be locked: two first credits would each find nothing and one would be lost. The users
// are looked up here, so an account that comes back from the next statement is one whose user exists.
var insertAccountsStatement = statement{"insert_accounts", `
insert into accounts (slot, user_id, currency)
select slot, user_id, currency
from (select generate_series(1, cardinality($1::smallint[])) as n,
             unnest($1::smallint[]) as slot, unnest($2::text[]) as user_id, unnest($3::text[]) as currency) wanted
where not exists (select from accounts a
                  where a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency)
  and exists (select from users u where u.slot = wanted.slot and u.id = wanted.user_id)
order by n
on conflict do nothing`}

// Rows are locked above the sort, in the order of the keys.
var lockAccountsStatement = statement{"lock_accounts", `
select wanted.n, a.ctid, a.balance, a.version, a.updated_at
from (select generate_series(1, cardinality($1::smallint[])) as n,
             unnest($1::smallint[]) as slot, unnest($2::text[]) as user_id, unnest($3::text[]) as currency) wanted
join accounts a on a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency
order by wanted.n
for no key update of a`}

func (b *batch) addAccounts(t *trip) {
	keys := func(keys []accountKey) {
		t.int2s(len(keys), func(i int) int16 { return int16(keys[i].slot) })
		t.texts(len(keys), func(i int) string { return string(keys[i].User) })
		t.texts(len(keys), func(i int) string { return string(keys[i].Currency) })
	}
	var unknown []accountKey
	for i, key := range b.accounts {
		if b.found[i].known = b.lane.accounts.has(key); !b.found[i].known {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		keys(unknown)
		t.run(insertAccountsStatement, nil)
	}
	keys(b.accounts)
	t.run(lockAccountsStatement, func(row *row) {
		i := row.int4() - 1
		b.found[i].there, b.found[i].at = true, row.place()
		account := ledger.Account{Balance: ledger.Amount(row.int8()), Version: row.int8()}
		b.found[i].seen = row.instant()
		b.book.LoadAccount(b.accounts[i].AccountKey, account)
	})
}

// missing tells whether an account that was known to be there is not: nothing was done to make sure of it, and the batch
// must be run again.
func (b *batch) missing() bool {
	missing := false
	for i, found := range b.found {
		if found.known && !found.there {
			b.lane.accounts.forget(b.accounts[i])
			missing = true
		}
	}
	return missing
}

// remember notes which accounts are there, once that is committed.
func (b *batch) remember() {
	for i, found := range b.found {
		if found.there && !found.known {
			b.lane.accounts.add(b.accounts[i])
		}
	}
}

var lockSagasStatement = statement{"lock_sagas", `
select wanted.n, s.ctid, s.created_at, s.payee, s.amount, s.currency, s.state, s.cause, s.trace
from (select generate_series(1, cardinality($1::smallint[])) as n,
             unnest($1::smallint[]) as slot, unnest($2::text[]) as tx_id, unnest($3::text[]) as initiator) wanted
join sagas s on s.slot = wanted.slot and s.tx_id = wanted.tx_id and s.initiator = wanted.initiator
order by wanted.n
for no key update of s`}

func (b *batch) addEnds(t *trip) {
	n := len(b.ends)
	t.int2s(n, func(i int) int16 { return int16(b.ends[i].slot) })
	t.texts(n, func(i int) string { return string(b.ends[i].TxID) })
	t.texts(n, func(i int) string { return string(b.ends[i].Initiator) })
	b.ending = make(map[ledger.Identity]sagaRow, n)
	t.run(lockSagasStatement, func(row *row) {
		saga := ledger.Saga{Transfer: ledger.Transfer{Identity: b.ends[row.int4()-1].Identity, Kind: ledger.KindTransfer}}
		b.ending[saga.Identity] = sagaRow{at: row.place(), begun: row.instant()}
		saga.Payee, saga.Amount, saga.Currency = ledger.UserID(row.text()), ledger.Amount(row.int8()), ledger.Currency(row.text())
		saga.State, saga.Cause, saga.Trace = ledger.SagaState(row.int2()), ledger.Reason(row.text()), row.text()
		b.book.LoadSaga(saga)
	})
}

// After the locks, so that times do not go back along an account.
var clockStatement = statement{"clock", `
select clock_timestamp(), pg_current_xact_id()::text::bigint, current_setting('synchronous_standby_names') <> ''`}

var selectOperationsStatement = statement{"select_operations", `
select wanted.n, o.kind, o.saga, o.payee, o.amount, o.currency, o.reason, o.balance, o.version, o.description, o.tx,
       coalesce(s.state, 0::smallint), coalesce(s.cause, '')
from (select generate_series(1, cardinality($1::smallint[])) as n, unnest($1::smallint[]) as slot,
             unnest($2::text[]) as tx_id, unnest($3::text[]) as initiator, unnest($4::smallint[]) as step) wanted
join operations o on o.slot = wanted.slot and o.tx_id = wanted.tx_id
                 and o.initiator = wanted.initiator and o.step = wanted.step
left join sagas s on (o.saga or o.step = 3) -- a start that opened it, or the refund that ended it
                 and s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator`}

func (b *batch) addOperations(t *trip) {
	n := len(b.operations)
	t.int2s(n, func(i int) int16 { return int16(b.operations[i].slot) })
	t.texts(n, func(i int) string { return string(b.operations[i].TxID) })
	t.texts(n, func(i int) string { return string(b.operations[i].Initiator) })
	t.int2s(n, func(i int) int16 { return int16(b.operations[i].Step) })
	t.run(selectOperationsStatement, func(row *row) {
		key := b.operations[row.int4()-1]
		op := ledger.Recorded{Operation: ledger.Operation{Transfer: ledger.Transfer{Identity: key.Identity}, Step: key.Step}}
		op.Kind, op.Saga, op.Payee = ledger.Kind(row.int2()), row.bool(), ledger.UserID(row.text())
		op.Amount, op.Currency, op.Reason = ledger.Amount(row.int8()), ledger.Currency(row.text()), ledger.Reason(row.text())
		op.Balance, op.Version, op.Description = ledger.Amount(row.int8()), row.int8(), row.text()
		tx := row.int8()
		saga := ledger.Saga{State: ledger.SagaState(row.int2()), Cause: ledger.Reason(row.text())}
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
		return answer{err: errors.New("a user is gone after its insert")}
	case stored.Name != it.user.Name || stored.Email != it.user.Email:
		return answer{err: &ledger.Error{Code: ledger.CodeUserConflict, Message: "user id is taken"}}
	}
	a := answer{user: stored.User, created: stored.tx == b.tx || slices.Contains(it.lost, stored.tx)}
	stored.tx = 0 // a twin in the same batch finds it there
	b.stored[it.user.ID] = stored
	return a
}

// empty tells whether there is nothing to commit.
func (b *batch) empty() bool { return len(b.users) == 0 && !b.records() }

// records tells whether an operation or the end of a saga is new.
func (b *batch) records() bool { return len(b.changes.Operations) > 0 || len(b.changes.Ended) > 0 }

// store adds the second round trip. Its last statement is the commit, which Postgres skips after any error before it.
func (b *batch) store(t *trip) {
	if len(b.changes.Operations) > 0 {
		b.addNewOperations(t)
	}
	if len(b.changes.Entries) > 0 {
		b.addNewEntries(t)
		b.addChangedAccounts(t)
	}
	if len(b.changes.Ended) > 0 {
		b.addEndedSagas(t)
	}
	if len(b.changes.Opened) > 0 {
		b.addNewSagas(t)
	}
	if b.awaited && !b.records() {
		t.run(awaitStatement, nil) // a commit that writes nothing waits for nobody
	}
	t.run(commitStatement, nil)
}

// at is when an entry of an account is made: now, or with the entry before it if the clock has gone back since.
func (b *batch) at(key ledger.AccountKey) instant {
	if i, ok := b.index[key]; ok {
		return max(b.found[i].seen, b.now)
	}
	return b.now
}

var copyOperationsStatement = statement{"copy_operations", `
copy operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                 system_account, system_amount, description, created_at)
from stdin (format binary)`}

func (b *batch) addNewOperations(t *trip) {
	operations := b.changes.Operations
	order := make([]int, len(operations)) // they are big
	for i := range order {
		order[i] = i
	}
	key := func(i int) operationKey {
		return operationKey{placement.SlotOf(operations[i].Owner()), operations[i].Key()}
	}
	slices.SortFunc(order, func(i, j int) int { return key(i).compare(key(j)) })
	t.copyRows(copyOperationsStatement, len(operations), 16, func(i int) {
		op := &operations[order[i]]
		t.int2(int16(placement.SlotOf(op.Owner())))
		t.text(string(op.Initiator))
		t.text(string(op.TxID))
		t.int2(int16(op.Step))
		t.int2(int16(op.Kind))
		t.bool(op.Saga)
		t.text(string(op.Payee))
		t.int8(int64(op.Amount))
		t.text(string(op.Currency))
		t.text(string(op.Reason))
		t.int8(int64(op.Balance))
		t.int8(op.Version)
		var (
			system ledger.SystemAccount
			amount ledger.Amount
		)
		if op.Reason == ledger.Applied {
			system, amount = op.System()
		}
		t.text(string(system))
		t.int8(int64(amount))
		t.text(op.Description)
		t.instant(b.at(ledger.AccountKey{User: op.Owner(), Currency: op.Currency}))
	})
}

var copyEntriesStatement = statement{"copy_entries", `
copy entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
from stdin (format binary)`}

// In the order of their key, like the operations: neighbours in the index are written one after the other.
func (b *batch) addNewEntries(t *trip) {
	entries := b.changes.Entries
	order := make([]entryOrder, len(entries))
	for i := range entries {
		order[i] = entryOrder{account: b.index[entries[i].AccountKey], entry: i}
	}
	slices.SortFunc(order, func(x, y entryOrder) int {
		return cmp.Or(cmp.Compare(x.account, y.account), cmp.Compare(x.entry, y.entry))
	})
	t.copyRows(copyEntriesStatement, len(entries), 11, func(i int) {
		e, account := &entries[order[i].entry], order[i].account
		t.int2(int16(b.accounts[account].slot))
		t.text(string(e.User))
		t.text(string(e.Currency))
		t.int8(e.Version)
		t.int8(int64(e.Amount))
		t.int8(int64(e.Balance))
		t.text(string(e.TxID))
		t.int2(int16(e.Step))
		t.int2(int16(e.Kind))
		t.text(string(e.Counterparty))
		t.instant(max(b.found[account].seen, b.now))
	})
}

type entryOrder struct{ account, entry int } // indexes

// The rows are locked, so they are where they were found.
var updateAccountsStatement = statement{"update_accounts", `
update accounts a
set balance = new.balance, version = new.version, updated_at = new.at
from (select unnest($1::tid[]) as place, unnest($2::bigint[]) as balance, unnest($3::bigint[]) as version,
             unnest($4::timestamptz[]) as at) new
where a.ctid = new.place`}

func (b *batch) addChangedAccounts(t *trip) {
	changed := make([]int, 0, len(b.accounts)) // indexes into accounts
	marked := make([]bool, len(b.accounts))
	for i := range b.changes.Entries {
		if k := b.index[b.changes.Entries[i].AccountKey]; !marked[k] {
			marked[k] = true
			changed = append(changed, k)
		}
	}
	now := make([]ledger.Account, len(changed))
	for i, k := range changed {
		now[i] = b.book.Account(b.accounts[k].AccountKey)
	}
	n := len(changed)
	t.places(n, func(i int) place { return b.found[changed[i]].at })
	t.int8s(n, func(i int) int64 { return int64(now[i].Balance) })
	t.int8s(n, func(i int) int64 { return now[i].Version })
	t.instants(n, func(i int) instant { return max(b.found[changed[i]].seen, b.now) })
	t.run(updateAccountsStatement, nil)
}

var copySagasStatement = statement{"copy_sagas", `
copy sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at)
from stdin (format binary)`}

func (b *batch) addNewSagas(t *trip) {
	t.copyRows(copySagasStatement, len(b.changes.Opened), 9, func(i int) {
		s := &b.changes.Opened[i]
		t.int2(int16(placement.SlotOf(s.Initiator)))
		t.text(string(s.Initiator))
		t.text(string(s.TxID))
		t.text(string(s.Payee))
		t.int8(int64(s.Amount))
		t.text(string(s.Currency))
		t.int2(int16(ledger.SagaPending))
		t.text(s.Trace)
		t.instant(b.at(ledger.AccountKey{User: s.Initiator, Currency: s.Currency}))
	})
}

// The rows were locked and found pending.
var updateSagasStatement = statement{"update_sagas", `
update sagas s
set state = ended.state, cause = ended.cause, ended_at = greatest(s.created_at, ended.at),
    tx = pg_current_xact_id()::text::bigint
from (select unnest($1::tid[]) as place, unnest($2::smallint[]) as state, unnest($3::text[]) as cause,
             unnest($4::timestamptz[]) as at) ended
where s.ctid = ended.place`}

func (b *batch) addEndedSagas(t *trip) {
	sagas := b.changes.Ended
	n := len(sagas)
	t.places(n, func(i int) place { return b.ending[sagas[i].Identity].at })
	t.int2s(n, func(i int) int16 { return int16(sagas[i].State) })
	t.texts(n, func(i int) string { return string(sagas[i].Cause) })
	t.instants(n, func(int) instant { return b.now })
	t.run(updateSagasStatement, nil)
}

// markLost remembers that this transaction may have recorded the items.
func (b *batch) markLost() {
	for _, it := range b.items {
		it.lost = append(it.lost, b.tx)
	}
}

func (b *batch) answer() {
	b.lane.metrics.answered(b)
	for i, it := range b.items {
		it.give(b.answers[i])
	}
}
