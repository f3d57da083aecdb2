package shard

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/meter"
)

// Vitals is how a shard's server is, and what waits there to be ended.
type Vitals struct {
	Timeline      int
	Log           float64 // bytes that were ever written to it
	Database      float64 // bytes on disk
	Retained      float64 // bytes of the log that are kept for standbys that lag behind or are gone
	Sessions      int     // open to the database
	MaxSessions   int     // that the server takes
	Commits       int64   // and what follows: since the server's statistics were reset
	Rollbacks     int64
	Cached, Read  int64 // blocks that were found in memory, or not
	Deadlocks     int64
	OldestXact    float64 // seconds for which the oldest transaction of the database is open; needs pg_read_all_stats
	Unfrozen      float64 // transactions since the oldest row that is not frozen
	Followers     []Follower
	OpenSagas     [len(sagaAges)]int64 // of this home, by age; 50,000 are counted at most
	OldestSagaAge float64              // seconds; 0 if none is open
}

// sagaAges are the classes by which open sagas are counted: younger than this, and not as young as the class before.
var sagaAges = [...]string{"10s", "1m", "10m", "1h", "older"}

const vitalsStatement = `
select ` + runningTimeline + `,
       (pg_current_wal_insert_lsn() - '0/0')::float8,
       pg_database_size(d.oid)::float8,
       coalesce((select max(pg_current_wal_insert_lsn() - restart_lsn) from pg_replication_slots), 0)::float8,
       s.numbackends, current_setting('max_connections')::int,
       s.xact_commit, s.xact_rollback, s.blks_hit, s.blks_read, s.deadlocks,
       coalesce((select extract(epoch from clock_timestamp() - min(a.xact_start)) from pg_stat_activity a
                 where a.datid = d.oid and a.backend_type = 'client backend' and a.pid <> pg_backend_pid()), 0)::float8,
       age(d.datfrozenxid)::float8
from pg_database d
join pg_stat_database s on s.datid = d.oid
where d.datname = current_database()`

// What lags behind may be long: it is counted up to a limit, the oldest first.
const openSagasStatement = `
select count(*) filter (where age < '10 s'), count(*) filter (where age >= '10 s' and age < '1 min'),
       count(*) filter (where age >= '1 min' and age < '10 min'), count(*) filter (where age >= '10 min' and age < '1 h'),
       count(*) filter (where age >= '1 h'), coalesce(extract(epoch from max(age)), 0)::float8
from (
    select clock_timestamp() - s.created_at as age
    from sagas s
    cross join lateral (
        select from slots owned
        where owned.slot = s.slot and owned.state = 'owned'
        offset 0 -- for each saga, as in the queue
    ) owned
    where s.state = 1
    order by s.tx
    limit 50000
) open`

// Vitals asks the shard's server. What only pg_read_all_stats may see is seen if the user who logs in may: the role that
// services take is put off for that.
func (s *Shard) Vitals(ctx context.Context) (Vitals, error) {
	var v Vitals
	read := func(tx pgx.Tx) error {
		var pipeline pgx.Batch
		pipeline.Queue(openSagasStatement).QueryRow(func(row pgx.Row) error {
			return row.Scan(&v.OpenSagas[0], &v.OpenSagas[1], &v.OpenSagas[2], &v.OpenSagas[3], &v.OpenSagas[4], &v.OldestSagaAge)
		})
		pipeline.Queue(`set local role none`)
		pipeline.Queue(vitalsStatement).QueryRow(func(row pgx.Row) error {
			return row.Scan(&v.Timeline, &v.Log, &v.Database, &v.Retained, &v.Sessions, &v.MaxSessions,
				&v.Commits, &v.Rollbacks, &v.Cached, &v.Read, &v.Deadlocks, &v.OldestXact, &v.Unfrozen)
		})
		pipeline.Queue(followersStatement).Query(func(rows pgx.Rows) (err error) {
			v.Followers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Follower])
			return err
		})
		return tx.SendBatch(ctx, &pipeline).Close()
	}
	if err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, read); err != nil {
		return Vitals{}, s.readError(fmt.Errorf("read vitals: %w", err))
	}
	return v, nil
}

const (
	// vitalsEach is how old vitals may be: as often as they are usually scraped. They cost a query of a few milliseconds.
	vitalsEach = 10 * time.Second
	// vitalsTimeout is when a server that says nothing counts as down.
	vitalsTimeout = 5 * time.Second
)

