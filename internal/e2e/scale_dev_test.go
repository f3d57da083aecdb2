package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// A cluster on this machine gets a shard and loses one, while its users pay.
func TestDevScales(t *testing.T) {
	t.Parallel()
	saldo := program(t, "saldo")
	data := filepath.Join(pgtest.Dir(t), "saldo")
	d := &dev{data: data, address: freeAddress(t), client: &http.Client{Timeout: 40 * time.Second}}
	t.Cleanup(d.client.CloseIdleConnections)
	d.process = newProcess(t, "saldo-dev", cleanEnv("SALDO_HTTP="+d.address, "SALDO_DATA="+data, "SALDO_SHARDS=2"), saldo, "dev")
	t.Cleanup(func() { d.leaveNothing(t) })
	t.Cleanup(d.process.kill)
	d.comesUp(t)

	const users, opening = 30, 1000
	f := face{t: t, client: d.client, address: d.address}
	for i := range users {
		f.newUser(payer(i), opening)
	}
	stop := d.pay(t, users)

	env := cleanEnv("SALDO_DATA=" + data)
	told := func(args ...string) string {
		t.Helper()
		begun := time.Now()
		stdout, stderr, code, err := run(env, saldo, args...)
		if err != nil || code != 0 {
			t.Fatalf("saldo %v exits with %d: %v\n%s%s", args, code, err, stdout, stderr)
		}
		t.Logf("saldo %v took %v:\n%s%s", args, time.Since(begun).Round(100*time.Millisecond), stdout, stderr)
		return stdout + stderr
	}
	says := func(said string, words ...string) {
		t.Helper()
		for _, words := range words {
			if !strings.Contains(said, words) {
				t.Errorf("it does not say %q", words)
			}
		}
	}
	added := told("dev", "add-shard")
	says(added, "shard s3 has joined", " → s3: 512 slots have moved after ", " rows, ", ", writes to them waited ", "shard s3 has its share: 136")
	d.wantSpread(t, env, "s1", "s2", "s3")
	drained := told("dev", "drain", "s1")
	says(drained, "s1 → s2", "s1 → s3", "shard s1 is removed", filepath.Join(data, "removed", "s1"))
	d.wantSpread(t, env, "s2", "s3")
	if _, err := os.Stat(filepath.Join(data, "removed", "s1", "data", "PG_VERSION")); err != nil {
		t.Errorf("the data of s1: %v", err)
	}
	if parts := d.parts(t); len(parts.Shards) != 2 || parts.Shards[0].ID != "s2" || parts.Shards[1].ID != "s3" {
		t.Errorf("cluster.json has the shards %+v", parts.Shards)
	}
	if refused := stop(); refused != "" && !waitedLong(added+drained) {
		t.Errorf("a payment was refused, and no slot was fenced for long: %s", refused)
	}
	sum := int64(0)
	for i := range users {
		sum += f.balance(payer(i))
	}
	if sum != users*opening {
		t.Errorf("the payers have %d, and had %d", sum, users*opening)
	}
	wantCleanAudit(t, env, saldo)

	// It comes back as it was.
	d.stop(t)
	d.comesUp(t)
	d.wantSpread(t, env, "s2", "s3")
	for words, args := range map[string][]string{
		`no shard "s1": it has [s2 s3]`:              {"shard", "drain", "s1"},
		`no shard "s9"`:                              {"dev", "drain", "s9"},
		"no saldo dev runs from " + t.TempDir()[:5]:  {"dev", "add-shard", "--data", t.TempDir()},
		"is in use by another process":               {"dev", "--http", freeAddress(t)},
		"slots: drain it with `saldo shard drain s2": {"shard", "remove", "s2", "--yes"},
	} {
		if _, stderr, code, err := run(env, saldo, args...); err != nil || code != 2 || !strings.Contains(stderr, words) {
			t.Errorf("saldo %v exits with %d and does not say %q: %v\n%s", args, code, words, err, stderr)
		}
	}
}

// wantSpread checks that these shards are there and have all slots, evenly.
func (d *dev) wantSpread(t *testing.T, env []string, want ...string) {
	t.Helper()
	stdout, stderr, code, err := run(env, d.path, "shard", "list", "--json")
	if err != nil || code != 0 {
		t.Fatalf("saldo shard list exits with %d: %v\n%s", code, err, stderr)
	}
	var shards []struct {
		ID      string
		Slots   int
		Answers bool
	}
	decode(t, stdout, &shards)
	var got []string
	for _, s := range shards {
		got = append(got, s.ID)
		if even := placement.Slots / len(want); s.Slots != even && s.Slots != even+1 || !s.Answers {
			t.Errorf("%s has %d slots, not about %d, or does not answer", s.ID, s.Slots, even)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the shards are %v, not %v", got, want)
	}
}

func payer(i int) string { return fmt.Sprintf("payer-%d", i) }

// tooLong is for how long slots are fenced only where the machine is too slow for a router to have its clients wait for it.
const tooLong = 1500 * time.Millisecond

var waited = regexp.MustCompile(`writes to them waited (\d+) ms`)

// waitedLong tells whether saldo says of a move that its slots were fenced for too long.
func waitedLong(said string) bool {
	return slices.ContainsFunc(waited.FindAllStringSubmatch(said, -1), func(match []string) bool {
		millis, err := strconv.Atoi(match[1])
		return err == nil && time.Duration(millis)*time.Millisecond > tooLong
	})
}

// isMoving is in the answer to a request that has waited for a slot that moves, and did nothing.
const isMoving = "the user's slot is moving: nothing was recorded"

// pay lets users pay each other until stop is called, which returns one payment that was refused since a slot moved. No
// payment may fail otherwise.
func (d *dev) pay(t *testing.T, users int) (stop func() (refused string)) {
	t.Helper()
	var (
		f       = face{t: t, client: d.client, address: d.address}
		paying  sync.WaitGroup
		stopped atomic.Bool
		paid    atomic.Int64
		refused atomic.Pointer[string]
	)
	for client := range 3 {
		paying.Go(func() {
			for n := client; !stopped.Load(); n += 3 {
				from, to := payer(n%users), payer((n*7+1)%users)
				got, err := f.try(postCase("/transfers", transferBody(from, to, 1, fmt.Sprint("pay-", n))))
				if err == nil && got.StatusCode == http.StatusServiceUnavailable && strings.Contains(got.Text, isMoving) {
					refused.Store(&got.Text)
				} else if err != nil || got.StatusCode != http.StatusCreated && got.StatusCode != http.StatusAccepted {
					t.Errorf("payment %d: %v, %d %s", n, err, got.StatusCode, got.Text)
				}
				paid.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	return sync.OnceValue(func() string {
		stopped.Store(true)
		paying.Wait()
		t.Logf("%d payments", paid.Load())
		if text := refused.Load(); text != nil {
			return *text
		}
		return ""
	})
}
