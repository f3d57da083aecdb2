package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

var (
	// ErrNotLeading: the leadership that was to decide has ended. Nothing was written.
	ErrNotLeading = errors.New("this process no longer leads")
	// ErrShardChanged: a shard of the move has another record than the one by which it was reached; it may have another
	// primary. Nothing was written.
	ErrShardChanged = errors.New("the record of a shard of the move has changed since its connections were opened")
)

// steps are the phases that a leader may write after each, the deciding ones apart.
var steps = map[placement.Phase][]placement.Phase{
	placement.PhasePlanned:  {placement.PhaseMark},
	placement.PhaseMark:     {placement.PhaseCopy},
	placement.PhaseCopy:     {placement.PhaseCatchup},
	placement.PhaseCatchup:  {placement.PhaseFence},
	placement.PhaseFence:    {placement.PhaseCatchup}, // the fence took too long; it is lifted after this is written
	placement.PhaseSwitched: {placement.PhaseClean},
	placement.PhaseClean:    {placement.PhaseDone},
	placement.PhaseAborting: {placement.PhaseAborted},
	placement.PhaseDone:     nil,
	placement.PhaseAborted:  nil,
}

// known tells whether the phase is one of this program's.
func known(phase placement.Phase) bool {
	_, ok := steps[phase]
	return ok
}

// underWay tells whether a move in this phase has its slots to itself. One that is only to be cleaned does not.
func underWay(phase placement.Phase) bool {
	return !phase.Ended() && phase != placement.PhaseClean
}

// strange says why nothing can be decided while a move is there that this program does not understand.
func strange(move placement.Move) error {
	return fmt.Errorf("move %s is in a phase %q that this program does not know: use the newest program of the cluster",
		move.ID, move.Phase)
}

// now is the time as records have it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// Led decides about moves for as long as a leadership lasts. Each method compares that it does, and the record of the move
// with the one that the caller has read; what it writes is the record as stored, with a change. seen is the revision of the
// view by which the caller has reached the move's shards: nothing is written if one of their records is newer. Whoever
// adopts a new primary writes that record before the primary accepts anything; so nobody decides, or goes on, by what a
// deposed primary has said or was told.
//
// After ErrNotLeading, ErrChanged and ErrShardChanged nothing was written; any other error leaves open whether the step was
// done: the record tells.
type Led struct {
	cluster    *Cluster
	leadership Leadership
}

// Led returns what only a leader may do.
func (c *Cluster) Led(leadership Leadership) *Led { return &Led{cluster: c, leadership: leadership} }

// Leads returns ErrNotLeading if the leadership has ended.
func (l *Led) Leads(ctx context.Context) error {
	resp, err := l.cluster.client.Txn(ctx).If(l.leadership.leads()).Commit()
	if err != nil {
		return fmt.Errorf("ask who leads: %w", err)
	}
	if !resp.Succeeded {
		return ErrNotLeading
	}
	return nil
}

// AdvanceMove writes the next phase of a move, one that does not decide, and FenceMillis, and returns the move as stored.
// The mover goes back from PhaseFence to PhaseCatchup by it before a fence of which it does not know whether a switch was
// sent is lifted: a switch that is still on its way then fails.
func (l *Led) AdvanceMove(ctx context.Context, move placement.Move, to placement.Phase, seen int64) (placement.Move, error) {
	next, err := l.cluster.changeMove(ctx, move.ID, []clientv3.Cmp{l.leadership.leads()}, func(at standing) (change, error) {
		switch stored := at.move; {
		case !at.holds:
			return change{}, ErrNotLeading
		case stored.Revision != move.Revision:
			return change{}, changed(stored)
		case !slices.Contains(steps[stored.Phase], to):
			return change{}, fmt.Errorf("it is in phase %q, after which %q does not come", stored.Phase, to)
		case at.newer(seen):
			return change{}, ErrShardChanged
		}
		next, written := at.move, now()
		next.Phase, next.FenceMillis = to, move.FenceMillis
		switch {
		case to == placement.PhaseFence:
			next.Fenced = true
		case to.Ended():
			next.EndedAt = &written
		case to == placement.PhaseClean:
			next.ToldAt = &written
		}
		return change{move: next, seen: seen}, nil
	})
	if err != nil {
		return placement.Move{}, fmt.Errorf("advance move %s to %s: %w", move.ID, to, err)
	}
	return next, nil
}

