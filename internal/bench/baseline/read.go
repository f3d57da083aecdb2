package baseline

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Read reads each balance by one query, through a pool for each shard.
type Read struct {
	pools   []*pgxpool.Pool
	shardOf func(ledger.UserID) int
}

// OpenRead opens pools of so many connections to the databases of shards. shardOf says which one has a user's account.
// Close them.
func OpenRead(ctx context.Context, dsns []string, conns int, shardOf func(ledger.UserID) int) (*Read, error) {
	r := &Read{shardOf: shardOf}
	for _, dsn := range dsns {
		pool, err := openPool(ctx, dsn, int32(conns))
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open the read baseline: %w", err)
		}
		r.pools = append(r.pools, pool)
	}
	return r, nil
}

func openPool(ctx context.Context, dsn string, conns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = conns, conns
	return pgxpool.NewWithConfig(ctx, config)
}

// Close ends the connections.
func (r *Read) Close() {
	for _, pool := range r.pools {
		pool.Close()
	}
}

// Call reads the balances of the users that next names for a caller's n-th call.
func (r *Read) Call(next func(caller int, n int64) ledger.UserID) load.Call {
	return func(ctx context.Context, caller int, n int64) (int, error) {
		if _, err := r.Balance(ctx, next(caller, n)); err != nil {
			return 0, coded(err)
		}
		return 1, nil
	}
}

const balanceStatement = `select balance, version from saldo.accounts where slot = $1 and user_id = $2 and currency = $3`

// Balance reads a user's account.
func (r *Read) Balance(ctx context.Context, user ledger.UserID) (account ledger.Account, err error) {
	pool := r.pools[r.shardOf(user)]
	err = pool.QueryRow(ctx, balanceStatement, slotOf(user), user, Currency).Scan(&account.Balance, &account.Version)
	return account, err
}