// ShowVitals asks for the vitals again and again, and shows them as metrics, until ctx ends. Every coordinator does it, so
// that one that is cut off is not taken for a shard that is down.
func (s *Shard) ShowVitals(ctx context.Context) {
	var latest atomic.Pointer[Vitals] // nil: the server does not answer
	ask := func() {
		asking, cancel := context.WithTimeout(ctx, vitalsTimeout)
		defer cancel()
		v, err := s.Vitals(asking)
		if latest.Store(&v); err != nil {
			latest.Store(nil)
		}
	}
	ask()
	defer s.observeVitals(latest.Load)()
	for tick := time.NewTicker(vitalsEach); ; ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

func (s *Shard) observeVitals(latest func() *Vitals) (stop func()) {
	measured, shard := meter.Of("shard"), meter.Attr("shard", s.config.ID)
	var (
		up       = measured.Gauge("saldo.postgres.up", "", "1 if the shard's adopted primary answers, 0 if not.")
		timeline = measured.Gauge("saldo.postgres.timeline", "",
			"Timeline that the primary writes on; one more after each failover.")
		written = measured.Total("saldo.postgres.wal.written", "By",
			"Bytes that were written to the write-ahead log.")
		retained = measured.Gauge("saldo.postgres.wal.retained", "By",
			"Bytes of the log that are kept for the replication slot that lags behind most.")
		size = measured.Gauge("saldo.postgres.database.size", "By",
			"Bytes that the database takes on disk, without the log.")
		sessions = measured.Gauge("saldo.postgres.connections", "{connection}",
			"Sessions of the database, of all programs.")
		most = measured.Gauge("saldo.postgres.connections.limit", "{connection}",
			"Sessions that the server takes, max_connections.")
		ended = measured.Total("saldo.postgres.transactions", "{transaction}",
			"Transactions that ended, by outcome.")
		blocks = measured.Total("saldo.postgres.blocks", "{block}",
			"Blocks that were needed, by whether they were in shared memory.")
		deadlocks = measured.Total("saldo.postgres.deadlocks", "{deadlock}", "Deadlocks that Postgres has broken up.")
		oldest    = measured.Gauge("saldo.postgres.transaction.oldest", "s",
			"Age of the oldest transaction that is open; it keeps vacuum and moves waiting.")
		unfrozen = measured.Gauge("saldo.postgres.frozen.age", "{transaction}",
			"Transactions since the oldest row that is not frozen; the server stops at two thousand millions.")
		standbys = measured.Gauge("saldo.postgres.standbys", "{standby}",
			"Standbys that follow the primary, by state and by whether commits wait for them.")
		behind = measured.Gauge("saldo.postgres.replication.lag", "By",
			"Bytes of the log that a standby does not have on disk.")
		delay = measured.Gauge("saldo.postgres.replication.delay", "s",
			"How long it took lately until a standby had a commit on disk.")
		open = measured.Gauge("saldo.saga.open", "{saga}",
			"Transfers between shards that have not ended, at their home, by age: younger than that.")
		oldestOne = measured.Gauge("saldo.saga.oldest.age", "s",
			"Age of the oldest transfer between shards that has not ended.")
	)
	return measured.Observe(func(observe meter.Observer) {
		v := latest()
		observe(up, meter.Is(v != nil), shard)
		if v == nil {
			return
		}
		observe(timeline, float64(v.Timeline), shard)
		observe(written, v.Log, shard)
		observe(retained, v.Retained, shard)
		observe(size, v.Database, shard)
		observe(sessions, float64(v.Sessions), shard)
		observe(most, float64(v.MaxSessions), shard)
		observe(ended, float64(v.Commits), shard, meter.Attr("outcome", "commit"))
		observe(ended, float64(v.Rollbacks), shard, meter.Attr("outcome", "rollback"))
		observe(blocks, float64(v.Cached), shard, meter.Attr("from", "memory"))
		observe(blocks, float64(v.Read), shard, meter.Attr("from", "disk"))
		observe(deadlocks, float64(v.Deadlocks), shard)
		observe(oldest, v.OldestXact, shard)
		observe(unfrozen, v.Unfrozen, shard)
		for i, age := range sagaAges {
			observe(open, float64(v.OpenSagas[i]), shard, meter.Attr("age", age))
		}
		observe(oldestOne, v.OldestSagaAge, shard)
		following := make(map[[2]string]int)
		for _, f := range v.Followers {
			following[[2]string{f.State, f.Sync}]++
			if f.State != "" { // otherwise the user may not see it
				observe(behind, float64(f.Lag), shard, meter.Attr("standby", f.Name))
				observe(delay, f.Delay.Seconds(), shard, meter.Attr("standby", f.Name))
			}
		}
		for kind, n := range following {
			observe(standbys, float64(n), shard, meter.Attr("state", kind[0]), meter.Attr("sync", kind[1]))
		}
	}, up, timeline, written, retained, size, sessions, most, ended, blocks, deadlocks, oldest, unfrozen,
		standbys, behind, delay, open, oldestOne)
}
