package main

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// What a container does each time that it starts: log in as two users, each with a password of its own, and change nothing
// but the first time.
func TestShardAddAgain(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	database, err := url.Parse(pgtest.Database(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	secret := func(name, content string) (file string) {
		file = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ownerPassword, _ := database.User.Password()
	database.User = url.User(database.User.Username())
	owner := database.String()
	database.User = url.User("shard_add_again")
	service := database.String()
	u.addShard("s0", "--initial-shards", "2") // makes the roles, if nobody has
	server := pgtest.Server(t).DSN()
	u.sql(server, `drop role if exists shard_add_again`,
		`create role shard_add_again login password 'theirs' in role saldo_service, saldo_mover`)
	u.flags[5] = secret("service", "theirs")

	add := []string{
		"shard", "add", "--id", "s1", "--dsn", service, "--owner-dsn", owner, "--owner-password-file", secret("owner", ownerPassword),
	}
	_, said, err := u.types("", add...)
	if err != nil || strings.Contains(said, "already") {
		t.Fatalf("the first time: %v\n%s", err, said)
	}
	u.does("shard", "weight", "s1", "3")
	_, said, err = u.types("", add...)
	if err != nil || !strings.Contains(said, "shard s1: it was registered already, on 2") {
		t.Errorf("the second time: %v\n%s", err, said)
	}
	var shards []struct{ Weight, Slots int }
	u.reads(&shards, "shard", "list")
	if len(shards) != 2 || shards[1].Weight != 3 || shards[1].Slots != 2048 {
		t.Errorf("the second time has changed something: %+v", shards)
	}
	wrong := secret("wrong", "theirs")
	u.refused("password authentication failed", append(add, "--owner-password-file", wrong)...)
	// Where nobody is named as the owner, the owner's password is nobody's.
	u.does("shard", "doctor", "s1", "--owner-password-file", secret("nobody", "no"))
	u.does("shard", "doctor", "s1", "--owner-dsn", owner, "--owner-password-file", secret("owner", ownerPassword))
}
