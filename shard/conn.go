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
	"jit":                                 "off",
	"timezone":                            "UTC",
}

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
// They would answer reads as well.
func mustBe(config *pgx.ConnConfig, cluster string, id ledger.ShardID) {
	before := config.ValidateConnect
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		return conn.ExecParams(ctx, connectStatement, [][]byte{[]byte(cluster), []byte(id)}, nil, nil, nil).Read().Err
	}
}

const connectStatement = `select guard($1, $2, '{}', '{}')`

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
