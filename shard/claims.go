package shard

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Claims is what a shard's own tables say about slots, and the server that says so.
type Claims struct {
	*Standing
	Mark  string // of the adoption that was begun last
	Slots []Claim
}

// Claim is what a shard knows of a slot.
type Claim struct {
	Slot    ledger.Slot
	Has     bool // it answers for the slot, now or as soon as a fence is lifted
	Coming  bool // it has a copy of the slot that may become its own
	Epoch   ledger.Epoch
	Move    placement.MoveID // under which it is on its way; "" if none
	Left    placement.MoveID // that has left a copy here; "" if none
	MovedTo ledger.ShardID   // who has it, if neither Has nor Coming
	Fenced  bool
}

const claimsStatement = `
select slot, state in ('owned', 'fenced'), state = 'incoming', epoch, case state when 'moved' then '' else move_id end,
       case when state = 'moved' and not clean then move_id else '' end, moved_to, state = 'fenced'
from saldo.slots
order by slot`

// ReadClaims reads what the shard at dsn says about slots, whether it was adopted or not: for whoever makes a registry out
// of what the shards know. The error is ErrUnfit if it is no shard, or one of another kind of cluster.
func ReadClaims(ctx context.Context, dsn, password string) (*Claims, error) {
	config, err := connConfig(dsn, password, "", "saldo rebuild")
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("read what the shard knows: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s, err := look(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read what the shard knows: %w", err)
	}
	if s.Cluster == "" {
		return nil, fmt.Errorf("%w: it is none", ErrUnfit)
	}
	if s.Standby {
		return nil, fmt.Errorf("%w: it is a standby: name its primary", ErrUnfit)
	}
	var (
		hash  string
		slots int
	)
	err = conn.QueryRow(ctx, `select hash, slots from saldo.shard_meta`).Scan(&hash, &slots)
	if err == nil && (hash != placement.HashID || slots != placement.Slots) {
		return nil, fmt.Errorf("%w: it was made with %d slots by %s, and this program has %d by %s",
			ErrUnfit, slots, hash, placement.Slots, placement.HashID)
	}
	claims := &Claims{Standing: s, Mark: s.adoption}
	if err == nil {
		var rows pgx.Rows
		if rows, err = conn.Query(ctx, claimsStatement); err == nil {
			claims.Slots, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Claim])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read what the shard knows: %w", err)
	}
	return claims, nil
}
