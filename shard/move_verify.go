package shard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// verifySlice is how long one chunk of the comparison goes on taking slots: about as long as a chunk of rows takes.
const verifySlice = 20 * time.Millisecond

const verifiedStatement = `
update moves
set verified = verified || $2::smallint[]
where move_id = $1`

// VerifyChunk compares some more slots: what the source has of them, as of the last pass, and all that the target has.
func (p *Pair) VerifyChunk(ctx context.Context) (left int, err error) {
	c, err := p.progress(ctx)
	if err != nil {
		return 0, err
	}
	if c == nil || c.stage < len(movedTables) {
		return 0, errNotCopied
	}
	if c.half || c.Passes == 0 { // the target has rows that the snapshot did not see
		if _, err := p.Pass(ctx); err != nil {
			return 0, err
		}
		if c, err = p.progress(ctx); err != nil {
			return 0, err
		}
	}
	conn, err := p.reader.get(ctx)
	if err != nil {
		return 0, err
	}
	defer p.reader.rollback()
	var read pgx.Batch
	read.Queue("begin isolation level repeatable read read only")
	p.mustBeSame(&read, c)
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		return 0, p.reader.failed("begin a comparison", err)
	}
	var done []int16
	begun := time.Now()
	for _, slot := range p.slots {
		switch {
		case slices.Contains(c.verified, slot):
		case len(done) > 0 && time.Since(begun) > verifySlice:
			left++
		default:
			if err := p.verify(ctx, c.snapshot, slot); err != nil {
				return 0, err
			}
			done = append(done, slot)
		}
	}
	if len(done) == 0 {
		return left, nil
	}
	return left, p.write(ctx, "note what was compared", func(write *pgx.Batch) error {
		write.Queue(verifiedStatement, p.config.MoveID, done)
		return nil
	})
}

// seen is the condition on a source's row that a snapshot saw it as it is. An account is as its newest entry made it.
func (t *movedTable) seen(snapshot string) string {
	const seen = "pg_visible_in_snapshot(%s::text::xid8, '%s'::pg_snapshot)"
	if t.name != "accounts" {
		return fmt.Sprintf(seen, "t.tx", snapshot)
	}
	return `t.version > 0 and (
		select ` + fmt.Sprintf(seen, "e.tx", snapshot) + `
		from entries e
		where e.slot = t.slot and e.user_id = t.user_id and e.currency = t.currency and e.version = t.version)`
}

// changes tells whether rows of the table change: what the snapshot did not see may be at the target as it was before.
func (t *movedTable) changes() bool { return t.name == "accounts" || t.name == "sagas" }

func (t *movedTable) hash() string { return "hash_record_extended(row(" + t.of("t") + "), 0)" }

// content is the number of some rows and the sum of their hashes.
type content struct {
	rows int64
	sum  string
}

func (t *movedTable) contentOf() string {
	return fmt.Sprintf("select count(*), coalesce(sum(%s), 0)::text from %s t where t.slot = $1 and ", t.hash(), t.name)
}

// The sums that were kept while rows came in are those of the rows.
const missummedStatement = `
select concat_ws(' ', 'slot', $2::smallint, currency)
from (
    select currency, amount as entries, 0 as sides from entries where slot = $2
    union all
    select currency, 0, system_amount from operations where slot = $2
    union all
    select currency, -entries, -sides from move_sums where move_id = $1 and slot = $2
) both_ways
group by currency
having sum(entries) <> 0 or sum(sides) <> 0
limit 1`

