package shard

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/saga"
)

// Taken before the page is read: every saga of a transaction below xmin is visible to the page, and every transaction that
// has begun by now is below xmax.
const horizonStatement = `
select pg_snapshot_xmin(snapshot)::text::bigint, pg_snapshot_xmax(snapshot)::text::bigint,
       current_setting('synchronous_standby_names') <> ''
from pg_current_snapshot() as snapshot`

// No locks: two runners on one saga are harmless. Only sagas of slots that are owned here, since a slot that has moved
// leaves a copy behind.
const pendingSagasStatement = `
select s.tx, s.slot, s.tx_id, s.initiator, s.payee, s.amount, s.currency, s.trace, s.created_at
from sagas s
cross join lateral (
    select from slots owned
    where owned.slot = s.slot and owned.state = 'owned'
    offset 0 -- for each saga: the other way round, the queue would be read for each slot
) owned
where s.state = 1 and (s.tx, s.slot, s.tx_id, s.initiator) > ($1::bigint, $2::smallint, $3::text, $4::text)
  and s.tx < $5::bigint
order by s.tx, s.slot, s.tx_id, s.initiator
limit $6`

// PendingSagas reads a page of the sagas of this home that have not ended, of transactions below before, oldest
// transaction first.
func (s *Shard) PendingSagas(ctx context.Context, after saga.Cursor, before int64, limit int) (saga.Page, error) {
	var (
		page     saga.Page
		awaited  bool
		pipeline pgx.Batch
	)
	pipeline.Queue(horizonStatement).QueryRow(func(row pgx.Row) error { return row.Scan(&page.Horizon, &page.End, &awaited) })
	if before > after.Tx {
		pipeline.Queue(pendingSagasStatement,
			after.Tx, int16(after.Slot), string(after.TxID), string(after.Initiator), before, limit).Query(func(rows pgx.Rows) (err error) {
			page.Sagas, err = scanPending(rows)
			return err
		})
	}
	if err := s.pool.SendBatch(ctx, &pipeline).Close(); err != nil {
		return saga.Page{}, s.readError(fmt.Errorf("read pending sagas: %w", err))
	}
	page.More = len(page.Sagas) == limit
	if awaited && len(page.Sagas) > 0 {
		if err := s.awaitStandbys(ctx); err != nil {
			return saga.Page{}, s.readError(fmt.Errorf("wait for standbys to have pending sagas: %w", err))
		}
	}
	return page, nil
}

// awaitStandbys returns when all that can be seen is as durable as an acknowledged commit. What a server shows need not be:
// a wait for standbys may have been ended by a restart or by a person. Whoever acts on another shard for what he saw here must
// know that it stays.
func (s *Shard) awaitStandbys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.RoundTrip)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, durableHereStatement); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, awaitStatement.sql)
		return err
	})
}

func scanPending(rows pgx.Rows) (sagas []saga.Pending, err error) {
	for rows.Next() {
		p := saga.Pending{Saga: ledger.Saga{State: ledger.SagaPending}}
		p.Kind = ledger.KindTransfer
		err := rows.Scan(&p.Cursor.Tx, &p.Cursor.Slot, &p.TxID, &p.Initiator, &p.Payee, &p.Amount, &p.Currency, &p.Trace, &p.CreatedAt)
		if err != nil {
			return nil, err
		}
		p.Cursor.Identity = p.Identity
		sagas = append(sagas, p)
	}
	return sagas, rows.Err()
}

const endedSagasStatement = `
select ` + owned + `, wanted.n, coalesce(s.state, 0), coalesce(s.cause, '')
from unnest($1::smallint[], $2::text[], $3::text[]) with ordinality as wanted(slot, tx_id, initiator, n)
left join slots owned on owned.slot = wanted.slot
left join sagas s on s.slot = wanted.slot and s.tx_id = wanted.tx_id and s.initiator = wanted.initiator`

// EndedSagas reads which sagas of this home have ended, with State and Cause. A saga that is pending or not there, or
// whose slot is not owned here, is not among them; for such a slot there is a *placement.OwnershipError besides.
func (s *Shard) EndedSagas(ctx context.Context, ids []ledger.Identity) (ended map[ledger.Identity]ledger.Saga, err error) {
	n := len(ids)
	slots, txIDs, initiators := make([]int16, n), make([]string, n), make([]string, n)
	for i, id := range ids {
		slots[i], txIDs[i], initiators[i] = int16(placement.SlotOf(id.Initiator)), string(id.TxID), string(id.Initiator)
	}
	ended = make(map[ledger.Identity]ledger.Saga)
	var notOwned error
	err = s.readEach(ctx, endedSagasStatement, []any{slots, txIDs, initiators}, func(row pgx.Rows, guard *[]byte) (*error, error) {
		var (
			i    int64
			saga ledger.Saga
		)
		if err := row.Scan(guard, &i, &saga.State, &saga.Cause); err != nil {
			return nil, err
		}
		if *guard == nil && (saga.State == ledger.SagaCompleted || saga.State == ledger.SagaRefunded) {
			ended[ids[i-1]] = saga
		}
		return &notOwned, nil
	})
	if err == nil {
		err = notOwned
	}
	return ended, err
}
