package rebalancetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// process runs a rebalancer and the dead-man. The world's lock guards its fields.
type process struct {
	world  *World
	name   string
	dead   bool
	asleep time.Time // since when, or zero
	next   Fault     // what happens to its next request: Lost, Refused or Late; or nothing
	stop   context.CancelFunc
	depose context.CancelFunc // of its present leadership; nil if there is none
	leads  chan int64         // tokens
	at     func(point string) // rebalance.Config.At, and points inside what the rebalancer sees as one effect
	later  func(time.Duration, func())
}

// Inside are points between the transactions of one effect.
var Inside = []string{"inside mark", "inside copy", "inside pass"}

// request is one transaction at a shard (nil: at the registry), with the time that it takes to get there and back.
func (p *process) request(ctx context.Context, at *book, effect func() error) error {
	p.travel()
	err := p.arrive(ctx, at, effect)
	p.travel()
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.dead {
		return errDead
	}
	return err
}

func (p *process) arrive(ctx context.Context, at *book, effect func() error) error {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	fate := p.next
	p.next = Fault{}
	switch {
	case p.dead:
		return errDead
	case ctx.Err() != nil:
		return ctx.Err()
	case at != nil && at.down:
		return errDown
	case fate.Kind == Refused:
		return errLost
	case fate.Kind == Late && at == nil:
		p.later(fate.For, func() {
			w.tell("%s: a request comes late: %v", p.name, effect())
			w.check()
		})
		return errLost
	case fate.Kind == Late:
		// A shard gets a transaction in several messages and holds its lock from the first: nothing else comes between, and
		// it can only be late as a whole, with its process.
		p.sleep(fate.For)
	}
	err := effect()
	w.check()
	if fate.Kind == Lost && err == nil || fate.Kind == Late {
		w.tell("%s: the answer is lost", p.name)
		return errLost
	}
	return err
}

// sleep returns after a while, in which another process may have come to lead. The caller holds w.mu.
func (p *process) sleep(pause time.Duration) {
	w := p.world
	p.asleep = time.Now()
	w.sleepers++
	w.mu.Unlock()
	time.Sleep(pause)
	w.mu.Lock()
	w.sleepers--
	p.asleep = time.Time{}
	w.tell("%s wakes up", p.name)
}

func (p *process) travel() {
	p.world.mu.Lock()
	took := time.Duration(1+p.world.rand.IntN(4000)) * time.Microsecond
	p.world.mu.Unlock()
	time.Sleep(took)
}

// registry is the registry as one process uses it, with one token.
type registry struct {
	*process
	token int64
}

var _ rebalance.Registry = (*registry)(nil)

// answer returns what a request has brought, if its answer came: otherwise its effect may yet come, and write there.
func answer[T any](brought *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *brought, nil
}

func (r *registry) View(ctx context.Context) (*rebalance.View, error) {
	var view *rebalance.View
	err := r.request(ctx, nil, func() error {
		view = r.world.view()
		return nil
	})
	return answer(&view, err)
}

// view returns the registry's state. The caller holds w.mu.
func (w *World) view() *rebalance.View {
	return &rebalance.View{
		Revision: w.revision, Map: w.placement(),
		Shards: []rebalance.Shard{
			{ID: source, Weight: 1, Revision: w.records[source]},
			{ID: target, Weight: 1, Draining: w.drains, Revision: w.records[target]},
		},
		Moves: slices.SortedFunc(maps.Values(w.moves), func(a, b placement.Move) int { return cmp.Compare(a.ID, b.ID) }),
	}
}

func (r *registry) Plan(ctx context.Context, view *rebalance.View, move placement.Move) (placement.Move, error) {
	var planned placement.Move
	err := r.request(ctx, nil, func() error {
		if r.world.revision != view.Revision {
			return rebalance.ErrChanged
		}
		planned = r.world.write(r.name, move)
		return nil
	})
	return answer(&planned, err)
}

// write stores a record. The caller holds w.mu.
func (w *World) write(by string, move placement.Move) placement.Move {
	move.Revision = w.touch()
	w.moves[move.ID] = move
	w.tell("%s: the move of %s from %s to %s is in phase %s", by, move.Slots, move.Source, move.Target, move.Phase)
	return move
}

// stored compares what a caller has read with what is there. The caller holds w.mu.
func (w *World) stored(move placement.Move) (placement.Move, error) {
	stored := w.moves[move.ID]
	if stored.Revision != move.Revision {
		return stored, fmt.Errorf("%w: it is in phase %s", rebalance.ErrChanged, stored.Phase)
	}
	return stored, nil
}

// seen compares what a caller has seen of a move's shards. The caller holds w.mu.
func (w *World) seen(move placement.Move, revision int64) error {
	if w.bug != IgnoresAdoption && max(w.records[move.Source], w.records[move.Target]) > revision {
		return rebalance.ErrShardChanged
	}
	return nil
}

func (r *registry) Advance(
	ctx context.Context, move placement.Move, to placement.Phase, seen int64,
) (placement.Move, error) {
	var next placement.Move
	err := r.request(ctx, nil, func() error {
		if r.token != r.world.leader {
			return rebalance.ErrNotLeading
		}
		stored, err := r.world.stored(move)
		if err != nil {
			return err
		}
		if err := r.world.seen(stored, seen); err != nil {
			return err
		}
		stored.Phase, stored.FenceMillis = to, move.FenceMillis
		switch now := time.Now(); {
		case to.Ended():
			stored.EndedAt = &now
		case to == placement.PhaseClean:
			stored.ToldAt = &now
		}
		next = r.world.write(r.name, stored)
		return nil
	})
	return answer(&next, err)
}

