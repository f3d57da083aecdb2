package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// join is a check between shards: something near, read in round 1, must have something far, read in round 2.
type join[T any] struct {
	check Name
	name  func(CreditID) string // of the near thing, as in Violation.ID
	id    func(T) CreditID
	near  func(CreditID) ledger.UserID // in whose slots they are
	far   func(CreditID) ledger.UserID

	stream func(ctx context.Context, near Steps, found func(T) error) error
	again  func(ctx context.Context, near Steps, ids []CreditID) (map[CreditID]T, error)
	// judge returns for each what is wrong with it; "" is nothing.
	judge func(ctx context.Context, far Steps, things []T) ([]string, error)
}

func payer(id CreditID) ledger.UserID { return id.Initiator }
func payee(id CreditID) ledger.UserID { return id.Payee }

// checkCredits: each credit has its start, debited for a saga, at the payer's home, and the saga has not ended otherwise.
func checkCredits(ctx context.Context, r *run) {
	join[ledger.Recorded]{
		check: CheckCredits,
		name:  func(id CreditID) string { return id.String() + " credit" },
		id:    func(credit ledger.Recorded) CreditID { return CreditID{credit.Payee, credit.Identity} },
		near:  payee,
		far:   payer,
		stream: func(ctx context.Context, near Steps, found func(ledger.Recorded) error) error {
			return near.Credits(ctx, found)
		},
		again: func(ctx context.Context, near Steps, ids []CreditID) (map[CreditID]ledger.Recorded, error) {
			return near.FindCredits(ctx, ids)
		},
		judge: func(ctx context.Context, far Steps, credits []ledger.Recorded) ([]string, error) {
			ids := make([]ledger.Identity, len(credits))
			for i, credit := range credits {
				ids[i] = credit.Identity
			}
			homes, err := far.FindHomes(ctx, ids)
			problems := make([]string, len(credits))
			for i, credit := range credits {
				problems[i] = creditProblem(credit, homes[credit.Identity])
			}
			return problems, err
		},
	}.run(ctx, r)
}

// creditProblem is what is wrong with a credit, given what its payer's home knew later.
func creditProblem(credit ledger.Recorded, home Home) string {
	switch start, saga := home.Start, home.Saga; {
	case start == nil:
		return "there is no start"
	case start.Reason != ledger.Applied:
		return fmt.Sprintf("its start was refused: %s", start.Reason)
	case !start.Saga:
		return "its start moved the money itself"
	case start.Transfer != credit.Transfer:
		return fmt.Sprintf("it is of %s, its start of %s", contents(credit.Transfer), contents(start.Transfer))
	case saga == nil:
		return "its start has no saga"
	case credit.Reason == ledger.Applied && saga.State == ledger.SagaRefunded:
		return "it is applied, but its saga is refunded: the money is in two places"
	case credit.Reason != ledger.Applied && saga.State == ledger.SagaCompleted:
		return "it is refused, but its saga is completed: the money is nowhere"
	}
	return ""
}

// checkEnds: each completed saga has its applied credit at the payee's shard, each refunded one its refused credit.
func checkEnds(ctx context.Context, r *run) {
	join[ledger.Saga]{
		check: CheckEnds,
		name:  CreditID.String,
		id:    func(saga ledger.Saga) CreditID { return CreditID{saga.Payee, saga.Identity} },
		near:  payer,
		far:   payee,
		stream: func(ctx context.Context, near Steps, found func(ledger.Saga) error) error {
			return near.EndedSagas(ctx, found)
		},
		again: func(ctx context.Context, near Steps, ids []CreditID) (map[CreditID]ledger.Saga, error) {
			identities := make([]ledger.Identity, len(ids))
			for i, id := range ids {
				identities[i] = id.Identity
			}
			homes, err := near.FindHomes(ctx, identities)
			sagas := make(map[CreditID]ledger.Saga, len(homes))
			for _, home := range homes {
				if home.Saga != nil {
					sagas[CreditID{home.Saga.Payee, home.Saga.Identity}] = *home.Saga
				}
			}
			return sagas, err
		},
		judge: func(ctx context.Context, far Steps, sagas []ledger.Saga) ([]string, error) {
			ids := make([]CreditID, len(sagas))
			for i, saga := range sagas {
				ids[i] = CreditID{saga.Payee, saga.Identity}
			}
			credits, err := far.FindCredits(ctx, ids)
			problems := make([]string, len(sagas))
			for i, saga := range sagas {
				credit, found := credits[ids[i]]
				problems[i] = endProblem(saga, credit, found)
			}
			return problems, err
		},
	}.run(ctx, r)
}

// endProblem is what is wrong with a saga that has ended, given what its payee's shard knew later.
func endProblem(saga ledger.Saga, credit ledger.Recorded, found bool) string {
	status := saga.State.Status()
	switch {
	case saga.State == ledger.SagaPending:
		return ""
	case !found:
		return fmt.Sprintf("it is %s, but there is no credit", status)
	case credit.Transfer != saga.Transfer:
		return fmt.Sprintf("it is of %s, its credit of %s", contents(saga.Transfer), contents(credit.Transfer))
	case saga.State == ledger.SagaCompleted && credit.Reason != ledger.Applied:
		return fmt.Sprintf("it is %s, but its credit was refused: %s", status, credit.Reason)
	case saga.State == ledger.SagaRefunded && credit.Reason == ledger.Applied:
		return fmt.Sprintf("it is %s, but its credit is applied", status)
	case saga.State == ledger.SagaRefunded && credit.Reason != saga.Cause:
		return fmt.Sprintf("it is %s because of %s, but its credit was refused because of %s", status, saga.Cause, credit.Reason)
	}
	return ""
}

