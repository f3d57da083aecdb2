package shard

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
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
	for _, side := range []*moverConn{p.source, p.target} {
		left, err := p.uncleaned(ctx, side)
		if err != nil {
			return 0, err
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
			if deleted, err = p.delete(ctx, side, left, rows); err != nil {
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
		if err := side.change(ctx, "call slots clean", holds, p.cleaned, nil); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// uncleaned returns the slots of which a shard has a copy that this move has left.
func (p *Pair) uncleaned(ctx context.Context, side *moverConn) (left []int16, err error) {
	conn, err := side.get(ctx)
	if err != nil {
		return nil, err
	}
	holds := make([]placement.Hold, len(p.slots))
	for i, slot := range p.config.Slots {
		holds[i].Slot = slot
	}
	rows, err := side.look(ctx, conn, holds)
	if err != nil {
		return nil, side.failed("look for copies", err)
	}
	for _, row := range rows {
		switch {
		case row.move != p.config.MoveID:
		case row.state != slotMoved:
			return nil, side.failed("clean up", row.refuse(row.epoch)) // it is not a copy, or not yet
		case !row.clean:
			left = append(left, int16(row.slot))
		}
	}
	return left, nil
}

func (p *Pair) delete(ctx context.Context, side *moverConn, slots []int16, rows int) (deleted int, err error) {
	conn, err := side.get(ctx)
	if err != nil {
		return 0, err
	}
	defer side.rollback() // of what was not committed
	for p.cleaning.table < len(cleanOrder) && deleted < rows {
		var (
			limit   = int64(min(rows-deleted, cleanRows))
			from, _ = slices.BinarySearch(slots, p.cleaning.from)
			n       int64
			last    int16
			write   pgx.Batch
		)
		write.Queue("begin")
		write.Queue(lockSharedStatement.sql)
		write.Queue(guardMoveStatement, side.shard.Cluster, side.shard.ID, slots, slotMoved, p.config.MoveID, p.config.Token)
		write.Queue(cleanOrder[p.cleaning.table].delete, slots[from:], limit).QueryRow(func(row pgx.Row) error {
			return row.Scan(&n, &last)
		})
		write.Queue("commit")
		if err := conn.SendBatch(ctx, &write).Close(); err != nil {
			return deleted, side.failed("delete a copy", err)
		}
		deleted += int(n)
		if p.cleaning.from = last; n < limit {
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
