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

// A server that is set to commit asynchronously, before or after a lane has connected, must not make it lie.
func TestCommitsAreSynchronousWhateverTheServerSays(t *testing.T) {
	t.Parallel()
	server := private(t, nil)
	direct := openAt(t, server.DSN())
	for _, c := range []struct{ before, after, want string }{
		{"off", "on", "on"}, {"on", "off", "on"}, {"local", "off", "local"}, {"remote_apply", "off", "remote_apply"},
	} {
		batches := openAt(t, direct.dsn).Batches()
		for i, set := range []string{c.before, c.after} {
			direct.alter(`alter system set synchronous_commit = `+set, `select pg_reload_conf()`)
			eventually(t, "the setting", func() bool { return direct.sql(`show synchronous_commit`) == set })
			if got := batches.Setting(t, "synchronous_commit"); got != c.want {
				t.Errorf("set to %s, and then to %s: after %d of them the lane commits with %s", c.before, c.after, i+1, got)
			}
		}
		batches.Close()
	}
}
