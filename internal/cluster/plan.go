package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/placement"
)

// PlanMove records a move that was decided from the view, and returns it as stored. Source, Target, Slots and Why are the
// caller's; so is ID, or it is made here: by an id that the caller has chosen it finds out whether a plan whose answer was
// lost was recorded. Planning the same journey again under the same id changes nothing.
//
// It needs no leadership. Nothing happens to any slot by it. The error is ErrChanged if any shard, slot or move has changed
// since the view; any other one but etcd's says what forbids the move.
func (c *Cluster) PlanMove(ctx context.Context, view *View, move placement.Move) (placement.Move, error) {
	planned, err := newMove(move)
	if err != nil {
		return placement.Move{}, fmt.Errorf("plan a move: %w", err)
	}
	if stored, ok := view.Move(planned.ID); ok && sameJourney(stored, planned) {
		return stored, nil
	}
	if err := view.checkPlan(planned); err != nil {
		return placement.Move{}, fmt.Errorf("plan a move of slots %s from %q to %q: %w",
			planned.Slots, planned.Source, planned.Target, err)
	}
	value, err := json.Marshal(planned)
	if err != nil {
		return placement.Move{}, fmt.Errorf("plan a move: %w", err)
	}
	key := c.keys.move(planned.ID)
	conditions := []clientv3.Cmp{c.same(view.Config), clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
	for _, prefix := range []string{c.keys.shards(), c.keys.retired(), c.keys.slots(), c.keys.moves()} {
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(prefix).WithPrefix(), "<", view.Revision+1))
	}
	resp, err := c.client.Txn(ctx).If(conditions...).
		Then(clientv3.OpPut(key, string(value))).
		Else(clientv3.OpGet(key)).
		Commit()
	if err != nil {
		return placement.Move{}, fmt.Errorf("plan move %s: %w", planned.ID, err)
	}
	if resp.Succeeded {
		planned.Revision = resp.Header.Revision
		c.log.DebugContext(ctx, "move planned", "move", planned.ID, "source", planned.Source, "target", planned.Target,
			"slots", len(planned.Slots), "why", planned.Why)
		return planned, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		if stored := parseMove(planned.ID, record{string(kvs[0].Value), kvs[0].ModRevision}); sameJourney(stored, planned) {
			return stored, nil
		}
	}
	return placement.Move{}, fmt.Errorf("plan move %s: %w", planned.ID, ErrChanged)
}

// newMove returns a move as it is first recorded.
func newMove(move placement.Move) (placement.Move, error) {
	if err := checkName("move id", string(move.ID)); err != nil {
		return move, err
	}
	return placement.Move{
		ID:        move.ID,
		Source:    move.Source,
		Target:    move.Target,
		Slots:     placement.NewSlotSet(move.Slots...),
		Phase:     placement.PhasePlanned,
		Paused:    move.Paused,
		Why:       move.Why,
		CreatedAt: now(),
	}, nil
}

func sameJourney(a, b placement.Move) bool {
	return a.ID == b.ID && a.Source == b.Source && a.Target == b.Target && slices.Equal(a.Slots, b.Slots)
}

// checkPlan says what forbids a move.
func (v *View) checkPlan(move placement.Move) error {
	if _, taken := v.Move(move.ID); taken {
		return fmt.Errorf("the id %s is that of another move", move.ID)
	}
	if err := v.checkJourney(move); err != nil {
		return err
	}
	if v.Shards[move.Target].State != ShardActive {
		return fmt.Errorf("shard %q is %s: it is to get no slots", move.Target, v.Shards[move.Target].State)
	}
	if !v.Founded() {
		return errors.New("the slots have no owners yet")
	}
	if err := v.checkOwner(move, move.Source); err != nil {
		return err
	}
	for _, other := range v.Moves {
		switch {
		case !known(other.Phase):
			return strange(other)
		case underWay(other.Phase) && other.Slots.Overlaps(move.Slots):
			return fmt.Errorf("move %s has some of these slots (phase %s): wait until it is through", other.ID, other.Phase)
		case other.Occupies() && other.Source == move.Source:
			return fmt.Errorf("move %s from the same source is under way (phase %s): one at a time", other.ID, other.Phase)
		case other.Occupies() && other.Target == move.Target:
			return fmt.Errorf("move %s to the same target is under way (phase %s): one at a time", other.ID, other.Phase)
		case other.Phase == placement.PhaseClean && other.Source == move.Target && other.Slots.Overlaps(move.Slots):
			return fmt.Errorf("shard %q still has the copy that move %s left behind: wait until it was cleaned",
				move.Target, other.ID)
		}
	}
	return nil
}

// checkJourney makes sure that a move goes from a shard to another.
func (v *View) checkJourney(move placement.Move) error {
	if len(move.Slots) == 0 {
		return errors.New("it has no slots")
	}
	if last := move.Slots[len(move.Slots)-1]; last >= placement.Slots {
		return fmt.Errorf("slot %d is not one of %d", last, placement.Slots)
	}
	if move.Source == move.Target {
		return fmt.Errorf("shard %q is its source and its target", move.Source)
	}
	if _, ok := v.Shards[move.Source]; !ok {
		return fmt.Errorf("source %q: %w", move.Source, ErrNotRegistered)
	}
	if _, ok := v.Shards[move.Target]; !ok {
		return fmt.Errorf("target %q: %w", move.Target, ErrNotRegistered)
	}
	return nil
}
