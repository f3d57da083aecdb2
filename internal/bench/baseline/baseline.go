// Package baseline is what people would use instead of Saldo, and what Postgres can do at all, to measure against:
//
//	function  one stored function for each transfer, idempotent, balance-checked: what a good Postgres developer would write
//	2pc       transfers between servers by PREPARE TRANSACTION and COMMIT PREPARED, coordinated by the client
//	insert    the rows of transfers only inserted, in batches: no accounts, no locks, no checks but the tables' own
//	copy      the same rows by COPY
//	read      one query for each balance, through a pool
//
// They write the same rows to the same tables on the same servers with the same settings as Saldo does. All but read, which
// changes nothing, have databases of their own on those servers (Create), so that Saldo's audit judges Saldo's books alone;
// Check judges theirs.
//
// A baseline is to be as fast as it can be made without ceasing to be what it is: statements are prepared, a connection
// belongs to a caller, no round trip is there that could be spared. Where there was a choice, it was measured.
package baseline

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

//go:embed functions.sql
var functions string

// Create makes a database beside the one that dsn (a superuser's URL) names, with Saldo's tables and the baselines'
// functions, and returns its DSN. One of that name is dropped.
func Create(ctx context.Context, dsn, name string) (string, error) {
	if err := recreate(ctx, dsn, name); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	address, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("create database %s: the DSN must be a URL: %w", name, err)
	}
	address.Path = "/" + name
	created := address.String()
	if _, err := shard.Migrate(ctx, created, ""); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	conn, err := pgx.Connect(ctx, created)
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, functions); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return created, nil
}

func recreate(ctx context.Context, dsn, name string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	quoted := pgx.Identifier{name}.Sanitize()
	for _, statement := range []string{"drop database if exists " + quoted + " with (force)", "create database " + quoted} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// Currency is of everything that the baselines do.
const Currency = ledger.Currency("USD")

// Fund gives each user an account with an amount in it. A user who has one keeps it.
func Fund(ctx context.Context, dsn string, amount ledger.Amount, users []ledger.UserID) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("fund users: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	slots := make([]int16, len(users))
	for i, user := range users {
		slots[i] = slotOf(user)
	}
	if _, err := conn.Exec(ctx, `select saldo.fund($1, $2, $3, $4)`, slots, users, amount, Currency); err != nil {
		return fmt.Errorf("fund users: %w", err)
	}
	if _, err := conn.Exec(ctx, `vacuum analyze`); err != nil {
		return fmt.Errorf("fund users: %w", err)
	}
	return nil
}

// Check is nil if the books of these databases are right and, over all of them, nothing is in transit.
func Check(ctx context.Context, dsns ...string) error {
	var (
		errs    []error
		transit int64
	)
	for _, dsn := range dsns {
		there, err := check(ctx, dsn)
		errs, transit = append(errs, err), transit+there
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if transit != 0 {
		return fmt.Errorf("baseline: %d is in transit when nothing runs", transit)
	}
	return nil
}

const transitStatement = `
select coalesce(sum(system_amount), 0)::bigint
from saldo.operations
where system_account = '@transit'`

func check(ctx context.Context, dsn string) (transit int64, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, fmt.Errorf("check a baseline: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `select rows || ' ' || what from saldo.wrong()`)
	if err != nil {
		return 0, fmt.Errorf("check a baseline: %w", err)
	}
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("check a baseline: %w", err)
	}
	if len(wrong) > 0 {
		return 0, fmt.Errorf("baseline %s: %q", conn.Config().Database, wrong)
	}
	err = conn.QueryRow(ctx, transitStatement).Scan(&transit)
	if err != nil {
		return 0, fmt.Errorf("check a baseline: %w", err)
	}
	return transit, nil
}

// Transfers names a caller's n-th transfer.
type Transfers = func(caller int, n int64) ledger.Transfer

// calls makes one transfer for each call.
func calls(transfers Transfers, do func(context.Context, int, ledger.Transfer) (ledger.Outcome, error)) load.Call {
	return func(ctx context.Context, caller int, n int64) (int, error) {
		outcome, err := do(ctx, caller, transfers(caller, n))
		switch {
		case err != nil:
			return 0, coded(err)
		case outcome.Reason != ledger.Applied:
			return 0, failure{code: string(outcome.Reason), err: errors.New("refused")}
		}
		return 1, nil
	}
}

// failure is an error under the code that Postgres, or the books, have for it.
type failure struct {
	code string
	err  error
}

func (f failure) Error() string     { return f.code + ": " + f.err.Error() }
func (f failure) Unwrap() error     { return f.err }
func (f failure) ErrorCode() string { return f.code }

func coded(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return failure{code: "sqlstate_" + pg.Code, err: err}
	}
	return err
}

func slotOf(user ledger.UserID) int16 { return int16(placement.SlotOf(user)) }
