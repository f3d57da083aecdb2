package shard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// readEach runs a query whose rows begin with what the guard thinks of the row's slot: null if it is owned, else a slotState
// as JSON. scan reads a row and returns where the error of that row belongs; it is set to a *placement.OwnershipError if
// the slot is not owned.
//
// A server that was started again leaves broken connections in the pool: a query that meets one before it has read a row is
// made once more, on a new connection.
func (s *Shard) readEach(ctx context.Context, query string, args []any, scan func(row pgx.Rows, guard *[]byte) (*error, error)) error {
	return s.readEachBy(ctx, s.pool, query, args, scan)
}

func (s *Shard) readEachBy(
	ctx context.Context, pool *pgxpool.Pool, query string, args []any, scan func(row pgx.Rows, guard *[]byte) (*error, error),
) error {
	asked := time.Now()
	began, err := s.tryReadEach(ctx, pool, query, args, scan)
	if err != nil && !began && brokenConnection(err) && ctx.Err() == nil {
		pool.Reset()
		_, err = s.tryReadEach(ctx, pool, query, args, scan)
	}
	s.tellQuery(ctx, query, asked, err)
	if err != nil {
		return s.readError(err)
	}
	return nil
}

func (s *Shard) tryReadEach(
	ctx context.Context, pool *pgxpool.Pool, query string, args []any, scan func(row pgx.Rows, guard *[]byte) (*error, error),
) (began bool, err error) {
	rows, err := pool.Query(ctx, query, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		began = true
		var guard []byte
		rowErr, err := scan(rows, &guard)
		if err != nil {
			return began, err
		}
		if guard == nil {
			continue
		}
		var state slotState
		if err := json.Unmarshal(guard, &state); err != nil {
			return began, err
		}
		refusal := state.refusal()
		s.lane.metrics.refused(refusal)
		*rowErr = &placement.OwnershipError{Refusals: []placement.Refusal{refusal}}
	}
	return began, rows.Err()
}

// brokenConnection tells whether an error is about the connection, not the query: no answer, or the server's last words.
func brokenConnection(err error) bool {
	var pg *pgconn.PgError
	return !errors.As(err, &pg) || pg.Severity == "FATAL"
}

// read is readEach where one slot that is not owned fails the whole.
func (s *Shard) read(ctx context.Context, query string, args []any, scan func(row pgx.Rows, guard *[]byte) error) error {
	return s.readBy(ctx, s.pool, query, args, scan)
}

func (s *Shard) readBy(
	ctx context.Context, pool *pgxpool.Pool, query string, args []any, scan func(row pgx.Rows, guard *[]byte) error,
) error {
	var refused error
	err := s.readEachBy(ctx, pool, query, args, func(row pgx.Rows, guard *[]byte) (*error, error) {
		return &refused, scan(row, guard)
	})
	if err != nil {
		return err
	}
	return refused
}

// readError makes an error of a read one that callers know: a shard that does not answer is unavailable, and one that is
// not the shard that was meant a *placement.StrangerError.
func (s *Shard) readError(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch judge(err, false) {
		case fateStranger:
			err := ownership(err)
			s.lane.metrics.stranger(err)
			return err
		case fateTransient:
		default:
			return fmt.Errorf("read from shard %s: %w", s.config.ID, err)
		}
	}
	return ledger.Unavailable("the shard is down or busy: try again", fmt.Errorf("read from shard %s: %w", s.config.ID, err))
}

// owned is the first column of every read, over a left join of slots as owned. A slot that is not owned makes a JSON
// object for slotState.
const owned = `
    case when owned.state = 'owned' then null
    else jsonb_build_object('slot', wanted.slot, 'state', owned.state, 'epoch', owned.epoch, 'moved_to', owned.moved_to)
    end`
