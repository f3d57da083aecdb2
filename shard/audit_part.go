package shard

import (
	"context"
	"fmt"
	"math/big"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// A part of a shard's rows, for an audit that is always on. What was committed since a mark is found by the BRIN indexes on tx,
// as the deltas of a move are, and everything else it is compared with by its key.
//
// Only slots that the shard has answered for since the mark, at one epoch, are shown: rows of others were brought by a mover,
// in transactions that say nothing about what belongs together. In these slots, what a transaction of a lane has written is
// shown whole or not at all.

// planning are the settings of a session that reads a part: the indexes are there to be used, whatever the statistics say of
// tables that grow all the time.
func planning(part audit.Part) map[string]string {
	switch {
	case part.Since != nil:
		return map[string]string{"enable_seqscan": "off", "enable_nestloop": "on", "enable_hashjoin": "off", "enable_mergejoin": "off"}
	case len(part.Slots) > 0:
		return map[string]string{"enable_seqscan": "off", "enable_nestloop": "on"}
	}
	return nil
}

// The transaction's snapshot is the one that everything is read in.
const momentStatement = `
select (pg_control_system()).system_identifier, pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text`

// narrow sets the scope, and takes the mark of this moment.
func (s *Snapshot) narrow(ctx context.Context) error {
	s.mark = audit.Mark{Shard: s.identity.Shard, Timeline: s.identity.Running, Slots: make(map[ledger.Slot]ledger.Epoch)}
	for number, slot := range s.slots {
		if slot.Answered() {
			s.mark.Slots[number] = slot.Epoch
		}
	}
	if err := s.conn.QueryRow(ctx, momentStatement).Scan(&s.mark.System, &s.mark.Snapshot, &s.mark.LSN); err != nil {
		return fmt.Errorf("take a mark: %w", err)
	}
	// The slots are written out: a look-up of them in each statement would keep the planner from the index on tx.
	since := s.part.Since
	switch {
	case since == nil:
		s.scope = "slot = any(" + slotsLiteral(s.answered(s.part.Slots.Contains)) + ")"
		return nil
	case since.Snapshot == "":
		s.scope = "false" // nothing has happened since now
		return nil
	}
	if err := s.remembers(ctx, *since); err != nil {
		return err
	}
	// The index on tx is the one to use, so the condition on the slot is put such that no other can be.
	s.scope = unseenBy(since.Snapshot, "tx") + " and (slot = any(" + slotsLiteral(s.answered(s.shows)) + ")) is true"
	return nil
}

// answered returns the slots that the shard answers for and that are wanted.
func (s *Snapshot) answered(wanted func(ledger.Slot) bool) placement.SlotSet {
	slots := make(placement.SlotSet, 0, len(s.mark.Slots))
	for slot := range ledger.Slot(placement.Slots) {
		if _, ok := s.mark.Slots[slot]; ok && wanted(slot) {
			slots = append(slots, slot)
		}
	}
	return slots
}

// remembers returns audit.ErrMarkLost unless the server is the one that the mark was taken of and has lost nothing since.
func (s *Snapshot) remembers(ctx context.Context, since audit.Mark) error {
	if since.Shard != s.mark.Shard || since.System != s.mark.System || since.Timeline != s.mark.Timeline {
		return fmt.Errorf("%w: it is of system %d on timeline %d, this is system %d on timeline %d",
			audit.ErrMarkLost, since.System, since.Timeline, s.mark.System, s.mark.Timeline)
	}
	var remembered bool
	if err := s.conn.QueryRow(ctx, rememberedStatement, since.Snapshot, since.LSN).Scan(&remembered); err != nil {
		return fmt.Errorf("compare with a mark: %w", err)
	}
	if !remembered {
		return fmt.Errorf("%w: the server is in a state from before it, at %s", audit.ErrMarkLost, since.LSN)
	}
	return nil
}

// shows tells whether the rows of a slot are in the part.
func (s *Snapshot) shows(slot ledger.Slot) bool {
	if s.part.Since == nil {
		return true // the statements tell
	}
	row := s.slots[slot]
	epoch, ok := s.part.Since.Slots[slot]
	return ok && row.Answered() && row.Epoch == epoch
}

// Mark returns the moment of the snapshot, of a part. If it is to be gone on from, EndedSagas has been read.
func (s *Snapshot) Mark() audit.Mark { return s.mark }

const countPartStatement = `
select (select count(*) from users where ` + answersFor + `),
       (select count(*) from operations where ` + answersFor + `),
       (select count(*) from entries where ` + answersFor + `),
       (select count(*) from operations where step = 2 and ` + answersFor + `)`

const countAccountsStatement = `select count(*) from accounts where ` + answersFor

const countTouchedStatement = `select count(*) from (select distinct slot, user_id, currency from entries where ` + answersFor + `) touched`

// count counts the rows of a part, and reads the bookings.
func (s *Snapshot) count(ctx context.Context, totals *audit.Totals) (err error) {
	one := func(query string, into ...any) {
		if err == nil {
			err = s.each(ctx, query, nil, into, func() error { return nil })
		}
	}
	one(countPartStatement, &totals.Users, &totals.Operations, &totals.Entries, &totals.Credits)
	if s.part.Since != nil {
		one(countTouchedStatement, &totals.Accounts)
	} else {
		one(countAccountsStatement, &totals.Accounts)
	}
	if err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	totals.Bookings, err = s.bookings(ctx)
	return err
}

// As chainStatement, with the entry before the first new one of each account.
const recentChainStatement = `
select user_id, currency, version, amount, balance, previous, before, went_back
from (
    select fresh, user_id, currency, version, amount, balance,
           lag(version, 1, 0::bigint) over account as previous,
           lag(balance, 1, 0::bigint) over account as before,
           coalesce(created_at < lag(created_at) over account, false) as went_back
    from (
        select true as fresh, slot, user_id, currency, version, amount, balance, created_at
        from entries
        where ` + answersFor + `
        union all
        select false, e.slot, e.user_id, e.currency, e.version, e.amount, e.balance, e.created_at
        from (
            select slot, user_id, currency, min(version) as version
            from entries
            where ` + answersFor + `
            group by slot, user_id, currency
        ) as opening
        cross join lateral (
            select *
            from entries e
            where e.slot = opening.slot and e.user_id = opening.user_id and e.currency = opening.currency
              and e.version = opening.version - 1
            offset 0
        ) e
    ) as both_kinds
    window account as (partition by slot, user_id, currency order by version)
) chain
where fresh
  and (version - 1 <> previous
       or balance - before::numeric <> amount
       or balance < 0
       or went_back)`

const recentAccountsStatement = `
select latest.user_id, latest.currency, latest.version, latest.balance, a.version, a.balance, u.id is not null
from (
    select slot, user_id, currency
    from entries
    where ` + answersFor + `
    group by slot, user_id, currency
    offset 0
) touched
cross join lateral (
    select *
    from entries e
    where e.slot = touched.slot and e.user_id = touched.user_id and e.currency = touched.currency
    order by version desc
    limit 1
) latest
left join lateral (
    select *
    from accounts a
    where a.slot = latest.slot and a.user_id = latest.user_id and a.currency = latest.currency
    offset 0
) a on true
left join lateral (
    select *
    from users u
    where u.slot = latest.slot and u.id = latest.user_id
    offset 0
) u on true
where (latest.version, latest.balance) is distinct from (a.version, a.balance)
   or u.id is null`

// recentAccounts reports accounts that are not what their newest entries make them, of those that have new ones.
func (s *Snapshot) recentAccounts(ctx context.Context, report audit.Reporter) error {
	if err := s.chains(ctx, recentChainStatement, report); err != nil {
		return err
	}
	var (
		latest           ledger.Entry
		version, balance *int64
		user             bool
	)
	into := []any{&latest.User, &latest.Currency, &latest.Version, &latest.Balance, &version, &balance, &user}
	err := s.each(ctx, recentAccountsStatement, nil, into, func() error {
		id := accountID(latest.AccountKey)
		switch {
		case version == nil:
			report(audit.CheckAccounts, id, fmt.Sprintf("there is no account, but an entry %d", latest.Version))
		case *version != latest.Version:
			report(audit.CheckAccounts, id, fmt.Sprintf("its version is %d, but its latest entry is number %d", *version, latest.Version))
		case big.NewInt(*balance).Cmp(big.NewInt(int64(latest.Balance))) != 0:
			report(audit.CheckAccounts, id, fmt.Sprintf("its balance is %d, but its latest entry says %d", *balance, latest.Balance))
		}
		if !user {
			report(audit.CheckAccounts, id, "there is no such user")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look up the accounts of new entries: %w", err)
	}
	return nil
}

const recentStartsStatement = `
select o.initiator, o.tx_id, true, s.slot is not null,
       o.payee, o.amount, o.currency,
       coalesce(s.payee, ''), coalesce(s.amount, 0), coalesce(s.currency, '')
from (
    select slot, tx_id, initiator, payee, amount, currency
    from operations
    where step = 1 and saga and reason = '' and ` + answersFor + `
    offset 0
) o
left join lateral (
    select *
    from sagas s
    where s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator
    offset 0
) s on true
where (o.payee, o.amount, o.currency) is distinct from (s.payee, s.amount, s.currency)`

// followed are the sagas that a part looks at: those that were begun since its mark, and those that had not ended then.
const followed = `
(
    select slot, tx_id, initiator
    from operations
    where step = 1 and saga and reason = '' and ` + answersFor + `
    union all
    select slot, tx_id, initiator
    from unnest($1::smallint[], $2::text[], $3::text[]) as pending(slot, tx_id, initiator)
    offset 0
) as followed
cross join lateral (
    select *
    from sagas s
    where s.slot = followed.slot and s.tx_id = followed.tx_id and s.initiator = followed.initiator
    offset 0
) s`

const recentRefundsStatement = `
select o.initiator, o.tx_id, true, s.slot is not null,
       o.payee, o.amount, o.currency,
       coalesce(s.payee, ''), coalesce(s.amount, 0), coalesce(s.currency, '')
from (
    select slot, tx_id, initiator, payee, amount, currency
    from operations
    where step = 3 and ` + answersFor + `
    offset 0
) o
left join lateral (
    select *
    from sagas s
    where s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator and s.state = 3
    offset 0
) s on true
where (o.payee, o.amount, o.currency) is distinct from (s.payee, s.amount, s.currency)
union all
select s.initiator, s.tx_id, false, true, '', 0, '', s.payee, s.amount, s.currency
from ` + followed + `
where s.state = 3 and not exists (
    select from operations o
    where o.slot = s.slot and o.tx_id = s.tx_id and o.initiator = s.initiator and o.step = 3
)`

const recentlyEndedStatement = `
select s.initiator, s.tx_id, s.payee, s.amount, s.currency, s.state, s.cause
from ` + followed

// maxFollowed bounds how many sagas are followed from mark to mark until they end. Those beyond are left to who reads all.
const maxFollowed = 100_000

// recentlyEnded streams the sagas that have ended of those that are followed. It leaves the others to the mark.
func (s *Snapshot) recentlyEnded(ctx context.Context, found func(ledger.Saga) error) error {
	s.mark.Pending = nil
	saga := ledger.Saga{Transfer: ledger.Transfer{Kind: ledger.KindTransfer}}
	into := []any{&saga.Initiator, &saga.TxID, &saga.Payee, &saga.Amount, &saga.Currency, &saga.State, &saga.Cause}
	err := s.each(ctx, recentlyEndedStatement, s.pending(), into, func() error {
		switch {
		case saga.State != ledger.SagaPending:
			return found(saga)
		case len(s.mark.Pending) < maxFollowed:
			s.mark.Pending = append(s.mark.Pending, saga.Identity)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("follow sagas: %w", err)
	}
	return nil
}

// pending are the arguments of followed: of slots that are shown.
func (s *Snapshot) pending() []any {
	var (
		slots             = []int16{}
		txIDs, initiators = []string{}, []string{}
	)
	for _, id := range s.part.Since.Pending {
		if slot := placement.SlotOf(id.Initiator); s.shows(slot) {
			slots, txIDs, initiators = append(slots, int16(slot)), append(txIDs, string(id.TxID)), append(initiators, string(id.Initiator))
		}
	}
	return []any{slots, txIDs, initiators}
}
