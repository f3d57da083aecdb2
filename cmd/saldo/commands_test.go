package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(etcdtest.With(m)) }

// terminal is a person at a terminal, in front of a cluster that is theirs.
type terminal struct {
	*testing.T
	flags []string // that say which cluster is meant
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	server, err := url.Parse(pgtest.Server(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := server.User.Password()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	return &terminal{T: t, flags: []string{
		"--etcd", strings.Join(etcdtest.Endpoints(t), ","), "--etcd-prefix", etcdtest.Prefix(t), "--postgres-password-file", file,
	}}
}

// types runs a command, with what is typed when it asks.
func (t *terminal) types(input string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = runOn(t.Context(), append(args, t.flags...), streams{in: strings.NewReader(input), out: &out, err: &errs})
	return out.String(), errs.String(), err
}

// does runs a command that must succeed.
func (t *terminal) does(args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, err := t.types("", args...)
	if err != nil {
		t.Fatalf("saldo %v: %v\n%s%s", args, err, stdout, stderr)
	}
	return stdout
}

// refused runs a command that must be refused with these words.
func (t *terminal) refused(words string, args ...string) {
	t.Helper()
	stdout, stderr, err := t.types("", args...)
	var code wire.ExitCode
	switch {
	case err == nil || errors.As(err, &code):
		t.Errorf("saldo %v is not refused: %v\n%s%s", args, err, stdout, stderr)
	case !strings.Contains(err.Error(), words):
		t.Errorf("saldo %v is refused with %q, which does not say %q", args, err, words)
	}
}

// reads runs a command with --json and reads what it prints.
func (t *terminal) reads(into any, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(t.does(append(args, "--json")...)), into); err != nil {
		t.Fatalf("saldo %v --json: %v", args, err)
	}
}

// addShard makes an empty database a shard and returns its dsn.
func (t *terminal) addShard(id string, more ...string) (dsn string) {
	t.Helper()
	dsn = pgtest.Database(t, nil)
	t.does(append([]string{"shard", "add", "--id", id, "--dsn", dsn}, more...)...)
	return dsn
}

func (t *terminal) sql(dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// What cannot be a shard is told so, and left as it is.
func TestShardAddRefuses(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	first := u.addShard("s1", "--initial-shards", "1")
	u.does("shard", "add", "--id", "s1", "--dsn", first) // again
	empty := func() string { return pgtest.Database(t, nil) }
	other := newTerminal(t)
	theirs := other.addShard("s1", "--initial-shards", "1")
	orders, newer, strange := empty(), empty(), empty()
	u.sql(orders, `create table orders ()`)
	u.addShard("s2")

	u.refused("take an empty database, or name its own cluster", "shard", "add", "--id", "s9", "--dsn", theirs)
	u.refused("it is shard s1 of this cluster, not s9", "shard", "add", "--id", "s9", "--dsn", first)
	u.refused("not empty (public.orders)", "shard", "add", "--id", "s9", "--dsn", orders)
	u.refused("register it under a new id", "shard", "add", "--id", "s1", "--dsn", empty())
	u.refused("--weight is 0", "shard", "add", "--id", "s9", "--dsn", empty(), "--weight", "0")
	u.refused("shard id must be", "shard", "add", "--id", "s/9", "--dsn", empty())
	u.sql(newer, `create schema saldo`, `create table saldo.goose_db_version (version_id bigint, is_applied bool)`,
		`insert into saldo.goose_db_version values (0, true), (9999, true)`)
	u.refused("use the newer saldo that made it", "shard", "add", "--id", "s9", "--dsn", newer)
	u.does("shard", "add", "--id", "s3", "--dsn", strange)
	u.sql(strange, `update saldo.shard_meta set slots = 1024`)
	u.refused("1024 slots", "shard", "add", "--id", "s3", "--dsn", strange)

	u.does("shard", "drain", "s2")
	u.does("shard", "remove", "s2", "--yes")
	u.refused("choose a new id", "shard", "add", "--id", "s2", "--dsn", empty())

	u.sql(orders, `create schema saldo`) // fails if a database that was refused was migrated
}

func TestShardRemoveRefuses(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2")
	dsn := u.addShard("s3")
	u.refused(`no shard "s9": it has [s1 s2 s3]`, "shard", "remove", "s9")
	u.refused("still owns 2048 slots", "shard", "remove", "s1", "--yes")
	u.refused("may get slots at any time", "shard", "remove", "s3", "--yes")
	u.does("shard", "drain", "s3")

	u.sql(dsn, `insert into saldo.slots (slot, state, epoch, clean) values (7, 'moved', 2, false)`)
	u.refused("still holds a copy of 1 slots", "shard", "remove", "s3", "--yes")
	u.sql(dsn, `update saldo.slots set state = 'owned', clean = true`)
	u.refused("still holds 1 slots", "shard", "remove", "s3", "--yes")
	u.sql(dsn, `delete from saldo.slots`,
		`insert into saldo.sagas (amount, created_at, slot, state, initiator, tx_id, payee, currency, trace) values (1, now(), 7, 1, 'a', 't', 'b', 'USD', '')`)
	u.refused("1 transfers that have not ended", "shard", "remove", "s3", "--yes")
	u.sql(dsn, `delete from saldo.sagas`)

	var moves []listedMove
	u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "0-9")
	u.reads(&moves, "move", "list")
	u.does("move", "abort", "--yes", string(moves[0].ID))

	// The id is asked for, and only the id will do.
	for _, typed := range []string{"", "\n", "yes\n", "s1\n"} {
		if _, stderr, err := u.types(typed, "shard", "remove", "s3"); err == nil || !strings.Contains(err.Error(), "not confirmed") {
			t.Errorf("with %q typed: %v\n%s", typed, err, stderr)
		}
	}
	if _, stderr, err := u.types("s3\n", "shard", "remove", "s3"); err != nil || !strings.Contains(stderr, "can never be used again") {
		t.Errorf("with the id typed: %v\n%s", err, stderr)
	}
	var shards []listedShard
	u.reads(&shards, "shard", "list")
	if len(shards) != 2 {
		t.Errorf("%d shards are left", len(shards))
	}
}

// A shard whose database is gone can be removed only when that is said.
func TestShardRemoveLost(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "1")
	lost := u.addShard("s2")
	u.does("shard", "drain", "s2")
	u.sql(lost, `drop schema saldo cascade`)
	u.refused("if its database is gone for good, say --lost", "shard", "remove", "s2", "--yes")
	stdout, stderr, err := u.types("", "shard", "list")
	if err != nil || !strings.Contains(stdout, "no  ") || !strings.Contains(stderr, "s2 does not answer") {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
	}
	u.does("shard", "remove", "s2", "--yes", "--lost")
}

