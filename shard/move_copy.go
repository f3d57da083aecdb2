package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// copied is how far the copy of a move has come: its row of moves.
type copied struct {
	server
	snapshot string
	lsn      string
	stage    int      // index into movedTables
	after    []string // slot and key
	half     bool
	verified []int16
	rebalance.Progress
}

// server is which source it is.
type server struct {
	system   int64
	timeline int32
}

const progressStatement = `
select system, timeline, snapshot::text, lsn::text, stage, after, half, passes, verified, rows, expected, last_pass
from moves
where move_id = $1`

// progress reads how far the copy has come; nil if it has not begun.
func (p *Pair) progress(ctx context.Context) (*copied, error) {
	conn, err := p.target.get(ctx)
	if err != nil {
		return nil, err
	}
	c := new(copied)
	err = conn.QueryRow(ctx, progressStatement, p.config.MoveID).Scan(&c.system, &c.timeline, &c.snapshot, &c.lsn, &c.stage,
		&c.after, &c.half, &c.Passes, &c.verified, &c.Rows, &c.Expected, &c.LastPass)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, p.target.failed("read the progress", err)
	}
	return c, nil
}

// Progress is how far the copy has come, for people.
func (p *Pair) Progress(ctx context.Context) (rebalance.Progress, error) {
	c, err := p.progress(ctx)
	if err != nil || c == nil {
		return rebalance.Progress{}, err
	}
	return c.Progress, nil
}

const serverStatement = `select (pg_control_system()).system_identifier, ` + runningTimeline

// The statistics are of all rows of the shard, those of the slots are taken to be their share of them.
const expectedStatement = `
select coalesce(sum(greatest(c.reltuples, 0)) * cardinality($1::smallint[])
                / (select greatest(count(*), 1) from slots where state in ('owned', 'fenced')), 0)::bigint
from pg_class c
where c.oid = any(array['users', 'accounts', 'operations', 'entries', 'sagas']::regclass[])`

const beginMoveStatement = `
insert into moves (move_id, source, system, timeline, snapshot, lsn, expected)
values ($1, $2, $3, $4, $5::text::pg_snapshot, $6::text::pg_lsn, $7)
on conflict do nothing`

// begin saves a snapshot of the source: what it did not see is found by the passes, whatever the first copy sees.
func (p *Pair) begin(ctx context.Context) error {
	conn, err := p.reader.get(ctx)
	if err != nil {
		return err
	}
	var (
		read     pgx.Batch
		source   server
		snapshot string
		expected int64
	)
	read.Queue(serverStatement).QueryRow(func(row pgx.Row) error { return row.Scan(&source.system, &source.timeline) })
	read.Queue(expectedStatement, p.slots).QueryRow(func(row pgx.Row) error { return row.Scan(&expected) })
	read.Queue(`select pg_current_snapshot()::text`).QueryRow(func(row pgx.Row) error { return row.Scan(&snapshot) })
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		return p.reader.failed("take a snapshot", err)
	}
	lsn, err := p.harden(ctx)
	if err != nil {
		return err
	}
	return p.write(ctx, "begin a copy", func(write *pgx.Batch) error {
		write.Queue(beginMoveStatement, p.config.MoveID, p.config.Source.ID, source.system, source.timeline, snapshot, lsn,
			expected)
		return nil
	})
}

const hardenStatement = `select pg_logical_emit_message(true, 'saldo', '')::text`

// harden makes the source remember, by a commit, all transactions that have begun there, and returns how far its log is
// durable at least. A snapshot may be stored only after that: of a transaction that came to nothing a server that crashes
// may know nothing afterwards, and gives its number out again, to one that the snapshot would take for ended.
func (p *Pair) harden(ctx context.Context) (lsn string, err error) {
	conn, err := p.source.get(ctx)
	if err != nil {
		return "", err
	}
	if err := conn.QueryRow(ctx, hardenStatement).Scan(&lsn); err != nil {
		return "", p.source.failed("make its log durable", err)
	}
	return lsn, nil
}

const guardMoveStatement = `select guard_move($1, $2, $3::smallint[], $4, $5, $6)`

