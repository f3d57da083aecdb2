package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/telemetry/telemetrytest"
)

// No secret is ever logged, traced or answered, whatever goes wrong with what it is for.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	collector := telemetrytest.Start(t)
	c := newServers(t, size{shards: 2})
	dir := t.TempDir()
	secret := func(name string) (value, file string) {
		value, file = "canary-"+name+"-2f9c1d", filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return value, file
	}
	postgres, postgresFile := secret("postgres")
	_, wrongFile := secret("wrong")
	_, etcdFile := secret("etcd")
	admin, adminFile := secret("admin")
	for _, server := range c.servers {
		c.exec(t, server.DSN(), `alter role saldo_login password '`+postgres+`'`)
	}

	var said strings.Builder // everything
	tell := func(args ...string) {
		stdout, stderr, _, err := run(c.env, c.saldo, args...)
		fmt.Fprintln(&said, args[:2], stdout, stderr)
		if err != nil {
			t.Error(err)
		}
	}
	withPassword := func(i int, password string) string {
		return strings.Replace(c.dsn(i), "saldo_login@", "saldo_login:"+password+"@", 1)
	}
	// A person gives passwords in addresses.
	for i := range 2 {
		tell("shard", "add", "--id", c.shard(i), "--dsn", withPassword(i, postgres), "--owner-dsn", c.ownerDSN(i), "--initial-shards", "2")
	}
	tell("shard", "add", "--id", "s9", "--dsn", withPassword(0, "canary-a"), "--owner-dsn", c.ownerDSN(0))
	tell("shard", "add", "--id", "s9", "--dsn", "postgres://u:canary-b@127.0.0.1:1/x", "--owner-dsn", "postgres://o:canary-c@127.0.0.1:1/x")
	tell("shard", "add", "--id", "s9", "--dsn", "postgres://u:canary-d@127.0.0.1:port/x")
	tell("shard", "add", "--id", "s9", "--dsn", "postgres://u:canary-e%zz@[::1/x")
	tell("shard", "add", "--id", "s9", "--dsn", "host=127.0.0.1 port=x password=canary-f")
	tell("shard", "add", "--id", "s9", "--dsn", "host=127.0.0.1 password='canary-g", "--owner-dsn", "host=127.0.0.1 port=1 password='canary h'")

	telling := append(collector.Env(), "SALDO_LOG_LEVEL=debug", "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20canary-collector",
		"SALDO_ADMIN_TOKEN_FILE="+adminFile)
	cases := []struct {
		name string
		env  []string
	}{
		{"well", []string{"SALDO_POSTGRES_PASSWORD_FILE=" + postgresFile}},
		{"the wrong password", []string{"SALDO_POSTGRES_PASSWORD_FILE=" + wrongFile}},
		{"a password of the environment", []string{"PGPASSFILE=", "PGPASSWORD=canary-environment"}},
		{"etcd asks for no password", []string{"SALDO_ETCD_USER=root", "SALDO_ETCD_PASSWORD_FILE=" + etcdFile}},
		{"etcd is away", []string{"SALDO_ETCD=http://127.0.0.1:1", "SALDO_ETCD_USER=root", "SALDO_ETCD_PASSWORD_FILE=" + etcdFile}},
		{"etcd's address has a password", []string{"SALDO_ETCD=http://root:canary-url@127.0.0.1:1"}},
		{"no file", []string{"SALDO_POSTGRES_PASSWORD_FILE=" + filepath.Join(dir, "nowhere")}},
		{"no collector", []string{"SALDO_POSTGRES_PASSWORD_FILE=" + postgresFile, "OTEL_EXPORTER_OTLP_ENDPOINT=http://u:canary-endpoint@127.0.0.1:1"}},
		{"headers that make no sense", []string{"OTEL_EXPORTER_OTLP_HEADERS=Authorization: canary-headers"}},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			env := append(append(append([]string{}, c.env...), telling...), x.env...)
			address, operators := freeAddress(t), freeAddress(t)
			router := newProcess(t, "router", env, program(t, "router"), "--http", address)
			coordinator := newProcess(t, "coordinator", append(env, "SALDO_ADMIN_HTTP="+operators), program(t, "coordinator"))
			for _, p := range []*process{router, coordinator} {
				if err := p.start(); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "both serve, or have ended", long, func() bool {
				return (router.gone() || c.serves(address)) && (coordinator.gone() || c.serves(operators))
			})
			ask := func(method, url, body string, header ...string) {
				request, err := http.NewRequest(method, url, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Content-Type", "application/json")
				for i := 0; i < len(header); i += 2 {
					request.Header.Set(header[i], header[i+1])
				}
				response, err := c.client.Do(request)
				if err != nil {
					return // some of these processes end at once
				}
				defer response.Body.Close()
				answer, _ := io.ReadAll(response.Body)
				fmt.Fprintln(&said, method, url, response.Status, response.Header, string(answer))
			}
			for range 3 {
				for _, path := range []string{"/readyz", "/metrics", "/users/nobody/balance"} {
					ask("GET", "http://"+address+path, "")
				}
				ask("POST", "http://"+address+"/transfers", transferBody(c.user(0, "a"), c.user(1, "b"), 1, "t"))
				for _, path := range []string{"/readyz", "/metrics", "/admin/v1/shards"} {
					ask("GET", "http://"+operators+path, "")
					ask("GET", "http://"+operators+path, "", "Authorization", "Bearer "+admin)
					ask("GET", "http://"+operators+path, "", "Authorization", "Bearer canary-guess")
				}
				time.Sleep(300 * time.Millisecond)
			}
			for _, p := range []*process{router, coordinator} {
				p.kill()
				said.WriteString(p.output())
			}
		})
	}
	said.WriteString(collector.Raw())
	if !strings.Contains(said.String(), "POST /transfers") {
		t.Error("no request was traced")
	}
	for line := range strings.Lines(said.String()) {
		if strings.Contains(line, "canary") {
			t.Errorf("a secret is said: %s", line)
		}
	}
}
