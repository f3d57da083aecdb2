package baseline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Insert only inserts: for each transfer an operation and two entries, a batch of transfers in one transaction, sorted by
// their keys. No account is read or written, nothing is checked but by the tables' own constraints. Its figure is how many
// transfers this Postgres can absorb.
//
// Rows go as arrays that are unnested side by side in a select list: faster than in from, which first stores each array.
// Both statements go in one round trip, with one Sync behind them, which makes them one transaction and commits it.
type Insert struct {
	conns  []*inserter // by caller
	byCopy bool
}

type inserter struct {
	conn     *pgconn.PgConn
	versions map[ledger.UserID]int64
	step     int64 // between the versions that this connection gives
	first    int64

	operations []operation
	entries    []entry
	arrays     arrays
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
		conn, err := openInserter(ctx, dsn)
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

func openInserter(ctx context.Context, dsn string) (*pgconn.PgConn, error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	for name, statement := range map[string]string{"operations": insertOperations, "entries": insertEntries} {
		if _, err := conn.Prepare(ctx, name, statement, nil); err != nil {
			return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
		}
	}
	return conn, nil
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
		write := c.insert
		if b.byCopy {
			write = c.copy
		}
		if err := write(ctx); err != nil {
			return 0, coded(err)
		}
		return batch, nil
	}
}

// What is the same for all of these transfers stands in the statements.
const (
	insertOperations = `
insert into saldo.operations (slot, initiator, tx_id, kind, payee, amount, currency, balance, version,
                              step, saga, reason, system_account, system_amount, description, created_at)
select unnest($1::smallint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::smallint[]), unnest($5::text[]),
       unnest($6::bigint[]), unnest($7::text[]), unnest($8::bigint[]), unnest($9::bigint[]),
       1::smallint, false, '', '', 0::bigint, '', now()`
	insertEntries = `
insert into saldo.entries (slot, user_id, currency, version, amount, balance, tx_id, kind, counterparty,
                           step, created_at)
select unnest($1::smallint[]), unnest($2::text[]), unnest($3::text[]), unnest($4::bigint[]), unnest($5::bigint[]),
       unnest($6::bigint[]), unnest($7::text[]), unnest($8::smallint[]), unnest($9::text[]),
       1::smallint, now()`
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
	var batch pgconn.Batch
	a, n, operations := &c.arrays, len(c.operations), c.operations
	a.begin()
	a.int16s(n, func(i int) int16 { return operations[i].slot })
	a.texts(n, func(i int) string { return string(operations[i].Initiator) })
	a.texts(n, func(i int) string { return string(operations[i].TxID) })
	a.int16s(n, func(i int) int16 { return int16(operations[i].Kind) })
	a.texts(n, func(i int) string { return string(operations[i].Payee) })
	a.int64s(n, func(i int) int64 { return int64(operations[i].Amount) })
	a.texts(n, func(i int) string { return string(operations[i].Currency) })
	a.int64s(n, func(int) int64 { return balance })
	a.int64s(n, func(int) int64 { return 1 })
	batch.ExecPrepared("operations", a.all, binaryFormat, nil)

	n, entries := len(c.entries), c.entries
	a.begin()
	a.int16s(n, func(i int) int16 { return entries[i].slot })
	a.texts(n, func(i int) string { return string(entries[i].user) })
	a.texts(n, func(i int) string { return string(entries[i].of.Currency) })
	a.int64s(n, func(i int) int64 { return entries[i].version })
	a.int64s(n, func(i int) int64 { return int64(entries[i].amount) })
	a.int64s(n, func(int) int64 { return balance })
	a.texts(n, func(i int) string { return string(entries[i].of.TxID) })
	a.int16s(n, func(i int) int16 { return int16(entries[i].of.Kind) })
	a.texts(n, func(i int) string { return string(entries[i].counterparty) })
	batch.ExecPrepared("entries", a.all, binaryFormat, nil)
	return c.conn.ExecBatch(ctx, &batch).Close()
}

// balance stands where a balance would.
const balance = 1 << 40

func (c *inserter) version(user ledger.UserID) int64 {
	n := c.versions[user]
	c.versions[user]++
	return n*c.step + c.first
}
