package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// What follows reads for people: whatever the shard has, also of slots that are not its own. Nobody may act on it. It has
// connections of its own: whoever looks at much must not make the sagas' drivers, or payments, wait.

const seeUserStatement = `
select coalesce(s.state, ''), coalesce(s.epoch, 0), coalesce(s.moved_to, ''),
       u.name, u.email, u.created_at, greatest(u.updated_at, a.updated_at), a.currency, a.balance, a.version
from (values ($1::smallint, $2::text)) as wanted(slot, id)
left join slots s on s.slot = wanted.slot
left join users u on u.slot = wanted.slot and u.id = wanted.id
left join accounts a on a.slot = u.slot and a.user_id = u.id and a.version > 0
order by a.currency`

// SeeUser reads what the shard has of a user.
func (s *Shard) SeeUser(ctx context.Context, id ledger.UserID) (ledger.UserSight, error) {
	sight := ledger.UserSight{Slot: ledger.SlotSight{Slot: placement.SlotOf(id)}}
	rows, err := s.sights.Query(ctx, seeUserStatement, int16(sight.Slot.Slot), string(id))
	if err != nil {
		return sight, s.sightError("a user", err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			name, email, currency *string
			created, updated      *time.Time
			balance, version      *int64
		)
		if err := rows.Scan(&sight.Slot.State, &sight.Slot.Epoch, &sight.Slot.MovedTo,
			&name, &email, &created, &updated, &currency, &balance, &version); err != nil {
			return sight, s.sightError("a user", err)
		}
		if name == nil {
			continue
		}
		if sight.User == nil {
			sight.User = &ledger.User{ID: id, Name: *name, Email: *email, CreatedAt: *created}
		}
		if updated.After(sight.User.UpdatedAt) {
			sight.User.UpdatedAt = *updated
		}
		if currency != nil {
			sight.User.Holdings = append(sight.User.Holdings, ledger.Holding{
				Currency: ledger.Currency(*currency),
				Account:  ledger.Account{Balance: ledger.Amount(*balance), Version: *version},
			})
		}
	}
	return sight, s.sightError("a user", rows.Err())
}

const (
	seeSlotsStatement = `
select slot, state, epoch, moved_to
from slots
where slot = any($1::smallint[])
order by slot`

	stepColumns = `
       o.slot, o.step, o.kind, o.saga, o.initiator, o.tx_id, o.payee, o.amount, o.currency, o.description,
       o.reason, o.balance, o.version, o.created_at`

	seeStepsStatement = `
select ` + stepColumns + `
from operations o
where o.slot = any($1::smallint[]) and o.tx_id = $2 and o.initiator = $3
order by o.step, o.slot`

	sagaColumns = `
       s.initiator, s.tx_id, s.payee, s.amount, s.currency, s.state, s.cause, s.trace, s.created_at, s.ended_at`

	seeSagaStatement = `
select ` + sagaColumns + `
from sagas s
where s.slot = $1 and s.tx_id = $2 and s.initiator = $3`
)

// SeeTransfer reads what the shard has of a transfer, which may have steps in these slots beside its initiator's.
func (s *Shard) SeeTransfer(
	ctx context.Context, id ledger.Identity, slots ...ledger.Slot,
) (sight ledger.TransferSight, err error) {
	home := placement.SlotOf(id.Initiator)
	numbers := []int16{int16(home)}
	for _, slot := range slots {
		numbers = append(numbers, int16(slot))
	}
	var pipeline pgx.Batch
	pipeline.Queue(seeSlotsStatement, numbers).Query(func(rows pgx.Rows) (err error) {
		sight.Slots, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ledger.SlotSight])
		return err
	})
	pipeline.Queue(seeStepsStatement, numbers, string(id.TxID), string(id.Initiator)).Query(func(rows pgx.Rows) (err error) {
		sight.Steps, err = pgx.CollectRows(rows, scanStep)
		return err
	})
	pipeline.Queue(seeSagaStatement, int16(home), string(id.TxID), string(id.Initiator)).Query(func(rows pgx.Rows) error {
		sagas, err := pgx.CollectRows(rows, scanSaga)
		if len(sagas) > 0 {
			sight.Saga = &sagas[0]
		}
		return err
	})
	return sight, s.sightError("a transfer", s.sights.SendBatch(ctx, &pipeline).Close())
}

