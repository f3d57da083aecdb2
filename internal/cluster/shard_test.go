package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestRegister(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 0)

	first, err := c.Register(w.ctx, config, Shard{ID: "s1", DSN: "postgres://saldo:hunter2@db1/saldo?sslmode=require", Weight: 3})
	if err != nil {
		t.Fatal(err)
	}
	want := Shard{ID: "s1", State: ShardActive, DSN: "postgres://saldo@db1/saldo?sslmode=require", Weight: 3, RegisteredAt: first.RegisteredAt}
	if first != want || first.RegisteredAt.IsZero() {
		t.Errorf("registered %+v", first)
	}
	stored := w.get(w.keys.shard("s1"))
	if strings.Contains(stored, "hunter2") {
		t.Errorf("the password is in etcd: %s", stored)
	}

	// The same again, also with another password, changes nothing, not even what a person has changed since.
	w.put(w.keys.shard("s1"), strings.Replace(stored, "active", "draining", 1))
	again, err := c.Register(w.ctx, config, Shard{ID: "s1", DSN: "postgres://saldo:other@db1/saldo?sslmode=require"})
	if err != nil {
		t.Fatal(err)
	}
	if again.State != ShardDraining || again.Weight != 3 || again.RegisteredAt != first.RegisteredAt {
		t.Errorf("registered again: %+v", again)
	}

	_, err = c.Register(w.ctx, config, Shard{ID: "s1", DSN: "postgres://saldo:hunter2@db2/saldo"})
	if !errors.Is(err, ErrRegistered) || !strings.Contains(err.Error(), "new id") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("another dsn: %v", err)
	}
	if got := w.get(w.keys.shard("s1")); !strings.Contains(got, "db1") {
		t.Errorf("the record was overwritten: %s", got)
	}

	w.put(w.keys.tombstone("old"), `{"id":"old"}`)
	if _, err := c.Register(w.ctx, config, Shard{ID: "old", DSN: "host=db3"}); !errors.Is(err, ErrRetired) {
		t.Errorf("an id with a tombstone: %v", err)
	}
	for _, bad := range []Shard{
		{ID: "a/b", DSN: "host=db"}, {ID: "", DSN: "host=db"}, {ID: "s2", DSN: ""}, {ID: "s2", DSN: "host=db", Weight: -1},
		{ID: "s2", DSN: "mysql://db/saldo"},
	} {
		if shard, err := c.Register(w.ctx, config, bad); err == nil {
			t.Errorf("registered %+v", shard)
		}
	}

	// The store was wiped and made again meanwhile.
	w.delete(w.keys.config())
	if _, err := c.Register(w.ctx, config, Shard{ID: "s4", DSN: "host=db4"}); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("without a config: %v", err)
	}
	if _, _, err := c.Init(w.ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Register(w.ctx, config, Shard{ID: "s4", DSN: "host=db4"}); !errors.Is(err, ErrMismatch) {
		t.Errorf("into another cluster: %v", err)
	}
}

func TestRegisterRace(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	config := w.registered(c, 0, 0)
	const n = 8
	var errs [n]error
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, errs[i] = c.Register(w.ctx, config, Shard{ID: "s1", DSN: fmt.Sprintf("host=db%d", i%4)})
		})
	}
	all.Wait()
	view, err := c.Read(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		won := view.Shards["s1"].DSN == fmt.Sprintf("host=db%d", i%4)
		if won != (err == nil) || !won && !errors.Is(err, ErrRegistered) {
			t.Errorf("%d: %v, stored %s", i, err, view.Shards["s1"].DSN)
		}
	}
}

