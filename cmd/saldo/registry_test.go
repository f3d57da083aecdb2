package main

import (
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestRegistryRebuild(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	rebuild := func(more ...string) []string { return append([]string{"registry", "rebuild", "--yes"}, more...) }
	u.refused("name every shard", rebuild()...)
	first := u.addShard("s1", "--initial-shards", "2")
	second := u.addShard("s2", "--weight", "3")
	if _, says, err := u.types("", rebuild()...); err != nil || !strings.Contains(says, "nothing to do") {
		t.Errorf("%v, %s", err, says)
	}
	u.refused("is registered at", rebuild("--shard", "s2="+second)...)

	u.flags[3] = etcdtest.Prefix(t) // etcd is lost
	u.refused("no shard has slots 2048-4095", rebuild("--shard", "s1="+first)...)
	u.refused("is shard s1, not s2", rebuild("--shard", "s1="+first, "--shard", "s2="+first)...)
	u.refused("said to be there and to be removed", rebuild("--shard", "s1="+first, "--retired", "s1")...)
	both := []string{"registry", "rebuild", "--shard", "s1=" + first, "--shard", "s2=" + second, "--retired", "s3"}
	u.refused("not confirmed", both...)
	if _, says, err := u.types("rebuild\n", both...); err != nil || !strings.Contains(says, "2 shards are registered, 1 retired, 4096 slots") {
		t.Fatalf("%v, %s", err, says)
	}
	if _, says, err := u.types("", rebuild()...); err != nil || !strings.Contains(says, "nothing to do") {
		t.Errorf("again: %v, %s", err, says)
	}
	var shards []listedShard
	u.reads(&shards, "shard", "list")
	if len(shards) != 2 || shards[0].Slots != 2048 || !shards[1].Answers || !strings.Contains(shards[1].DSN, "//postgres@") || shards[1].Timeline != 1 {
		t.Errorf("%+v", shards)
	}
	u.refused("choose a new id", "shard", "add", "--id", "s3", "--dsn", pgtest.Database(t, nil))
	u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "1")
}
