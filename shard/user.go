package shard

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// A row for each account that has an entry, one with nulls if there is none.
const userStatement = `
select ` + owned + `, u.name, u.email, u.created_at, greatest(u.updated_at, a.updated_at), a.currency, a.balance, a.version
from (values ($1::smallint, $2::text)) as wanted(slot, id)
left join slots owned on owned.slot = wanted.slot
left join users u on u.slot = wanted.slot and u.id = wanted.id
left join accounts a on a.slot = u.slot and a.user_id = u.id and a.version > 0
order by a.currency`

// User reads a user with all accounts. Errors: CodeUserNotFound, CodeUnavailable, *placement.OwnershipError.
func (s *Shard) User(ctx context.Context, id ledger.UserID) (ledger.User, error) {
	user := ledger.User{ID: id}
	found := false
	err := s.read(ctx, userStatement, []any{int16(placement.SlotOf(id)), string(id)}, func(row pgx.Rows, guard *[]byte) error {
		var (
			name, email, currency *string
			created, updated      *time.Time
			balance, version      *int64
		)
		if err := row.Scan(guard, &name, &email, &created, &updated, &currency, &balance, &version); err != nil || name == nil {
			return err
		}
		found = true
		user.Name, user.Email, user.CreatedAt = *name, *email, *created
		if updated.After(user.UpdatedAt) {
			user.UpdatedAt = *updated
		}
		if currency != nil {
			account := ledger.Account{Balance: ledger.Amount(*balance), Version: *version}
			user.Holdings = append(user.Holdings, ledger.Holding{Currency: ledger.Currency(*currency), Account: account})
		}
		return nil
	})
	if err == nil && !found {
		err = userNotFound()
	}
	return user, err
}
