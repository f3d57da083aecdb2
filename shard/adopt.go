package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// ErrNotAdoptable is returned by Adopt for a server that must not become the shard's primary. Its text says why.
var ErrNotAdoptable = errors.New("the server cannot be adopted")

// Adoption is a decision that the registry is asked to keep.
type Adoption struct {
	From, To int    // timelines; From is 0 if the registry does not know it
	Mark     string // of the one server that is meant: another one may be on a timeline of the same number
}

// Known is what the registry says about a shard's primary.
type Known struct {
	Timeline int    // 0: not known
	Mark     string // of its adoption; "" if it never was adopted
}

// Adopt makes the server at dsn the primary that a shard has from now on, and returns what it is. It runs as the owner, at
// the server itself: a promoted standby accepts nothing until then, since the timeline that its database has adopted is not
// the one that it is on.
//
// The registry decides, by decide, which must change what is known to To and Mark, or do nothing if that is what is known.
// holds returns the slots that the registry gives to the shard, read linearizably after that: until the server is adopted
// nothing changes there, and later decisions reach it like any others. What it takes for its own and is given elsewhere, or
// to it anew, is fenced: it may have lost the news, and rows with them, and whoever has an old map would be served. Adopt
// returns these slots at the server's epochs. A mover that tells the news again opens them, or buries them; where there is
// none any more, they stay refused until a person has looked.
//
// The database is marked before and told afterwards. The other order would let two servers that were promoted at once both
// accept writes: each database knows only of itself. A crash in between leaves a shard that refuses, and adopting again
// ends it; the mark tells that the server is the one that was decided on, and not another one on a timeline of the same
// number. A server keeps its mark for as long as it is on its timeline, so several who adopt it at once do the same thing
// several times; of several servers only one is decided on. Adopting an adopted server changes nothing.
//
// The error is ErrNotAdoptable, ErrOtherShard, or that of decide.
func Adopt(
	ctx context.Context, dsn, password, cluster string, id ledger.ShardID, known Known,
	decide func(ctx context.Context, adoption Adoption) error, holds func(ctx context.Context) ([]placement.Hold, error),
) (s *Standing, fenced []placement.Hold, err error) {
	config, err := connConfig(dsn, password, "", "saldo adopt")
	if err != nil {
		return nil, nil, err
	}
	// A new primary may still be set to wait for standbys that it does not have. What a later failover loses of an adoption
	// is made up for by the next one.
	config.RuntimeParams["synchronous_commit"] = "local"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, nil, fmt.Errorf("adopt the primary of shard %s: %w", id, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	s, err = look(ctx, conn)
	if err == nil {
		err = s.adoptable(cluster, id, known)
	}
	if err == nil && (s.Adopted != s.Timeline || known.Timeline != s.Timeline) {
		fenced, err = adopt(ctx, conn, s, known, decide, holds)
	}
	if err != nil {
		return s, nil, fmt.Errorf("adopt the primary of shard %s: %w", id, err)
	}
	s.Adopted = s.Timeline
	return s, fenced, nil
}

// adoptable says why the server must not be adopted, given what the registry knows.
func (s *Standing) adoptable(cluster string, id ledger.ShardID, known Known) error {
	switch {
	case s.Cluster == "":
		return fmt.Errorf("%w: its database is not a shard", ErrNotAdoptable)
	case s.Cluster != cluster || s.Shard != id:
		return fmt.Errorf("%w: shard %s of cluster %s, not shard %s of cluster %s", ErrOtherShard, s.Shard, s.Cluster, id, cluster)
	case s.Standby:
		return fmt.Errorf("%w: it is a standby: promote it first", ErrNotAdoptable)
	case s.Timeline < known.Timeline || s.Timeline < s.Adopted:
		return fmt.Errorf("%w: it is on timeline %d, and the shard is on %d: it is an old primary, to be rewound or made anew",
			ErrNotAdoptable, s.Timeline, max(known.Timeline, s.Adopted))
	case s.Timeline == known.Timeline && known.Mark == "" && s.Adopted != s.Timeline,
		s.Timeline == known.Timeline && known.Mark != "" && s.adoption != known.Mark:
		// Its database may take itself for adopted: by a registry that was set back since, and has decided on another one.
		return fmt.Errorf("%w: another server was adopted on its timeline %d: this one is to be rewound or made anew", ErrNotAdoptable, s.Timeline)
	case s.ForksUnknown != "" && (s.Timeline != s.Adopted || known.Timeline != 0 && s.Timeline != known.Timeline):
		return fmt.Errorf("%w: the history of its timeline cannot be read: %s", ErrNotAdoptable, s.ForksUnknown)
	case !s.descends(s.Adopted):
		return fmt.Errorf("%w: its timeline %d does not come from timeline %d, which its database is of", ErrNotAdoptable, s.Timeline, s.Adopted)
	case known.Timeline != 0 && !s.descends(known.Timeline):
		return fmt.Errorf("%w: its timeline %d does not come from timeline %d, which the shard is on: all that was written there would be lost",
			ErrNotAdoptable, s.Timeline, known.Timeline)
	case known.Mark != "" && s.Timeline != known.Timeline && s.Adopted != known.Timeline && s.adoption != known.Mark:
		// Numbers alone do not tell: an old backup that is restored twice, without the archive of the timeline that was adopted,
		// goes through another one of that number.
		return fmt.Errorf("%w: nothing in its database tells of the server that was adopted on timeline %d: it goes on from another one of that "+
			"number, as an old backup does that was restored without the newer log", ErrNotAdoptable, known.Timeline)
	}
	return nil
}

// A mark begins with the timeline that it is of, so the one that was begun first on the server's timeline is told from that of
// an earlier one, and stays: whoever adopts the server at the same time may have had it decided on by now. One that the
// database was adopted with stays whatever it begins with.
const markStatement = `
with running as (select ` + runningTimeline + ` as timeline)
update saldo.shard_meta meta
set adoption = case
    when meta.timeline = running.timeline and adoption is not null
      or left(adoption::text, 8) = lpad(to_hex(running.timeline), 8, '0') then adoption
    else overlay(gen_random_uuid()::text placing lpad(to_hex(running.timeline), 8, '0') from 1)::uuid end
from running
returning adoption::text`

// It returns the timeline that was adopted before.
const adoptStatement = `
with before as (select timeline from saldo.shard_meta)
update saldo.shard_meta
set timeline = $1, history = $3
from before
where adoption::text = $2 and ` + runningTimeline + ` = $1
returning before.timeline`

// A slot that the registry gives to this shard at an older epoch is left alone: whoever goes by the registry is not served.
const fenceLostStatement = `
update saldo.slots s
set state = 'fenced', fenced_at = clock_timestamp()
where state = 'owned' and not exists (
    select from unnest($1::smallint[], $2::bigint[]) as given(slot, epoch)
    where given.slot = s.slot and given.epoch <= s.epoch)
returning slot, epoch`

func adopt(
	ctx context.Context, conn *pgx.Conn, s *Standing, known Known,
	decide func(ctx context.Context, adoption Adoption) error, holds func(ctx context.Context) ([]placement.Hold, error),
) (fenced []placement.Hold, err error) {
	adoption := Adoption{From: known.Timeline, To: s.Timeline, Mark: known.Mark}
	if known.Timeline != s.Timeline {
		err := exclusively(ctx, conn, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, markStatement).Scan(&adoption.Mark)
		})
		if err != nil {
			return nil, fmt.Errorf("mark the database: %w", err)
		}
		if err := decide(ctx, adoption); err != nil {
			return nil, err
		}
	}
	given, err := holds(ctx)
	if err != nil {
		return nil, fmt.Errorf("read which slots it is to have: %w", err)
	}
	slots, epochs := columns(given)
	err = exclusively(ctx, conn, func(tx pgx.Tx) error {
		var before int
		err := tx.QueryRow(ctx, adoptStatement, adoption.To, adoption.Mark, s.history).Scan(&before)
		if errors.Is(err, pgx.ErrNoRows) {
			err = errors.New("it is another server by now, or was marked anew: try again")
		}
		if err != nil || before == adoption.To {
			return err // it serves already, and may have been given slots since holds has told
		}
		rows, err := tx.Query(ctx, fenceLostStatement, slots, epochs)
		if err != nil {
			return err
		}
		fenced, err = pgx.CollectRows(rows, pgx.RowToStructByPos[placement.Hold])
		return err
	})
	slices.SortFunc(fenced, func(a, b placement.Hold) int { return cmp.Compare(a.Slot, b.Slot) })
	return fenced, err
}

// exclusively does work in a transaction while nothing else that is guarded runs.
func exclusively(ctx context.Context, conn *pgx.Conn, work func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, advisoryKey); err != nil {
			return err
		}
		return work(tx)
	})
}
