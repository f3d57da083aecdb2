package shard_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/shard"
)

// What a database is, and what speaks against it becoming shard s1 of the cluster.
func TestExamine(t *testing.T) {
	t.Parallel()
	migrate := func(t *testing.T, dsn string) {
		t.Helper()
		if _, err := shard.Migrate(t.Context(), dsn, ""); err != nil {
			t.Fatal(err)
		}
	}
	enroll := func(cluster string, id ledger.ShardID) func(t *testing.T, dsn string) {
		return func(t *testing.T, dsn string) {
			t.Helper()
			migrate(t, dsn)
			if err := shard.Enroll(t.Context(), dsn, "", cluster, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func(statements ...string) func(t *testing.T, dsn string) {
		return func(t *testing.T, dsn string) {
			t.Helper()
			for _, statement := range statements {
				do(t, session(t, dsn), statement)
			}
		}
	}
	for _, c := range []struct {
		name    string
		prepare []func(t *testing.T, dsn string)
		is      error  // nil: it may join
		says    string // of is
	}{
		{name: "empty"},
		{name: "cut off after the migration", prepare: []func(*testing.T, string){migrate}},
		{name: "enrolled already", prepare: []func(*testing.T, string){enroll(cluster, "s1")}},
		{name: "enrolled, and somebody keeps notes beside", prepare: []func(*testing.T, string){enroll(cluster, "s1"), run(`create table notes ()`)}},
		{name: "with what an extension brought", prepare: []func(*testing.T, string){run(`create extension pg_stat_statements`)}},
		{
			name: "another cluster's", prepare: []func(*testing.T, string){enroll("another", "s1")},
			is: shard.ErrOtherShard, says: "shard s1 of cluster another",
		},
		{
			name: "another shard's", prepare: []func(*testing.T, string){enroll(cluster, "s2")},
			is: shard.ErrOtherShard, says: "shard s2 of this cluster, not s1",
		},
		{
			name: "other slots", prepare: []func(*testing.T, string){enroll(cluster, "s1"), run(`update saldo.shard_meta set slots = 1024`)},
			is: shard.ErrUnfit, says: "1024 slots",
		},
		{
			name: "another hash", prepare: []func(*testing.T, string){enroll(cluster, "s1"), run(`update saldo.shard_meta set hash = 'crc32'`)},
			is: shard.ErrUnfit, says: "by crc32",
		},
		{
			name: "a newer schema", prepare: []func(*testing.T, string){migrate, run(`insert into saldo.goose_db_version (version_id, is_applied) values (9999, true)`)},
			is: shard.ErrUnfit, says: "version 9999",
		},
		{
			name: "not empty", prepare: []func(*testing.T, string){run(`create table orders ()`)},
			is: shard.ErrUnfit, says: "not empty (public.orders)",
		},
		{
			name: "somebody else's schema saldo", prepare: []func(*testing.T, string){run(`create schema saldo`, `create table saldo.orders ()`)},
			is: shard.ErrUnfit, says: "not empty (saldo.orders)",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.Database(t, nil)
			for _, prepare := range c.prepare {
				prepare(t, dsn)
			}
			found, err := shard.Examine(t.Context(), dsn, "")
			if err != nil {
				t.Fatal(err)
			}
			err = found.Joins(cluster, "s1")
			if !errors.Is(err, c.is) || c.is != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v, not %v with %q", *found, err, c.is, c.says)
			}
		})
	}
}

// Names and descriptions are stored as they come, in UTF-8.
func TestExamineAnotherEncoding(t *testing.T) {
	t.Parallel()
	dsn, err := url.Parse(pgtest.Database(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(dsn.Path, "/") + "_euc"
	admin := session(t, dsn.String())
	do(t, admin, `create database `+name+` encoding 'EUC_JP' template template0 lc_collate 'C' lc_ctype 'C'`)
	t.Cleanup(func() { do(t, admin, `drop database `+name+` with (force)`) })
	dsn.Path = "/" + name
	found, err := shard.Examine(t.Context(), dsn.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Joins(cluster, "s1"); !errors.Is(err, shard.ErrUnfit) || !strings.Contains(err.Error(), "encoding is EUC_JP") {
		t.Errorf("%+v: %v", *found, err)
	}
}

func TestExaminationsThatNoTestServerMakes(t *testing.T) {
	t.Parallel()
	newest, err := shard.SchemaVersion()
	if err != nil || newest < 1 {
		t.Fatalf("version %d: %v", newest, err)
	}
	for _, c := range []struct {
		is   shard.Examination
		says string
	}{
		{shard.Examination{Server: 14}, "Postgres 14"},
		{shard.Examination{Server: 17, Standby: true}, "a standby"},
	} {
		if err := c.is.Joins(cluster, "s1"); !errors.Is(err, shard.ErrUnfit) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.is, err)
		}
	}
	for version, says := range map[int64]string{newest - 1: "shard migrate", newest: "", newest + 1: "newer saldo"} {
		err := (&shard.Examination{Schema: version}).TakesMoves()
		if (says == "") != (err == nil) || says != "" && !strings.Contains(err.Error(), says) {
			t.Errorf("a schema of version %d: %v", version, err)
		}
	}
}

// A service's login, which is nobody of its own, can tell the version.
func TestExamineAsService(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, nil)
	prepare(t, server.DSN())
	do(t, session(t, server.DSN()), `create role app login password 'p' in role saldo_service, saldo_mover`)
	dsn, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	dsn.User = url.User("app")
	found, err := shard.Examine(t.Context(), dsn.String(), "p")
	if err != nil || found.Shard != "s1" || found.TakesMoves() != nil {
		t.Fatalf("%+v: %v", found, err)
	}
	left, err := shard.FindLeft(t.Context(), shard.Config{Cluster: cluster, ID: "s1", DSN: dsn.String(), Password: "p", Timeline: 1})
	if err != nil || left != (shard.Left{Slots: 4096}) {
		t.Errorf("%+v: %v", left, err)
	}
	// An old primary knows less than the one that was adopted.
	old := shard.Config{Cluster: cluster, ID: "s1", DSN: dsn.String(), Password: "p", Timeline: 2}
	if left, err := shard.FindLeft(t.Context(), old); err == nil {
		t.Errorf("an old primary is asked, and holds %+v", left)
	}
	if _, err := shard.FindLeft(t.Context(), shard.Config{Cluster: cluster, ID: "s2", DSN: dsn.String(), Password: "p"}); err == nil || !strings.Contains(err.Error(), "not shard s2") {
		t.Errorf("asked as another shard: %v", err)
	}
}
