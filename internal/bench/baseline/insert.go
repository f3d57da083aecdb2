package baseline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Insert only inserts: for each transfer an operation and two entries, a batch of transfers in one transaction. No account
// is read or written, nothing is checked but by the tables' own constraints. Its figure is how many transfers this Postgres
// can absorb.
//
// Rows go by COPY in binary (twice as fast as inserts from arrays), sorted by their keys, in two round trips for a
// transaction.
type Insert struct {
	conns []*inserter // by caller
}

type inserter struct {
	conn     *pgconn.PgConn
	versions map[ledger.UserID]int64
	step     int64 // between the versions that this connection gives
	first    int64

	operations []operation
	entries    []entry
	rows       copyRows
}

type operation struct {
	slot int16
	ledger.Transfer
}

type entry struct {
	slot         int16
	user         ledger.UserID
	version      int64
	amount       ledger.Amount
	of           *operation
	counterparty ledger.UserID
}

// OpenInsert opens a connection for each caller to a database of Create's, which nothing else may use. Close them.
func OpenInsert(ctx context.Context, dsn string, callers int) (*Insert, error) {
	b := &Insert{}
	for i := range callers {
		conn, err := pgconn.Connect(ctx, dsn)
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("open the insert baseline: %w", err)
		}
		// No two connections make an entry with the same key, without speaking to each other.
		b.conns = append(b.conns, &inserter{
			conn: conn, versions: make(map[ledger.UserID]int64), step: int64(callers), first: int64(i + 1),
		})
	}
	return b, nil
}

// Close ends the connections.
func (b *Insert) Close() {
	for _, c := range b.conns {
		_ = c.conn.Close(context.Background()) // nothing is under way
	}
}

// Call inserts a batch of the caller's next transfers.
func (b *Insert) Call(batch int, transfers Transfers) load.Call {
	return func(ctx context.Context, caller int, n int64) (int, error) {
		c := b.conns[caller]
		c.operations = c.operations[:0]
		for i := range int64(batch) {
			t := transfers(caller, n*int64(batch)+i)
			c.operations = append(c.operations, operation{slotOf(t.Initiator), t})
		}
		c.arrange()
		if err := c.insert(ctx); err != nil {
			return 0, coded(err)
		}
		return batch, nil
	}
}

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

// arrange makes the entries, and sorts as the tables' keys are.
func (c *inserter) arrange() {
	slices.SortFunc(c.operations, func(x, y operation) int {
		return cmp.Or(cmp.Compare(x.slot, y.slot), strings.Compare(string(x.TxID), string(y.TxID)))
	})
	c.entries = c.entries[:0]
	for i := range c.operations {
		op := &c.operations[i]
		c.entries = append(c.entries,
			entry{op.slot, op.Initiator, c.version(op.Initiator), -op.Amount, op, op.Payee},
			entry{slotOf(op.Payee), op.Payee, c.version(op.Payee), op.Amount, op, op.Initiator})
	}
	slices.SortFunc(c.entries, func(x, y entry) int {
		return cmp.Or(cmp.Compare(x.slot, y.slot), strings.Compare(string(x.user), string(y.user)),
			cmp.Compare(x.version, y.version))
	})
}

func (c *inserter) insert(ctx context.Context) error {
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

// balance stands where a balance would.
const balance = 1 << 40

func (c *inserter) version(user ledger.UserID) int64 {
	n := c.versions[user]
	c.versions[user]++
	return n*c.step + c.first
}