// write runs a transaction at the target that writes rows of the slots: only while they are incoming under this move. The
// statements of each trip go there together, after those of the trip before were answered; an error ends it.
func (p *Pair) write(ctx context.Context, doing string, trips ...func(write *pgx.Batch) error) error {
	conn, err := p.target.get(ctx)
	if err != nil {
		return err
	}
	defer p.target.rollback() // of what was not committed
	for i, trip := range trips {
		var write pgx.Batch
		if i == 0 {
			write.Queue("begin")
			write.Queue(lockSharedStatement.sql)
			write.Queue(guardMoveStatement, p.config.Target.Cluster, p.config.Target.ID, p.slots, slotIncoming,
				p.config.MoveID, p.config.Token)
		}
		if err := trip(&write); err != nil {
			return p.target.failed(doing, err)
		}
		if i == len(trips)-1 {
			write.Queue("commit")
		}
		if write.Len() == 0 {
			continue
		}
		if err := conn.SendBatch(ctx, &write).Close(); err != nil {
			return p.target.failed(doing, err)
		}
	}
	return nil
}

const rememberedStatement = `
select pg_snapshot_xmax(pg_current_snapshot()) >= pg_snapshot_xmax($1::text::pg_snapshot)
       and pg_current_wal_insert_lsn() >= $2::text::pg_lsn`

// mustBeSame asks the source who it is: the copy goes on only with the server that it began with. Another one's
// transactions have other numbers, or it has lost some of them; so has the same one if it was restored to an earlier state.
func (p *Pair) mustBeSame(read *pgx.Batch, c *copied) {
	read.Queue(guardStatement, p.config.Source.Cluster, string(p.config.Source.ID), []int16{}, []int64{})
	read.Queue(serverStatement).QueryRow(func(row pgx.Row) error {
		var is server
		if err := row.Scan(&is.system, &is.timeline); err != nil {
			return err
		}
		if is != c.server {
			return fmt.Errorf("%w: that was system %d on timeline %d, this is system %d on timeline %d",
				rebalance.ErrStale, c.system, c.timeline, is.system, is.timeline)
		}
		return nil
	})
	read.Queue(rememberedStatement, c.snapshot, c.lsn).QueryRow(func(row pgx.Row) error {
		var remembered bool
		if err := row.Scan(&remembered); err != nil {
			return err
		}
		if !remembered {
			return fmt.Errorf("%w: it is in a state from before it was last read, at %s", rebalance.ErrStale, c.lsn)
		}
		return nil
	})
}

const chunkDoneStatement = `
update moves
set stage = $2, after = $3, rows = rows + $4
where move_id = $1`

// CopyChunk copies the next rows of what was there when the copy began, each table in the order of its key.
func (p *Pair) CopyChunk(ctx context.Context, rows int) (int, error) {
	c, err := p.progress(ctx)
	if err == nil && c == nil {
		if err = p.begin(ctx); err == nil {
			c, err = p.progress(ctx)
		}
	}
	if err != nil {
		return 0, err
	}
	if c.stage == len(movedTables) {
		return 0, nil
	}
	conn, err := p.reader.get(ctx)
	if err != nil {
		return 0, err
	}
	var read pgx.Batch
	p.mustBeSame(&read, c)
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		return 0, p.reader.failed("look who it is", err)
	}
	n := 0
	var table *movedTable
	for n == 0 && c.stage < len(movedTables) {
		table = movedTables[c.stage]
		err := p.stage(ctx, func() error {
			n, err = p.stageChunk(ctx, table, c.after, rows)
			return err
		})
		if err != nil {
			return 0, err
		}
		if c.after, err = p.lastStaged(ctx, table); err != nil {
			return 0, err
		}
		if n < rows { // that was all of the table
			c.stage, c.after = c.stage+1, []string{}
		}
	}
	done := func(write *pgx.Batch) error {
		write.Queue(chunkDoneStatement, p.config.MoveID, c.stage, c.after, n)
		return nil
	}
	if n == 0 {
		return 0, p.write(ctx, "end the copy", done)
	}
	return n, p.store(ctx, "store a chunk", []part{{table, 0, allPages}}, nil, done)
}