// SwitchMove gives the slots of a fenced move to its target, each at its next epoch, and returns the move as stored. This is
// the move's commit point. If the move has been switched already, it says so without an error. After ErrShardChanged no
// earlier attempt with the same view can come through any more either.
func (l *Led) SwitchMove(ctx context.Context, move placement.Move, seen int64) (placement.Move, error) {
	next, err := l.cluster.changeMove(ctx, move.ID, []clientv3.Cmp{l.leadership.leads()}, func(at standing) (change, error) {
		switch stored := at.move; {
		case switched(stored.Phase):
			return change{move: stored, done: true}, nil // even if we do not lead any more: it is so
		case !at.holds:
			return change{}, ErrNotLeading
		case stored.Revision != move.Revision:
			return change{}, changed(stored)
		case stored.Phase != placement.PhaseFence:
			return change{}, fmt.Errorf("it is in phase %q: only a fenced move can be switched", stored.Phase)
		case at.newer(seen):
			return change{}, ErrShardChanged
		}
		next, decided := at.move, now()
		next.Phase, next.DecidedAt, next.Paused = placement.PhaseSwitched, &decided, false
		return change{move: next, owner: next.Target, seen: seen}, nil
	})
	if err != nil {
		return placement.Move{}, fmt.Errorf("switch move %s: %w", move.ID, err)
	}
	return next, nil
}

// AbortMove leaves the slots of a move with its source, each at its next epoch, and returns the move as stored. A move that
// was only planned ends by it; nothing is written about its slots. Of one in PhaseMark only the cause is written: its mover
// aborts it as soon as the source knows of it. If the move has been aborted already, it says so without an error, and the
// first cause stays. Once it was switched it cannot be aborted. Evidence is stored as given.
//
// It needs no leadership. The errors are like those of Led's methods.
func (c *Cluster) AbortMove(ctx context.Context, move placement.Move, cause string) (placement.Move, error) {
	next, err := c.changeMove(ctx, move.ID, nil, func(at standing) (change, error) {
		switch stored := at.move; {
		case stored.Phase == placement.PhaseAborting || stored.Phase == placement.PhaseAborted:
			return change{move: stored, done: true}, nil
		case stored.Phase == placement.PhaseMark && stored.Cause != "":
			return change{move: stored, done: true}, nil
		case stored.Revision != move.Revision:
			return change{}, changed(stored)
		case switched(stored.Phase):
			return change{}, fmt.Errorf("it was switched (phase %q) and cannot be aborted any more: its target owns the slots",
				stored.Phase)
		case !stored.Phase.Before():
			return change{}, strange(stored)
		}
		next, decided := at.move, now()
		next.Cause, next.Paused, next.Evidence = cause, false, move.Evidence
		next.Fenced = next.Fenced || at.move.Phase == placement.PhaseFence // else an older program has written that
		if next.Phase == placement.PhaseMark {
			return change{move: next}, nil
		}
		if next.Phase == placement.PhasePlanned {
			next.Phase, next.EndedAt = placement.PhaseAborted, &decided
			return change{move: next}, nil
		}
		next.Phase, next.DecidedAt = placement.PhaseAborting, &decided
		return change{move: next, owner: next.Source}, nil
	})
	if err != nil {
		return placement.Move{}, fmt.Errorf("abort move %s: %w", move.ID, err)
	}
	return next, nil
}

// PauseMove says that a move is not to be gone on with, or takes that back, and returns the move as stored. What has begun
// to be decided cannot be paused: clients, or shards that have not been told, wait for it.
func (c *Cluster) PauseMove(ctx context.Context, id placement.MoveID, paused bool) (placement.Move, error) {
	next, err := c.changeMove(ctx, id, nil, func(at standing) (change, error) {
		switch stored := at.move; {
		case !known(stored.Phase):
			return change{}, strange(stored)
		case stored.Phase.Ended():
			return change{}, fmt.Errorf("it has ended (phase %q)", stored.Phase)
		case stored.Paused == paused:
			return change{move: stored, done: true}, nil
		case paused && urgent(stored.Phase):
			return change{}, fmt.Errorf("it is in phase %q, which cannot wait: look again in a few seconds", stored.Phase)
		}
		next := at.move
		next.Paused = paused
		return change{move: next}, nil
	})
	if err != nil {
		return placement.Move{}, fmt.Errorf("pause move %s: %w", id, err)
	}
	return next, nil
}

// keptMoves is how many ended moves are kept, whatever their age: those that ended last.
const keptMoves = 100