func TestShardList(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2", "--weight", "2")
	u.addShard("s3")
	u.does("shard", "weight", "s3", "5")
	u.refused("weight 0 is not", "shard", "weight", "s3", "0")
	u.does("shard", "drain", "s1")
	u.does("move", "start", "--from", "s1", "--to", "s3", "--slots", "0-99")
	var shards []listedShard
	u.reads(&shards, "shard", "list")
	if len(shards) != 3 {
		t.Fatalf("%+v", shards)
	}
	one, two, three := shards[0], shards[1], shards[2]
	if one.ID != "s1" || one.State != "draining" || one.Slots != 2048 || one.Share != 0 || !one.Answers || len(one.Moves) != 1 || one.Timeline != 1 {
		t.Errorf("s1: %+v", one)
	}
	if two.Weight != 2 || two.Share != 2./7 || len(two.Moves) != 0 || strings.Contains(two.DSN, ":postgres@") {
		t.Errorf("s2: %+v", two)
	}
	if three.Slots != 0 || three.Weight != 5 || three.Moves[0].Number != 100 {
		t.Errorf("s3: %+v", three)
	}
	table := u.does("shard", "list")
	for _, line := range []string{"s1     draining  1       2048   0.0%   -100 planned  yes", "s3     active    5       0      71.4%  +100 planned  yes"} {
		if !strings.Contains(table, line) {
			t.Errorf("no line %q in\n%s", line, table)
		}
	}

	u.does("shard", "drain", "s2")
	u.refused("the only one that may have slots", "shard", "drain", "s3")
	u.does("shard", "activate", "s1")
	u.does("shard", "drain", "s3")
	none := newTerminal(t)
	if _, stderr, err := none.types("", "shard", "list"); err != nil || !strings.Contains(stderr, "no cluster") {
		t.Errorf("no cluster: %v, %s", err, stderr)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.refused("not spread yet: 1 of 2 shards", "slots")
	u.refused("not spread yet", "shard", "drain", "s1")
	u.refused("not spread yet", "rebalance", "--dry-run")
	u.addShard("s2")
	u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "7,100-199")
	var ranges []ownedRange
	u.reads(&ranges, "slots")
	var texts []string
	for _, r := range ranges {
		texts = append(texts, string(r.Shard)+">"+string(r.To))
	}
	if got := strings.Join(texts, " "); got != "s1> s1>s2 s1> s1>s2 s1> s2>" {
		t.Errorf("%s: %+v", got, ranges)
	}
	if last := ranges[5]; last.First != 2048 || last.Last != 4095 || last.Epoch != 1 {
		t.Errorf("the last is %+v", last)
	}
	u.reads(&ranges, "slots", "--shard", "s2")
	if len(ranges) != 1 {
		t.Errorf("s2 has %+v", ranges)
	}
	u.reads(&ranges, "slots", "--user", "alice", "--user", "bob")
	if len(ranges) != 2 || ranges[0].First != 0x73a || ranges[0].Shard != "s1" || ranges[1].First != 0x928 || ranges[1].Shard != "s2" {
		t.Errorf("alice and bob live in %+v", ranges)
	}
	if table := u.does("slots"); !strings.Contains(table, "100-199    100     s1     1      s2") {
		t.Errorf("the table is\n%s", table)
	}
	u.refused("no shard", "slots", "--shard", "s9")
}