// stageChunk brings rows of a table that come after a key.
func (p *Pair) stageChunk(ctx context.Context, t *movedTable, after []string, rows int) (n int, err error) {
	if len(after) == 0 {
		return p.stream(ctx, t, t.slotsQuery(p.config.Slots, rows))
	}
	var slot ledger.Slot
	if _, err := fmt.Sscan(after[0], &slot); err != nil {
		return 0, fmt.Errorf("read the last key %q: %w", after, err)
	}
	key := make([]string, len(t.key))
	for i, value := range after[1:] {
		if key[i], err = p.quote(value); err != nil {
			return 0, err
		}
	}
	n, err = p.stream(ctx, t, t.slotQuery(slot, key, rows))
	at, _ := slices.BinarySearch(p.config.Slots, slot+1)
	if rest := p.config.Slots[at:]; err == nil && n < rows && len(rest) > 0 {
		var more int
		more, err = p.stream(ctx, t, t.slotsQuery(rest, rows-n))
		n += more
	}
	return n, err
}

// A chunk is the rest of a slot and then rows of the slots behind it. (One condition over both would read each slot's rows
// from the first one on.) Each has one index and one order to go by.

func (t *movedTable) slotQuery(slot ledger.Slot, after []string, rows int) string {
	key := strings.Join(t.key, ", ")
	return fmt.Sprintf("select %s from %s where %s slot = %d and (%s) > (%s) order by %s limit %d",
		t.columns, t.name, t.only, slot, key, strings.Join(after, ", "), key, rows)
}

func (t *movedTable) slotsQuery(slots placement.SlotSet, rows int) string {
	return fmt.Sprintf("select %s from %s where %s slot = any(%s) order by slot, %s limit %d",
		t.columns, t.name, t.only, slotsLiteral(slots), strings.Join(t.key, ", "), rows)
}

func slotsLiteral(slots placement.SlotSet) string {
	text := make([]string, len(slots))
	for i, slot := range slots {
		text[i] = strconv.Itoa(int(slot))
	}
	return "'{" + strings.Join(text, ",") + "}'::smallint[]"
}

// lastStaged returns the last key of the rows that wait; none if there are none.
func (p *Pair) lastStaged(ctx context.Context, t *movedTable) (key []string, err error) {
	columns := append([]string{"slot"}, t.key...)
	query := fmt.Sprintf("select array[%s::text] from %s order by %s desc limit 1",
		strings.Join(columns, "::text, "), t.staging(), strings.Join(columns, " desc, "))
	switch err := p.target.conn.QueryRow(ctx, query).Scan(&key); {
	case errors.Is(err, pgx.ErrNoRows):
		return []string{}, nil
	case err != nil:
		return nil, p.target.failed("read the last key", err)
	}
	return key, nil
}

// stage fills the staging tables, in no transaction, since it waits for the source. They are the session's: what was left
// of another time goes first.
func (p *Pair) stage(ctx context.Context, fill func() error) error {
	if err := p.emptyStaging(ctx); err != nil {
		return err
	}
	return fill()
}

// emptyStaging empties the staging tables that something came into: more than a millisecond for each, whatever is in it.
func (p *Pair) emptyStaging(ctx context.Context) error {
	conn, err := p.target.get(ctx)
	if err != nil {
		return err
	}
	var used []string
	for _, t := range movedTables {
		if p.staged[t] {
			used = append(used, t.staging())
		}
	}
	if len(used) == 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, "truncate "+strings.Join(used, ", ")); err != nil {
		return p.target.failed("empty the staging tables", err)
	}
	clear(p.staged)
	return nil
}

// stream copies what a query of the source returns into a staging table.
func (p *Pair) stream(ctx context.Context, t *movedTable, query string) (int, error) {
	to := &relay{ctx: ctx, pair: p, table: t}
	_, err := p.reader.conn.PgConn().CopyTo(ctx, to, "copy ("+query+") to stdout (format binary)")
	if to.err == nil && err == nil {
		to.flush()
	}
	if to.err != nil {
		return 0, p.target.failed("take "+t.name, to.err)
	}
	if err != nil {
		return 0, p.reader.failed("read "+t.name, err)
	}
	return to.rows, nil
}