// ForgetMoves deletes the records of moves that ended before a time, and those of all but the last 100 that ended. It
// returns how many it deleted. It needs no leadership: nothing is left to do for an ended move.
func (c *Cluster) ForgetMoves(ctx context.Context, view *View, before time.Time) (int, error) {
	ended := slices.DeleteFunc(slices.Clone(view.Moves), func(move placement.Move) bool { return !move.Phase.Ended() })
	slices.SortStableFunc(ended, func(a, b placement.Move) int { return endOf(b).Compare(endOf(a)) })
	kept := 0
	for kept < min(len(ended), keptMoves) && !endOf(ended[kept]).Before(before) {
		kept++
	}
	forgotten := 0
	for batch := range slices.Chunk(ended[kept:], 100) { // etcd takes 128 operations in a Txn
		var conditions []clientv3.Cmp
		var deletes []clientv3.Op
		for _, move := range batch {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(c.keys.move(move.ID)), "=", move.Revision))
			deletes = append(deletes, clientv3.OpDelete(c.keys.move(move.ID)))
		}
		resp, err := c.client.Txn(ctx).If(conditions...).Then(deletes...).Commit()
		if err != nil {
			return forgotten, fmt.Errorf("forget ended moves: %w", err)
		}
		if !resp.Succeeded { // somebody else does it too
			return forgotten, fmt.Errorf("forget ended moves: %w", ErrChanged)
		}
		forgotten += len(batch)
	}
	return forgotten, nil
}

// endOf is when a move ended, as well as its record tells.
func endOf(move placement.Move) time.Time {
	if move.EndedAt == nil {
		return move.CreatedAt
	}
	return *move.EndedAt
}

// switched tells whether a move of this phase has been given to its target.
func switched(phase placement.Phase) bool {
	return phase == placement.PhaseSwitched || phase == placement.PhaseClean || phase == placement.PhaseDone
}

// urgent tells whether clients wait for a move in this phase.
func urgent(phase placement.Phase) bool {
	return phase == placement.PhaseFence || phase == placement.PhaseSwitched || phase == placement.PhaseAborting
}

func changed(stored placement.Move) error {
	return fmt.Errorf("%w: it is in phase %q now", ErrChanged, stored.Phase)
}

// standing is how a move stands at one revision.
type standing struct {
	move   placement.Move
	chunks map[string]record // all of them
	shards map[string]record // of the move, without their values
	holds  bool              // the conditions do
}

// newer tells whether a shard's record is newer than a revision.
func (s standing) newer(seen int64) bool {
	for _, shard := range s.shards {
		if shard.revision > seen {
			return true
		}
	}
	return false
}

// change is what is to be written about a move.
type change struct {
	move  placement.Move
	owner ledger.ShardID // of its slots from now on, at their next epochs; "": nothing is written about them
	seen  int64          // the shards' records must not be newer; 0: they may
	done  bool           // nothing is to be written: move is stored already
}

