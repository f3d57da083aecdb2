package shard

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Entry numbers have no gaps, so an account's version is its number of entries, and a page is a run of keys at any depth.
const historyStatement = `
select ` + owned + `, u.id is not null, coalesce(a.version, 0),
       e.version, e.amount, e.balance, e.tx_id, e.step, e.kind, e.counterparty, e.created_at
from (values ($1::smallint, $2::text, $3::text)) as wanted(slot, user_id, currency)
left join slots owned on owned.slot = wanted.slot
left join users u on u.slot = wanted.slot and u.id = wanted.user_id
left join accounts a on a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency
left join lateral (
    select *
    from entries
    where slot = wanted.slot and user_id = wanted.user_id and currency = wanted.currency and version < $4
    order by version desc
    limit $5
) e on true
order by e.version desc`

// History reads at most limit entries of an account that come before version before (0: from the newest), newest first.
// Errors: CodeUserNotFound, CodeUnavailable, *placement.OwnershipError.
func (s *Shard) History(ctx context.Context, user ledger.UserID, currency ledger.Currency, before int64, limit int) (ledger.HistoryPage, error) {
	return s.history(ctx, s.pool, user, currency, before, limit)
}

func (s *Shard) history(
	ctx context.Context, pool *pgxpool.Pool, user ledger.UserID, currency ledger.Currency, before int64, limit int,
) (ledger.HistoryPage, error) {
	if before == 0 {
		before = 1<<63 - 1
	}
	var (
		page  ledger.HistoryPage
		found bool
	)
	args := []any{int16(placement.SlotOf(user)), string(user), string(currency), before, limit}
	err := s.readBy(ctx, pool, historyStatement, args, func(row pgx.Rows, guard *[]byte) error {
		var (
			version, amount, balance *int64
			step, kind               *int16
			txID, counterparty       *string
			at                       *time.Time
		)
		err := row.Scan(guard, &found, &page.Total, &version, &amount, &balance, &txID, &step, &kind, &counterparty, &at)
		if err != nil || version == nil {
			return err
		}
		line := ledger.HistoryLine{CreatedAt: *at, Entry: ledger.Entry{
			AccountKey: ledger.AccountKey{User: user, Currency: currency},
			Version:    *version, Amount: ledger.Amount(*amount), Balance: ledger.Amount(*balance),
			Step: ledger.Step(*step), Kind: ledger.Kind(*kind), Counterparty: ledger.UserID(*counterparty),
		}}
		line.Identity = ledger.Identity{Initiator: user, TxID: ledger.TxID(*txID)}
		if line.Kind == ledger.KindTransfer && line.Step != ledger.StepRefund && line.Amount > 0 {
			line.Initiator = line.Counterparty // money received
		}
		page.Lines = append(page.Lines, line)
		return nil
	})
	if err == nil && !found {
		err = userNotFound()
	}
	return page, err
}
