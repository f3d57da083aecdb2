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
	Mark   string // of the adoption that was begun last
	Slots  []Claim
	Others []ledger.ShardID   // to which slots have gone, or from which they came
	Came   []placement.MoveID // moves by which it was made the owner of slots
	Silent []string           // hosts of its address that could not be looked at, and why
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

const othersStatement = `
select moved_to from saldo.slots where moved_to <> ''
union
select other from saldo.moved
order by 1`

const cameStatement = `select move_id from saldo.moves where activated_at is not null order by 1`

// ReadClaims reads what the shard at dsn says about slots, whether it was adopted or not: for whoever makes a registry out
// of what the shards know. Of several hosts it asks the one that FindPrimary finds, by the timeline that is known. The error
// is ErrUnfit if it is no shard, or one of another kind of cluster.
func ReadClaims(ctx context.Context, dsn, password string, known int) (*Claims, error) {
	primary, err := FindPrimary(ctx, dsn, password, known)
	if err != nil {
		return nil, fmt.Errorf("read what the shard knows: %w", err)
	}
	config, err := connConfig(primary.DSN, password, "", "saldo rebuild")
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
	if !s.Started.Equal(primary.Started) || s.Timeline != primary.Timeline {
		return nil, fmt.Errorf("read what the shard knows: another server answers at %s than a moment ago: try again", config.Host)
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
	claims := &Claims{Standing: s, Mark: s.adoption, Silent: primary.Silent}
	if err == nil {
		var rows pgx.Rows
		if rows, err = conn.Query(ctx, claimsStatement); err == nil {
			claims.Slots, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Claim])
		}
	}
	if err == nil {
		var rows pgx.Rows
		if rows, err = conn.Query(ctx, othersStatement); err == nil {
			claims.Others, err = pgx.CollectRows(rows, pgx.RowTo[ledger.ShardID])
		}
	}
	if err == nil {
		var rows pgx.Rows
		if rows, err = conn.Query(ctx, cameStatement); err == nil {
			claims.Came, err = pgx.CollectRows(rows, pgx.RowTo[placement.MoveID])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read what the shard knows: %w", err)
	}
	return claims, nil
}
