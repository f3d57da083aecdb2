package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// The states of a slot at a shard.
const (
	slotOwned    = "owned"
	slotFenced   = "fenced"
	slotIncoming = "incoming"
	slotMoved    = "moved"
)

// slotRow is what a shard knows of a slot. Without a state it was never there.
type slotRow struct {
	slot    ledger.Slot
	state   string
	epoch   ledger.Epoch
	move    placement.MoveID
	token   int64
	movedTo ledger.ShardID
	clean   bool
}

// refuse says what was found instead of what is needed.
func (r slotRow) refuse(held ledger.Epoch) error {
	found := slotState{Slot: r.slot, Held: held, Move: string(r.move)}
	text := "was never here"
	if r.state != "" {
		found.State, found.Epoch, found.MovedTo = &r.state, &r.epoch, &r.movedTo
		text = fmt.Sprintf("is %s at epoch %d", r.state, r.epoch)
	}
	if r.move != "" {
		text += fmt.Sprintf(" under move %s", r.move)
	}
	return fmt.Errorf("slot %d %s, held at %d: %w", r.slot, text, held,
		&placement.OwnershipError{Refusals: []placement.Refusal{found.refusal()}})
}

// step says what a slot becomes at an epoch that the caller holds; or why it must not.
type step func(row slotRow, held ledger.Epoch) (slotRow, error)

// take lets a mover with a newer token take the slot over, or the same one go on.
func (p *Pair) take(row slotRow) (slotRow, error) {
	if row.token > p.config.Token {
		return row, fmt.Errorf("slot %d: %w: its token is %d, not %d", row.slot, rebalance.ErrTokenLost, row.token, p.config.Token)
	}
	row.token = p.config.Token
	return row, nil
}

// markSource: once the target has been activated, whatever became of the slot is another story.
func (p *Pair) markSource(activated bool) step {
	return func(row slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case row.state != "" && row.move == p.config.MoveID && row.epoch <= held:
			return p.take(row) // in whatever state
		case row.state == slotOwned && row.epoch == held && row.move == "":
			row.move, row.token = p.config.MoveID, p.config.Token
			return row, nil
		case row.state == slotMoved && activated:
			return row, nil
		}
		return row, row.refuse(held)
	}
}

func (p *Pair) markTarget(activated bool) step {
	return func(row slotRow, held ledger.Epoch) (slotRow, error) {
		switch {
		case activated && row.epoch > held:
			return row, fmt.Errorf("slot %d is %s at epoch %d, held at %d: %w",
				row.slot, row.state, row.epoch, held, rebalance.ErrSwitchLost)
		case activated:
			return row, nil
		case row.move == p.config.MoveID && (row.state == slotIncoming || row.state == slotMoved):
			return p.take(row)
		case row.state == slotMoved && !row.clean:
			return row, fmt.Errorf("slot %d: %w: of move %s", row.slot, rebalance.ErrNotClean, row.move)
		case row.state == "", row.state == slotMoved && row.epoch <= held:
			return slotRow{slot: row.slot, state: slotIncoming, epoch: held, move: p.config.MoveID, token: p.config.Token}, nil
		}
		return row, row.refuse(held)
	}
}

func (p *Pair) fence(row slotRow, held ledger.Epoch) (slotRow, error) {
	if row.move != p.config.MoveID || row.epoch != held || row.state != slotOwned && row.state != slotFenced {
		return row, row.refuse(held)
	}
	row.state = slotFenced
	return p.take(row)
}

func (p *Pair) unfence(row slotRow, held ledger.Epoch) (slotRow, error) {
	if row.move != p.config.MoveID || row.epoch != held || row.state != slotOwned && row.state != slotFenced {
		return row, row.refuse(held)
	}
	row.state = slotOwned
	return p.take(row)
}

// What was decided in the registry is done whatever the token is.

func (p *Pair) activate(row slotRow, held ledger.Epoch) (slotRow, error) {
	switch {
	case row.state == slotIncoming && row.move == p.config.MoveID && row.epoch <= held: // = if a failover lost the mark
		return slotRow{slot: row.slot, state: slotOwned, epoch: held, clean: true}, nil
	case row.epoch >= held && row.move != p.config.MoveID: // done; it may have moved on since
		return row, nil
	}
	return row, row.refuse(held)
}

