package routing

import (
	"context"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// CreateUser stores a user. created is false if exactly this user was there, who is returned with all accounts. Errors:
// CodeUserConflict if the id is taken with other contents, CodeUnavailable, CodeOverloaded, CodeUnknown.
func (r *Router) CreateUser(ctx context.Context, user ledger.User) (stored ledger.User, created bool, err error) {
	err = r.onShardOf(ctx, user.ID, func(_ *placement.Map, s Shard, hold placement.Hold) (err error) {
		stored, created, err = s.CreateUser(ctx, user, hold)
		if err == nil && !created {
			stored, err = s.User(ctx, user.ID)
		}
		return err
	})
	return stored, created, err
}

// User reads a user with all accounts. Errors: CodeUserNotFound, CodeUnavailable.
func (r *Router) User(ctx context.Context, id ledger.UserID) (user ledger.User, err error) {
	err = r.onShardOf(ctx, id, func(_ *placement.Map, s Shard, _ placement.Hold) (err error) {
		user, err = s.User(ctx, id)
		return err
	})
	return user, err
}

// Balance reads one account; zero if the user has none in the currency. Errors: CodeUserNotFound, CodeUnavailable,
// CodeOverloaded.
func (r *Router) Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (account ledger.Account, err error) {
	err = r.onShardOf(ctx, id, func(_ *placement.Map, s Shard, _ placement.Hold) (err error) {
		account, err = s.Balance(ctx, id, currency)
		return err
	})
	return account, err
}

// History reads at most limit entries of an account that come before version before (0: from the newest), newest first.
// Errors: CodeUserNotFound, CodeUnavailable.
func (r *Router) History(ctx context.Context, id ledger.UserID, currency ledger.Currency, before int64, limit int) (page ledger.HistoryPage, err error) {
	err = r.onShardOf(ctx, id, func(_ *placement.Map, s Shard, _ placement.Hold) (err error) {
		page, err = s.History(ctx, id, currency, before, limit)
		return err
	})
	return page, err
}
