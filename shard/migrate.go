package shard

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema of the database at dsn to this program's version and returns how many migrations it applied.
// It runs as the user that dsn names, who becomes the owner and needs the right to create roles and a schema. Several at
// once wait for each other.
func Migrate(ctx context.Context, dsn, password string) (applied int, err error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return 0, err
	}
	return migrate(ctx, dsn, password, files)
}

func migrate(ctx context.Context, dsn, password string, files fs.FS) (applied int, err error) {
	config, err := connConfig(dsn, password, "", "saldo migrate")
	if err != nil {
		return 0, err
	}
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	db := stdlib.OpenDB(*config)
	defer db.Close()
	if err := createSchema(ctx, db); err != nil {
		return 0, err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return 0, err
	}
	store, err := database.NewStore(goose.DialectPostgres, "saldo.goose_db_version")
	if err != nil {
		return 0, err
	}
	provider, err := goose.NewProvider("", db, files, goose.WithStore(store), goose.WithSessionLocker(locker))
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return len(results), fmt.Errorf("migrate: %w", err)
	}
	return len(results), nil
}

// Schema returns the version of the shard's tables. The error is a *placement.StrangerError if the shard is not used as it is,
// as one whose tables are older than this program.
func (s *Shard) Schema(ctx context.Context) (version int64, err error) {
	if err := s.pool.QueryRow(ctx, schemaVersionStatement).Scan(&version); err != nil {
		return 0, s.readError(fmt.Errorf("read the version of the tables: %w", err))
	}
	return version, nil
}

func createSchema(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `create schema if not exists saldo`)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == stateUnique {
		err = nil // two at once: "if not exists" looks before it locks
	}
	if err != nil {
		return fmt.Errorf("create schema saldo: %w", err)
	}
	return nil
}
