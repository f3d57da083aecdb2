package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// ErrOtherShard is returned by Enroll for a database that already is another shard, or a shard of another cluster.
var ErrOtherShard = errors.New("the database is enrolled as another shard")

// The insert says who the database is, once; what it says then is compared. Rows that nobody was enrolled for are another
// ledger's, whatever became of its shard_meta.
const enrollStatement = `
insert into shard_meta (cluster, shard, slots, hash, timeline)
select $1, $2, $3, $4, ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
where not exists (select from slots) and not exists (select from users) and not exists (select from operations)
on conflict do nothing`

// Enroll makes the migrated database at dsn the shard id of a cluster, for ever. Doing it again changes nothing. It runs
// as the owner.
func Enroll(ctx context.Context, dsn, password, cluster string, id ledger.ShardID) error {
	config, err := connConfig(dsn, password, "", "saldo enroll")
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("enroll shard %s: %w", id, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, enrollStatement, cluster, id, placement.Slots, placement.HashID); err != nil {
		return fmt.Errorf("enroll shard %s: %w", id, err)
	}
	var is struct {
		cluster, shard, hash string
		slots                int
	}
	err = conn.QueryRow(ctx, `select cluster, shard, hash, slots from shard_meta`).
		Scan(&is.cluster, &is.shard, &is.hash, &is.slots)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("enroll shard %s: %w: it holds rows of a ledger but does not say of which shard: take an empty database", id, ErrUnfit)
	case err != nil:
		return fmt.Errorf("enroll shard %s: %w", id, err)
	case is.cluster != cluster || is.shard != string(id):
		return fmt.Errorf("%w: shard %s of cluster %s, not shard %s of cluster %s",
			ErrOtherShard, is.shard, is.cluster, id, cluster)
	case is.hash != placement.HashID || is.slots != placement.Slots:
		return fmt.Errorf("%w: with %d slots by %s, not %d by %s",
			ErrOtherShard, is.slots, is.hash, placement.Slots, placement.HashID)
	}
	return nil
}

// Only a slot that was never here: one that has come or gone since keeps its row.
const foundStatement = `
insert into slots (slot, state, epoch)
select slot, 'owned', 1
from unnest($1::smallint[]) as new(slot)
order by slot
on conflict do nothing`

// Found makes the shard enforce the first ownership of a cluster, epoch 1, after it was decided in etcd. Doing it again
// changes nothing.
func Found(ctx context.Context, dsn, password, cluster string, id ledger.ShardID, m *placement.Map) error {
	var slots []int16
	for _, r := range m.Ranges() {
		if r.Shard == id && r.Epoch == 1 {
			for slot := r.First; slot <= r.Last; slot++ {
				slots = append(slots, int16(slot))
			}
		}
	}
	config, err := connConfig(dsn, password, roleMover, "saldo found")
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("found slots of shard %s: %w", id, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, advisoryKey); err != nil {
			return err
		}
		// With no slot held it only asks whether this is the shard.
		if _, err := tx.Exec(ctx, guardStatement, cluster, string(id), []int16{}, []int64{}); err != nil {
			return ownership(err)
		}
		_, err := tx.Exec(ctx, foundStatement, slots)
		return err
	})
	if err != nil {
		return fmt.Errorf("found slots of shard %s: %w", id, err)
	}
	return nil
}