func contents(t ledger.Transfer) string {
	return fmt.Sprintf("%d %s to %s", t.Amount, t.Currency, t.Payee)
}

// run streams what is near from each shard and looks up in chunks what is far. It reports what stays wrong.
func (j join[T]) run(ctx context.Context, r *run) {
	var suspects []CreditID
	for _, n := range r.nodes {
		if r.failed(n) {
			r.unread(j.check, n)
			continue
		}
		if n.first == nil {
			continue // it joined after round 1
		}
		r.progress("shard %s: joining %s", n.id, j.check)
		chunks := make(map[ledger.ShardID][]T) // by the far shard
		flush := func(far ledger.ShardID) error {
			found, err := j.suspects(ctx, r, far, chunks[far])
			chunks[far] = chunks[far][:0]
			if suspects = append(suspects, found...); len(suspects) >= maxSuspects {
				j.settle(ctx, r, suspects)
				suspects = suspects[:0]
			}
			return err
		}
		err := j.stream(ctx, n.first, func(thing T) error {
			far := r.second.where(j.far(j.id(thing)))
			if chunks[far] = append(chunks[far], thing); len(chunks[far]) >= r.options.Chunk {
				return flush(far)
			}
			return nil
		})
		for _, far := range sortedKeys(chunks) {
			if err == nil && len(chunks[far]) > 0 {
				err = flush(far)
			}
		}
		if err != nil {
			r.fail(n, fmt.Errorf("read %s: %w", j.check, err))
			r.unread(j.check, n)
		}
	}
	j.settle(ctx, r, suspects)
}

// maxSuspects are read again at once: a bound on memory.
const maxSuspects = 1000

// suspects looks a chunk up at its far shard. A far shard that fails is a gap, and no error: its near shard goes on.
func (j join[T]) suspects(ctx context.Context, r *run, far ledger.ShardID, things []T) ([]CreditID, error) {
	if far == "" {
		r.gap(j.check, "some slots have no owner")
		return nil, ctx.Err()
	}
	n := r.ensure(far)
	if r.failed(n) {
		r.unread(j.check, n)
		return nil, ctx.Err()
	}
	problems, err := j.judge(ctx, n.second, things)
	if err != nil {
		r.fail(n, fmt.Errorf("look up %s: %w", j.check, err))
		r.unread(j.check, n)
		return nil, ctx.Err()
	}
	r.cover(j.check, int64(len(things)))
	var found []CreditID
	for i, thing := range things {
		if problems[i] != "" {
			found = append(found, j.id(thing))
		}
	}
	return found, nil
}

// settle reads suspects again and reports those that are still wrong while nobody's slots changed hands.
func (j join[T]) settle(ctx context.Context, r *run, suspects []CreditID) {
	settle(ctx, r, j.check, suspects, j.name, func(last, view View, suspects []CreditID) []CreditID {
		return j.read(ctx, r, last, view, suspects)
	})
}

// read reads suspects again, in the order of the rounds, and returns those that need another reading: their slots have
// changed hands since the view last, or a shard could not be read.
func (j join[T]) read(ctx context.Context, r *run, last, view View, suspects []CreditID) (unsettled []CreditID) {
	nears, fars := j.byShard(view, suspects, j.near), j.byShard(view, suspects, j.far)
	first := r.look(ctx, sortedKeys(nears))
	defer closeAll(first)
	second := r.look(ctx, sortedKeys(fars))
	defer closeAll(second)

	settled := func(round map[ledger.ShardID]Snapshot, user ledger.UserID) bool {
		return unchanged(last, view, round, user)
	}
	for shard, ids := range nears {
		near, ok := first[shard]
		if !ok {
			unsettled = append(unsettled, ids...)
			continue
		}
		things, err := j.again(ctx, near, ids)
		if err != nil {
			unsettled = append(unsettled, ids...)
			continue
		}
		byFar := make(map[ledger.ShardID][]T)
		for _, id := range ids {
			thing, there := things[id]
			switch far := view.Map.OwnerOf(j.far(id)).Shard; {
			case there:
				byFar[far] = append(byFar[far], thing)
			case !settled(first, j.near(id)):
				unsettled = append(unsettled, id)
			}
		}
		for farShard, things := range byFar {
			var problems []string
			far, ok := second[farShard]
			if ok {
				problems, err = j.judge(ctx, far, things)
			}
			for i, thing := range things {
				id := j.id(thing)
				switch {
				case !ok || err != nil:
					unsettled = append(unsettled, id)
				case problems[i] == "":
				case settled(first, j.near(id)) && settled(second, j.far(id)):
					r.violation(j.check, Violation{Shard: shard, ID: j.name(id), Problem: problems[i]})
				default:
					unsettled = append(unsettled, id)
				}
			}
		}
	}
	slices.SortFunc(unsettled, func(x, y CreditID) int { return cmp.Compare(x.String(), y.String()) })
	return unsettled
}

func (j join[T]) byShard(view View, ids []CreditID, end func(CreditID) ledger.UserID) map[ledger.ShardID][]CreditID {
	by := make(map[ledger.ShardID][]CreditID)
	for _, id := range ids {
		shard := view.Map.OwnerOf(end(id)).Shard
		by[shard] = append(by[shard], id)
	}
	return by
}
