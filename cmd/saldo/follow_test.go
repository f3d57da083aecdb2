package main

import (
	"context"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// coordinate runs a coordinator of the terminal's cluster until the test ends.
func (t *terminal) coordinate() {
	t.Helper()
	server, err := url.Parse(pgtest.Server(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := server.User.Password()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- wire.RunCoordinator(ctx, wire.Coordinator{
			Name: "the coordinator", Settle: time.Second, Handover: time.Second, Poll: time.Second,
			Rebalance: "manual", MoveSlots: 2048, MoveShare: 1,
			Etcd:     wire.Etcd{Endpoints: etcdtest.Endpoints(t), Prefix: t.flags[3]},
			Postgres: wire.Postgres{Writers: 1, MaxBatch: 100, QueueSize: 100, ReadConns: 1, BalanceBatch: 100},
		}, wire.Process{
			Passwords: func(ledger.ShardID) string { return password }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}, nil)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What is asked for is done by a coordinator, and shown.
func TestFollow(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2")
	u.addShard("s3")
	u.coordinate()
	for _, c := range []struct {
		says string
		args []string
	}{
		{"s1 → s3: 100 slots have moved after", []string{"move", "start", "--from", "s1", "--to", "s3", "--slots", "0-99", "--wait"}},
		{"balanced", []string{"rebalance", "--move-slots", "1024"}},
		{"nothing to do", []string{"rebalance"}},
		{"shard s2 is empty: `saldo shard remove s2`", []string{"shard", "drain", "s2", "--wait"}},
		{"shard s2 is removed", []string{"shard", "remove", "s2", "--yes"}},
	} {
		_, stderr, err := u.types("", c.args...)
		if err != nil || !strings.Contains(stderr, c.says) {
			t.Errorf("saldo %v does not say %q: %v\n%s", c.args, c.says, err, stderr)
		}
	}
	var ranges []ownedRange
	u.reads(&ranges, "slots", "--shard", "s3")
	if first := ranges[0]; first.First != 0 || first.Last < 99 {
		t.Errorf("what was moved by hand did not stay: %+v", ranges)
	}
	if _, stderr, err := u.types("", "move", "list", "--all"); err != nil || !strings.Contains(stderr, "coordinator the coordinator leads") {
		t.Errorf("%v, %s", err, stderr)
	}
}

// Whoever waits can stop waiting.
func TestFollowIsEnded(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "2")
	u.addShard("s2")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		args := append([]string{"shard", "drain", "s2", "--wait"}, u.flags...)
		ended <- runOn(ctx, args, streams{in: strings.NewReader(""), out: io.Discard, err: io.Discard})
	}()
	for drains := false; !drains; time.Sleep(50 * time.Millisecond) {
		var shards []listedShard
		u.reads(&shards, "shard", "list")
		drains = shards[1].State == cluster.ShardDraining
	}
	time.Sleep(200 * time.Millisecond) // it begins to wait
	stop()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "stopped waiting (the drain goes on)") {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	began := time.Now()
	for _, c := range []struct {
		is   followed
		want string
	}{
		{followed{move: placement.Move{Phase: placement.PhasePlanned}}, "planned"},
		{followed{move: placement.Move{Phase: placement.PhaseCopy, Paused: true}}, "paused in phase copy"},
		{
			followed{move: placement.Move{Phase: placement.PhaseCopy}, progress: rebalance.Progress{Rows: 12345}, began: began, beganWith: 12345},
			"copying, 12,345 rows",
		},
		{
			followed{
				move: placement.Move{Phase: placement.PhaseCopy}, progress: rebalance.Progress{Rows: 30_000, Expected: 100_000},
				began: began, beganWith: 10_000,
			},
			"copying, 30,000 of about 100,000 rows, 2,000 a second, about 35s left",
		},
		{
			followed{move: placement.Move{Phase: placement.PhaseCatchup}, progress: rebalance.Progress{Rows: 1000, Passes: 2, LastPass: 7}},
			"catching up, 1,000 rows, pass 2 had 7",
		},
	} {
		if got := c.is.status(began.Add(10 * time.Second)); got != c.want {
			t.Errorf("%q, not %q", got, c.want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -100: "-100"} {
		if got := count(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}
