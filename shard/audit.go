package shard

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// scans is for a session that reads whole tables, and between its statements waits for other shards.
var scans = map[string]string{
	// It holds no lock that a writer waits for, only vacuum back; a snapshot of a long audit is idle while other shards
	// are scanned. A machine that has gone is noticed by keepalives.
	"idle_in_transaction_session_timeout": "1h",
	// The server may have one by default. Nothing here commits anything.
	"statement_timeout": "0",
	// Sorts and hashes beyond this go to disk: the memory of a server that is serving.
	"work_mem": "64MB",
	// For the same reason one processor at most.
	"max_parallel_workers_per_gather": "0",
	// Whole tables are joined, and they may have grown since they were analyzed. (Look-ups have no other way.)
	"enable_nestloop": "off",
}

// answersFor is the condition on the slot of a row that counts. A fenced slot is about to move, but all of its money is
// still here, and @moved is not booked. Rows of slots that are incoming or moved are copies.
// With "is true" it is a filter with a hash table, not a join: the planner has no idea how many slots there are.
const answersFor = `(slot in (select owned.slot from slots owned where owned.state in ('owned', 'fenced'))) is true`

// Snapshot is one shard at one instant, for an audit: a REPEATABLE READ READ ONLY transaction on a connection of its own.
// It implements audit.Snapshot, whose methods it documents. It is for one goroutine at a time.
type Snapshot struct {
	conn     *pgx.Conn
	identity audit.Identity
	slots    map[ledger.Slot]audit.Slot

	part  audit.Part
	scope string // the condition on a row of the part
	mark  audit.Mark
}

var _ audit.Snapshot = (*Snapshot)(nil)

// errStandby: what a standby shows may be older than what was committed before it was asked, and the order of an audit's
// rounds would mean nothing.
var errStandby = errors.New("the server is a standby")

// snapshotPatience bounds how long taking a snapshot may take, from connecting on.
const snapshotPatience = 15 * time.Second

// Snapshot takes a snapshot of all rows. Close ends it.
func (s *Shard) Snapshot(ctx context.Context) (*Snapshot, error) {
	return s.SnapshotOf(ctx, audit.Part{})
}

// SnapshotOf takes a snapshot of a part of the rows. ErrMarkLost: the part's mark means nothing to this server.
func (s *Shard) SnapshotOf(ctx context.Context, part audit.Part) (*Snapshot, error) {
	config, err := connConfig(s.config.DSN, s.config.Password, roleService, s.config.Name+" audit", scans, planning(part), expecting(s.config.Timeline))
	if err != nil {
		return nil, fmt.Errorf("snapshot of shard %s: %w", s.config.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotPatience)
	defer cancel()
	conn, refused, err := connectRather(ctx, config, s.config.Cluster, s.config.ID)
	if err != nil {
		return nil, fmt.Errorf("snapshot of shard %s: %w", s.config.ID, err)
	}
	snapshot := &Snapshot{conn: conn, slots: make(map[ledger.Slot]audit.Slot), part: part, scope: answersFor}
	if err := snapshot.begin(ctx); err != nil {
		snapshot.Close()
		return nil, fmt.Errorf("snapshot of shard %s: %w", s.config.ID, err)
	}
	// What it is will be judged by what it says. An old primary says that it is adopted.
	is := snapshot.identity
	if refused != nil && is.Cluster == s.config.Cluster && is.Shard == s.config.ID && is.Timeline == is.Running {
		snapshot.Close()
		return nil, fmt.Errorf("snapshot of shard %s: %w", s.config.ID, refused)
	}
	if !part.Whole() {
		if err := snapshot.narrow(ctx); err != nil {
			snapshot.Close()
			return nil, fmt.Errorf("snapshot of a part of shard %s: %w", s.config.ID, err)
		}
	}
	return snapshot, nil
}

const beginSnapshotStatement = `begin isolation level repeatable read read only`

// The first statement that reads takes the snapshot, not begin.
const identityStatement = `
select coalesce(m.cluster, ''), coalesce(m.shard, ''), coalesce(m.slots, 0), coalesce(m.hash, ''), coalesce(m.timeline, 0),
       here.standby,
       case when here.standby then 0 -- it has no insert location
       else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int end
from (select pg_is_in_recovery() as standby) here
left join shard_meta m on true`

const slotsStatement = `
select slot,
       state,
       epoch,
       move_id,
       fenced_at,
       not clean
from slots`

func (s *Snapshot) begin(ctx context.Context) error {
	var (
		pipeline pgx.Batch
		standby  bool
	)
	pipeline.Queue(beginSnapshotStatement)
	pipeline.Queue(identityStatement).QueryRow(func(row pgx.Row) error {
		i := &s.identity
		return row.Scan(&i.Cluster, &i.Shard, &i.Slots, &i.Hash, &i.Timeline, &standby, &i.Running)
	})
	pipeline.Queue(slotsStatement).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var (
				number   ledger.Slot
				slot     audit.Slot
				fencedAt *time.Time
			)
			if err := rows.Scan(&number, &slot.State, &slot.Epoch, &slot.Move, &fencedAt, &slot.Copy); err != nil {
				return err
			}
			if fencedAt != nil {
				slot.FencedAt = *fencedAt
			}
			s.slots[number] = slot
		}
		return rows.Err()
	})
	if err := s.conn.SendBatch(ctx, &pipeline).Close(); err != nil {
		return err
	}
	if standby {
		return errStandby
	}
	return nil
}

