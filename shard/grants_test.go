package shard_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// as is a connection that takes a role as the services do.
func as(t testing.TB, dsn, role string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["role"] = role
	config.RuntimeParams["search_path"] = "saldo, pg_temp"
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// What the database roles cannot do, whatever a service is made to send.
func TestGrants(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, nil)
	prepare(t, dsn) // a clone would not have its template's privileges on the database
	b := openAt(t, dsn)
	b.user("alice", "bob")
	b.must(add("alice", "fund", 100))
	b.must(debit("alice", "s", "bob", 10))
	const forbidden = "42501"
	for role, statements := range map[string][]string{
		"saldo_service": {
			// history is append-only
			`update operations set amount = 1`, `update operations set reason = 'x'`, `delete from operations`, `truncate operations`,
			`update entries set amount = 1`, `update entries set balance = 1`, `delete from entries`, `truncate entries`,
			// nothing is deleted
			`delete from users`, `delete from accounts`, `delete from sagas`, `delete from slots`, `delete from shard_meta`,
			`truncate users`, `truncate accounts`, `truncate sagas`, `truncate slots`, `truncate shard_meta`,
			// columns that are not its to choose
			`insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
			     system_account, system_amount, description, created_at, tx)
			 values (1, 'a', 't', 1, 1, false, '', 1, 'USD', '', 1, 1, '@world', -1, '', now(), 1)`,
			`insert into operations select * from operations`,
			`insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at, tx)
			 values (1, 'a', 'USD', 1, 1, 1, 't', 1, 1, '', now(), 1)`,
			`insert into entries select * from entries`,
			`insert into users (slot, id, name, email, tx) values (1, 'a', 'a', '', 1)`,
			`insert into users (slot, id, name, email, created_at) values (1, 'a', 'a', '', now())`,
			`insert into accounts (slot, user_id, currency, balance) values (1, 'a', 'USD', 1000000)`,
			`insert into accounts (slot, user_id, currency, version) values (1, 'a', 'USD', 7)`,
			`insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at, tx)
			 values (1, 'a', 't', 'p', 1, 'USD', 1, '', now(), 1)`,
			`insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, cause, trace, created_at)
			 values (1, 'a', 't', 'p', 1, 'USD', 3, 'x', '', now())`,
			`update users set name = 'x'`, `update users set email = 'x'`, `update users set tx = 1`,
			`update accounts set slot = 1`, `update accounts set user_id = 'x'`, `update accounts set currency = 'EUR'`,
			`update sagas set amount = 1`, `update sagas set payee = 'x'`, `update sagas set initiator = 'x'`, `update sagas set trace = 'x'`,
			`insert into moved (move_id, currency, amount) values ('m', 'USD', 1)`, `update moved set amount = 0`, `delete from moved`,
			`delete from moves`, `delete from move_sums`, `update moves set final = 1`,
			// ownership
			`insert into slots (slot, state, epoch) values (1, 'owned', 1) on conflict do nothing`, `update slots set state = 'owned'`,
			`update slots set epoch = 9`, `insert into shard_meta (cluster, shard, slots, hash, timeline) values ('x', 'y', 1, 'h', 1)`,
			`update shard_meta set timeline = 2`, `update goose_db_version set version_id = 9`,
			// the schema
			`create table saldo.x (a int)`, `create temporary table x (a int)`, `create schema x`, `alter table operations add column x int`,
			`drop table operations`, `create index on operations (kind)`, `alter table accounts drop constraint accounts_balance_check`,
			`create trigger x before insert on operations for each row execute function guard()`, `drop function guard`,
			`create function saldo.x() returns int language sql as 'select 1'`,
			`alter table entries disable trigger all`, `create role x`, `alter role saldo_service login`, `drop schema saldo cascade`,
			`create or replace function saldo.guard(text, text, smallint[], bigint[], uuid) returns uuid language sql as 'select null::uuid'`,
			`copy operations to program 'true'`, `select pg_read_file('postgresql.conf')`,
		},
		"saldo_mover": {
			// what was written stays
			`update operations set amount = 1`, `update operations set tx = 1`, `update entries set amount = 1`, `update users set name = 'x'`,
			`update accounts set user_id = 'x'`, `update sagas set amount = 1`, `update moved set amount = 0`, `delete from moved`,
			`delete from slots`, `truncate slots`, `truncate users`, `truncate accounts`, `truncate operations`, `truncate entries`, `truncate sagas`,
			// the transaction that brings a row is what the row says
			`insert into operations select * from operations`, `insert into entries select * from entries`,
			`insert into users (slot, id, name, email, tx) values (1, 'a', 'a', '', 1)`,
			`insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at, tx)
			 values (1, 'a', 't', 'p', 1, 'USD', 1, '', now(), 1)`,
			// who the shard is
			`update shard_meta set shard = 's2'`, `update shard_meta set timeline = 2`, `delete from shard_meta`,
			`update goose_db_version set version_id = 9`,
			`create table saldo.x (a int)`, `drop table slots`,
		},
	} {
		conn := as(t, b.dsn, role)
		for _, statement := range statements {
			do(t, conn, "begin")
			_, err := conn.Exec(t.Context(), statement)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != forbidden {
				t.Errorf("%s may: %s (%v)", role, statement, err)
			}
			do(t, conn, "rollback")
		}
	}
	mover := as(t, b.dsn, "saldo_mover")
	do(t, mover, `update slots set state = 'fenced' where slot = 1`)
	do(t, mover, `select * from slots, shard_meta, operations`)
	do(t, mover, `create temporary table x (a int)`)
	do(t, mover, `select summarize_tx()`)
	do(t, mover, `select pg_control_system()`)
	do(t, mover, `select pg_logical_emit_message(true, 'saldo', '')`)
}

