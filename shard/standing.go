package shard

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Standing is what the server behind an address is: to the shard, and to other servers.
type Standing struct {
	Cluster  string         // whose shard the database is; "" if it is none
	Shard    ledger.ShardID // the zero value if it is none
	Adopted  int            // the timeline whose primary the database accepts as its own
	Schema   int64          // the version of its tables; 0: there are none
	Started  time.Time      // the server; no two of one shard have started at the same microsecond
	Standby  bool           // it follows another server, and takes no writes
	Timeline int            // that the server is on; of a standby, by its last checkpoint
	LSN      LSN            // how far its log goes; of a standby, how far it has done what is in it

	// Forks are the timelines that led to this one, oldest first.
	Forks []Fork
	// ForksUnknown says why Forks could not be read; "" if they could.
	ForksUnknown string

	Synchronous string     // synchronous_standby_names: for whom commits wait; "" for nobody
	Followers   []Follower // who receives the log from here

	adoption string // that was begun last
	history  string // of the timeline, as Postgres writes it
}

// Fork is where a timeline was left for the next one.
type Fork struct {
	Timeline int
	At       LSN // what it held beyond this was not taken along
}

// Follower is a standby as its primary sees it.
type Follower struct {
	Name  string
	State string        // streaming, catchup, …; "" if the user may not see it
	Sync  string        // async, sync, quorum, potential
	Lag   int64         // bytes of the log that it does not have on disk
	Delay time.Duration // until it has a commit on disk, as measured last
}

// runningTimeline is the timeline that a primary writes on. It changes at the instant of promotion. A standby fails.
const runningTimeline = `('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int`

const roleStatement = `
select pg_is_in_recovery(), to_regclass('saldo.shard_meta') is not null, current_setting('synchronous_standby_names'),
       pg_postmaster_start_time()`

const standbyStatement = `select timeline_id, coalesce(pg_last_wal_replay_lsn()::text, '0/0') from pg_control_checkpoint()`

const primaryStatement = `select ` + runningTimeline + `, pg_current_wal_insert_lsn()::text`

const metaStatement = `select cluster, shard, timeline, coalesce(adoption::text, ''), history from saldo.shard_meta`

const followersStatement = `
select coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, ''),
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn), 0)::bigint,
       coalesce(extract(epoch from flush_lag) * 1e9, 0)::bigint
from pg_stat_replication
order by application_name, pid`

// The file is there on every server that is on a later timeline than the first. No other way tells where it forked off.
const timelineHistoryStatement = `select pg_read_file('pg_wal/' || upper(lpad(to_hex($1::int), 8, '0')) || '.history')`

// Look tells what the server at dsn is, and changes nothing. Where the log forked off can be read only by a superuser, or
// by whoever was granted the use of pg_read_file(text).
func Look(ctx context.Context, dsn, password string) (*Standing, error) {
	config, err := connConfig(dsn, password, "", "saldo look")
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("look at the server: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s, err := look(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("look at the server: %w", err)
	}
	return s, nil
}

// LookFor is Look at the server that the services reach by a shard's config (its Cluster, ID, DSN, Password and Timeline):
// of several hosts the one that is the shard's primary. refused says why they would use none of them; nil if they would.
func LookFor(ctx context.Context, config Config) (s *Standing, refused, err error) {
	session, err := connConfig(config.DSN, config.Password, "", "saldo look", expecting(config.Timeline))
	if err != nil {
		return nil, nil, err
	}
	conn, refused, err := connectRather(ctx, session, config.Cluster, config.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("look at the server: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s, err = look(ctx, conn)
	if err != nil {
		return nil, nil, fmt.Errorf("look at the server: %w", err)
	}
	return s, refused, nil
}

func look(ctx context.Context, conn *pgx.Conn) (*Standing, error) {
	var (
		s        Standing
		enrolled bool
		lsn      string
	)
	if err := conn.QueryRow(ctx, roleStatement).Scan(&s.Standby, &enrolled, &s.Synchronous, &s.Started); err != nil {
		return nil, err
	}
	if enrolled {
		err := conn.QueryRow(ctx, metaStatement).Scan(&s.Cluster, &s.Shard, &s.Adopted, &s.adoption, &s.history)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if err := conn.QueryRow(ctx, schemaVersionStatement).Scan(&s.Schema); err != nil {
			return nil, err
		}
	}
	place := primaryStatement
	if s.Standby {
		place = standbyStatement
	}
	err := conn.QueryRow(ctx, place).Scan(&s.Timeline, &lsn)
	if err != nil {
		return nil, err
	}
	if s.LSN, err = ParseLSN(lsn); err != nil {
		return nil, err
	}
	if !s.Standby {
		rows, err := conn.Query(ctx, followersStatement)
		if err != nil {
			return nil, err
		}
		if s.Followers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Follower]); err != nil {
			return nil, err
		}
	}
	return &s, s.readForks(ctx, conn)
}

// readForks takes the history that was kept at the adoption, if it is of this timeline, and else that of the server.
func (s *Standing) readForks(ctx context.Context, conn *pgx.Conn) (err error) {
	if s.Timeline <= 1 { // the first one has no history
		return nil
	}
	if s.history == "" || s.Adopted != s.Timeline {
		err := conn.QueryRow(ctx, timelineHistoryStatement, s.Timeline).Scan(&s.history)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Severity != "FATAL" {
			s.ForksUnknown = pg.Message + ": log in as a superuser, or have one say " +
				"`grant execute on function pg_read_file(text) to` the user"
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.Forks, err = parseHistory(s.history)
	return err
}

// parseHistory reads a timeline history file: a line for each timeline before this one, with the place where it was left.
func parseHistory(text string) ([]Fork, error) {
	var forks []Fork
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		timeline, err := strconv.Atoi(fields[0])
		if err != nil || len(fields) < 2 {
			return nil, fmt.Errorf("read the history of the server's timeline: %q is not a line of it", strings.TrimSpace(line))
		}
		at, err := ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("read the history of the server's timeline: %w", err)
		}
		forks = append(forks, Fork{timeline, at})
	}
	return forks, nil
}

// left returns where the server's history left a timeline, or false if it does not come from there.
func (s *Standing) left(timeline int) (LSN, bool) {
	for _, fork := range s.Forks {
		if fork.Timeline == timeline {
			return fork.At, true
		}
	}
	return 0, false
}

// descends tells whether the server's log is that of a timeline, or goes on from it.
func (s *Standing) descends(timeline int) bool {
	_, left := s.left(timeline)
	return left || s.Timeline == timeline
}

// Loss says what the server lacks of what was durable at a position that was noted before; "" if nothing is known to be
// missing, which is not to say that nothing is.
func (s *Standing) Loss(noted Position) string {
	at, left := s.left(noted.Timeline)
	switch {
	case s.ForksUnknown != "" && noted.Timeline != s.Timeline:
		return ""
	case left && noted.LSN > at:
		return fmt.Sprintf("the log was durable up to %v on timeline %d, and timeline %d goes on from %v: the %d bytes between are lost",
			noted.LSN, noted.Timeline, s.Timeline, at, noted.LSN-at)
	case noted.Timeline == s.Timeline && noted.LSN > s.LSN:
		return fmt.Sprintf("the log was durable up to %v on timeline %d, and ends at %v: the %d bytes between are lost",
			noted.LSN, noted.Timeline, s.LSN, noted.LSN-s.LSN)
	case !left && noted.Timeline != s.Timeline:
		return fmt.Sprintf("the log was durable up to %v on timeline %d, and timeline %d does not come from there: all that was written on it is lost",
			noted.LSN, noted.Timeline, s.Timeline)
	}
	return ""
}
