package shard

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// ErrUnfit is returned for a database that cannot be the shard it is to be. Its text says why and what to do.
var ErrUnfit = errors.New("the database cannot be this shard")

// oldestServer is the first version of Postgres that will do.
const oldestServer = 15

// Examination is what stands in a database.
type Examination struct {
	Server   int    // Postgres's major version
	Encoding string // of the database's texts
	Standby  bool   // it takes no writes
	Schema   int64  // the schema's version; 0: there is none
	Foreign  string // a table that is not Saldo's; "" if there is none

	// Who it is, where it was enrolled; else zero.
	Cluster string
	Shard   ledger.ShardID
	Slots   int
	Hash    string

	Timeline int // of the primary that it accepts as its own
}

// A table is Saldo's if it is in the schema that goose has a version of. What an extension brought is nobody's.
const examineStatement = `
select current_setting('server_version_num')::int / 10000,
       current_setting('server_encoding'),
       pg_is_in_recovery(),
       to_regclass('saldo.goose_db_version') is not null,
       to_regclass('saldo.shard_meta') is not null,
       coalesce((
           select min(format('%I.%I', n.nspname, c.relname))
           from pg_class c
           join pg_namespace n on n.oid = c.relnamespace
           where c.relkind in ('r', 'p', 'v', 'm', 'f')
             and n.nspname not like 'pg\_%' and n.nspname <> 'information_schema'
             and not (n.nspname = 'saldo' and to_regclass('saldo.goose_db_version') is not null)
             and not exists (
                 select from pg_depend d
                 where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
       ), '')`

// A version that was taken back has a later row that says so, but only whole schemas are ever taken back.
const schemaVersionStatement = `select coalesce(max(version_id), 0) from saldo.goose_db_version where is_applied`

const enrolledStatement = `select cluster, shard, slots, hash, timeline from saldo.shard_meta`

// Examine looks at the database at dsn and changes nothing. It needs a user who may read Saldo's tables, where there are any.
func Examine(ctx context.Context, dsn, password string) (*Examination, error) {
	config, err := connConfig(dsn, password, "", "saldo examine")
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("examine the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var (
		e                  Examination
		migrated, enrolled bool
	)
	err = conn.QueryRow(ctx, examineStatement).Scan(&e.Server, &e.Encoding, &e.Standby, &migrated, &enrolled, &e.Foreign)
	if err == nil && migrated {
		err = conn.QueryRow(ctx, schemaVersionStatement).Scan(&e.Schema)
	}
	if err == nil && enrolled {
		err = conn.QueryRow(ctx, enrolledStatement).Scan(&e.Cluster, &e.Shard, &e.Slots, &e.Hash, &e.Timeline)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("examine the database: %w", err)
	}
	return &e, nil
}

// Joins says what speaks against the database becoming shard id of a cluster, or being migrated as that shard; nil if
// nothing does. The error is ErrUnfit, or ErrOtherShard if it is another shard already.
func (e *Examination) Joins(cluster string, id ledger.ShardID) error {
	newest, err := SchemaVersion()
	if err != nil {
		return err
	}
	switch {
	case e.Server < oldestServer:
		return fmt.Errorf("%w: it is Postgres %d, and Saldo needs %d or newer", ErrUnfit, e.Server, oldestServer)
	case e.Standby:
		return fmt.Errorf("%w: it is a standby: name its primary", ErrUnfit)
	case e.Schema > newest:
		return fmt.Errorf("%w: its schema has version %d, which this program does not know (it knows %d): use the newer saldo that made it",
			ErrUnfit, e.Schema, newest)
	case e.Cluster != "" && e.Cluster != cluster:
		return fmt.Errorf("%w: it is shard %s of cluster %s, and this is cluster %s: take an empty database, or name its own cluster with --etcd and --etcd-prefix",
			ErrOtherShard, e.Shard, e.Cluster, cluster)
	case e.Shard != "" && e.Shard != id:
		return fmt.Errorf("%w: it is shard %s of this cluster, not %s: take an empty database", ErrOtherShard, e.Shard, id)
	case e.Shard != "" && (e.Slots != placement.Slots || e.Hash != placement.HashID):
		return fmt.Errorf("%w: it was made with %d slots by %s, and this program has %d by %s: use the saldo that made it",
			ErrUnfit, e.Slots, e.Hash, placement.Slots, placement.HashID)
	case e.Shard == "" && e.Encoding != "UTF8":
		return fmt.Errorf("%w: its encoding is %s, and names and descriptions are UTF8: create a database with encoding UTF8",
			ErrUnfit, e.Encoding)
	case e.Shard == "" && e.Foreign != "":
		return fmt.Errorf("%w: it is not empty (%s): a shard has a database of its own, create one for it", ErrUnfit, e.Foreign)
	}
	return nil
}

// TakesMoves says what speaks against slots moving to or from an enrolled database; nil if nothing does.
func (e *Examination) TakesMoves() error {
	newest, err := SchemaVersion()
	switch {
	case err != nil:
		return err
	case e.Schema > newest:
		return fmt.Errorf("%w: its schema has version %d, which this program does not know (it knows %d): use the newer saldo",
			ErrUnfit, e.Schema, newest)
	case e.Schema < newest:
		return fmt.Errorf("%w: its schema has version %d, and this program moves rows of version %d only: migrate it with `saldo shard migrate`",
			ErrUnfit, e.Schema, newest)
	}
	return nil
}

// SchemaVersion is the version that Migrate makes.
func SchemaVersion() (int64, error) {
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return 0, fmt.Errorf("read migrations: %w", err)
	}
	number, _, _ := strings.Cut(files[len(files)-1].Name(), "_") // they are sorted
	return strconv.ParseInt(number, 10, 64)
}

// Left is what a shard's own database still holds that nobody else has.
type Left struct {
	Slots     int // owned, fenced or incoming
	Uncleaned int // slots that have moved away or were given up, with a copy of their rows still here
	Sagas     int // transfers between shards that have not ended
}

// The slots are read once more than etcd's map says: the shard's own table is what its lanes obey.
const leftStatement = `
select (select count(*) from slots where state <> 'moved'),
       (select count(*) from slots where not clean),
       (select count(*) from sagas where state = 1)`

// FindLeft asks a shard (by its Cluster, ID, DSN, Password and Timeline) what it still holds.
func FindLeft(ctx context.Context, shard Config) (Left, error) {
	var left Left
	config, err := connConfig(shard.DSN, shard.Password, roleMover, "saldo remove", expecting(shard.Timeline))
	if err != nil {
		return left, err
	}
	mustBe(config, shard.Cluster, shard.ID)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return left, fmt.Errorf("ask shard %s what it holds: %w", shard.ID, ownership(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := conn.QueryRow(ctx, leftStatement).Scan(&left.Slots, &left.Uncleaned, &left.Sagas); err != nil {
		return left, fmt.Errorf("ask shard %s what it holds: %w", shard.ID, err)
	}
	return left, nil
}
