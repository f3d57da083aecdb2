package meter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience is for a server to answer a question of the meter's.
const patience = 10 * time.Second

func connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("measure Postgres: %w", err)
	}
	config.RuntimeParams["application_name"] = "saldo bench meter"
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("measure Postgres: %w", err)
	}
	return conn, nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing depends on it
}

// counters are a server's.
type counters struct {
	transactions int64 // ids given out
	wal          int64 // bytes
	tables       int64 // bytes, with indexes
}

// The first id that is not given out yet is known without taking one.
const countersStatement = `
select pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       (pg_current_wal_insert_lsn() - '0/0')::bigint,
       (select coalesce(sum(pg_total_relation_size(c.oid)), 0)
        from pg_class c
        join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'm')
          and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_t%')::bigint`

// readAll reads all servers side by side.
func readAll(conns []*pgx.Conn) ([]counters, error) {
	all, errs := make([]counters, len(conns)), make([]error, len(conns))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var reading sync.WaitGroup
	for i, conn := range conns {
		reading.Go(func() {
			c := &all[i]
			errs[i] = conn.QueryRow(ctx, countersStatement).Scan(&c.transactions, &c.wal, &c.tables)
		})
	}
	reading.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("measure Postgres: %w", err)
		}
	}
	return all, nil
}

// What decides speed and durability, and whatever somebody has set beside it; not where things are.
const settingsStatement = `
select name, current_setting(name)
from pg_settings
where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'wal_level', 'wal_compression',
               'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'commit_delay', 'autovacuum', 'data_checksums',
               'max_connections', 'synchronous_standby_names')
   or source in ('configuration file', 'command line', 'database', 'user', 'database user')
      and name not in ('listen_addresses', 'unix_socket_directories', 'port', 'cluster_name', 'config_file',
                       'data_directory', 'hba_file', 'ident_file', 'primary_conninfo', 'archive_command', 'restore_command')
      and name !~* '^(log|ssl|lc)_|password|timezone|datestyle|application_name'`

// Settings are those of a server that matter to figures, as it says them, with its version.
func Settings(ctx context.Context, dsn string) (settings map[string]string, version string, err error) {
	conn, err := connect(ctx, dsn)
	if err != nil {
		return nil, "", err
	}
	defer closeConn(conn)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := conn.QueryRow(ctx, `show server_version`).Scan(&version); err != nil {
		return nil, "", fmt.Errorf("read Postgres's version: %w", err)
	}
	rows, err := conn.Query(ctx, settingsStatement)
	if err != nil {
		return nil, "", fmt.Errorf("read Postgres's settings: %w", err)
	}
	settings = make(map[string]string)
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	}); err != nil {
		return nil, "", fmt.Errorf("read Postgres's settings: %w", err)
	}
	return settings, version, nil
}
