package shard

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// LSN is a place in a server's log, in bytes. It is written as Postgres does: 0/5000028.
type LSN uint64

// ParseLSN reads an LSN.
func ParseLSN(text string) (LSN, error) {
	high, low, ok := strings.Cut(text, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not a place in a log such as 0/5000028", text)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint64(l)&0xffffffff) }

// Position is how far the log of a shard goes.
type Position struct {
	Timeline int
	LSN      LSN

	next uint64 // the transaction id after the last one that is known of
}

const positionStatement = `
select ` + runningTimeline + `, pg_current_wal_insert_lsn()::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint`

// With nothing in it: only its commit counts, which waits for whatever commits wait for.
const sealStatement = `
select pg_current_xact_id()::text::bigint + 1
from pg_logical_emit_message(true, 'saldo', '')`

// Position returns a place in the log up to which everything is as durable as an acknowledged commit is: on disk, and with
// synchronous replication on the standbys that it asks for. (What the server itself says it has flushed may be further, and
// is then lost with it though nobody was told of it.) If no transaction began since last was taken, it is last.
func (s *Shard) Position(ctx context.Context, last Position) (Position, error) {
	var (
		now  Position
		text string
	)
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, positionStatement).Scan(&now.Timeline, &text, &now.next); err != nil {
			return err
		}
		var err error
		if now.LSN, err = ParseLSN(text); err != nil {
			return err
		}
		if now.Timeline == last.Timeline && now.next <= last.next && now.LSN >= last.LSN { // else it was set back
			now = last
			return nil
		}
		if _, err := tx.Exec(ctx, durableHereStatement); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sealStatement).Scan(&now.next)
	})
	if err != nil {
		return Position{}, fmt.Errorf("read the position of shard %s: %w", s.config.ID, err)
	}
	return now, nil
}

const durableHereStatement = `
select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'`
