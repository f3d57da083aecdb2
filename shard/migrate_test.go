package shard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

var update = flag.Bool("update", false, "rewrite schema.sql")

func TestMigrateTwice(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, nil)
	n, err := shard.Migrate(t.Context(), dsn, "")
	if err != nil || n == 0 {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err = shard.Migrate(t.Context(), dsn, ""); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
}

// Several on one database, and on several databases of one server, whose roles they share.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, nil) // without the roles
	admin := session(t, server.DSN())
	var (
		group   sync.WaitGroup
		mu      sync.Mutex
		applied = map[string]int{}
	)
	for d := range 2 {
		name := fmt.Sprint("shard_", d)
		do(t, admin, "create database "+name)
		u, err := url.Parse(server.DSN())
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/" + name
		for range 3 {
			group.Go(func() {
				n, err := shard.Migrate(context.Background(), u.String(), "")
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if n > 0 {
					applied[name]++
				}
			})
		}
	}
	group.Wait()
	if applied["shard_0"] != 1 || applied["shard_1"] != 1 {
		t.Errorf("applied %v times", applied)
	}
}

// The next version's migrations are there before its programs: this version's go on, and leave the tables as they are.
func TestTablesOfTheNextVersion(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, nil)
	ctx := t.Context()
	next := fstest.MapFS{
		"9999_expand.sql": {Data: []byte(`-- +goose Up
alter table saldo.operations add column memo text not null default '';
alter table saldo.accounts add column opened_at timestamptz not null default clock_timestamp();
create table saldo.rates (currency text primary key, rate numeric not null);
create index entries_at on saldo.entries (created_at);
`)},
	}
	files, err := fs.ReadDir(shard.Migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := shard.Migrations.ReadFile("migrations/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		next[file.Name()] = &fstest.MapFile{Data: content}
	}
	if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
		t.Fatal(err)
	}
	if err := shard.Enroll(ctx, dsn, "", cluster, "s1"); err != nil {
		t.Fatal(err)
	}
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := shard.Found(ctx, dsn, "", cluster, "s1", m); err != nil {
		t.Fatal(err)
	}
	b := openAt(t, dsn)
	b.user("alice")
	b.must(add("alice", "before", 5))
	if n, err := shard.MigrateBy(ctx, dsn, "", next); err != nil || n != 1 {
		t.Fatalf("%d, %v", n, err)
	}
	if r := b.must(add("alice", "after", 5)); r.Balance != 10 || b.balance("alice") != 10 {
		t.Errorf("%+v", r)
	}
	found, err := shard.Examine(ctx, dsn, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"joins": found.Joins(cluster, "s1"), "takes moves": found.TakesMoves()} {
		if !errors.Is(err, shard.ErrUnfit) || !strings.Contains(err.Error(), "version 9999") {
			t.Errorf("it %s: %v", what, err)
		}
	}
}

// A shard that was not migrated before this version's programs came is not served, and it is said what is missing.
func TestTablesOfTheVersionBefore(t *testing.T) {
	t.Parallel()
	served := open(t)
	served.user("alice")
	served.must(add("alice", "before", 5))
	served.alter(`delete from saldo.goose_db_version where version_id > 0`)
	b := openAt(t, served.dsn)
	errs := b.reads("alice")
	_, errs["submit"] = b.submit(add("alice", "after", 5))
	errs["ping"] = b.Ping(t.Context())
	for what, err := range errs {
		if !strings.Contains(fmt.Sprint(err), "version 0, and this program needs version") || what != "ping" && !isStranger(err) {
			t.Errorf("%s is answered %v", what, err)
		}
	}
	server, refused, err := shard.LookFor(t.Context(), shard.Config{Cluster: cluster, ID: "s1", DSN: served.dsn})
	if err != nil || !isStranger(refused) || server.Schema != 0 {
		t.Errorf("who looks sees %+v, %v, %v", server, refused, err)
	}
}