// tombstone also takes a slot that is not fenced, or not even marked: that was lost in a failover.
func (p *Pair) tombstone(row slotRow, held ledger.Epoch) (slotRow, error) {
	switch {
	case p.mayTell(row, held):
		if row.state == slotOwned {
			p.log.Error("a slot was not fenced when it moved: writes since then are lost", "slot", row.slot, "epoch", row.epoch)
		}
		return slotRow{slot: row.slot, state: slotMoved, epoch: held, move: p.config.MoveID, token: max(row.token, p.config.Token),
			movedTo: p.config.Target.ID}, nil
	case row.state == slotMoved && row.epoch == held, row.epoch > held: // it may have come back since
		return row, nil
	}
	return row, row.refuse(held)
}

func (p *Pair) restore(row slotRow, held ledger.Epoch) (slotRow, error) {
	switch {
	case p.mayTell(row, held), row.state == slotOwned && row.move == p.config.MoveID:
		return slotRow{slot: row.slot, state: slotOwned, epoch: max(row.epoch, held), clean: true}, nil
	case row.state == slotOwned && row.epoch == held, row.state == slotFenced && row.epoch == held && !p.may(row),
		row.epoch > held && row.move != p.config.MoveID: // done; it may have moved on since
		return row, nil
	}
	return row, row.refuse(held)
}

// mayTell: the source has the slot under this move, or has lost that, at an older epoch.
func (p *Pair) mayTell(row slotRow, held ledger.Epoch) bool {
	return (row.state == slotOwned || row.state == slotFenced) && row.epoch < held && p.may(row)
}

// may: no other move has the slot. One that Adopt has fenced may be under none.
func (p *Pair) may(row slotRow) bool { return row.move == p.config.MoveID || row.move == "" }

// discard leaves the new epoch also where no mark has come, so that one that is late is refused.
func (p *Pair) discard(row slotRow, held ledger.Epoch) (slotRow, error) {
	switch {
	case row.state == slotIncoming && row.move == p.config.MoveID:
		row.state, row.epoch, row.movedTo = slotMoved, max(row.epoch, held), p.config.Source.ID
	case row.state == "":
		row = slotRow{slot: row.slot, state: slotMoved, epoch: held, movedTo: p.config.Source.ID, clean: true}
	case row.state == slotMoved && row.epoch < held:
		row.epoch, row.movedTo = held, p.config.Source.ID
	case row.state == slotMoved && row.epoch == held, row.epoch > held: // it may have come again since
	default:
		return row, row.refuse(held)
	}
	return row, nil
}

// Mark writes move and token to the slots, first at the source, then at the target.
func (p *Pair) Mark(ctx context.Context, holds []placement.Hold) error {
	conn, err := p.source.get(ctx)
	if err != nil {
		return err
	}
	// Only the target can tell whether a source that no longer has a slot gave it to this move.
	var activated bool
	before, err := p.source.look(ctx, conn, holds)
	if err != nil {
		return p.source.failed("look at slots", err)
	}
	if slices.ContainsFunc(before, func(row heldRow) bool { return row.state == slotMoved }) {
		if activated, err = p.Activated(ctx); err != nil {
			return err
		}
	}
	if err := p.source.change(ctx, "mark slots", holds, p.markSource(activated), nil); err != nil {
		return err
	}
	if activated, err = p.Activated(ctx); err == nil {
		err = p.target.change(ctx, "mark slots", holds, p.markTarget(activated), nil)
	}
	if errors.Is(err, rebalance.ErrSwitchLost) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", rebalance.ErrHalfMarked, err)
	}
	return nil
}

// Activated tells whether the target was activated by this move.
func (p *Pair) Activated(ctx context.Context) (is bool, err error) {
	conn, err := p.target.get(ctx)
	if err != nil {
		return false, err
	}
	const query = `select exists (select from moves where move_id = $1 and activated_at is not null)`
	if err := conn.QueryRow(ctx, query, p.config.MoveID).Scan(&is); err != nil {
		return false, p.target.failed("look at the move", err)
	}
	return is, nil
}