func TestMoves(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	dsn := u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2")
	start := func(args ...string) []string { return append([]string{"move", "start"}, args...) }
	u.refused("is not a slot", start("--from", "s1", "--to", "s2", "--slots", "4096")...)
	u.refused(`no shard "s9"`, start("--from", "s1", "--to", "s9", "--slots", "1")...)
	u.refused("source and its target", start("--from", "s1", "--to", "s1", "--slots", "1")...)
	u.refused("slot 4000 is owned by", start("--from", "s1", "--to", "s2", "--slots", "1,4000")...)
	u.does(start("--from", "s1", "--to", "s2", "--slots", "1-3", "--why", "a hot user")...)
	u.refused("one at a time", start("--from", "s1", "--to", "s2", "--slots", "9")...)
	u.refused("has some of these slots", start("--from", "s1", "--to", "s2", "--slots", "3-4")...)

	var moves []listedMove
	u.reads(&moves, "move", "list")
	if len(moves) != 1 || moves[0].Slots.String() != "1-3" || moves[0].Number != 3 || moves[0].Why != "by hand: a hot user" || moves[0].Phase != "planned" {
		t.Fatalf("%+v", moves)
	}
	id := string(moves[0].ID)
	u.does("move", "pause", id)
	if table := u.does("move", "list"); !strings.Contains(table, "paused") || !strings.Contains(table, id) {
		t.Errorf("the table is\n%s", table)
	}
	u.does("move", "resume", id[len(id)-6:])
	u.refused("0 moves have an id", "move", "pause", "nonsense")
	u.refused("not confirmed", "move", "abort", id)
	if _, stderr, err := u.types("abort\n", "move", "abort", id, "--why", "a test"); err != nil || !strings.Contains(stderr, "thrown away") {
		t.Errorf("abort: %v, %s", err, stderr)
	}
	u.refused("has ended", "move", "pause", id)
	if u.reads(&moves, "move", "list"); len(moves) != 0 {
		t.Errorf("still under way: %+v", moves)
	}
	if u.reads(&moves, "move", "list", "--all"); len(moves) != 1 || moves[0].Cause != "a test" {
		t.Errorf("%+v", moves)
	}

	// Rows move only between tables of the same shape.
	u.sql(dsn, `insert into saldo.goose_db_version (version_id, is_applied) values (9999, true)`)
	u.refused("shard s1: ", start("--from", "s2", "--to", "s1", "--slots", "4000")...)
	u.sql(dsn, `delete from saldo.goose_db_version where version_id > 0`)
	u.refused("migrate it with `saldo shard migrate`", start("--from", "s1", "--to", "s2", "--slots", "1")...)
}

func TestRebalanceDryRun(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2")
	_, stderr, err := u.types("", "rebalance", "--dry-run")
	if err != nil || !strings.Contains(stderr, "nothing to do") {
		t.Errorf("%v, %s", err, stderr)
	}
	dsn := u.addShard("s3")
	u.does("shard", "drain", "s1")
	var steps []plannedStep
	u.reads(&steps, "rebalance", "--dry-run")
	if len(steps) != 1 || steps[0].Source != "s1" || steps[0].Target != "s3" || steps[0].Number != 2048 || steps[0].Why != "drain" {
		t.Errorf("%+v", steps)
	}
	if table := u.does("rebalance", "--dry-run"); !strings.Contains(table, "s1    s3  2048    drain  0-2047") {
		t.Errorf("the table is\n%s", table)
	}
	// What the shard still has a copy of cannot come.
	u.sql(dsn, `insert into saldo.slots (slot, state, epoch, clean) select n, 'moved', 1, false from generate_series(0, 99) n`)
	u.reads(&steps, "rebalance", "--dry-run")
	if steps[0].Number == 2048 {
		t.Errorf("%+v", steps)
	}
	if moves := u.does("move", "list", "--all"); strings.Contains(moves, "planned") {
		t.Errorf("a dry run has planned\n%s", moves)
	}
}