// Close ends the snapshot.
func (s *Snapshot) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // nothing was written
}

// Identity returns who the database says it is.
func (s *Snapshot) Identity() audit.Identity { return s.identity }

// Slots returns the shard's slots.
func (s *Snapshot) Slots() map[ledger.Slot]audit.Slot { return s.slots }

const countStatement = `
select (select count(*) from users where ` + answersFor + `),
       (select count(*) from accounts where ` + answersFor + `),
       count(*), count(*) filter (where state = 1), min(created_at) filter (where state = 1)
from sagas
where ` + answersFor

const sumEntriesStatement = `
select currency, count(*), sum(amount)::text
from entries
where ` + answersFor + `
group by currency`

// Sums of bigint are numeric: they do not overflow.
const sumOperationsStatement = `
select currency,
       count(*),
       count(*) filter (where step = 2),
       coalesce(sum(system_amount), 0)::text,
       coalesce(sum(system_amount) filter (where system_account = '@world'), 0)::text,
       coalesce(sum(system_amount) filter (where system_account = '@transit'), 0)::text,
       coalesce(sum(amount) filter (where step = 1 and saga and reason = ''), 0)::text,
       coalesce(sum(amount) filter (where step = 2 and reason = ''), 0)::text,
       coalesce(sum(amount) filter (where step = 3 and reason = ''), 0)::text
from operations
where ` + answersFor + `
group by currency`

// Whatever slots it was booked for: they came to this shard, or have left it, for good or until they came again.
const bookingsStatement = `
select move_id, other, currency, amount::text
from moved
order by move_id, currency`

// Totals counts and sums.
func (s *Snapshot) Totals(ctx context.Context) (audit.Totals, error) {
	totals := audit.Totals{Money: make(map[ledger.Currency]audit.Money)}
	if !s.part.Whole() {
		return totals, s.count(ctx, &totals)
	}
	money := func(currency ledger.Currency) audit.Money {
		if _, ok := totals.Money[currency]; !ok {
			totals.Money[currency] = audit.NewMoney()
		}
		return totals.Money[currency]
	}
	var oldest *time.Time
	err := s.conn.QueryRow(ctx, countStatement).Scan(&totals.Users, &totals.Accounts, &totals.Sagas, &totals.Pending, &oldest)
	if err != nil {
		return audit.Totals{}, fmt.Errorf("count rows: %w", err)
	}
	if oldest != nil {
		totals.OldestPending = *oldest
	}
	var (
		currency   ledger.Currency
		n, credits int64
		sums       [6]string
	)
	err = s.each(ctx, sumEntriesStatement, nil, []any{&currency, &n, &sums[0]}, func() error {
		totals.Entries += n
		return parse(sums[:], money(currency).Entries)
	})
	if err != nil {
		return audit.Totals{}, fmt.Errorf("sum entries: %w", err)
	}
	into := []any{&currency, &n, &credits, &sums[0], &sums[1], &sums[2], &sums[3], &sums[4], &sums[5]}
	err = s.each(ctx, sumOperationsStatement, nil, into, func() error {
		totals.Operations += n
		totals.Credits += credits
		m := money(currency)
		return parse(sums[:], m.System, m.World, m.Transit, m.Debited, m.Credited, m.Refunded)
	})
	if err != nil {
		return audit.Totals{}, fmt.Errorf("sum operations: %w", err)
	}
	if totals.Bookings, err = s.bookings(ctx); err != nil {
		return audit.Totals{}, err
	}
	for _, booking := range totals.Bookings {
		moved := money(booking.Currency).Moved
		moved.Add(moved, booking.Amount)
	}
	return totals, nil
}