// askPatience is how long a target is asked for what the source's clients wait for.
const askPatience = time.Second

// notSwitched returns ErrSwitchLost if the target owns the slots that are to be opened at the source. A registry that was
// restored from a backup may say so: Mark has asked then, which waits for the answer; and where none comes here, clients of
// the source do not wait for a target that is down, unless Restore sees that the registry was set back.
func (p *Pair) notSwitched(ctx context.Context) (asked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	activated, err := p.Activated(ctx)
	if activated {
		return true, fmt.Errorf("shard %s: %w", p.config.Target.ID, rebalance.ErrSwitchLost)
	}
	return err == nil, nil
}

// Fence stops writes to the slots at the source.
func (p *Pair) Fence(ctx context.Context, holds []placement.Hold) error {
	p.config.Fenced = true // the registry has it before it is done
	return p.source.change(ctx, "fence slots", holds, p.fence, nil)
}

// A runner may have passed these by while they were hidden: they queue up behind the moment in which they can be seen. All
// writers wait meanwhile, so of very many only the oldest are written: the others the runner finds when it sweeps through
// the whole queue the next time.
const requeueSagasStatement = `
update sagas
set tx = pg_current_xact_id()::text::bigint
where ctid = any(array(
    select ctid
    from sagas
    where state = 1 and slot = any($1::smallint[])
    order by tx
    limit $2))`

const requeueAtOnce = 2000

func (p *Pair) requeue(write *pgx.Batch, changed []int16) {
	write.Queue(requeueSagasStatement, changed, requeueAtOnce)
}

// Unfence takes Fence back.
func (p *Pair) Unfence(ctx context.Context, holds []placement.Hold) error {
	if _, err := p.notSwitched(ctx); err != nil {
		return err
	}
	return p.source.change(ctx, "lift the fence of slots", holds, p.unfence, p.requeue)
}

const activateMoveStatement = `
update moves
set activated_at = clock_timestamp()
where move_id = $1 and final = ` + runningTimeline

const bookIncomingStatement = `
with sums as (
    delete from move_sums
    where move_id = $1
    returning currency, entries + sides as amount
)
insert into moved (move_id, other, currency, amount)
select $1, $2, currency, -sum(amount)
from sums
group by currency
having sum(amount) <> 0`

// Activate makes the target own the slots, and books what came against @moved.
func (p *Pair) Activate(ctx context.Context, holds []placement.Hold) error {
	if done, err := p.target.settled(ctx, holds, p.activate); done || err != nil {
		return err
	}
	return p.target.change(ctx, "activate slots", holds, p.activate, func(write *pgx.Batch, changed []int16) {
		write.Queue(activateMoveStatement, p.config.MoveID).Exec(exactly(1, rebalance.ErrNotFinal))
		write.Queue(bookIncomingStatement, p.config.MoveID, p.config.Source.ID)
		p.requeue(write, changed)
	})
}

const bookedStatement = `
select array_agg(currency), array_agg(amount::text)
from moved
where move_id = $1`

const bookOutgoingStatement = `
insert into moved (move_id, other, currency, amount)
select $1, $2, currency, -amount::numeric
from unnest($3::text[], $4::text[]) as came(currency, amount)
on conflict do nothing`

// Tombstone makes the source tell that the slots have moved to the target, and books what went against @moved: what the
// target booked when it was activated.
func (p *Pair) Tombstone(ctx context.Context, holds []placement.Hold) error {
	if done, err := p.source.settled(ctx, holds, p.tombstone); done || err != nil {
		return err
	}
	activated, err := p.Activated(ctx)
	if err != nil {
		return err
	}
	if !activated {
		return fmt.Errorf("shard %s: leave a tombstone: shard %s was not activated yet", p.config.Source.ID, p.config.Target.ID)
	}
	var currencies, amounts []string
	if err := p.target.conn.QueryRow(ctx, bookedStatement, p.config.MoveID).Scan(&currencies, &amounts); err != nil {
		return p.target.failed("read what was booked", err)
	}
	return p.source.change(ctx, "leave a tombstone", holds, p.tombstone, func(write *pgx.Batch, _ []int16) {
		write.Queue(bookOutgoingStatement, p.config.MoveID, p.config.Target.ID, currencies, amounts)
	})
}

