package shard_test

import (
	"errors"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// An operation whose slots are not all held would pass a guard that was never asked about them.
func TestOperationsMustHoldTheirSlots(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(2)
	b.user(users...)
	b.must(add(users[0], "fund", 10))
	if _, err := b.Submit(t.Context(), pay(users[0], "t", users[1], 1), b.hold(users[0])); !errors.Is(err, ledger.ErrImpossible) {
		t.Errorf("payee's slot not held: %v", err)
	}
	if _, err := b.Submit(t.Context(), add(users[0], "t2", 1)); !errors.Is(err, ledger.ErrImpossible) {
		t.Errorf("no slot held: %v", err)
	}
	if _, _, err := b.CreateUser(t.Context(), ledger.User{ID: users[0], Name: "x"}, b.hold(users[1])); !errors.Is(err, ledger.ErrImpossible) {
		t.Errorf("another slot held: %v", err)
	}
	if got := b.balance(users[0]); got != 10 {
		t.Errorf("balance %d", got)
	}
}

// A database that was set to commit asynchronously must not make the lanes lie.
func TestCommitsAreSynchronousWhateverTheDatabaseSays(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.alter(`do $$ begin execute format('alter database %I set synchronous_commit = off', current_database()); end $$`)
	if got := b.sql(`select current_setting('synchronous_commit')`); got != "off" {
		t.Fatalf("the database's setting is %q", got)
	}
	batches := openAt(t, b.dsn).Batches()
	defer batches.Close()
	if level := batches.Setting(t, "synchronous_commit"); level != "on" {
		t.Errorf("the lane commits with synchronous_commit = %s", level)
	}
}
