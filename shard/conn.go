package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// The database roles that sessions take, whatever user they log in as.
const (
	roleService = "saldo_service" // routers and coordinators
	roleMover   = "saldo_mover"   // whoever decides ownership
)

// session is the settings of every session of Saldo's. Schema-qualified by search_path, with pg_temp last so that no
// temporary table can stand before ours.
var session = map[string]string{
	"search_path": "saldo, pg_temp",
	// A process that freezes inside a transaction must not hold the shard's locks.
	"idle_in_transaction_session_timeout": "2s",
	"lock_timeout":                        "5s",
	"default_transaction_isolation":       "read committed",
	"client_min_messages":                 "warning", // the lanes must hear of a commit that did not wait
	"jit":                                 "off",
	"timezone":                            "UTC",
}

// durableStatement sees to it that an answered commit of the session is on disk, whatever is set for the server, the
// database or the role, now or later. Levels above are the operator's choice, at the time when the session begins: a level
// that is not set here would follow a reload of the server's configuration, down as well.
const durableStatement = `
select set_config('synchronous_commit', case level when 'off' then 'on' else level end, false)
from current_setting('synchronous_commit') as level`

// lookups is for sessions whose statements join a list of keys to a table by its primary key. The planner does not know
// how short the lists are, and a plan made while a table is small must not become a scan when it has grown.
var lookups = map[string]string{
	"plan_cache_mode":  "force_generic_plan",
	"enable_hashjoin":  "off",
	"enable_mergejoin": "off",
	"enable_seqscan":   "off",
}

// connConfig returns the settings of a connection to dsn. A password that dsn lacks is taken from password, and else from
// where libpq looks (PGPASSWORD, PGPASSFILE).
func connConfig(dsn, password, role, application string, settings ...map[string]string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse dsn: %w", err)
	}
	if password != "" {
		config.Password = password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 3 * time.Second
	}
	if address, ok := config.RuntimeParams[hostAddress]; ok {
		delete(config.RuntimeParams, hostAddress)
		config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{address}, nil }
	}
	config.RuntimeParams["application_name"] = application
	if role != "" {
		config.RuntimeParams["role"] = role
	}
	maps.Copy(config.RuntimeParams, session)
	for _, more := range settings {
		maps.Copy(config.RuntimeParams, more)
	}
	config.DialFunc = (&net.Dialer{
		Timeout: config.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3,
		},
	}).DialContext
	return config, nil
}

var errNoCancel = errors.New("this connection sends no cancel requests")

// connectWithoutCancel opens a connection that can never send a cancel request: once it is open, its dialer refuses. See
// the package's doc.
func connectWithoutCancel(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	config = config.Copy()
	dial, open := config.DialFunc, new(atomic.Bool)
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if open.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, address)
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	open.Store(true)
	return conn, err
}

// expecting is the setting by which a session tells the guard on which timeline the primary must be; 0: on whichever the
// database has adopted. An old primary that comes back has adopted itself, and only this refuses it.
func expecting(timeline int) map[string]string {
	return map[string]string{"saldo.timeline": strconv.Itoa(timeline)}
}

// mustBe makes every new connection ask, once, whether it leads to the shard that is meant, and go on to the next host of
// the address if not: a standby, another cluster's shard behind the same address, a primary that is not the adopted one.
// They would answer reads as well. And whether its tables are not older than this program: newer ones are those that the next
// version's programs need, and that this version's go on with.
func mustBe(config *pgx.ConnConfig, cluster string, id ledger.ShardID) {
	before := config.ValidateConnect
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		answer := conn.ExecParams(ctx, connectStatement, [][]byte{[]byte(cluster), []byte(id)}, nil, nil, nil).Read()
		if answer.Err != nil {
			return answer.Err
		}
		schema, err := strconv.ParseInt(string(answer.Rows[0][1]), 10, 64)
		if err != nil {
			return fmt.Errorf("read the version of the tables: %w", err)
		}
		return tooOld(schema)
	}
}

const connectStatement = `select guard($1, $2, '{}', '{}'), (` + schemaVersionStatement + `)`

// tooOld is what the guard would answer, if it knew which tables the caller needs; nil if these will do.
func tooOld(schema int64) error {
	needed, err := SchemaVersion()
	if err != nil || schema >= needed {
		return err
	}
	return &pgconn.PgError{
		Severity: "ERROR", Code: stateOldTables,
		Message: fmt.Sprintf("its tables have version %d, and this program needs version %d: "+
			"say `saldo shard migrate` with a saldo of this program's version", schema, needed),
	}
}

// connectRather connects to the shard that is meant, or, if every server that answers refuses to be it, to one of those,
// and returns what the refusal was: for who wants to look at it all the same.
func connectRather(ctx context.Context, config *pgx.ConnConfig, cluster string, id ledger.ShardID) (
	conn *pgx.Conn, refused, err error,
) {
	strict := config.Copy()
	mustBe(strict, cluster, id)
	conn, err = pgx.ConnectConfig(ctx, strict)
	var pg *pgconn.PgError
	if err == nil || !errors.As(err, &pg) {
		return conn, nil, err
	}
	refused = ownership(err)
	conn, err = pgx.ConnectConfig(ctx, config)
	return conn, refused, err
}

// newPool opens a pool for reads. It connects when it is first used.
func newPool(config *pgx.ConnConfig, size int32) (*pgxpool.Pool, error) {
	pool, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	pool.ConnConfig = config
	pool.MaxConns = size
	pool.MaxConnIdleTime = 5 * time.Minute
	return pgxpool.NewWithConfig(context.Background(), pool)
}