// relay takes the rows of a COPY, which come one by one, and brings them to the target by one COPY for many: the target's
// is sent when all its rows are here. One that waited for rows could not be interrupted, would hold vacuum back there, and
// keep that server from dropping databases, for as long as this process may be asleep.
type relay struct {
	ctx    context.Context
	pair   *Pair
	table  *movedTable
	buffer []byte
	rows   int   // that the target has
	err    error // the target's
}

const (
	relayBytes  = 1 << 20
	copyTrailer = "\xff\xff"
)

func (r *relay) Write(message []byte) (int, error) {
	row := bytes.TrimPrefix(message, []byte(copySignature))
	if string(row) == copyTrailer {
		return len(message), nil
	}
	if len(r.buffer) == 0 {
		r.buffer = append(r.buffer, copySignature...)
	}
	if r.buffer = append(r.buffer, row...); len(r.buffer) >= relayBytes {
		r.flush()
	}
	return len(message), r.err
}

func (r *relay) flush() {
	if len(r.buffer) == 0 || r.err != nil {
		return
	}
	r.buffer = append(r.buffer, copyTrailer...)
	r.pair.staged[r.table] = true
	into := "copy " + r.table.staging() + " (" + r.table.columns + ") from stdin (format binary)"
	tag, err := r.pair.target.conn.PgConn().CopyFrom(r.ctx, bytes.NewReader(r.buffer), into)
	r.buffer, r.rows, r.err = r.buffer[:0], r.rows+int(tag.RowsAffected()), err
}

// part is some pages of a staging table.
type part struct {
	table    *movedTable
	from, to uint32
}

const allPages = 1<<32 - 2

func (t part) pages() (from, to pgtype.TID) {
	return pgtype.TID{BlockNumber: t.from, Valid: true}, pgtype.TID{BlockNumber: t.to, Valid: true}
}

// store moves parts into their tables, in one transaction. What was there already must be the same. check asks for more that
// must hold before done is written.
func (p *Pair) store(ctx context.Context, doing string, parts []part, check, done func(write *pgx.Batch) error) error {
	differing := make([]bool, len(parts))
	return p.write(ctx, doing, func(write *pgx.Batch) error {
		for i, part := range parts {
			from, to := part.pages()
			args := []any{from, to}
			if part.table.summed {
				args = append(args, p.config.MoveID)
			}
			write.Queue(part.table.store, args...).QueryRow(func(row pgx.Row) error {
				var staged, stored int64
				if err := row.Scan(&staged, &stored); err != nil {
					return err
				}
				differing[i] = staged != stored
				return nil
			})
		}
		return nil
	}, func(write *pgx.Batch) error {
		for i, part := range parts {
			if differing[i] {
				from, to := part.pages()
				mustNotFind(write.Queue(part.table.differStatement(), from, to), part.table.name+" differ")
			}
		}
		if check != nil {
			return check(write)
		}
		return nil
	}, done)
}

// mustNotFind makes a row that a query finds a mismatch. The row is a key.
func mustNotFind(query *pgx.QueuedQuery, what string) {
	query.QueryRow(func(row pgx.Row) error {
		key, err := found(row)
		if err != nil || key == "" {
			return err
		}
		return fmt.Errorf("%w: %s, the first found is %s", rebalance.ErrMismatch, what, key)
	})
}

// found reads a key; "" if there is none.
func found(row pgx.Row) (key string, err error) {
	if err = row.Scan(&key); errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return key, err
}

// Pass copies what changed since the last pass, or since the copy began, up to one snapshot.
func (p *Pair) Pass(ctx context.Context) (int, error) {
	conn, err := p.reader.get(ctx)
	if err != nil {
		return 0, err
	}
	// It waits for a vacuum of the same table, and that will do the same: then the pass reads more than it must, no worse.
	var pg *pgconn.PgError
	if _, err := conn.Exec(ctx, `select summarize_tx()`); err != nil && (!errors.As(err, &pg) || pg.Code != stateLockTimeout) {
		return 0, p.reader.failed("summarize indexes", err)
	}
	n, err := p.pass(ctx, false)
	if err != nil {
		return 0, err
	}
	return n, p.emptyStaging(ctx) // now, and not inside the fence
}

