package rebalance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance/plan"
)

// Why the rebalancer plans a move; any other reason is a person's.
const (
	WhyRebalance = "rebalance"
	WhyDrain     = "drain"
)

// NewMoveID returns an id for a move that is planned now. Ids sort by time, roughly.
func NewMoveID() placement.MoveID {
	return placement.MoveID(time.Now().UTC().Format("20060102-150405-") + strings.ToLower(rand.Text()[:6]))
}

// Propose plans from a view of the cluster. uncleaned are slots of which shards are known to hold an older copy, beyond what
// the view's moves say. The steps are not cut to the size of moves.
func Propose(view *View, uncleaned map[ledger.ShardID]placement.SlotSet) ([]plan.Step, error) {
	in := plan.Input{
		Owners: view.Map,
		Moving: make(map[ledger.Slot]ledger.ShardID),
		Barred: make(map[ledger.ShardID]placement.SlotSet),
	}
	for _, shard := range view.Shards {
		in.Shards = append(in.Shards, plan.Shard{ID: shard.ID, Weight: shard.Weight, Draining: shard.Draining})
		in.Barred[shard.ID] = uncleaned[shard.ID]
	}
	var fixed []ledger.Slot
	for _, move := range view.Moves {
		owner := move.Target // when it has ended
		switch move.Phase {
		case placement.PhaseAborting, placement.PhaseAborted:
			owner = move.Source
		case placement.PhaseClean:
			in.Barred[move.Source] = placement.NewSlotSet(append(in.Barred[move.Source], move.Slots...)...)
		}
		if underway(move) {
			for _, slot := range move.Slots {
				in.Moving[slot] = owner
			}
		}
		if byHand := move.Why != WhyRebalance && move.Why != WhyDrain; byHand && move.Phase != placement.PhaseAborted {
			for _, slot := range move.Slots {
				if view.Map.Owner(slot).Shard == move.Target {
					fixed = append(fixed, slot)
				}
			}
		}
	}
	in.Fixed = placement.NewSlotSet(fixed...)
	return plan.Make(in)
}

// underway tells whether a move has its slots to itself.
func underway(move placement.Move) bool {
	return !move.Phase.Ended() && move.Phase != placement.PhaseClean
}

// plan plans one more move, if there is one to be planned and its shards have room for it.
func (r *Rebalancer) plan(ctx context.Context, view *View) (planned bool, err error) {
	if !r.config.Automatic && !drains(view) {
		return false, nil
	}
	// What the records do not tell: a failover may have left a copy whose move has ended.
	uncleaned := make(map[ledger.ShardID]placement.SlotSet)
	for {
		step, slots, left, err := r.next(ctx, view, uncleaned)
		switch {
		case err != nil:
			return false, err
		case len(slots) > 0:
			return true, r.planStep(ctx, view, step, slots)
		case len(left) > 0 && uncleaned[step.Target] == nil:
			uncleaned[step.Target] = left
			continue
		}
		var problems []error
		for id, left := range uncleaned {
			problems = append(problems, fmt.Errorf("nothing can be planned: shard %s still has older copies of slots %s", id, left))
		}
		return false, errors.Join(problems...)
	}
}

// next returns the first step that can be taken now, and its slots. Without slots, left is what the step's target still has
// older copies of; without those there is no such step.
func (r *Rebalancer) next(ctx context.Context, view *View, uncleaned map[ledger.ShardID]placement.SlotSet) (
	step plan.Step, slots, left placement.SlotSet, err error,
) {
	steps, err := Propose(view, uncleaned)
	if err != nil {
		return plan.Step{}, nil, nil, fmt.Errorf("plan: %w", err)
	}
	var problems []error
	for _, step := range steps {
		if !r.config.Automatic && !step.Drains || busy(view, step) || tired(view, step, time.Now()) {
			continue
		}
		slots, left, err := r.ready(ctx, view, step)
		if err == nil {
			return step, slots, left, nil
		}
		problems = append(problems, fmt.Errorf("plan a move from %s to %s: %w", step.Source, step.Target, err))
	}
	return plan.Step{}, nil, nil, errors.Join(problems...)
}

func (r *Rebalancer) planStep(ctx context.Context, view *View, step plan.Step, slots placement.SlotSet) error {
	move := placement.Move{
		ID: NewMoveID(), Source: step.Source, Target: step.Target, Slots: slots, Phase: placement.PhasePlanned,
		Why: WhyRebalance, CreatedAt: time.Now().UTC(),
	}
	if step.Drains {
		move.Why = WhyDrain
	}
	err := r.config.at(pointPlan, func() error {
		ctx, cancel := context.WithTimeout(ctx, registryTimeout)
		defer cancel()
		_, err := r.registry.Plan(ctx, view, move)
		return err
	})
	if err != nil {
		return fmt.Errorf("plan a move from %s to %s: %w", step.Source, step.Target, err)
	}
	r.log.InfoContext(ctx, "planned a move", "move", move.ID, "source", move.Source, "target", move.Target,
		"slots", move.Slots.String(), "why", move.Why)
	return nil
}

func drains(view *View) bool {
	for _, shard := range view.Shards {
		if shard.Draining {
			return true
		}
	}
	return false
}

// busy tells whether one of the step's shards is taken by another move.
func busy(view *View, step plan.Step) bool {
	for _, move := range view.Moves {
		if move.Occupies() && (move.Source == step.Source || move.Target == step.Target) {
			return true
		}
	}
	return false
}

// tired tells whether moves between the step's shards were aborted lately: then they are left alone, the longer the more
// often it happened.
func tired(view *View, step plan.Step, now time.Time) bool {
	const shortest, longest = time.Minute, time.Hour
	var (
		aborted int
		last    time.Time // when one was aborted
		done    time.Time // when one was not
	)
	between := func(move placement.Move, phase placement.Phase) bool {
		return move.Source == step.Source && move.Target == step.Target && move.Phase == phase && move.EndedAt != nil
	}
	for _, move := range view.Moves {
		if between(move, placement.PhaseDone) && move.EndedAt.After(done) {
			done = *move.EndedAt
		}
	}
	for _, move := range view.Moves {
		if between(move, placement.PhaseAborted) && move.EndedAt.After(done) {
			aborted++
			if move.EndedAt.After(last) {
				last = *move.EndedAt
			}
		}
	}
	return aborted > 0 && now.Before(last.Add(min(shortest<<min(aborted-1, 10), longest)))
}

// ready asks both shards, and returns the slots for one move: none that the target has an older copy of, which left are. The
// registry knows of those copies as well, while it has the records of their moves.
func (r *Rebalancer) ready(ctx context.Context, view *View, step plan.Step) (free, left placement.SlotSet, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Deadman)
	defer cancel()
	if _, err := r.shards.Uncleaned(ctx, view, step.Source); err != nil {
		return nil, nil, err
	}
	left, err = r.shards.Uncleaned(ctx, view, step.Target)
	if err != nil {
		return nil, nil, err
	}
	for _, slot := range step.Slots {
		if !left.Contains(slot) && len(free) < r.config.SlotsPerMove {
			free = append(free, slot)
		}
	}
	return free, left, nil
}