func (r *registry) Switch(ctx context.Context, move placement.Move, seen int64) (placement.Move, error) {
	var next placement.Move
	err := r.request(ctx, nil, func() error {
		if r.token != r.world.leader {
			return rebalance.ErrNotLeading
		}
		stored, err := r.world.stored(move)
		if err != nil {
			return err
		}
		if stored.Phase != placement.PhaseFence {
			return fmt.Errorf("a move in phase %s cannot be switched", stored.Phase)
		}
		if err := r.world.seen(stored, seen); err != nil {
			return err
		}
		next = r.world.decide(r.name, stored, placement.PhaseSwitched, stored.Target)
		return nil
	})
	if err == errLost && r.world.bug == UnfencesAfterSwitch {
		r.world.mu.Lock()
		defer r.world.mu.Unlock()
		for _, slot := range move.Slots {
			if s := r.world.books[move.Source].slots[slot]; s.state == fenced && s.token == r.token {
				s.state = owned
				r.world.books[move.Source].slots[slot] = s
			}
		}
	}
	return answer(&next, err)
}

// decide gives the slots to one of the shards. The caller holds w.mu.
func (w *World) decide(by string, move placement.Move, phase placement.Phase, owner ledger.ShardID) placement.Move {
	now := time.Now()
	move.Phase, move.DecidedAt, move.Paused = phase, &now, false
	for _, slot := range move.Slots {
		epoch := w.owners[slot].Epoch + 1
		if w.bug == AbortKeepsEpoch && phase == placement.PhaseAborting {
			epoch--
		}
		w.owners[slot] = placement.Owner{Shard: owner, Epoch: epoch}
		move.Epochs = append(move.Epochs, epoch)
	}
	return w.write(by, move)
}

func (r *registry) Abort(ctx context.Context, move placement.Move, cause string) (placement.Move, error) {
	var next placement.Move
	err := r.request(ctx, nil, func() error {
		aborted, err := r.world.abort(r.name, move, cause)
		next = aborted
		return err
	})
	return answer(&next, err)
}

// abort ends what was not decided. The caller holds w.mu.
func (w *World) abort(by string, move placement.Move, cause string) (placement.Move, error) {
	stored, err := w.stored(move)
	if err != nil {
		return stored, err
	}
	stored.Cause, stored.Evidence = cause, move.Evidence
	switch {
	case !stored.Phase.Before():
		return stored, fmt.Errorf("a move in phase %s cannot be aborted", stored.Phase)
	case stored.Phase == placement.PhasePlanned:
		now := time.Now()
		stored.Phase, stored.EndedAt = placement.PhaseAborted, &now
		return w.write(by, stored), nil
	case stored.Phase == placement.PhaseMark && w.bug != AbortsUnmarked:
		return w.write(by, stored), nil
	}
	return w.decide(by, stored, placement.PhaseAborting, stored.Source), nil
}

func (r *registry) Leads(ctx context.Context) error {
	return r.request(ctx, nil, func() error {
		if r.token != r.world.leader {
			return rebalance.ErrNotLeading
		}
		return nil
	})
}

func (r *registry) Forget(context.Context) error { return nil }

func (r *registry) Changed() <-chan struct{} {
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	return r.world.changed
}

// shards are the shards as one process uses them.
type shards struct{ *process }

var _ rebalance.Shards = (*shards)(nil)

func (s *shards) Pair(view *rebalance.View, move placement.Move, token int64) (rebalance.Pair, error) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	at := func(id ledger.ShardID) *book {
		known, _ := view.Shard(id)
		return s.world.servers[server{id, known.Revision}]
	}
	return &pair{process: s.process, move: move, token: token, source: at(move.Source), target: at(move.Target)}, nil
}

func (s *shards) Fenced(ctx context.Context, _ *rebalance.View, longer time.Duration) (moves []placement.MoveID, err error) {
	var errs []error
	for _, id := range []ledger.ShardID{source, target} {
		b := s.primary(id)
		errs = append(errs, s.request(ctx, b, func() error {
			for slot := range ledger.Slot(slots) {
				row := b.slots[slot]
				if row.state == fenced && time.Since(row.fencedAt) > longer && !slices.Contains(moves, row.move) {
					moves = append(moves, row.move)
				}
			}
			return nil
		}))
	}
	return moves, errors.Join(errs...)
}

func (s *shards) Uncleaned(ctx context.Context, _ *rebalance.View, id ledger.ShardID) (left placement.SlotSet, err error) {
	b := s.primary(id)
	err = s.request(ctx, b, func() error {
		for slot := range ledger.Slot(slots) {
			if row, ok := b.slots[slot]; ok && !row.clean {
				left = append(left, slot)
			}
		}
		return nil
	})
	return left, err
}

func (s *shards) Copies(ctx context.Context, _ *rebalance.View, id ledger.ShardID) (moves []placement.MoveID, err error) {
	b := s.primary(id)
	err = s.request(ctx, b, func() error {
		for _, row := range b.slots {
			if !row.clean && (row.state == incoming || row.state == moved) && !slices.Contains(moves, row.move) {
				moves = append(moves, row.move)
			}
		}
		return nil
	})
	return moves, err
}

func (s *shards) primary(id ledger.ShardID) *book {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	return s.world.books[id]
}
