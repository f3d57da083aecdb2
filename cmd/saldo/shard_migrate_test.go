package main

import (
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestShardMigrate(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	first := u.addShard("s1", "--initial-shards", "2")
	second := u.addShard("s2")
	for _, args := range [][]string{{"shard", "migrate"}, {"shard", "migrate", "s1"}, {"shard", "migrate", "s2", "--owner-dsn", second}} {
		if _, says, err := u.types("", args...); err != nil || !strings.Contains(says, "already") {
			t.Errorf("%v: %v, %s", args, err, says)
		}
	}
	u.refused("name it", "shard", "migrate", "--owner-dsn", first)
	u.refused("it is shard s2 of this cluster, not s1", "shard", "migrate", "s1", "--owner-dsn", second)
	u.refused("it is empty", "shard", "migrate", "s1", "--owner-dsn", pgtest.Database(t, nil))
	u.refused(`no shard "s9"`, "shard", "migrate", "s9")

	// A shard of a newer Saldo is named and left alone; the others are done all the same.
	u.sql(first, `insert into saldo.goose_db_version (version_id, is_applied) values (9999, true)`)
	_, says, err := u.types("", "shard", "migrate")
	if err == nil || !strings.Contains(err.Error(), "shard s1: ") || !strings.Contains(err.Error(), "use the newer saldo") || !strings.Contains(says, "shard s2: ") {
		t.Errorf("%v, %s", err, says)
	}
	if stdout, _, _ := u.types("", "shard", "doctor"); !strings.Contains(stdout, "schema       version 9999, and this program has") {
		t.Errorf("the doctor says\n%s", stdout)
	}
	// One that was not migrated yet takes part in no move, and the doctor says what to do.
	u.sql(first, `delete from saldo.goose_db_version where version_id > 0`)
	u.refused("migrate it with `saldo shard migrate`", "move", "start", "--from", "s1", "--to", "s2", "--slots", "1")
	if stdout, _, err := u.types("", "shard", "doctor"); err == nil || !strings.Contains(stdout, "`saldo shard migrate` before") {
		t.Errorf("%v, the doctor says\n%s", err, stdout)
	}
}