// The tables refuse what no correct program writes.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.alter(`alter table saldo.accounts disable trigger guarded`, `alter table saldo.operations disable trigger guarded`,
		`alter table saldo.entries disable trigger guarded`, `alter table saldo.sagas disable trigger guarded`)
	b.user("alice")
	conn := session(t, b.dsn)
	do(t, conn, `set search_path = saldo`)
	const operation = `insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
		system_account, system_amount, description, created_at) values (1, 'a', 't', `
	const saga = `insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, cause, ended_at, trace, created_at) values (1, 'a', 't', 'p', 1, 'USD', `
	const entry = `insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at) values (1, 'a', 'USD', `
	for name, statement := range map[string]string{
		"overdraft":                  `insert into accounts (slot, user_id, currency, balance) values (1, 'a', 'USD', -1)`,
		"unbalanced add":             operation + `1, 1, false, '', 5, 'USD', '', 5, 1, '@world', -4, '', now())`,
		"add without a side":         operation + `1, 1, false, '', 5, 'USD', '', 5, 1, '', 0, '', now())`,
		"withdraw that gives":        operation + `1, 2, false, '', 5, 'USD', '', 5, 1, '@world', -5, '', now())`,
		"debit without transit":      operation + `1, 3, true, 'b', 5, 'USD', '', 5, 1, '', 0, '', now())`,
		"local one with transit":     operation + `1, 3, false, 'b', 5, 'USD', '', 5, 1, '@transit', 5, '', now())`,
		"credit that makes money":    operation + `2, 3, false, 'b', 5, 'USD', '', 5, 1, '@transit', 5, '', now())`,
		"refused, and it moved":      operation + `1, 1, false, '', 5, 'USD', 'x', 5, 0, '@world', -5, '', now())`,
		"amount of nothing":          operation + `1, 1, false, '', 0, 'USD', '', 5, 1, '@world', 0, '', now())`,
		"amount too large":           operation + `1, 1, false, '', 9007199254740992, 'USD', '', 5, 1, '@world', -9007199254740992, '', now())`,
		"no such step":               operation + `4, 3, false, 'b', 5, 'USD', '', 5, 1, '@transit', -5, '', now())`,
		"no such system account":     operation + `1, 3, false, 'b', 5, 'USD', '', 5, 1, '@moon', 5, '', now())`,
		"entry of nothing":           entry + `1, 0, 1, 't', 1, 1, '', now())`,
		"entry below zero":           entry + `1, -5, -5, 't', 1, 1, '', now())`,
		"entry from below zero":      entry + `1, 5, 4, 't', 1, 1, '', now())`,
		"entry number zero":          entry + `0, 5, 5, 't', 1, 1, '', now())`,
		"pending saga that ended":    saga + `1, '', now(), '', now())`,
		"completed saga without end": saga + `2, '', null, '', now())`,
		"refund without a cause":     saga + `3, '', now(), '', now())`,
		"completed with a cause":     saga + `2, 'x', now(), '', now())`,
		"a slot too many":            `insert into slots (slot, state, epoch) values (4096, 'owned', 1)`,
		"a shard that is two":        `insert into shard_meta (one, cluster, shard, slots, hash, timeline) values (false, 'c', 's', 1, 'h', 1)`,
	} {
		_, err := conn.Exec(t.Context(), statement)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "23514" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
