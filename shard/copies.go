package shard

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

const uncleanedStatement = `select slot from slots where not clean order by slot`

// Uncleaned returns the slots of which the shard still has a copy that is not its own.
func (s *Shard) Uncleaned(ctx context.Context) (placement.SlotSet, error) {
	rows, err := s.pool.Query(ctx, uncleanedStatement)
	if err != nil {
		return nil, fmt.Errorf("look for copies: %w", s.readError(err))
	}
	slots, err := pgx.CollectRows(rows, pgx.RowTo[ledger.Slot])
	if err != nil {
		return nil, fmt.Errorf("look for copies: %w", s.readError(err))
	}
	return slots, nil
}

const copiesStatement = `select distinct move_id from slots where not clean order by move_id`

// Copies returns the moves whose copies those are.
func (s *Shard) Copies(ctx context.Context) ([]placement.MoveID, error) {
	rows, err := s.pool.Query(ctx, copiesStatement)
	if err != nil {
		return nil, fmt.Errorf("look for copies: %w", s.readError(err))
	}
	moves, err := pgx.CollectRows(rows, pgx.RowTo[placement.MoveID])
	if err != nil {
		return nil, fmt.Errorf("look for copies: %w", s.readError(err))
	}
	return moves, nil
}

const fencedStatement = `
select distinct move_id
from slots
where state = 'fenced' and fenced_at < clock_timestamp() - $1::interval
order by move_id`

// Fenced returns the moves whose slots the shard has had fenced for longer than a time, by its own clock.
func (s *Shard) Fenced(ctx context.Context, longer time.Duration) ([]placement.MoveID, error) {
	rows, err := s.pool.Query(ctx, fencedStatement, longer)
	if err != nil {
		return nil, fmt.Errorf("look for fenced slots: %w", s.readError(err))
	}
	moves, err := pgx.CollectRows(rows, pgx.RowTo[placement.MoveID])
	if err != nil {
		return nil, fmt.Errorf("look for fenced slots: %w", s.readError(err))
	}
	return moves, nil
}