// errFenceLost: the registry has another past than the source.
var errFenceLost = errors.New("they were fenced by this move, and the registry has lost that: it was set back, and may have " +
	"lost that the target owns them, which does not answer: they stay fenced until it does; see Two owners in docs/OPERATIONS.md")

// Restore makes the source own the slots, after an abort. Slots that are fenced by a move which the registry never had in
// PhaseFence are opened only when the target has said that it does not own them: the registry has another past than the
// shards, in which they may have been given away.
func (p *Pair) Restore(ctx context.Context, holds []placement.Hold) error {
	asked, err := p.notSwitched(ctx)
	if err != nil {
		return err
	}
	next := p.restore
	if !asked && !p.config.Fenced {
		next = func(row slotRow, held ledger.Epoch) (slotRow, error) {
			if row.state == slotFenced && row.move == p.config.MoveID && row.epoch < held {
				return row, fmt.Errorf("slot %d: %w (shard %s)", row.slot, errFenceLost, p.config.Target.ID)
			}
			return p.restore(row, held)
		}
	}
	return p.source.change(ctx, "restore slots", holds, next, p.requeue)
}

// Discard makes the target's copy one that is to be cleaned, after an abort.
func (p *Pair) Discard(ctx context.Context, holds []placement.Hold) error {
	return p.target.change(ctx, "discard slots", holds, p.discard, func(write *pgx.Batch, _ []int16) {
		write.Queue(`delete from move_sums where move_id = $1`, p.config.MoveID)
	})
}

const lookStatement = `
select held.slot, held.epoch, coalesce(s.state, ''), coalesce(s.epoch, 0), coalesce(s.move_id, ''), coalesce(s.token, 0),
       coalesce(s.moved_to, ''), coalesce(s.clean, true)
from unnest($1::smallint[], $2::bigint[]) as held(slot, epoch)
left join slots s on s.slot = held.slot
order by held.slot`

type heldRow struct {
	slotRow
	held ledger.Epoch
}

func (m *moverConn) look(ctx context.Context, conn *pgx.Conn, holds []placement.Hold) (rows []heldRow, err error) {
	slots, epochs := columns(holds)
	found, err := conn.Query(ctx, lookStatement, slots, epochs)
	if err != nil {
		return nil, err
	}
	return scanHeld(found)
}

// settled tells whether a step changes nothing any more. For steps that nothing takes back: then there is nothing that
// writers would have to wait for.
func (m *moverConn) settled(ctx context.Context, holds []placement.Hold, next step) (bool, error) {
	conn, err := m.get(ctx)
	if err != nil {
		return false, err
	}
	before, err := m.look(ctx, conn, holds)
	if err != nil {
		return false, m.failed("look at slots", err)
	}
	for _, row := range before {
		if after, err := next(row.slotRow, row.held); err != nil || after != row.slotRow {
			return false, nil
		}
	}
	return true, nil
}