func TestStripDSN(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"postgres://u:SECRET@h:5432/db":                                         "postgres://u@h:5432/db",
		"postgresql://u:SECRET@h1:5432,h2:5433/db?target_session_attrs=primary": "postgresql://u@h1:5432,h2:5433/db?target_session_attrs=primary",
		"postgres://u:SEC:RET@[::1]:5432/db":                                    "postgres://u@[::1]:5432/db",
		"postgres://h/db?user=u&password=SECRET&sslmode=disable":                "postgres://h/db?user=u&sslmode=disable",
		"postgres://h/db?pass%77ord=SECRET":                                     "postgres://h/db",
		"postgres://h/db?PASSWORD=SECRET":                                       "postgres://h/db",
		"postgres://h/db?sslpassword=SECRET&sslkey=/k&passfile=/p":              "postgres://h/db?sslkey=/k&passfile=/p",
		"postgres://h/db?oauth_client_secret=SECRET&scram_client_key=SECRET":    "postgres://h/db",
		"postgres://u@h":                         "postgres://u@h",
		"postgres:///db?host=/run/postgresql":    "postgres:///db?host=/run/postgresql",
		"host=h password=SECRET dbname=db":       "host=h dbname=db",
		"host=h password='SEC RET' dbname=db":    "host=h dbname=db",
		`host=h password='SEC\'RET x=y' user=u`:  "host=h user=u",
		`host = h  password = SEC\ RET user='u'`: "host=h user=u",
		`dbname='my db' application_name='a\\b'`: `dbname='my db' application_name='a\\b'`,
		"host=h options=''":                      "host=h options=''",
		"password=SECRET host=h":                 "host=h",
		"postgres://u:p/SECRET@h/db":             "",
		"postgres://u:SE?CRET@h/db":              "",
		"postgres://u:SE@CR/ET@h/db":             "",
		"postgres://u:SE@CRET@h/db":              "",
		"postgres://u:SE#CRET@h/db":              "",
		"postgres://":                            "",
		"mysql://u:SECRET@h/db":                  "",
		"":                                       "",
		"SECRET":                                 "",
		"host=h SECRET":                          "",
		"host=h password='SECRET":                "",
		"host=h password='SECRET'x":              "",
		"password=SECRET":                        "",
		"host=h\npassword=SECRET":                "",
	} {
		got, err := StripDSN(dsn)
		if got != want && (err == nil || want != "") || (err != nil) != (want == "") {
			t.Errorf("StripDSN(%q) = %q, %v; want %q", dsn, got, err, want)
		}
		if err == nil && (strings.Contains(got, "SEC") || strings.Contains(got, "RET")) || err != nil && strings.Contains(err.Error(), "SEC") {
			t.Errorf("StripDSN(%q) = %q, %v tells the secret", dsn, got, err)
		}
		if err == nil {
			if twice, err := StripDSN(got); twice != got || err != nil {
				t.Errorf("StripDSN(%q) = %q, %v: not the same again", got, twice, err)
			}
		}
	}
}

func FuzzStripDSN(f *testing.F) {
	for _, seed := range []string{"hunter2", "a/b", "a@b", "a?b", "a b", `a\'b`, "a%2fb", "a#b", "a:b@c/d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		secret = "Q7" + secret + "7Q" // text that is nowhere else
		for _, dsn := range []string{
			"postgres://u:" + secret + "@h:5432/db?sslmode=disable",
			"postgres://h/db?password=" + strings.ReplaceAll(secret, "&", "") + "&user=u",
			"host=h password='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(secret) + "' user=u",
		} {
			if got, err := StripDSN(dsn); err == nil && (strings.Contains(got, "Q7") || strings.Contains(got, "7Q")) {
				t.Errorf("StripDSN(%q) = %q", dsn, got)
			}
		}
	})
}

func TestActiveShards(t *testing.T) {
	t.Parallel()
	view := &View{Shards: map[ledger.ShardID]Shard{
		"b": {ID: "b", State: ShardActive}, "a": {ID: "a", State: ShardActive}, "c": {ID: "c", State: ShardDraining},
	}}
	if got := fmt.Sprint(view.Active()); got != "[a b]" {
		t.Error(got)
	}
}