// changeMove writes what decide says, if the move's record, the chunks that are written and the conditions are still as
// decide has seen them; otherwise it looks and decides again. So a decision about other slots of the same chunks costs a
// round, and what has changed about the move itself is decide's to judge.
func (c *Cluster) changeMove(
	ctx context.Context, id placement.MoveID, conditions []clientv3.Cmp, decide func(standing) (change, error),
) (placement.Move, error) {
	key := c.keys.move(id)
	for {
		at, err := c.standing(ctx, id, conditions)
		if err != nil {
			return placement.Move{}, err
		}
		change, err := decide(at)
		if err != nil || change.done {
			return change.move, err
		}
		compares := append([]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", at.move.Revision)}, conditions...)
		if change.seen > 0 {
			for _, shard := range []ledger.ShardID{at.move.Source, at.move.Target} {
				compares = append(compares, clientv3.Compare(clientv3.ModRevision(c.keys.shard(shard)), "<", change.seen+1))
			}
		}
		var puts []clientv3.Op
		if change.owner != "" {
			if compares, puts, change.move.Epochs, err = c.keys.give(at, change.owner, compares); err != nil {
				return placement.Move{}, err
			}
		}
		value, err := json.Marshal(change.move)
		if err != nil {
			return placement.Move{}, err
		}
		puts = append(puts, clientv3.OpPut(key, string(value)))
		resp, err := c.client.Txn(ctx).If(compares...).Then(puts...).Commit()
		if err != nil {
			return placement.Move{}, err
		}
		if resp.Succeeded {
			change.move.Revision = resp.Header.Revision
			c.log.DebugContext(ctx, "move written", "move", id, "phase", change.move.Phase,
				"paused", change.move.Paused, "cause", change.move.Cause)
			return change.move, nil
		}
	}
}

// standing reads how a move stands. The error is ErrChanged if it has been forgotten.
func (c *Cluster) standing(ctx context.Context, id placement.MoveID, conditions []clientv3.Cmp) (standing, error) {
	gets := []clientv3.Op{clientv3.OpGet(c.keys.move(id)), clientv3.OpGet(c.keys.slots(), clientv3.WithPrefix()),
		clientv3.OpGet(c.keys.shards(), clientv3.WithPrefix(), clientv3.WithKeysOnly())}
	resp, err := c.client.Txn(ctx).If(conditions...).Then(gets...).Else(gets...).Commit()
	if err != nil {
		return standing{}, err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	if len(kvs) == 0 {
		return standing{}, fmt.Errorf("%w: there is no such move", ErrChanged)
	}
	at := standing{
		move:   parseMove(id, record{string(kvs[0].Value), kvs[0].ModRevision}),
		chunks: records((*clientv3.GetResponse)(resp.Responses[1].GetResponseRange())),
		shards: records((*clientv3.GetResponse)(resp.Responses[2].GetResponseRange())),
		holds:  resp.Succeeded,
	}
	maps.DeleteFunc(at.shards, func(key string, _ record) bool {
		return key != c.keys.shard(at.move.Source) && key != c.keys.shard(at.move.Target)
	})
	return at, nil
}

// give adds what a Txn compares and puts so that owner has the move's slots, each at its next epoch. Until a move is decided
// its source has them. It returns the epochs too.
func (k keys) give(
	at standing, owner ledger.ShardID, compares []clientv3.Cmp,
) (_ []clientv3.Cmp, puts []clientv3.Op, epochs placement.Epochs, _ error) {
	owners := make(map[ledger.Slot]placement.Owner)
	var touched []int
	for _, slot := range at.move.Slots {
		chunk := int(slot) / chunkSlots
		if n := len(touched); n == 0 || touched[n-1] != chunk { // slots ascend
			touched = append(touched, chunk)
			if err := parseChunk(fmt.Sprintf("%02x", chunk), at.chunks[k.chunk(chunk)].value, owners); err != nil {
				return nil, nil, nil, err
			}
		}
		before := owners[slot]
		if before.Shard != at.move.Source {
			return nil, nil, nil, fmt.Errorf("slot %d is owned by %q, not by the move's source %q",
				slot, before.Shard, at.move.Source)
		}
		owners[slot] = placement.Owner{Shard: owner, Epoch: before.Epoch + 1}
		epochs = append(epochs, before.Epoch+1)
	}
	for _, chunk := range touched {
		value, err := formatChunk(chunk, owners)
		if err != nil {
			return nil, nil, nil, err
		}
		key := k.chunk(chunk)
		compares = append(compares, clientv3.Compare(clientv3.ModRevision(key), "=", at.chunks[key].revision))
		puts = append(puts, clientv3.OpPut(key, value))
	}
	return compares, puts, epochs, nil
}

// parseMove reads a move's record. Of one that it cannot read, the id and the revision are all it tells.
func parseMove(id placement.MoveID, stored record) placement.Move {
	var move placement.Move
	if err := json.Unmarshal([]byte(stored.value), &move); err != nil || move.ID != id {
		move = placement.Move{ID: id}
	}
	move.Revision = stored.revision
	return move
}

// checkMoves says which move's record makes no sense beside the others, the shards and the slots. It must not: a mover
// would act on it. About a move that has ended, or that this program does not understand, nothing is said: nobody acts on
// it here, and the map must not stand still for it.
func (v *View) checkMoves() error {
	movers := make(map[ledger.Slot]placement.MoveID)
	for _, move := range v.Moves {
		if !known(move.Phase) || move.Phase.Ended() {
			continue
		}
		if err := v.checkJourney(move); err != nil {
			return fmt.Errorf("move %s: %w", move.ID, err)
		}
		if !move.Phase.Before() && move.DecidedAt == nil {
			return fmt.Errorf("move %s: it is in phase %q and was never decided", move.ID, move.Phase)
		}
		if err := move.CheckEpochs(); err != nil {
			return fmt.Errorf("move %s: %w", move.ID, err)
		}
		if !underWay(move.Phase) {
			continue // its slots may have moved on
		}
		owner := move.Source
		if move.Phase == placement.PhaseSwitched {
			owner = move.Target
		}
		if err := v.checkOwner(move, owner); err != nil {
			return fmt.Errorf("move %s: in phase %q %w", move.ID, move.Phase, err)
		}
		for _, slot := range move.Slots {
			if other, taken := movers[slot]; taken {
				return fmt.Errorf("moves %s and %s both have slot %d", other, move.ID, slot)
			}
			movers[slot] = move.ID
		}
	}
	return nil
}

// checkOwner makes sure that a shard owns all slots of a move.
func (v *View) checkOwner(move placement.Move, owner ledger.ShardID) error {
	for _, slot := range move.Slots {
		if has := v.Map.Owner(slot); has.Shard != owner {
			return fmt.Errorf("slot %d is owned by %q, not by %q", slot, has.Shard, owner)
		}
	}
	return nil
}