// Final is the last pass, under the fence.
func (p *Pair) Final(ctx context.Context) (int, error) {
	return p.pass(ctx, true)
}

var (
	errNotCopied = errors.New("what was there has not been copied yet")
	errNotNext   = errors.New("another pass was made meanwhile")
)

const pendingAtTargetStatement = `
select slot, tx_id, initiator
from sagas
where state = 1 and slot = any($1::smallint[])`

// What was asleep since before another pass must not take that one back. And what is final is so on this timeline: a
// standby that is promoted may have the last pass of an earlier fence, but not that of the latest one.
const passedStatement = `
update moves
set snapshot = $3::text::pg_snapshot, lsn = $4::text::pg_lsn, half = false,
    final = case when $5::boolean then ` + runningTimeline + ` else 0 end,
    rows = rows + $6, passes = passes + 1, last_pass = $6
where move_id = $1 and snapshot::text = $2`

// From here on the target has rows that the saved snapshot did not see.
const halfPassedStatement = `
update moves
set half = true, final = 0
where move_id = $1 and snapshot::text = $2`

// The entries of a pass join those that were there, the latest is the account's, and the account is what it says.
const unjoinedStatement = `
select concat_ws(' ', 'slot', e.slot, e.user_id, e.currency)
from (
    select slot, user_id, currency, min(version) as first, max(version) as last, count(*) as n
    from pg_temp.incoming_entries
    group by slot, user_id, currency
) e
left join lateral (
    select version, balance
    from accounts
    where slot = e.slot and user_id = e.user_id and currency = e.currency
    offset 0
) a on true
left join lateral (
    select version, balance
    from entries
    where slot = e.slot and user_id = e.user_id and currency = e.currency
    order by version desc
    limit 1
) newest on true
where e.n <> e.last - e.first + 1
   or (e.last, e.last, newest.balance) is distinct from (a.version, newest.version, a.balance)
   or e.first > 1 and not exists (
       select from entries
       where slot = e.slot and user_id = e.user_id and currency = e.currency and version = e.first - 1)
limit 1`

