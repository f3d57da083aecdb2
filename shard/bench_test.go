package shard_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
)

// The benchmarks run on a server of their own that flushes as in production:
//
//	go test ./shard -run '^$' -bench . -benchtime 5s
//
// `saldo bench compare` sets the lanes against what else there is.

const benchUsers = 10_000

func benchUser(i int) ledger.UserID { return ledger.UserID(fmt.Sprintf("user-%06d", i)) }

// benchServer is a shard with benchUsers users and one called hot, all rich.
func benchServer(b *testing.B) *local.Postgres {
	b.Helper()
	server := private(b, nil)
	book := openAt(b, server.DSN())
	share(256, benchUsers+1, func(_, i int) {
		id := benchUser(i)
		if i == benchUsers {
			id = "hot"
		}
		if _, _, err := book.CreateUser(context.Background(), ledger.User{ID: id, Name: "name"}, book.hold(id)); err != nil {
			b.Error(err)
		}
		op := add(id, "fund", 1<<40)
		if _, err := book.Submit(context.Background(), op, book.holds(op)...); err != nil {
			b.Error(err)
		}
	})
	book.Close()
	return server
}

// share lets callers do n calls between them.
func share(callers, n int, call func(caller, i int)) {
	var group sync.WaitGroup
	var next atomic.Int64
	for c := range callers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				call(c, i)
			}
		})
	}
	group.Wait()
}

// benchEnds are the payer and the payee of a transfer.
func benchEnds(hot bool) (from, to ledger.UserID) {
	i, j := rand.IntN(benchUsers), rand.IntN(benchUsers-1)
	if j >= i {
		j++
	}
	if hot {
		return benchUser(i), "hot"
	}
	return benchUser(i), benchUser(j)
}

var benchRuns atomic.Int64 // no two runs share a tx_id

// bench times n transfers by callers, and reports how many there were in a second.
func bench(b *testing.B, server *local.Postgres, callers int, hot bool, transfer func(caller int, from ledger.UserID, tx string, to ledger.UserID) error) {
	b.Helper()
	run := benchRuns.Add(1)
	warm := 20 * callers
	share(callers, warm, func(c, i int) {
		from, to := benchEnds(hot)
		if err := transfer(c, from, fmt.Sprintf("%d-warm-%d", run, i), to); err != nil {
			b.Error(err)
		}
	})
	do(b, session(b, server.DSN()), "checkpoint")
	client, backends := processorTime(os.Getpid()), childrenTime(server.PID())
	b.ReportAllocs()
	b.ResetTimer()
	share(callers, b.N, func(c, i int) {
		from, to := benchEnds(hot)
		if err := transfer(c, from, fmt.Sprintf("%d-%d", run, i), to); err != nil {
			b.Error(err)
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transfers/s")
	b.ReportMetric(0, "ns/op") // says nothing where calls overlap
	// Unlike the rate, these hardly depend on what else the machine does.
	perTransfer := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(perTransfer(processorTime(os.Getpid())-client), "client-µs/transfer")
	b.ReportMetric(perTransfer(childrenTime(server.PID())-backends), "server-µs/transfer")
}

// processorTime is what a process has used, 0 where there is no /proc.
func processorTime(pid int) time.Duration {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick
}

// childrenTime is what the processes of a server have used that are still there.
func childrenTime(pid int) (sum time.Duration) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(children)) {
		id, _ := strconv.Atoi(child)
		sum += processorTime(id)
	}
	return sum
}

func BenchmarkLane(b *testing.B) {
	server := benchServer(b)
	for _, c := range []struct {
		name    string
		callers int
		hot     bool
	}{
		{"uniform-256", 256, false}, {"uniform-1024", 1024, false}, {"hot-256", 256, true}, {"hot-1024", 1024, true}, {"idle-1", 1, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			book := openAt(b, server.DSN())
			bench(b, server, c.callers, c.hot, func(_ int, from ledger.UserID, tx string, to ledger.UserID) error {
				op := pay(from, tx, to, 1)
				r, err := book.Submit(context.Background(), op, book.holds(op)...)
				if err == nil && r.Reason != ledger.Applied {
					err = fmt.Errorf("%+v", r)
				}
				return err
			})
		})
	}
}