func (s *Snapshot) bookings(ctx context.Context) (all []audit.Booking, err error) {
	var (
		booking audit.Booking
		amount  string
	)
	err = s.each(ctx, bookingsStatement, nil, []any{&booking.Move, &booking.Other, &booking.Currency, &amount}, func() error {
		booking.Amount = new(big.Int)
		all = append(all, booking)
		return parse([]string{amount}, booking.Amount)
	})
	if err != nil {
		return nil, fmt.Errorf("read what was booked against @moved: %w", err)
	}
	return all, nil
}

func parse(sums []string, into ...*big.Int) error {
	for i, n := range into {
		if _, ok := n.SetString(sums[i], 10); !ok {
			return fmt.Errorf("sum %q is not an integer", sums[i])
		}
	}
	return nil
}

// The table's checks say the same. They are asked again here, since a table can be altered.
const misshapenStatement = `
select initiator, tx_id, step, kind, saga, amount, reason, system_account, system_amount
from operations
where ` + answersFor + ` and not (
    (kind = 3) = (payee <> '')
    and (step = 1 or kind = 3 and not saga)
    and (kind = 3 or not saga)
    and (step <> 3 or reason = '')
    and case
        when reason <> ''          then system_account = '' and system_amount = 0 and version = 0 and balance = 0
        when step = 1 and kind = 1 then system_account = '@world' and system_amount = -amount
        when step = 1 and kind = 2 then system_account = '@world' and system_amount = amount
        when step = 1 and saga     then system_account = '@transit' and system_amount = amount
        when step = 1              then system_account = '' and system_amount = 0
        else                            system_account = '@transit' and system_amount = -amount
    end)`

// lines is a bag of the lines that operations call for and of the entries that are there. Each line must be in it as often
// from one side as from the other. Only the lines of operations' owners: they are in the operation's slot. The payee's of a
// local transfer may be on another shard by now: see localLines.
const lines = `
(
    select slot,
           initiator,
           tx_id,
           step,
           kind,
           case step when 2 then payee else initiator end as user_id,
           case step when 2 then initiator else payee end as counterparty,
           currency,
           case when step = 1 and kind <> 1 then -amount else amount end as amount,
           version,
           balance,
           true as called
    from operations
    where reason = '' and ` + answersFor + `
    union all
    select slot,
           case when step = 2 then counterparty else user_id end,
           tx_id,
           step,
           kind,
           user_id,
           counterparty,
           currency,
           amount,
           version,
           balance,
           false
    from entries
    where not ` + received + ` and ` + answersFor + `
) as lines`

// received is the condition on an entry that a local transfer has credited its payee with.
const received = `(kind = 3 and step = 1 and amount > 0)`

const lineBucket = `hash_record_extended(row(initiator, tx_id), 0) & 4095`

// To compare the bag itself would take a sort of the whole history, on the disk of a server that is serving. In each bucket
// of transfers the sums of 64-bit hashes of both sides are compared first, which takes a scan and no space.
const differingBucketsStatement = `
select ` + lineBucket + `
from ` + lines + `
cross join lateral (
    select hash_record_extended(row(slot, initiator, tx_id, step, kind, user_id, counterparty, currency, amount, version, balance), 0)
) as hashed(line)
group by 1
having sum(line) filter (where called) is distinct from sum(line) filter (where not called)`

// The bag itself, of the buckets that differ.
const differingLinesStatement = `
select initiator, tx_id, step, kind, user_id, counterparty, currency, amount, version, balance,
       count(*) filter (where called) - count(*) filter (where not called)
from ` + lines + `
where ` + lineBucket + ` = any($1::bigint[])
group by slot, initiator, tx_id, step, kind, user_id, counterparty, currency, amount, version, balance
having count(*) filter (where called) <> count(*) filter (where not called)`

