package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// registry connects to the person's cluster.
func (t *terminal) registry() *cluster.Cluster {
	t.Helper()
	c, err := cluster.Connect(t.Context(), cluster.Config{Endpoints: etcdtest.Endpoints(t), Prefix: t.flags[3]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestShardReaddress(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	first := u.addShard("s1", "--initial-shards", "2")
	second := u.addShard("s2")
	readdress := func(dsn string) []string { return []string{"shard", "readdress", "s1", "--dsn", dsn} }

	// Another name of the same server.
	other := strings.Replace(first, "127.0.0.1", "localhost", 1)
	if _, says, err := u.types("", readdress(other)...); err != nil || !strings.Contains(says, "from now on") {
		t.Errorf("%v, %s", err, says)
	}
	if _, says, err := u.types("", readdress(other)...); err != nil || !strings.Contains(says, "already") {
		t.Errorf("again: %v, %s", err, says)
	}
	var shards []listedShard
	if u.reads(&shards, "shard", "list"); !strings.Contains(shards[0].DSN, "localhost") || !shards[0].Answers || shards[0].Slots != 2048 {
		t.Errorf("%+v", shards[0])
	}

	u.refused("this database is shard s2", readdress(second)...)
	u.refused("does not answer", readdress("postgres://postgres@127.0.0.1:1/ledger?connect_timeout=1")...)
	u.refused(`no shard "s9"`, "shard", "readdress", "s9", "--dsn", first)
	u.refused("not the shard's primary", readdress(pgtest.Database(t, nil))...)

	// It has less than the shard was known to have.
	c := u.registry()
	note := func(id ledger.ShardID, timeline int, lsn string) {
		t.Helper()
		if err := c.NotePosition(t.Context(), id, cluster.Position{Timeline: timeline, LSN: lsn, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	note("s1", 1, "0/1")
	u.does(readdress(first)...)
	note("s1", 1, "FFFF/0")
	u.refused("are lost", readdress(other)...)
	// Of another timeline: that was put up with when this one was adopted.
	note("s2", 7, "FFFF/0")
	u.does("shard", "readdress", "s2", "--dsn", strings.Replace(second, "127.0.0.1", "localhost", 1))
}

// A copy of the shard's files that was started elsewhere is on the same timeline. As long as the first one serves it is
// refused; afterwards it is the shard.
func TestShardReaddressToACopy(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	primary := pgtest.Start(t, nil)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte(primary.Password()), 0o600); err != nil {
		t.Fatal(err)
	}
	u.flags = append(u.flags[:4], "--postgres-password-file", password)
	u.does("shard", "add", "--id", "s1", "--dsn", primary.DSN(), "--initial-shards", "1")
	replica := pgtest.Standby(t, primary, false)
	readdress := []string{"shard", "readdress", "s1", "--dsn", replica.DSN()}
	u.refused("not the shard's primary", readdress...)
	if err := replica.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(replica.Data(), "standby.signal")); err != nil { // so it is a copy, not a standby
		t.Fatal(err)
	}
	if err := replica.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.refused("stop it first", readdress...)
	if err := primary.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.does(readdress...)
}
