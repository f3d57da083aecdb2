package baseline

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Copy is the same baseline on the same connections by COPY in binary, in two round trips for a transaction. A row costs the
// server about as much as by INSERT, with less WAL.
func (b *Insert) Copy() *Insert { return &Insert{conns: b.conns, byCopy: true} }

const (
	copyOperations = `begin;
copy saldo.operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                       system_account, system_amount, description, created_at)
from stdin (format binary)`
	copyEntries = `
copy saldo.entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
from stdin (format binary);
commit`
)

func (c *inserter) copy(ctx context.Context) error {
	now := time.Now()
	c.rows.begin()
	for i := range c.operations {
		op := &c.operations[i]
		c.rows.row(16)
		c.rows.int16(op.slot)
		c.rows.text(string(op.Initiator))
		c.rows.text(string(op.TxID))
		c.rows.int16(int16(ledger.StepStart))
		c.rows.int16(int16(op.Kind))
		c.rows.bool(false)
		c.rows.text(string(op.Payee))
		c.rows.int64(int64(op.Amount))
		c.rows.text(string(op.Currency))
		c.rows.text("")
		c.rows.int64(balance)
		c.rows.int64(1)
		c.rows.text("")
		c.rows.int64(0)
		c.rows.text("")
		c.rows.time(now)
	}
	if err := c.rows.send(ctx, c.conn, copyOperations); err != nil {
		return err
	}
	c.rows.begin()
	for i := range c.entries {
		e := &c.entries[i]
		c.rows.row(11)
		c.rows.int16(e.slot)
		c.rows.text(string(e.user))
		c.rows.text(string(e.of.Currency))
		c.rows.int64(e.version)
		c.rows.int64(int64(e.amount))
		c.rows.int64(balance)
		c.rows.text(string(e.of.TxID))
		c.rows.int16(int16(ledger.StepStart))
		c.rows.int16(int16(e.of.Kind))
		c.rows.text(string(e.counterparty))
		c.rows.time(now)
	}
	return c.rows.send(ctx, c.conn, copyEntries)
}

// copyRows are rows in Postgres's binary COPY format.
type copyRows struct{ values }

func (r *copyRows) begin() {
	r.b = append(r.b[:0], "PGCOPY\n\377\r\n\000"...)
	r.b = append(r.b, make([]byte, 8)...) // no flags, no extension
}

func (r *copyRows) row(columns int) { r.b = binary.BigEndian.AppendUint16(r.b, uint16(columns)) }

func (r *copyRows) send(ctx context.Context, conn *pgconn.PgConn, statement string) error {
	r.b = append(r.b, 0xff, 0xff) // the end
	_, err := conn.CopyFrom(ctx, bytes.NewReader(r.b), statement)
	return err
}
