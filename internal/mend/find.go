package mend

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Kind says what is torn.
type Kind string

const (
	CreditLost   Kind = "credit lost"
	StartLost    Kind = "start lost"
	RefusalLost  Kind = "refusal lost"
	StartRefused Kind = "start refused"
)

// Tear is a transfer of which two shards do not know the same.
type Tear struct {
	Kind     Kind
	Transfer ledger.Transfer
	Shard    ledger.ShardID // that lacks its side of it
	Refused  bool           // of StartLost: the credit that is there was refused
}

// Found is what a search came to.
type Found struct {
	Tears  []Tear                   // those that can be mended first, in the order in which to mend them
	Unread map[ledger.ShardID]error // shards that could not be read: what is torn between them and others is not known
	Astray map[ledger.ShardID]int   // slots that the map gives to a shard which does not have them so: it lost a move's end
}

// chunk is how many steps are looked up at once.
const chunk = 1000

// Find reads the steps of all sagas and returns those whose other side is missing. It reads as package audit does: what is
// near first, what is far when all that is near was seen, so that what runs meanwhile looks like no tear. A user who moves
// meanwhile may. say is told what is being read.
func Find(ctx context.Context, world audit.World, say func(string)) (*Found, error) {
	view, err := world.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	s := &search{view: view, found: &Found{Unread: make(map[ledger.ShardID]error), Astray: make(map[ledger.ShardID]int)}}
	first := s.open(ctx, world)
	defer closeAll(first)
	second := s.open(ctx, world)
	defer closeAll(second)
	s.compareSlots(first)
	for _, id := range view.Shards {
		if near, ok := first[id]; ok {
			say(fmt.Sprintf("shard %s: looking for the other sides of its transfers", id))
			if err := s.search(ctx, near, second); err != nil {
				s.found.Unread[id] = err
			}
		}
	}
	order := []Kind{CreditLost, StartLost, RefusalLost, StartRefused} // a credit may be what a start needs
	slices.SortStableFunc(s.found.Tears, func(x, y Tear) int {
		return cmp.Or(cmp.Compare(slices.Index(order, x.Kind), slices.Index(order, y.Kind)),
			cmp.Compare(x.Transfer.Identity.String(), y.Transfer.Identity.String()))
	})
	return s.found, ctx.Err()
}

type search struct {
	view  audit.View
	found *Found
}

func (s *search) open(ctx context.Context, world audit.World) map[ledger.ShardID]audit.Snapshot {
	open := make(map[ledger.ShardID]audit.Snapshot)
	for _, id := range s.view.Shards {
		snapshot, err := world.Snapshot(ctx, id)
		if err != nil {
			s.found.Unread[id] = err
			continue
		}
		open[id] = snapshot
	}
	return open
}

// compareSlots counts the slots that are not where the map says. While a move comes to its end, some are not.
func (s *search) compareSlots(shards map[ledger.ShardID]audit.Snapshot) {
	for _, r := range s.view.Map.Ranges() {
		shard, ok := shards[r.Shard]
		if !ok {
			continue
		}
		slots := shard.Slots()
		for slot := r.First; slot <= r.Last; slot++ {
			if is := slots[slot]; is.Epoch != r.Epoch || is.State != "owned" && is.State != "fenced" {
				s.found.Astray[r.Shard]++
			}
		}
	}
}

func closeAll(snapshots map[ledger.ShardID]audit.Snapshot) {
	for _, snapshot := range snapshots {
		snapshot.Close()
	}
}

func (s *search) search(ctx context.Context, near audit.Steps, far map[ledger.ShardID]audit.Snapshot) error {
	err := inChunks(
		func(found func(ledger.Recorded) error) error { return near.Credits(ctx, found) },
		func(credit ledger.Recorded) ledger.ShardID { return s.view.Map.OwnerOf(credit.Initiator).Shard },
		func(shard ledger.ShardID, credits []ledger.Recorded) error {
			if steps, ok := far[shard]; ok {
				return s.joinCredits(ctx, shard, steps, credits)
			}
			return nil
		})
	if err != nil {
		return err
	}
	return inChunks(
		func(found func(ledger.Saga) error) error { return near.EndedSagas(ctx, found) },
		func(saga ledger.Saga) ledger.ShardID { return s.view.Map.OwnerOf(saga.Payee).Shard },
		func(shard ledger.ShardID, sagas []ledger.Saga) error {
			if steps, ok := far[shard]; ok {
				return s.joinSagas(ctx, shard, steps, sagas)
			}
			return nil
		})
}

// inChunks collects what is streamed by the shard that it is looked up on, and looks it up when there is enough.
func inChunks[T any](stream func(func(T) error) error, shard func(T) ledger.ShardID, look func(ledger.ShardID, []T) error) error {
	chunks := make(map[ledger.ShardID][]T)
	err := stream(func(thing T) error {
		at := shard(thing)
		if chunks[at] = append(chunks[at], thing); len(chunks[at]) < chunk {
			return nil
		}
		things := chunks[at]
		delete(chunks, at)
		return look(at, things)
	})
	for at, things := range chunks {
		if err == nil {
			err = look(at, things)
		}
	}
	return err
}

func (s *search) joinCredits(ctx context.Context, home ledger.ShardID, far audit.Steps, credits []ledger.Recorded) error {
	ids := make([]ledger.Identity, len(credits))
	for i, credit := range credits {
		ids[i] = credit.Identity
	}
	homes, err := far.FindHomes(ctx, ids)
	if err != nil {
		return err
	}
	for _, credit := range credits {
		refused := credit.Reason != ledger.Applied
		switch start := homes[credit.Identity].Start; {
		case start == nil:
			tear := Tear{Kind: StartLost, Transfer: credit.Transfer, Shard: home, Refused: refused}
			s.found.Tears = append(s.found.Tears, tear)
		case start.Reason != ledger.Applied && !refused:
			s.found.Tears = append(s.found.Tears, Tear{Kind: StartRefused, Transfer: credit.Transfer, Shard: home})
		}
	}
	return nil
}

func (s *search) joinSagas(ctx context.Context, shard ledger.ShardID, far audit.Steps, sagas []ledger.Saga) error {
	ids := make([]audit.CreditID, len(sagas))
	for i, saga := range sagas {
		ids[i] = audit.CreditID{Payee: saga.Payee, Identity: saga.Identity}
	}
	credits, err := far.FindCredits(ctx, ids)
	if err != nil {
		return err
	}
	for i, saga := range sagas {
		if _, ok := credits[ids[i]]; ok {
			continue
		}
		kind := CreditLost
		if saga.State == ledger.SagaRefunded {
			kind = RefusalLost
		}
		s.found.Tears = append(s.found.Tears, Tear{Kind: kind, Transfer: saga.Transfer, Shard: shard})
	}
	return nil
}