func (p *Pair) pass(ctx context.Context, final bool) (int, error) {
	c, err := p.progress(ctx)
	if err != nil {
		return 0, err
	}
	if c == nil || c.stage < len(movedTables) {
		return 0, errNotCopied
	}
	pending, err := p.pendingAtTarget(ctx)
	if err != nil {
		return 0, err
	}
	snapshot, err := p.beginPass(ctx, c, final)
	if err != nil {
		return 0, err
	}
	defer p.reader.rollback()
	staged := make([]int, len(movedTables))
	err = p.stage(ctx, func() error {
		for i, table := range movedTables {
			queries, err := p.deltas(table, c.snapshot, pending)
			if err != nil {
				return err
			}
			for _, query := range queries {
				n, err := p.stream(ctx, table, query)
				if err != nil {
					return err
				}
				staged[i] += n
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	atSource, err := p.reader.holdings(ctx, p.slots)
	if err != nil {
		return 0, err
	}
	p.reader.rollback() // it has done its duty: vacuum need not wait for the target
	lsn, err := p.harden(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, n := range staged {
		total += n
	}
	last, err := p.storeAllButLast(ctx, c, staged)
	if err != nil {
		return 0, err
	}
	return total, p.store(ctx, "store a pass", last, func(write *pgx.Batch) error {
		mustNotFind(write.Queue(unjoinedStatement), "an account is not what its entries say")
		write.Queue(holdingsStatement, p.slots).Query(func(rows pgx.Rows) error {
			atTarget, err := scanHoldings(rows)
			if err != nil {
				return err
			}
			return sameHoldings(p.slots, atSource, atTarget)
		})
		return nil
	}, func(write *pgx.Batch) error {
		write.Queue(passedStatement, p.config.MoveID, c.snapshot, snapshot, lsn, final, total).Exec(exactly(1, errNotNext))
		return nil
	})
}

// What the accounts of each slot come to.
const holdingsStatement = `
select slot, count(*), sum(version)::text, sum(balance)::text
from accounts
where slot = any($1::smallint[]) and version > 0
group by slot`

type holdings struct {
	accounts int64
	versions string
	balances string
}

// holdings reads what the slots' accounts come to. A pass that missed an entry, for whatever reason, is found by that: it
// asks nothing of transaction numbers, and grows with accounts, not with history.
func (m *moverConn) holdings(ctx context.Context, slots []int16) (map[int16]holdings, error) {
	rows, err := m.conn.Query(ctx, holdingsStatement, slots)
	if err == nil {
		var held map[int16]holdings
		if held, err = scanHoldings(rows); err == nil {
			return held, nil
		}
	}
	return nil, m.failed("sum up accounts", err)
}

func scanHoldings(rows pgx.Rows) (map[int16]holdings, error) {
	var (
		slot int16
		h    holdings
		held = make(map[int16]holdings)
	)
	_, err := pgx.ForEachRow(rows, []any{&slot, &h.accounts, &h.versions, &h.balances}, func() error {
		held[slot] = h
		return nil
	})
	return held, err
}

func sameHoldings(slots []int16, source, target map[int16]holdings) error {
	for _, slot := range slots {
		if s, t := source[slot], target[slot]; s != t {
			return fmt.Errorf("%w: slot %d: the source has %d accounts with %s entries and %s in all, the target %d with %s and %s",
				rebalance.ErrMismatch, slot, s.accounts, s.versions, s.balances, t.accounts, t.versions, t.balances)
		}
	}
	return nil
}

// pendingAtTarget returns the sagas that may have ended at the source since they were copied.
func (p *Pair) pendingAtTarget(ctx context.Context) (pending []sagaKey, err error) {
	conn, err := p.target.get(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, pendingAtTargetStatement, p.slots)
	if err == nil {
		var key sagaKey
		_, err = pgx.ForEachRow(rows, []any{&key.slot, &key.TxID, &key.Initiator}, func() error {
			pending = append(pending, key)
			return nil
		})
	}
	if err != nil {
		return nil, p.target.failed("read pending sagas", err)
	}
	return pending, nil
}

// beginPass begins the transaction at the source that a pass reads, and returns what it sees.
func (p *Pair) beginPass(ctx context.Context, c *copied, final bool) (snapshot string, err error) {
	conn, err := p.reader.get(ctx)
	if err != nil {
		return "", err
	}
	var read pgx.Batch
	read.Queue("begin isolation level repeatable read read only")
	read.Queue("set local enable_bitmapscan = on") // the way to go by a BRIN index
	read.Queue(`select pg_current_snapshot()::text`).QueryRow(func(row pgx.Row) error { return row.Scan(&snapshot) })
	p.mustBeSame(&read, c)
	if final {
		read.Queue(lookStatement, p.slots, make([]int64, len(p.slots))).Query(func(rows pgx.Rows) error {
			fenced, err := scanHeld(rows)
			for i := 0; err == nil && i < len(fenced); i++ {
				err = p.mustBeFenced(fenced[i].slotRow)
			}
			return err
		})
	}
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		p.reader.rollback()
		return "", p.reader.failed("begin a pass", err)
	}
	return snapshot, nil
}

// mustBeFenced also takes what was left behind, as long as none of it was deleted: a target that has lost the last pass in
// a failover gets it again from there.
func (p *Pair) mustBeFenced(row slotRow) error {
	switch {
	case row.move == p.config.MoveID && row.token != p.config.Token:
		return fmt.Errorf("slot %d: %w: its token is %d, not %d", row.slot, rebalance.ErrTokenLost, row.token, p.config.Token)
	case row.move == p.config.MoveID && (row.state == slotFenced || row.state == slotMoved && !row.clean):
		return nil
	}
	return row.refuse(row.epoch)
}

// pendingAtOnce bounds how many sagas one query looks up.
const pendingAtOnce = 5000

// deltas are the queries for what a snapshot of the source did not see of a table.
func (p *Pair) deltas(t *movedTable, snapshot string, pending []sagaKey) (queries []string, err error) {
	unseen := func(column string) string { return unseenBy(snapshot, column) }
	// The index on tx is the one to use, so the condition on the slot is put such that no other can be.
	fresh := fmt.Sprintf("%s and (slot = any(%s)) is true", unseen("tx"), slotsLiteral(p.config.Slots))
	switch t.name {
	case "accounts":
		return []string{fmt.Sprintf(`
			select %s
			from (select distinct slot, user_id, currency from entries where %s offset 0) e
			cross join lateral (
			    select * from accounts a where a.slot = e.slot and a.user_id = e.user_id and a.currency = e.currency offset 0
			) a`, t.of("a"), fresh)}, nil
	case "sagas":
		queries = []string{fmt.Sprintf(`
			select %s
			from (select slot, tx_id, initiator from operations where %s and (step = 1 and saga and reason = '') is true offset 0) o
			cross join lateral (
			    select * from sagas s where s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator offset 0
			) s`, t.of("s"), fresh)}
		for some := range slices.Chunk(pending, pendingAtOnce) {
			rows := make([]string, len(some))
			for i, key := range some {
				tx, err := p.quote(string(key.TxID))
				if err != nil {
					return nil, err
				}
				initiator, err := p.quote(string(key.Initiator))
				if err != nil {
					return nil, err
				}
				rows[i] = fmt.Sprintf("(%d::smallint, %s, %s)", key.slot, tx, initiator)
			}
			queries = append(queries, fmt.Sprintf(`
				select %s
				from (values %s) w (slot, tx_id, initiator)
				cross join lateral (
				    select * from sagas s where s.slot = w.slot and s.tx_id = w.tx_id and s.initiator = w.initiator offset 0
				) s
				where %s`, t.of("s"), strings.Join(rows, ", "), unseen("s.tx")))
		}
		return queries, nil
	}
	return []string{fmt.Sprintf("select %s from %s where %s", t.columns, t.name, fresh)}, nil
}

// unseenBy is the condition on a transaction that a snapshot does not see it: it had not begun, or not ended. Unlike the
// function for that, and unlike all since the oldest that had not ended, it is one for an index.
func unseenBy(snapshot, column string) string {
	fields := strings.Split(snapshot, ":") // xmin:xmax:xip,xip,…
	if fields[2] == "" {
		return fmt.Sprintf("%s >= %s", column, fields[1])
	}
	return fmt.Sprintf("(%s >= %s or %s = any('{%s}'::bigint[]))", column, fields[1], column, fields[2])
}

// quote makes a literal of a text, for COPY, which takes no parameters.
func (p *Pair) quote(text string) (string, error) {
	escaped, err := p.reader.conn.PgConn().EscapeString(text)
	return "'" + escaped + "'", err
}

// partRows bounds how many rows, more or less, one transaction at the target stores.
const partRows = 5000

const pagesStatement = `select pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint`

// storeAllButLast stores what waits, if it is too much for one transaction, and returns the parts that are left for the one
// that ends the pass. It may be cut off anywhere: the pass is made again then, and finds rows that are there already.
func (p *Pair) storeAllButLast(ctx context.Context, c *copied, staged []int) (left []part, err error) {
	halfPassed := func(write *pgx.Batch) error {
		write.Queue(halfPassedStatement, p.config.MoveID, c.snapshot).Exec(exactly(1, errNotNext))
		return nil
	}
	rows := 0
	for i, table := range movedTables {
		n := staged[i]
		if n == 0 {
			continue
		}
		if rows+n <= partRows {
			left, rows = append(left, part{table, 0, allPages}), rows+n
			continue
		}
		var pages int64
		if err := p.target.conn.QueryRow(ctx, pagesStatement, table.staging()).Scan(&pages); err != nil {
			return nil, p.target.failed("measure what waits", err)
		}
		step := max(1, pages*partRows/int64(n))
		for from := int64(0); from < pages; from += step {
			if len(left) > 0 {
				if err := p.store(ctx, "store some of a pass", left, nil, halfPassed); err != nil {
					return nil, err
				}
			}
			left, rows = []part{{table, uint32(from), uint32(from + step)}}, partRows
		}
	}
	return left, nil
}
