package shard

import (
	"fmt"
	"strings"
)

// movedTable is a table whose rows belong to slots and move with them.
type movedTable struct {
	name    string
	key     []string // of the primary key, after the slot
	columns string   // all but tx
	only    string   // the rows that are copied, as the beginning of a condition; "": all
	store   string   // brings rows of the staging table into the table: see there
	summed  bool     // store also keeps sums of them, of the move $3
	delete  string   // deletes some of them
}

// movedTables in the order in which they are copied. With stored rows comes what they sum to.
var movedTables = []*movedTable{
	{
		name: "users", key: []string{"id"},
		columns: "slot, id, name, email, created_at, updated_at",
		store:   storeUsersStatement, delete: deleteUsersStatement,
	},
	{
		name: "operations", key: []string{"tx_id", "initiator", "step"},
		columns: "slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version, " +
			"system_account, system_amount, description, created_at",
		store: storeOperationsStatement, summed: true, delete: deleteOperationsStatement,
	},
	{
		name: "entries", key: []string{"user_id", "currency", "version"},
		columns: "slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at",
		store:   storeEntriesStatement, summed: true, delete: deleteEntriesStatement,
	},
	{
		name: "accounts", key: []string{"user_id", "currency"}, only: "version > 0 and",
		columns: "slot, user_id, currency, balance, version, updated_at",
		store:   storeAccountsStatement, delete: deleteAccountsStatement,
	},
	{
		name: "sagas", key: []string{"tx_id", "initiator"},
		columns: "slot, initiator, tx_id, payee, amount, currency, state, cause, trace, created_at, ended_at",
		store:   storeSagasStatement, delete: deleteSagasStatement,
	},
}

// of returns the columns of the table under an alias.
func (t *movedTable) of(alias string) string {
	return alias + "." + strings.ReplaceAll(t.columns, ", ", ", "+alias+".")
}

// keyOf is the key as a text for people.
func (t *movedTable) keyOf(alias string) string {
	return fmt.Sprintf("concat_ws(' ', 'slot', %s.slot, %s.%s)", alias, alias, strings.Join(t.key, ", "+alias+"."))
}

func (t *movedTable) staging() string { return "pg_temp.incoming_" + t.name }

// createStagingStatement: rows on their way wait in temporary tables of the target's session.
var createStagingStatement = func() string {
	var text strings.Builder
	for _, t := range movedTables {
		fmt.Fprintf(&text, "create temporary table incoming_%s as select %s from %s with no data;\n", t.name, t.columns, t.name)
	}
	return text.String()
}()

// Each of these stores the rows of some pages ($1 to before $2) of its staging table, and returns how many were there and
// how many of them were new to the table. Those that were not must be the same: see differStatement.

const storeUsersStatement = `
with staged as (
    select * from pg_temp.incoming_users where ctid >= $1::tid and ctid < $2::tid
),
stored as (
    insert into users (slot, id, name, email, created_at, updated_at)
    select slot, id, name, email, created_at, updated_at
    from staged
    on conflict do nothing
    returning slot
)
select (select count(*) from staged), (select count(*) from stored)`

const storeOperationsStatement = `
with staged as (
    select * from pg_temp.incoming_operations where ctid >= $1::tid and ctid < $2::tid
),
stored as (
    insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                            system_account, system_amount, description, created_at)
    select slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
           system_account, system_amount, description, created_at
    from staged
    on conflict do nothing
    returning slot, currency, system_amount
),
summed as (
    insert into move_sums (move_id, slot, currency, entries, sides)
    select $3, slot, currency, 0, sum(system_amount)
    from stored
    group by slot, currency
    on conflict (move_id, slot, currency) do update set sides = move_sums.sides + excluded.sides
)
select (select count(*) from staged), (select count(*) from stored)`

const storeEntriesStatement = `
with staged as (
    select * from pg_temp.incoming_entries where ctid >= $1::tid and ctid < $2::tid
),
stored as (
    insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    select slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at
    from staged
    on conflict do nothing
    returning slot, currency, amount
),
summed as (
    insert into move_sums (move_id, slot, currency, entries, sides)
    select $3, slot, currency, sum(amount), 0
    from stored
    group by slot, currency
    on conflict (move_id, slot, currency) do update set entries = move_sums.entries + excluded.entries
)
select (select count(*) from staged), (select count(*) from stored)`

const storeAccountsStatement = `
with staged as (
    select * from pg_temp.incoming_accounts where ctid >= $1::tid and ctid < $2::tid
),
stored as (
    insert into accounts (slot, user_id, currency, balance, version, updated_at)
    select slot, user_id, currency, balance, version, updated_at
    from staged
    on conflict (slot, user_id, currency) do update
    set balance = excluded.balance, version = excluded.version, updated_at = excluded.updated_at
    where accounts.version < excluded.version
    returning slot
)
select (select count(*) from staged), (select count(*) from stored)`

// A saga that is new and has changed is read twice.
const storeSagasStatement = `
with staged as (
    select distinct * from pg_temp.incoming_sagas where ctid >= $1::tid and ctid < $2::tid
),
stored as (
    insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, cause, trace, created_at, ended_at)
    select slot, initiator, tx_id, payee, amount, currency, state, cause, trace, created_at, ended_at
    from staged
    on conflict (slot, tx_id, initiator) do update
    set state = excluded.state, cause = excluded.cause, ended_at = excluded.ended_at, tx = pg_current_xact_id()::text::bigint
    where sagas.state = 1 and excluded.state <> 1
    returning slot
)
select (select count(*) from staged), (select count(*) from stored)`

// differStatement finds a row of some pages of the staging table that is not as it is in the table, where it must be.
func (t *movedTable) differStatement() string {
	var same []string
	for _, column := range append([]string{"slot"}, t.key...) {
		same = append(same, fmt.Sprintf("r.%s = s.%s", column, column))
	}
	return fmt.Sprintf(`
select %s
from %s s
left join %s r on %s
where s.ctid >= $1::tid and s.ctid < $2::tid and row(%s) is distinct from row(%s)
limit 1`, t.keyOf("s"), t.staging(), t.name, strings.Join(same, " and "), t.of("s"), t.of("r"))
}

// These delete rows of the copies of slots ($1), by the places ($2) where they were seen.

const deleteUsersStatement = `
delete from users
where ctid = any($2::text[]::tid[]) and slot = any($1::smallint[])`

const deleteAccountsStatement = `
delete from accounts
where ctid = any($2::text[]::tid[]) and slot = any($1::smallint[])`

const deleteOperationsStatement = `
delete from operations
where ctid = any($2::text[]::tid[]) and slot = any($1::smallint[])`

const deleteEntriesStatement = `
delete from entries
where ctid = any($2::text[]::tid[]) and slot = any($1::smallint[])`

const deleteSagasStatement = `
delete from sagas
where ctid = any($2::text[]::tid[]) and slot = any($1::smallint[])`