// One probe of the key for each slot. Copies are left out: their owner tells.
const seeStartsStatement = `
select ` + stepColumns + `
from slots owned
join operations o on o.slot = owned.slot and o.tx_id = $1 and o.step = 1
where owned.state in ('owned', 'fenced')
order by o.initiator
limit 100`

// SeeStarts reads the starts with a tx_id of any initiator whose slot is the shard's own, at most 100.
func (s *Shard) SeeStarts(ctx context.Context, id ledger.TxID) ([]ledger.StepSight, error) {
	rows, err := s.sights.Query(ctx, seeStartsStatement, string(id))
	if err != nil {
		return nil, s.sightError("transfers", err)
	}
	starts, err := pgx.CollectRows(rows, scanStep)
	return starts, s.sightError("transfers", err)
}

// A few of each slot, by its key. In collation C what begins with a prefix is a range.
const (
	likeUsersStatement = `
select likely.id
from slots owned
cross join lateral (
    select u.id
    from users u
    where u.slot = owned.slot and u.id >= $1 and u.id < $2
    order by u.id
    limit 3
) likely
where owned.state in ('owned', 'fenced')
order by likely.id
limit $3`

	likeTransfersStatement = `
select likely.tx_id
from slots owned
cross join lateral (
    select o.tx_id
    from operations o
    where o.slot = owned.slot and o.tx_id >= $1 and o.tx_id < $2 and o.step = 1
    order by o.tx_id
    limit 3
) likely
where owned.state in ('owned', 'fenced')
order by likely.tx_id
limit $3`
)

// UsersLike returns some ids of users that begin with a prefix, sorted, and of slots that are the shard's own.
func (s *Shard) UsersLike(ctx context.Context, prefix string, limit int) ([]string, error) {
	return s.like(ctx, likeUsersStatement, prefix, limit)
}

// TransfersLike does that for tx_ids.
func (s *Shard) TransfersLike(ctx context.Context, prefix string, limit int) ([]string, error) {
	return s.like(ctx, likeTransfersStatement, prefix, limit)
}

