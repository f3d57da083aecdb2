package shard

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// cleanRows bounds how many rows one transaction deletes. Who changes slots of the shard waits for it.
const cleanRows = 1000

// cleanOrder: what refers to something goes before it.
var cleanOrder = func() []*movedTable {
	byName := make(map[string]*movedTable)
	for _, t := range movedTables {
		byName[t.name] = t
	}
	var order []*movedTable
	for _, name := range []string{"sagas", "entries", "operations", "accounts", "users"} {
		order = append(order, byName[name])
	}
	return order
}()

// cleaning is how far the deletion of a copy has come. It is only a hint: what it skips was deleted, and the index would
// have to be read over all that is dead. The last look, which finds nothing, begins at the beginning.
type cleaning struct {
	table int   // index into cleanOrder
	from  int16 // slot
}

// CleanChunk deletes rows of the copy that is left, at the source or at the target.
func (p *Pair) CleanChunk(ctx context.Context, rows int) (int, error) {
	source, err := p.rowsAt(ctx, p.source)
	if err != nil {
		return 0, err
	}
	target, err := p.rowsAt(ctx, p.target)
	if err != nil {
		return 0, err
	}
	for _, copies := range []struct {
		at         *moverConn
		here, away []heldRow
	}{
		{p.source, source, target},
		{p.target, target, source},
	} {
		left, err := p.uncleaned(copies.here, copies.away)
		if err != nil {
			return 0, copies.at.failed("clean up", err)
		}
		if len(left) == 0 {
			continue
		}
		deleted := 0
		for fromStart := false; deleted == 0 && !fromStart; {
			if p.cleaning.table == len(cleanOrder) {
				p.cleaning = cleaning{}
			}
			fromStart = p.cleaning == cleaning{}
			if deleted, err = p.delete(ctx, copies.at, left, rows); err != nil {
				return deleted, err
			}
		}
		if deleted > 0 {
			return deleted, nil
		}
		holds := make([]placement.Hold, len(left))
		for i, slot := range left {
			holds[i].Slot = ledger.Slot(slot)
		}
		if err := copies.at.change(ctx, "call slots clean", holds, p.cleaned, nil); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// rowsAt is what a shard knows of the slots, if it is the primary that is meant.
func (p *Pair) rowsAt(ctx context.Context, side *moverConn) (rows []heldRow, err error) {
	conn, err := side.get(ctx)
	if err != nil {
		return nil, err
	}
	var read pgx.Batch
	read.Queue(guardStatement, side.shard.Cluster, string(side.shard.ID), []int16{}, []int64{})
	read.Queue(lookStatement, p.slots, make([]int64, len(p.slots))).Query(func(found pgx.Rows) (err error) {
		rows, err = scanHeld(found)
		return err
	})
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		return nil, side.failed("look for copies", err)
	}
	return rows, nil
}

// uncleaned returns the slots of which a shard (here) has a copy that this move has left. Nothing may be deleted before the
// other one (away) has been told that it is the owner, and has not lost that since in a failover: its rows may be lost as
// well. Nor may a shard be called clean that takes itself for the owner of what the other one was given.
func (p *Pair) uncleaned(here, away []heldRow) (left []int16, err error) {
	for i, row := range here {
		other := away[i]
		switch {
		case (row.state == slotOwned || row.state == slotFenced) && row.epoch < other.epoch:
			return nil, fmt.Errorf("it was not told of epoch %d, or has lost that: %w", other.epoch, row.refuse(other.epoch))
		case row.move != p.config.MoveID:
		case row.state != slotMoved:
			return nil, row.refuse(row.epoch) // it is not a copy, or not yet
		case row.clean:
		case other.epoch < row.epoch || other.state == slotIncoming && other.move == p.config.MoveID:
			return nil, fmt.Errorf("%w: the other shard's: %w", rebalance.ErrNotActivated, other.refuse(row.epoch))
		default:
			left = append(left, int16(row.slot))
		}
	}
	return left, nil
}

// What is left of a table is looked for without the lock: what is dead may have to be read over, and who changes slots of
// the shard would wait for that. Rows of a copy do not change, so they are where they were; and one that somebody else has
// deleted meanwhile may have made room for another slot's.
const leftQuery = `select ctid::text, slot from %s where slot = any($1::smallint[]) order by slot limit $2`

func (p *Pair) delete(ctx context.Context, side *moverConn, slots []int16, rows int) (deleted int, err error) {
	conn, err := side.get(ctx)
	if err != nil {
		return 0, err
	}
	defer side.rollback() // of what was not committed
	for p.cleaning.table < len(cleanOrder) && deleted < rows {
		var (
			table   = cleanOrder[p.cleaning.table]
			limit   = min(rows-deleted, cleanRows)
			from, _ = slices.BinarySearch(slots, p.cleaning.from)
			places  []string
			place   string
			write   pgx.Batch
		)
		left, err := conn.Query(ctx, fmt.Sprintf(leftQuery, table.name), slots[from:], limit)
		if err == nil {
			_, err = pgx.ForEachRow(left, []any{&place, &p.cleaning.from}, func() error {
				places = append(places, place)
				return nil
			})
		}
		if err != nil {
			return deleted, side.failed("look for a copy", err)
		}
		if len(places) > 0 {
			write.Queue("begin")
			write.Queue(lockSharedStatement.sql)
			write.Queue(guardMoveStatement, side.shard.Cluster, side.shard.ID, slots, slotMoved, p.config.MoveID, p.config.Token)
			write.Queue(table.delete, slots, places)
			write.Queue("commit")
			if err := conn.SendBatch(ctx, &write).Close(); err != nil {
				return deleted, side.failed("delete a copy", err)
			}
			deleted += len(places)
		}
		if len(places) < limit {
			p.cleaning = cleaning{table: p.cleaning.table + 1}
		}
	}
	return deleted, nil
}

func (p *Pair) cleaned(row slotRow, _ ledger.Epoch) (slotRow, error) {
	if row.move == p.config.MoveID && row.state == slotMoved {
		row.clean, row.move, row.token = true, "", 0
	}
	return row, nil
}