func (p *Pair) verify(ctx context.Context, snapshot string, slot int16) error {
	var (
		source, target = make([]content, len(movedTables)), make([]content, len(movedTables))
		ahead          = make([]unseen, len(movedTables))
		atSource       pgx.Batch
		atTarget       pgx.Batch
	)
	for i, t := range movedTables {
		atSource.Queue(t.contentOf()+t.seen(snapshot), slot).QueryRow(func(row pgx.Row) error {
			return row.Scan(&source[i].rows, &source[i].sum)
		})
		if t.changes() {
			query := fmt.Sprintf("select %s from %s t where slot = $1 and (%s) is not true",
				strings.Join(t.key, ", "), t.name, t.seen(snapshot))
			atSource.Queue(query, slot).Query(ahead[i].scan)
		}
	}
	if err := p.reader.conn.SendBatch(ctx, &atSource).Close(); err != nil {
		return p.reader.failed("sum up a slot", err)
	}
	conn, err := p.target.get(ctx)
	if err != nil {
		return err
	}
	for i, t := range movedTables {
		query, args := t.contentOf()+t.notAhead(), []any{slot}
		if t.changes() {
			args = append(args, ahead[i].first, ahead[i].second)
		}
		atTarget.Queue(query, args...).QueryRow(func(row pgx.Row) error { return row.Scan(&target[i].rows, &target[i].sum) })
	}
	var missummed string
	atTarget.Queue(missummedStatement, p.config.MoveID, slot).QueryRow(func(row pgx.Row) (err error) {
		missummed, err = found(row)
		return err
	})
	if err := conn.SendBatch(ctx, &atTarget).Close(); err != nil {
		return p.target.failed("sum up a slot", err)
	}
	for i, t := range movedTables {
		if source[i] != target[i] {
			return p.differ(ctx, t, snapshot, slot, ahead[i], source[i].rows, target[i].rows)
		}
	}
	if missummed != "" {
		return fmt.Errorf("%w: the sums kept of entries and system sides are not theirs: %s", rebalance.ErrMismatch, missummed)
	}
	return nil
}

// unseen is the keys of rows that have changed since.
type unseen struct{ first, second []string }

func (u *unseen) scan(rows pgx.Rows) error {
	var first, second string
	_, err := pgx.ForEachRow(rows, []any{&first, &second}, func() error {
		u.first, u.second = append(u.first, first), append(u.second, second)
		return nil
	})
	return err
}

// notAhead is the condition on a target's row that the source has not changed it since.
func (t *movedTable) notAhead() string {
	if !t.changes() {
		return "true"
	}
	return fmt.Sprintf("(t.%s, t.%s) not in (select unnest($2::text[]), unnest($3::text[]))", t.key[0], t.key[1])
}

// differ finds a row in which source and target differ, and makes it the error.
func (p *Pair) differ(ctx context.Context, t *movedTable, snapshot string, slot int16, ahead unseen,
	atSource, atTarget int64) error {
	list := fmt.Sprintf("select %s, %s from %s t where t.slot = $1 and ", t.keyOf("t"), t.hash(), t.name)
	order := " order by t." + strings.Join(t.key, ", t.")
	args := []any{slot}
	if t.changes() {
		args = append(args, ahead.first, ahead.second)
	}
	var (
		key    string
		hash   int64
		into   = []any{&key, &hash}
		hashes = make(map[string]int64)
		first  string
	)
	rows, err := p.target.conn.Query(ctx, list+t.notAhead(), args...)
	if err == nil {
		_, err = pgx.ForEachRow(rows, into, func() error { hashes[key] = hash; return nil })
	}
	if err != nil {
		return p.target.failed("look for a difference", err)
	}
	rows, err = p.reader.conn.Query(ctx, list+t.seen(snapshot)+order, slot)
	if err == nil {
		_, err = pgx.ForEachRow(rows, into, func() error {
			is, there := hashes[key]
			switch delete(hashes, key); {
			case first != "":
			case !there:
				first = key + " is not at the target"
			case is != hash:
				first = key + " is different"
			}
			return nil
		})
	}
	if err != nil {
		return p.reader.failed("look for a difference", err)
	}
	for key := range hashes {
		if first == "" {
			first = key + " is not at the source"
		}
	}
	return fmt.Errorf("%w: %s of slot %d, of which the source has %d and the target %d: %s",
		rebalance.ErrMismatch, t.name, ledger.Slot(slot), atSource, atTarget, first)
}