// Operations reports operations whose system side or entries are not what their contents call for, and entries that no
// operation calls for: all but the payees' of local transfers.
func (s *Snapshot) Operations(ctx context.Context, report audit.Reporter) error {
	var (
		op     ledger.Recorded
		system ledger.SystemAccount
		amount ledger.Amount
	)
	into := []any{&op.Initiator, &op.TxID, &op.Step, &op.Kind, &op.Saga, &op.Amount, &op.Reason, &system, &amount}
	err := s.each(ctx, misshapenStatement, nil, into, func() error {
		outcome := "applied"
		if op.Reason != ledger.Applied {
			outcome = "refused (" + string(op.Reason) + ")"
		}
		report(audit.CheckOperations, operationID(op.Identity, op.Step), fmt.Sprintf(
			"%s of %d, saga %v, %s, must not have the system side %q %d", op.Kind, op.Amount, op.Saga, outcome, system, amount))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read misshapen operations: %w", err)
	}
	var (
		bucket  int64
		buckets []int64
	)
	err = s.each(ctx, differingBucketsStatement, nil, []any{&bucket}, func() error {
		buckets = append(buckets, bucket)
		return nil
	})
	if err != nil {
		return fmt.Errorf("compare operations and entries: %w", err)
	}
	if len(buckets) == 0 {
		return nil
	}
	var (
		e ledger.Entry
		n int64
	)
	into = []any{&e.Initiator, &e.TxID, &e.Step, &e.Kind, &e.User, &e.Counterparty, &e.Currency, &e.Amount, &e.Version, &e.Balance, &n}
	err = s.each(ctx, differingLinesStatement, []any{buckets}, into, func() error {
		line := fmt.Sprintf("entry of %+d %s for %s, number %d, balance %d", e.Amount, e.Currency, e.User, e.Version, e.Balance)
		if n > 0 {
			report(audit.CheckOperations, operationID(e.Identity, e.Step), "it lacks its "+line)
		} else {
			report(audit.CheckOperations, operationID(e.Identity, e.Step), fmt.Sprintf("there is an %s that it does not call for", line))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("join operations and entries: %w", err)
	}
	return nil
}

func operationID(id ledger.Identity, step ledger.Step) string {
	return id.String() + " " + step.String()
}

// localLines are what local transfers call for and what entries show of them, in the same words. The number and balance of
// a payee's entry are not among what its operation tells: these are left to the account's chain.
const localLines = `
(
    select slot, true as called, payee as other, initiator, tx_id, payee, amount, currency
    from operations
    where step = 1 and kind = 3 and not saga and reason = '' and ` + answersFor + `
    union all
    select slot, false, counterparty, counterparty, tx_id, user_id, amount, currency
    from entries
    where ` + received + ` and ` + answersFor + `
) as lines`

// Only this program can tell a user's slot, so rows are streamed: the other end's id is the shortest that tells it. The hash
// is one that a partitioned table may depend on, so it is the same on servers of all versions; if it were not, all lines
// would be compared one by one.
const lineSumsStatement = `
select slot, called, other, hash_record_extended(row(initiator, tx_id, payee, amount, currency), 0)
from ` + localLines

// LineSums streams a hash of each payee's line of local transfers.
func (s *Snapshot) LineSums(ctx context.Context, found func(payer, payee ledger.Slot, hash uint64, called bool)) error {
	var (
		slot   ledger.Slot
		called bool
		other  ledger.UserID
		hash   int64
	)
	if s.part.Since == nil && !s.part.Whole() {
		return nil
	}
	err := s.each(ctx, lineSumsStatement, nil, []any{&slot, &called, &other, &hash}, func() error {
		payer, payee := slot, placement.SlotOf(other)
		if !s.shows(payee) || !s.shows(payer) {
			return nil
		}
		if !called {
			payer, payee = payee, payer
		}
		found(payer, payee, uint64(hash), called)
		return nil
	})
	if err != nil {
		return fmt.Errorf("hash local transfers: %w", err)
	}
	return nil
}

// Entries by their slot; operations do not tell the payee's.
const findLinesStatement = `
select called, initiator, tx_id, payee, amount, currency
from ` + localLines + `
where called or slot = any($1)`

// FindLines streams the payees' lines of local transfers to some slots.
func (s *Snapshot) FindLines(ctx context.Context, payees map[ledger.Slot]bool, found func(line audit.Line, called bool)) error {
	slots := make([]int16, 0, len(payees))
	for slot := range payees {
		slots = append(slots, int16(slot))
	}
	var (
		called bool
		line   audit.Line
	)
	into := []any{&called, &line.Initiator, &line.TxID, &line.Payee, &line.Amount, &line.Currency}
	err := s.each(ctx, findLinesStatement, []any{slots}, into, func() error {
		if payees[placement.SlotOf(line.Payee)] && s.shows(placement.SlotOf(line.Initiator)) {
			found(line, called)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read local transfers: %w", err)
	}
	return nil
}

const countEntriesStatement = `
select wanted.n, count(*)
from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[]) with ordinality
     as wanted(slot, initiator, tx_id, payee, amount, currency, n)
join (
    select *
    from entries
    where slot = any($1) and ` + received + `
) e on e.slot = wanted.slot and e.user_id = wanted.payee and e.currency = wanted.currency
   and e.tx_id = wanted.tx_id and e.counterparty = wanted.initiator and e.amount = wanted.amount
group by wanted.n`

// CountEntries counts the entries that show lines.
func (s *Snapshot) CountEntries(ctx context.Context, lines []audit.Line) (map[audit.Line]int64, error) {
	n := len(lines)
	slots, amounts := make([]int16, n), make([]int64, n)
	initiators, txIDs, payees, currencies := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	for i, line := range lines {
		slots[i], amounts[i] = int16(placement.SlotOf(line.Payee)), int64(line.Amount)
		initiators[i], txIDs[i] = string(line.Initiator), string(line.TxID)
		payees[i], currencies[i] = string(line.Payee), string(line.Currency)
	}
	var (
		i, count int64
		counts   = make(map[audit.Line]int64)
	)
	args := []any{slots, initiators, txIDs, payees, amounts, currencies}
	err := s.each(ctx, countEntriesStatement, args, []any{&i, &count}, func() error {
		counts[lines[i-1]] = count
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up entries: %w", err)
	}
	return counts, nil
}

// In numeric, since rows that are wrong may be wrong by any amount.
const chainStatement = `
select user_id, currency, version, amount, balance, previous, before, went_back
from (
    select user_id, currency, version, amount, balance,
           lag(version, 1, 0::bigint) over account as previous,
           lag(balance, 1, 0::bigint) over account as before,
           coalesce(created_at < lag(created_at) over account, false) as went_back
    from entries
    where ` + answersFor + `
    window account as (partition by slot, user_id, currency order by version)
) chain
where version - 1 <> previous
   or balance - before::numeric <> amount
   or balance < 0
   or went_back`

const accountsStatement = `
select held.user_id, held.currency, held.balance, held.version, coalesce(held.n, 0), coalesce(held.sum, 0)::text,
       u.id is not null
from (
    (
        select slot, user_id, currency, balance, version
        from accounts
        where ` + answersFor + `
    ) a
    full join (
        select slot, user_id, currency, count(*) as n, sum(amount) as sum
        from entries
        where ` + answersFor + `
        group by slot, user_id, currency
    ) e using (slot, user_id, currency)
) as held
left join users u on u.slot = held.slot and u.id = held.user_id
where held.version is null
   or held.version <> coalesce(held.n, 0)
   or held.balance <> coalesce(held.sum, 0)
   or held.balance < 0
   or u.id is null`

// Accounts reports accounts that are not what their entries make them, and balances below zero.
func (s *Snapshot) Accounts(ctx context.Context, report audit.Reporter) error {
	if s.part.Since != nil {
		return s.recentAccounts(ctx, report)
	}
	if err := s.chains(ctx, chainStatement, report); err != nil {
		return err
	}
	var (
		key              ledger.AccountKey
		balance, version *int64
		n                int64
		sum              string
		user             bool
	)
	into := []any{&key.User, &key.Currency, &balance, &version, &n, &sum, &user}
	err := s.each(ctx, accountsStatement, nil, into, func() error {
		id := accountID(key)
		switch {
		case balance == nil:
			report(audit.CheckAccounts, id, fmt.Sprintf("there is no account, but %d entries", n))
		default:
			if *version != n {
				report(audit.CheckAccounts, id, fmt.Sprintf("its version is %d, but there are %d entries", *version, n))
			}
			if fmt.Sprint(*balance) != sum {
				report(audit.CheckAccounts, id, fmt.Sprintf("its balance is %d, but its entries sum to %s", *balance, sum))
			}
			if *balance < 0 {
				report(audit.CheckOverdraft, id, fmt.Sprintf("its balance is %d", *balance))
			}
		}
		if !user {
			report(audit.CheckAccounts, id, "there is no such user")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("join accounts and entries: %w", err)
	}
	return nil
}

// chains reports entries that do not go on from the one before.
func (s *Snapshot) chains(ctx context.Context, statement string, report audit.Reporter) error {
	var (
		e                ledger.Entry
		previous, before int64
		wentBack         bool
	)
	into := []any{&e.User, &e.Currency, &e.Version, &e.Amount, &e.Balance, &previous, &before, &wentBack}
	err := s.each(ctx, statement, nil, into, func() error {
		id := fmt.Sprintf("%s %d", accountID(e.AccountKey), e.Version)
		if e.Version-1 != previous {
			report(audit.CheckAccounts, id, fmt.Sprintf("the entry before it is number %d", previous))
		}
		if sum := new(big.Int).Add(big.NewInt(before), big.NewInt(int64(e.Amount))); sum.Cmp(big.NewInt(int64(e.Balance))) != 0 {
			report(audit.CheckAccounts, id, fmt.Sprintf("its balance is %d, but the one before %d and its amount %+d are %v", e.Balance, before, e.Amount, sum))
		}
		if wentBack {
			report(audit.CheckAccounts, id, "it was made before the entry before it")
		}
		if e.Balance < 0 {
			report(audit.CheckOverdraft, id, fmt.Sprintf("its balance is %d", e.Balance))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("follow the chains of entries: %w", err)
	}
	return nil
}

func accountID(key ledger.AccountKey) string { return string(key.User) + " " + string(key.Currency) }

const startsStatement = `
select initiator, tx_id, o.slot is not null, s.slot is not null,
       coalesce(o.payee, ''), coalesce(o.amount, 0), coalesce(o.currency, ''),
       coalesce(s.payee, ''), coalesce(s.amount, 0), coalesce(s.currency, '')
from (
    select slot, tx_id, initiator, payee, amount, currency
    from operations
    where step = 1 and saga and reason = '' and ` + answersFor + `
) o
full join (
    select slot, tx_id, initiator, payee, amount, currency
    from sagas
    where ` + answersFor + `
) s using (slot, tx_id, initiator)
where (o.payee, o.amount, o.currency) is distinct from (s.payee, s.amount, s.currency)`

const refundsStatement = `
select initiator, tx_id, o.slot is not null, s.slot is not null,
       coalesce(o.payee, ''), coalesce(o.amount, 0), coalesce(o.currency, ''),
       coalesce(s.payee, ''), coalesce(s.amount, 0), coalesce(s.currency, '')
from (
    select slot, tx_id, initiator, payee, amount, currency
    from operations
    where step = 3 and ` + answersFor + `
) o
full join (
    select slot, tx_id, initiator, payee, amount, currency
    from sagas
    where state = 3 and ` + answersFor + `
) s using (slot, tx_id, initiator)
where (o.payee, o.amount, o.currency) is distinct from (s.payee, s.amount, s.currency)`

// Sagas reports starts that debited for a saga without one, refunds of sagas that are not refunded, and the reverse.
func (s *Snapshot) Sagas(ctx context.Context, report audit.Reporter) error {
	starts, refunds := startsStatement, refundsStatement
	var following []any
	if s.part.Since != nil {
		starts, refunds, following = recentStartsStatement, recentRefundsStatement, s.pending()
	}
	for _, side := range []struct {
		step              ledger.Step
		statement         string
		args              []any
		noSaga, noneOther string
	}{
		{ledger.StepStart, starts, nil, "it debited for a saga, but there is none", "it has no start that debited for it"},
		{ledger.StepRefund, refunds, following, "it is applied, but there is no saga that is refunded", "it is refunded, but there is no refund"},
	} {
		var (
			op, saga       ledger.Transfer
			hasOp, hasSaga bool
		)
		into := []any{&op.Initiator, &op.TxID, &hasOp, &hasSaga, &op.Payee, &op.Amount, &op.Currency, &saga.Payee, &saga.Amount, &saga.Currency}
		err := s.each(ctx, side.statement, side.args, into, func() error {
			switch {
			case !hasSaga:
				report(audit.CheckSagas, operationID(op.Identity, side.step), side.noSaga)
			case !hasOp:
				report(audit.CheckSagas, op.Identity.String(), side.noneOther)
			default:
				report(audit.CheckSagas, op.Identity.String(), fmt.Sprintf("it is of %d %s to %s, its %s of %d %s to %s",
					saga.Amount, saga.Currency, saga.Payee, side.step, op.Amount, op.Currency, op.Payee))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("join sagas and each %s: %w", side.step, err)
		}
	}
	return nil
}

const usersStatement = `select slot, id from users where ` + answersFor

// Users were judged, so only operations without one in their slot need a look: of a user that is not known, refused.
const strangersStatement = `
select slot, initiator, tx_id, step, payee, reason
from operations o
where ` + answersFor + `
  and not exists (
      select from users u
      where u.slot = o.slot and u.id = case o.step when 2 then o.payee else o.initiator end
  )`

// All keys begin with the slot: a probe of the index for each slot that has rows.
const presentStatement = `
with recursive present(slot) as (
    (select slot from %[1]s order by slot limit 1)
    union all
    select (select t.slot from %[1]s t where t.slot > present.slot order by t.slot limit 1)
    from present
    where present.slot is not null
)
select slot from present where slot is not null`

// Rows reports rows that stand in another slot than their user's, or where no row should be. Accounts and entries are joined to users, sagas to
// operations, by slot, so these need no look of their own.
func (s *Snapshot) Rows(ctx context.Context, report audit.Reporter) error {
	var (
		slot ledger.Slot
		user ledger.UserID
		op   ledger.Recorded
	)
	err := s.each(ctx, usersStatement, nil, []any{&slot, &user}, func() error {
		if right := placement.SlotOf(user); right != slot {
			report(audit.CheckRows, string(user), fmt.Sprintf("the user stands in slot %d, not %d", slot, right))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	tables := []string{"users", "accounts", "operations", "entries", "sagas"}
	if !s.part.Whole() {
		tables = nil // they are looked at as a whole, or not
	}
	for _, table := range tables {
		err := s.each(ctx, fmt.Sprintf(presentStatement, table), nil, []any{&slot}, func() error {
			if row := s.slots[slot]; !row.Answered() && !row.Copy {
				report(audit.CheckRows, fmt.Sprintf("slot %d", slot), "the shard has no part in it, but rows of "+table)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for slots with %s: %w", table, err)
		}
	}
	into := []any{&slot, &op.Initiator, &op.TxID, &op.Step, &op.Payee, &op.Reason}
	err = s.each(ctx, strangersStatement, nil, into, func() error {
		owner := op.Owner()
		if right := placement.SlotOf(owner); right != slot {
			report(audit.CheckRows, operationID(op.Identity, op.Step), fmt.Sprintf("it stands in slot %d, not %d", slot, right))
		}
		if op.Reason == ledger.Applied {
			report(audit.CheckRows, operationID(op.Identity, op.Step), fmt.Sprintf("it is applied, but there is no user %s", owner))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read operations without a user: %w", err)
	}
	return nil
}

const creditsStatement = `
select initiator, tx_id, kind, payee, amount, currency, reason
from operations
where step = 2 and ` + answersFor

// Credits streams the credits.
func (s *Snapshot) Credits(ctx context.Context, found func(ledger.Recorded) error) error {
	credit := ledger.Recorded{Operation: ledger.Operation{Step: ledger.StepCredit}}
	into := []any{&credit.Initiator, &credit.TxID, &credit.Kind, &credit.Payee, &credit.Amount, &credit.Currency, &credit.Reason}
	if err := s.each(ctx, creditsStatement, nil, into, func() error { return found(credit) }); err != nil {
		return fmt.Errorf("read credits: %w", err)
	}
	return nil
}

const allEndedSagasStatement = `
select initiator, tx_id, payee, amount, currency, state, cause
from sagas
where state <> 1 and ` + answersFor

// EndedSagas streams the sagas that have ended.
func (s *Snapshot) EndedSagas(ctx context.Context, found func(ledger.Saga) error) error {
	if s.part.Since != nil {
		return s.recentlyEnded(ctx, found)
	}
	saga := ledger.Saga{Transfer: ledger.Transfer{Kind: ledger.KindTransfer}}
	into := []any{&saga.Initiator, &saga.TxID, &saga.Payee, &saga.Amount, &saga.Currency, &saga.State, &saga.Cause}
	if err := s.each(ctx, allEndedSagasStatement, nil, into, func() error { return found(saga) }); err != nil {
		return fmt.Errorf("read ended sagas: %w", err)
	}
	return nil
}

// The limit keeps the planner from joining the whole table: one probe of the key for each.
const findCreditsStatement = `
select wanted.n, o.kind, o.amount, o.currency, o.reason
from unnest($1::smallint[], $2::text[], $3::text[], $4::text[]) with ordinality as wanted(slot, tx_id, initiator, payee, n)
cross join lateral (
    select *
    from operations o
    where o.slot = wanted.slot and o.tx_id = wanted.tx_id and o.initiator = wanted.initiator and o.step = 2
    limit 1
) o
where o.payee = wanted.payee`

// FindCredits looks credits up.
func (s *Snapshot) FindCredits(ctx context.Context, ids []audit.CreditID) (map[audit.CreditID]ledger.Recorded, error) {
	n := len(ids)
	slots, txIDs, initiators, payees := make([]int16, n), make([]string, n), make([]string, n), make([]string, n)
	for i, id := range ids {
		slots[i], txIDs[i] = int16(placement.SlotOf(id.Payee)), string(id.TxID)
		initiators[i], payees[i] = string(id.Initiator), string(id.Payee)
	}
	var (
		i       int64
		credit  = ledger.Recorded{Operation: ledger.Operation{Step: ledger.StepCredit}}
		credits = make(map[audit.CreditID]ledger.Recorded, n)
		into    = []any{&i, &credit.Kind, &credit.Amount, &credit.Currency, &credit.Reason}
	)
	err := s.each(ctx, findCreditsStatement, []any{slots, txIDs, initiators, payees}, into, func() error {
		id := ids[i-1]
		credit.Identity, credit.Payee = id.Identity, id.Payee
		credits[id] = credit
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up credits: %w", err)
	}
	return credits, nil
}

const findHomesStatement = `
select wanted.n,
       o.slot is not null,
       coalesce(o.kind, 0), coalesce(o.saga, false), coalesce(o.payee, ''), coalesce(o.amount, 0), coalesce(o.currency, ''),
       coalesce(o.reason, ''),
       s.slot is not null,
       coalesce(s.payee, ''), coalesce(s.amount, 0), coalesce(s.currency, ''), coalesce(s.state, 0), coalesce(s.cause, '')
from unnest($1::smallint[], $2::text[], $3::text[]) with ordinality as wanted(slot, tx_id, initiator, n)
left join lateral (
    select *
    from operations o
    where o.slot = wanted.slot and o.tx_id = wanted.tx_id and o.initiator = wanted.initiator and o.step = 1
    limit 1
) o on true
left join lateral (
    select *
    from sagas s
    where s.slot = wanted.slot and s.tx_id = wanted.tx_id and s.initiator = wanted.initiator
    limit 1
) s on true
where o.slot is not null or s.slot is not null`

// FindHomes looks up what is known of transfers in their initiators' slots.
func (s *Snapshot) FindHomes(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]audit.Home, error) {
	n := len(ids)
	slots, txIDs, initiators := make([]int16, n), make([]string, n), make([]string, n)
	for i, id := range ids {
		slots[i], txIDs[i], initiators[i] = int16(placement.SlotOf(id.Initiator)), string(id.TxID), string(id.Initiator)
	}
	var (
		i                 int64
		hasStart, hasSaga bool
		start             = ledger.Recorded{Operation: ledger.Operation{Step: ledger.StepStart}}
		saga              = ledger.Saga{Transfer: ledger.Transfer{Kind: ledger.KindTransfer}}
		homes             = make(map[ledger.Identity]audit.Home, n)
	)
	into := []any{&i,
		&hasStart, &start.Kind, &start.Saga, &start.Payee, &start.Amount, &start.Currency, &start.Reason,
		&hasSaga, &saga.Payee, &saga.Amount, &saga.Currency, &saga.State, &saga.Cause,
	}
	err := s.each(ctx, findHomesStatement, []any{slots, txIDs, initiators}, into, func() error {
		var home audit.Home
		id := ids[i-1]
		if hasStart {
			found := start
			found.Identity = id
			home.Start = &found
		}
		if hasSaga {
			found := saga
			found.Identity = id
			home.Saga = &found
		}
		homes[id] = home
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up homes: %w", err)
	}
	return homes, nil
}

// each streams a query's rows, each scanned into the same variables. The query says answersFor for the snapshot's scope.
func (s *Snapshot) each(ctx context.Context, query string, args, into []any, row func() error) error {
	rows, err := s.conn.Query(ctx, strings.ReplaceAll(query, answersFor, s.scope), args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, row)
	return err
}