func scanHeld(found pgx.Rows) (rows []heldRow, err error) {
	var r heldRow
	into := []any{&r.slot, &r.held, &r.state, &r.epoch, &r.move, &r.token, &r.movedTo, &r.clean}
	_, err = pgx.ForEachRow(found, into, func() error {
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

func columns(holds []placement.Hold) (slots []int16, epochs []int64) {
	slots, epochs = make([]int16, len(holds)), make([]int64, len(holds))
	for i, hold := range holds {
		slots[i], epochs[i] = int16(hold.Slot), int64(hold.Epoch)
	}
	return slots, epochs
}

// changePatience bounds a change of slots, in which writers wait.
const changePatience = 5 * time.Second

var lockExclusiveStatement = `select pg_advisory_xact_lock(` + strconv.FormatInt(advisoryKey, 10) + `)`

const insertSlotsStatement = `
insert into slots (slot, state, epoch, move_id, token, moved_to, clean)
select slot, state, epoch, move_id, token, moved_to, clean
from unnest($1::smallint[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::boolean[])
     as new(slot, state, epoch, move_id, token, moved_to, clean)`

// A fence keeps the time of its beginning.
const updateSlotsStatement = `
update slots s
set state = new.state, epoch = new.epoch, move_id = new.move_id, token = new.token, moved_to = new.moved_to,
    clean = new.clean,
    fenced_at = case when new.state = 'fenced' then coalesce(s.fenced_at, clock_timestamp()) end
from unnest($1::smallint[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::boolean[],
            $8::bigint[], $9::text[])
     as new(slot, state, epoch, move_id, token, moved_to, clean, was_epoch, was_move)
where s.slot = new.slot and s.epoch = new.was_epoch and s.move_id = new.was_move`

var errSlotsChanged = errors.New("slots have changed under the exclusive lock")

// change lets every slot take a step, or none, in one transaction that has the shard for itself. with adds what belongs to
// the change, for the slots that become others; it is left out if none does.
func (m *moverConn) change(ctx context.Context, doing string, holds []placement.Hold, next step,
	with func(write *pgx.Batch, changed []int16)) error {
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	conn, err := m.get(ctx)
	if err != nil {
		return err
	}
	defer m.rollback() // of what was not committed
	var (
		read    pgx.Batch
		before  []heldRow
		n, held = columns(holds)
	)
	read.Queue("begin")
	read.Queue(lockExclusiveStatement)
	read.Queue(guardStatement, m.shard.Cluster, string(m.shard.ID), []int16{}, []int64{})
	read.Queue(lookStatement, n, held).Query(func(rows pgx.Rows) (err error) {
		before, err = scanHeld(rows)
		return err
	})
	if err := conn.SendBatch(ctx, &read).Close(); err != nil {
		return m.failed(doing, err)
	}
	var (
		write         pgx.Batch
		added, others slotRows
		was           struct {
			epochs []int64
			moves  []string
		}
	)
	for _, row := range before {
		after, err := next(row.slotRow, row.held)
		switch {
		case err != nil:
			return m.failed(doing, err)
		case after == row.slotRow:
		case row.state == "":
			added.add(after)
		default:
			others.add(after)
			was.epochs, was.moves = append(was.epochs, int64(row.epoch)), append(was.moves, string(row.move))
		}
	}
	changed := slices.Concat(others.slots, added.slots)
	if len(changed) == 0 {
		return nil
	}
	if len(added.slots) > 0 {
		write.Queue(insertSlotsStatement, added.columns()...)
	}
	if len(others.slots) > 0 {
		write.Queue(updateSlotsStatement, append(others.columns(), was.epochs, was.moves)...).
			Exec(exactly(int64(len(others.slots)), errSlotsChanged))
	}
	if with != nil {
		with(&write, changed)
	}
	if err := conn.SendBatch(ctx, &write).Close(); err != nil {
		return m.failed(doing, err)
	}
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		return m.failed(doing, err)
	}
	return nil
}

func exactly(rows int64, otherwise error) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() != rows {
			return otherwise
		}
		return nil
	}
}

// slotRows is rows by column.
type slotRows struct {
	slots                  []int16
	epochs, tokens         []int64
	states, moves, movedTo []string
	clean                  []bool
}

func (r *slotRows) add(row slotRow) {
	r.slots, r.states = append(r.slots, int16(row.slot)), append(r.states, row.state)
	r.epochs, r.moves = append(r.epochs, int64(row.epoch)), append(r.moves, string(row.move))
	r.tokens, r.movedTo = append(r.tokens, row.token), append(r.movedTo, string(row.movedTo))
	r.clean = append(r.clean, row.clean)
}

func (r *slotRows) columns() []any {
	return []any{r.slots, r.states, r.epochs, r.moves, r.tokens, r.movedTo, r.clean}
}