// An owner who is no superuser: the database is theirs and they may create roles, as managed servers have it.
func TestMigrateAsOwner(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, nil)
	admin := session(t, server.DSN())
	do(t, admin, `create role keeper login createrole password 'secret of theirs'`)
	for d := range 2 {
		name := fmt.Sprint("shard_", d)
		do(t, admin, "create database "+name+" owner keeper")
		dsn := fmt.Sprintf("postgres://keeper@127.0.0.1:%d/%s?sslmode=disable", server.Port(), name)
		const password = "secret of theirs"
		id := ledger.ShardID(fmt.Sprint("s", d))
		if n, err := shard.Migrate(t.Context(), dsn, password); err != nil || n == 0 {
			t.Fatalf("%d, %v", n, err)
		}
		if n, err := shard.Migrate(t.Context(), dsn, password); err != nil || n != 0 {
			t.Errorf("again: %d, %v", n, err)
		}
		if err := shard.Enroll(t.Context(), dsn, password, cluster, id); err != nil {
			t.Fatal(err)
		}
		m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{id}))
		if err != nil {
			t.Fatal(err)
		}
		if err := shard.Found(t.Context(), dsn, password, cluster, id, m); err != nil {
			t.Fatal(err)
		}
		b := openAt(t, dsn, func(c *shard.Config) { c.ID, c.Password = id, password })
		b.user("alice")
		if r := b.must(add("alice", "t", 5)); r.Balance != 5 {
			t.Errorf("%+v", r)
		}
		if b.balance("alice") != 5 {
			t.Error("the balance")
		}
	}
	// A service that logs in as itself, with the role and nothing else.
	do(t, admin, `create role router login password 'r' in role saldo_service`)
	b := openAt(t, fmt.Sprintf("postgres://router@127.0.0.1:%d/shard_0?sslmode=disable", server.Port()),
		func(c *shard.Config) { c.ID, c.Password = "s0", "r" })
	if r := b.must(add("alice", "t2", 5)); r.Balance != 10 {
		t.Errorf("%+v", r)
	}
	if b.balance("alice") != 10 {
		t.Error("the balance")
	}
}

func TestEnrollAndFound(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t, nil)
	ctx := t.Context()
	if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
		t.Fatal(err)
	}
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1", "s2"}))
	if err != nil {
		t.Fatal(err)
	}
	if err := shard.Found(ctx, dsn, "", cluster, "s1", m); !isStranger(err) {
		t.Errorf("found before enroll: %v", err)
	}
	for range 2 {
		if err := shard.Enroll(ctx, dsn, "", cluster, "s1"); err != nil {
			t.Fatal(err)
		}
		if err := shard.Found(ctx, dsn, "", cluster, "s1", m); err != nil {
			t.Fatal(err)
		}
	}
	if err := shard.Enroll(ctx, dsn, "", cluster, "s2"); !errors.Is(err, shard.ErrOtherShard) {
		t.Errorf("another shard: %v", err)
	}
	if err := shard.Enroll(ctx, dsn, "", "another", "s1"); !errors.Is(err, shard.ErrOtherShard) {
		t.Errorf("another cluster: %v", err)
	}
	if err := shard.Found(ctx, dsn, "", "another", "s1", m); !isStranger(err) {
		t.Errorf("found another cluster: %v", err)
	}
	b := &book{t: t, dsn: dsn}
	if got := b.sql(`select count(*) || ' ' || min(slot) || ' ' || max(slot) || ' ' || max(epoch) from saldo.slots where state = 'owned'`); got != "2048 0 2047 1" {
		t.Errorf("slots: %s", got)
	}
	// A slot that has gone is not taken back by founding again.
	b.alter(`update saldo.slots set state = 'moved', epoch = 2, moved_to = 's2' where slot = 7`)
	if err := shard.Found(ctx, dsn, "", cluster, "s1", m); err != nil {
		t.Fatal(err)
	}
	if got := b.sql(`select state || epoch from saldo.slots where slot = 7`); got != "moved2" {
		t.Errorf("slot 7: %s", got)
	}
}

// schema.sql is the whole schema, for a reader.
func TestSchemaIsTheDumpedOne(t *testing.T) {
	t.Parallel()
	const major, golden = 15, "schema.sql"
	binaries := pgtest.Binaries(t)
	program := filepath.Join(binaries.Dir, "pg_dump")
	if _, err := os.Stat(program); err != nil || binaries.Major != major {
		t.Skipf("needs pg_dump %d beside the server (here: %s %d)", major, binaries.Dir, binaries.Major)
	}
	dsn := pgtest.Database(t, nil)
	if _, err := shard.Migrate(t.Context(), dsn, ""); err != nil {
		t.Fatal(err)
	}
	dump := exec.CommandContext(t.Context(), program, "--schema-only", "--no-owner", "--schema=saldo", "--dbname="+dsn,
		"--exclude-table=saldo.goose_db_version*")
	out, err := dump.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := readable(string(out))
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the migrations make another schema than %s says (run with -update and review the difference):\n%s", golden, got)
	}
}

var (
	dumpNoise = regexp.MustCompile(`(?m)^(--.*|SET .*|SELECT pg_catalog\.set_config.*|\\(un)?restrict .*)\n`)
	emptyRuns = regexp.MustCompile(`\n{3,}`)
)

// readable is a dump without what depends on the server's version and on pg_dump's.
func readable(dump string) string {
	dump = emptyRuns.ReplaceAllString(dumpNoise.ReplaceAllString(dump, ""), "\n\n")
	return "-- The schema that the migrations make, dumped by TestSchemaIsTheDumpedOne. To read, not to run.\n\n" + strings.TrimSpace(dump) + "\n"
}