func (s *Shard) like(ctx context.Context, query, prefix string, limit int) ([]string, error) {
	rows, err := s.sights.Query(ctx, query, prefix, prefix+"\x7f", limit) // ids are of characters below that
	if err != nil {
		return nil, s.sightError("ids", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, s.sightError("ids", err)
}

// ourSaga leaves out copies.
const ourSaga = `
cross join lateral (
    select from slots owned
    where owned.slot = s.slot and owned.state in ('owned', 'fenced')
    offset 0 -- for each saga: the other way round, the queue would be read for each slot
) owned`

const (
	seePendingStatement = `
select ` + sagaColumns + `
from sagas s` + ourSaga + `
where s.state = 1 and s.created_at <= clock_timestamp() - $1::interval
  and ($2::timestamptz is null or (s.created_at, s.initiator, s.tx_id) > ($2, $3::text, $4::text))
order by s.created_at, s.initiator, s.tx_id
limit $5`

	// There is no index for it: it is a person's question, and seldom asked.
	seeEndedStatement = `
select ` + sagaColumns + `
from sagas s` + ourSaga + `
where s.state = $6 and s.created_at <= clock_timestamp() - $1::interval
  and ($2::timestamptz is null or (s.created_at, s.initiator, s.tx_id) < ($2, $3::text, $4::text))
order by s.created_at desc, s.initiator desc, s.tx_id desc
limit $5`
)

// SeeSagas lists sagas of the shard's own slots. Ended ones are looked for in all there are.
func (s *Shard) SeeSagas(ctx context.Context, q ledger.SagaQuery) ([]ledger.SagaSight, error) {
	var (
		after           *time.Time
		initiator, txID string
	)
	if q.After != nil {
		after, initiator, txID = &q.After.CreatedAt, string(q.After.Initiator), string(q.After.TxID)
	}
	query, args := seePendingStatement, []any{q.OlderThan, after, initiator, txID, q.Limit}
	if q.State != ledger.SagaPending {
		query, args = seeEndedStatement, append(args, int16(q.State))
	}
	rows, err := s.sights.Query(ctx, query, args...)
	if err != nil {
		return nil, s.sightError("sagas", err)
	}
	sagas, err := pgx.CollectRows(rows, scanSaga)
	return sagas, s.sightError("sagas", err)
}

// The counters of tables are what Postgres's statistics have by now: each session reports about once a second.
const countersStatement = `
select pg_stat_get_tuples_inserted('operations'::regclass), pg_stat_get_tuples_inserted('sagas'::regclass),
       pg_stat_get_tuples_inserted('users'::regclass),
       case when has_database_privilege(current_database(), 'connect') then pg_database_size(current_database()) else 0 end,
       pending.number, pending.oldest
from (
    select count(*) as number, min(created_at) as oldest
    from (select s.created_at from sagas s` + ourSaga + ` where s.state = 1 order by s.tx limit $1) first
) pending`

// Counters reads what the shard's server counts.
func (s *Shard) Counters(ctx context.Context) (c ledger.ShardCounters, err error) {
	var oldest *time.Time
	err = s.sights.QueryRow(ctx, countersStatement, ledger.MaxPending).
		Scan(&c.Operations, &c.Sagas, &c.Users, &c.DatabaseBytes, &c.Pending, &oldest)
	if oldest != nil {
		c.OldestPending = *oldest
	}
	return c, s.sightError("counters", err)
}

// SeeHistory is History for people.
func (s *Shard) SeeHistory(
	ctx context.Context, user ledger.UserID, currency ledger.Currency, before int64, limit int,
) (ledger.HistoryPage, error) {
	return s.history(ctx, s.sights, user, currency, before, limit)
}

const moveProgressStatement = `select rows, expected, passes, last_pass from moves where move_id = $1`

// MoveProgress is how far the copy of a move to this shard has come; nothing if there is no such copy.
func (s *Shard) MoveProgress(ctx context.Context, id placement.MoveID) (p rebalance.Progress, err error) {
	err = s.sights.QueryRow(ctx, moveProgressStatement, string(id)).Scan(&p.Rows, &p.Expected, &p.Passes, &p.LastPass)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil
	}
	return p, s.sightError("a move", err)
}

// sightError makes an error one that a person may read: what the server, or the way to it, has said.
func (s *Shard) sightError(what string, err error) error {
	if err == nil {
		return nil
	}
	err = s.readError(fmt.Errorf("read %s: %w", what, err))
	var (
		stranger *placement.StrangerError
		pg       *pgconn.PgError
	)
	message := "it does not answer"
	switch {
	case errors.As(err, &stranger):
		message = stranger.Message
	case errors.Is(err, context.DeadlineExceeded):
		message = "it has not answered in time"
	case errors.As(err, &pg):
		message = "it refuses: " + pg.Message
	}
	return ledger.Unavailable(message, err)
}

func scanStep(row pgx.CollectableRow) (step ledger.StepSight, err error) {
	var kind, number int16
	err = row.Scan(&step.Slot, &number, &kind, &step.Saga, &step.Initiator, &step.TxID, &step.Payee, &step.Amount,
		&step.Currency, &step.Description, &step.Reason, &step.Balance, &step.Version, &step.CreatedAt)
	step.Step, step.Kind = ledger.Step(number), ledger.Kind(kind)
	return step, err
}

func scanSaga(row pgx.CollectableRow) (saga ledger.SagaSight, err error) {
	var ended *time.Time
	saga.Kind = ledger.KindTransfer
	err = row.Scan(&saga.Initiator, &saga.TxID, &saga.Payee, &saga.Amount, &saga.Currency, &saga.State, &saga.Cause,
		&saga.Trace, &saga.CreatedAt, &ended)
	if ended != nil {
		saga.EndedAt = *ended
	}
	return saga, err
}
