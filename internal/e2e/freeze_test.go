package e2e

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// freeze stops every process of a shard's Postgres in its place, without ending any connection. thaw lets them go on; it
// is called at the end of the test if the test does not.
func freeze(t *testing.T, c *cluster, shard int) (thaw func()) {
	t.Helper()
	ctx := context.Background()
	conn := connect(t, c.ownerDSN(shard))
	postmaster := c.servers[shard].PID()
	frozen := []int{postmaster}
	thaw = sync.OnceFunc(func() {
		for _, pid := range slices.Backward(frozen) {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
		_ = conn.Close(ctx)
	})
	t.Cleanup(thaw)
	// The postmaster first: it makes no new backends from now on. What there is, this backend tells, which is the last.
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(ctx, `select pid from pg_stat_activity order by pid = pg_backend_pid()`)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err == nil {
			frozen = append(frozen, pid)
		}
	}
	// It has hold: the last one does not answer.
	probe, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := conn.Ping(probe); err == nil {
		t.Fatal("the shard is not frozen")
	}
	return thaw
}
