package shard_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/shard"
)

// Of all hosts of an address, whatever their order, the primary that was adopted last is found.
func TestFindPrimary(t *testing.T) {
	t.Parallel()
	first := private(t, nil)
	second := pgtest.Standby(t, first, false)
	another := pgtest.Standby(t, first, false)
	const dead = "00001" // nothing listens there
	port := func(server *local.Postgres) string { return fmt.Sprint(server.Port()) }
	forms := map[string]func(ports []string) string{
		"pairs": func(ports []string) string {
			return fmt.Sprintf("host=127.0.0.1%s port=%s user=postgres dbname=postgres target_session_attrs=read-write",
				strings.Repeat(",127.0.0.1", len(ports)-1), strings.Join(ports, ","))
		},
		"url": func(ports []string) string {
			return "postgresql://postgres@127.0.0.1:" + strings.Join(ports, ",127.0.0.1:") + "/postgres"
		},
		"url with more": func(ports []string) string {
			return "postgres://postgres@127.0.0.1:" + strings.Join(ports, ",127.0.0.1:") + "/postgres?target_session_attrs=primary"
		},
	}
	find := func(what string, known int, want *local.Postgres, words string, ports ...string) {
		t.Helper()
		for name, dsn := range forms {
			found, err := shard.FindPrimary(t.Context(), dsn(ports), first.Password(), known)
			if want == nil {
				if !errors.Is(err, shard.ErrUnfit) || !strings.Contains(err.Error(), words) {
					t.Errorf("%s, %s: %v, which does not say %q", what, name, err, words)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s, %s: %v", what, name, err)
				continue
			}
			s, err := shard.Look(t.Context(), found.DSN, first.Password())
			if err != nil || !s.Started.Equal(found.Started) || !strings.Contains(found.DSN, "port="+port(want)) {
				t.Errorf("%s, %s: %s leads to %+v, %v", what, name, found.DSN, s, err)
			}
			if len(found.Silent) != strings.Count(strings.Join(ports, " "), dead) {
				t.Errorf("%s, %s: silent are %q", what, name, found.Silent)
			}
		}
	}
	find("a standby first", 1, first, "", port(second), port(first))
	find("a standby alone", 1, nil, "is a standby", port(second))
	find("one server, twice", 1, first, "", port(first), port(first))
	find("one that does not answer", 1, first, "", dead, port(first))

	caughtUp(t, first, second)
	promote(t, second)
	find("promoted and not adopted", 0, first, "", port(second), port(first))
	r := &registry{Known: shard.Known{Timeline: 1}}
	if _, err := r.adopt(t, second); err != nil {
		t.Fatal(err)
	}
	find("adopted, and the old one runs", 0, second, "", port(first), port(second))
	find("only the old one answers", 2, nil, "is an old primary", port(first))

	// A name that leads to all of them.
	lookUp := func(_ context.Context, name string) ([]string, error) {
		if name != "shard.example" {
			return nil, errors.New("no such host")
		}
		return []string{"127.0.0.1:" + dead, "127.0.0.1:" + port(first), "127.0.0.1:" + port(second)}, nil
	}
	for _, dsn := range []string{
		"host=shard.example user=postgres dbname=postgres sslmode=disable", "postgres://postgres@shard.example/postgres?sslmode=disable",
	} {
		found, err := shard.FindPrimaryBy(t.Context(), dsn, first.Password(), 0, lookUp)
		if err != nil || found.Timeline != 2 || len(found.Silent) != 1 || !strings.Contains(found.Silent[0], "shard.example:5432 at 127.0.0.1:"+dead) {
			t.Errorf("%s: %+v, %v", dsn, found, err)
			continue
		}
		s, err := shard.Look(t.Context(), found.DSN, first.Password())
		if err != nil || !s.Started.Equal(found.Started) {
			t.Errorf("%s leads to %+v, %v", found.DSN, s, err)
		}
	}

	if err := another.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(another.Data(), "standby.signal")); err != nil { // so it is a copy, not a standby
		t.Fatal(err)
	}
	if err := another.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	find("two of one timeline", 0, nil, "are both primaries", port(first), port(another))
	find("two of one timeline, and a later one", 0, second, "", port(first), port(another), port(second))
}
