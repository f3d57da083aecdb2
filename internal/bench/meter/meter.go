// Package meter measures what work costs: processor time and memory by kind of process, transactions, bytes of WAL and of
// tables; and it says what machine and settings that was on. It refuses to make any load.
//
// How exact it is. Processor time is what the kernel has booked for a process and all its threads (/proc/PID/stat), in ticks
// of 10 ms: off by less than two ticks for each process that lives. That of Postgres is the postmaster's and its
// children's, those that have ended meanwhile included, since the kernel adds what they used to their parent's account.
// Commits are transactions that got an id, which is those that wrote something and were to be flushed, few of which may have
// failed; they are counted by the server's counter of ids, which lags behind nothing (pg_stat_database does, by up to a
// second) and does not count reads, the meter's own among them. WAL is counted by its insert position, tables and indexes by
// the size of their files, which grow in steps: both exact, but a short run has few steps.
//
// Where there is no /proc, processor time and memory are absent; without a Postgres that answers, the rest is.
package meter

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// The kinds of processes that every measurement has. A Target may name others.
const (
	KindLoad     = "load" // this process
	KindPostgres = "postgres"
)

// Target is what is measured, beside this process.
type Target struct {
	Processes map[string][]int // pids by kind
	Postgres  []Postgres
	Dir       string // where the data are, to time a flush there; "": not timed
}

// Postgres is a server.
type Postgres struct {
	DSN string
	PID int // of the postmaster; 0 if unknown
}

// Add names a process. A pid of 0 is none.
func (t *Target) Add(kind string, pid int) {
	if pid == 0 {
		return
	}
	if t.Processes == nil {
		t.Processes = make(map[string][]int)
	}
	t.Processes[kind] = append(t.Processes[kind], pid)
}

// Meter measures between Start and Stop, which fit load.Plan's Begin and End.
type Meter struct {
	target Target
	conns  []*pgx.Conn // by server

	before, after reading
	watching      sync.WaitGroup
	stopWatching  context.CancelFunc
	memory        int64 // of Postgres, the most that was seen; the watching goroutine's until Stop has returned
}

// reading is what the counters say at one moment.
type reading struct {
	cpu    map[string]time.Duration // by kind; kinds that could not be read are absent
	server []counters               // by server
	err    error                    // of a server that did not answer
}

// New connects to the target's servers. Close the meter.
func New(ctx context.Context, target Target) (*Meter, error) {
	m := &Meter{target: target}
	m.target.Processes = maps.Clone(target.Processes)
	m.target.Add(KindLoad, os.Getpid())
	for _, server := range target.Postgres {
		conn, err := connect(ctx, server.DSN)
		if err != nil {
			m.Close()
			return nil, err
		}
		m.conns = append(m.conns, conn)
	}
	return m, nil
}

// Close ends the connections, and a measurement that was not stopped.
func (m *Meter) Close() {
	if m.stopWatching != nil {
		m.stopWatching()
		m.watching.Wait()
	}
	for _, conn := range m.conns {
		closeConn(conn)
	}
}

// Start begins to measure.
func (m *Meter) Start() {
	for _, pids := range m.target.Processes {
		for _, pid := range pids {
			resetPeak(pid)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.stopWatching, m.memory = cancel, 0
	m.watching.Go(func() { m.watch(ctx) })
	m.before = m.read()
}

// Stop ends it.
func (m *Meter) Stop() {
	m.after = m.read()
	m.stopWatching()
	m.watching.Wait()
}

// Cost is what so many units cost that were done between Start and Stop. What could not be measured is absent, and the error
// says why.
func (m *Meter) Cost(units int64) (bench.Cost, error) {
	cost := bench.Cost{RSSBytes: m.peaks()}
	if units <= 0 {
		return cost, errors.Join(m.before.err, m.after.err)
	}
	n := float64(units)
	for kind, after := range m.after.cpu {
		if before, ok := m.before.cpu[kind]; ok {
			if cost.CPU == nil {
				cost.CPU = make(map[string]float64)
			}
			cost.CPU[kind] = (after - before).Seconds() / n * 1000
		}
	}
	if err := errors.Join(m.before.err, m.after.err); err != nil {
		return cost, err
	}
	var d counters
	for i, after := range m.after.server {
		before := m.before.server[i]
		d.transactions += after.transactions - before.transactions
		d.wal += after.wal - before.wal
		d.tables += after.tables - before.tables
	}
	cost.Commits = float64(d.transactions) / n * 1000
	if d.transactions > 0 {
		cost.BatchSize = n / float64(d.transactions)
	}
	cost.WALBytes, cost.TableBytes = float64(d.wal)/n, float64(max(d.tables, 0))/n // a vacuum may give bytes back
	return cost, nil
}

func (m *Meter) read() reading {
	r := reading{cpu: make(map[string]time.Duration)}
	for kind, pids := range m.target.Processes {
		if sum, ok := sumOf(pids, processorTime); ok {
			r.cpu[kind] = sum
		}
	}
	if sum, ok := sumOf(m.postmasters(), serverTime); ok {
		r.cpu[KindPostgres] = sum
	}
	r.server, r.err = readAll(m.conns)
	return r
}

func (m *Meter) postmasters() []int {
	var pids []int
	for _, server := range m.target.Postgres {
		pids = append(pids, server.PID)
	}
	return pids
}

// sumOf is false if one of the values, or every one, is not to be had: half a sum would be wrong.
func sumOf[T ~int64](pids []int, of func(pid int) (T, bool)) (sum T, ok bool) {
	for _, pid := range pids {
		value, ok := of(pid)
		if !ok {
			return 0, false
		}
		sum += value
	}
	return sum, len(pids) > 0
}

// watch looks at the memory of Postgres until ctx ends. (For the other processes the kernel itself keeps the peak.)
func (m *Meter) watch(ctx context.Context) {
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		if sum, ok := sumOf(m.postmasters(), serverMemory); ok {
			m.memory = max(m.memory, sum)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

func (m *Meter) peaks() map[string]float64 {
	peaks := make(map[string]float64)
	for _, kind := range slices.Sorted(maps.Keys(m.target.Processes)) {
		if sum, ok := sumOf(m.target.Processes[kind], peakMemory); ok {
			peaks[kind] = float64(sum)
		}
	}
	if m.memory > 0 {
		peaks[KindPostgres] = float64(m.memory)
	}
	if len(peaks) == 0 {
		return nil
	}
	return peaks
}
