package shard_test

import (
	"testing"
	"time"
)

// Every read connection is broken by the server, as at its restart; no read may notice.
func TestReadsSurviveBrokenConnections(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.user("alice")
	b.must(add("alice", "t", 7))
	for range 10 {
		if _, err := b.User(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		if got := b.sql(`select count(pg_terminate_backend(pid))::text from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid()`); got == "0" {
			t.Fatal("there was no connection to break")
		}
		time.Sleep(5 * time.Millisecond)
		if _, err := b.History(t.Context(), "alice", "USD", 0, 10); err != nil {
			t.Fatal(err)
		}
		if got := b.balance("alice"); got != 7 {
			t.Fatalf("balance %d", got)
		}
	}
}
