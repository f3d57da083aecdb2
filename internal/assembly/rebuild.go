package assembly

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// Rebuild says what the registry of a cluster must say, given what its shards claim and what it says now (nil: it is empty).
// The later decision about a slot counts, and epochs tell which one that is. What would have to be guessed is an error that
// names all of it, and what to do. lost says what the cluster loses by what is decided: for a person to agree to.
func Rebuild(view *cluster.View, claims map[ledger.ShardID]*shard.Claims, now time.Time) (
	rebuilt *cluster.Rebuilt, lost []string, err error,
) {
	r := &rebuilding{
		view: view, claims: claims, problems: make(notes), lost: make(notes), aborted: make(map[placement.MoveID]int),
		Rebuilt: cluster.Rebuilt{Owners: make(map[ledger.Slot]placement.Owner)},
	}
	for slot := range ledger.Slot(placement.Slots) {
		r.own(slot)
	}
	underWay := r.moves(now)
	for _, id := range slices.Sorted(maps.Keys(claims)) {
		for _, claim := range claims[id].Slots {
			r.judge(id, claim, underWay[claim.Move])
		}
	}
	r.left(now)
	var errs []error
	for _, problem := range r.problems.texts() {
		errs = append(errs, errors.New(problem))
	}
	return &r.Rebuilt, r.lost.texts(), errors.Join(errs...)
}

type rebuilding struct {
	cluster.Rebuilt
	view     *cluster.View
	claims   map[ledger.ShardID]*shard.Claims
	problems notes
	lost     notes
	aborted  map[placement.MoveID]int // how many slots of a move prove that it was
}

// notes are slots by what is to be said of {slots}.
type notes map[string]placement.SlotSet

func (n notes) add(slot ledger.Slot, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n[text] = append(n[text], slot)
}

func (n notes) texts() (texts []string) {
	for _, text := range slices.Sorted(maps.Keys(n)) {
		slots := placement.NewSlotSet(n[text]...)
		texts = append(texts, strings.ReplaceAll(text, "{slots}", slots.String()))
	}
	return texts
}

func (r *rebuilding) problem(slot ledger.Slot, format string, args ...any) {
	r.problems.add(slot, format, args...)
}

// own finds the owner of a slot: who has it at the highest epoch, the registry's word among the shards'.
func (r *rebuilding) own(slot ledger.Slot) {
	var best placement.Owner
	if r.view != nil {
		best = r.view.Map.Owner(slot)
	}
	for _, id := range slices.Sorted(maps.Keys(r.claims)) {
		claim, ok := find(r.claims[id].Slots, slot)
		switch {
		case !ok || !claim.Has || claim.Epoch < best.Epoch:
		case claim.Epoch == best.Epoch && best.Shard != id && !r.gave(best.Shard, slot, id) && !r.switchWasLost(slot, best, id):
			r.twice(slot, best, id)
		default:
			best = placement.Owner{Shard: id, Epoch: claim.Epoch}
		}
	}
	if best.Shard == "" {
		r.problem(slot, "no shard has slots {slots}: name all of them with --shard; "+
			"one that has lost them must be restored to a later point")
		return
	}
	if r.claims[best.Shard] == nil {
		r.problem(slot, "slots {slots} are shard %s's, which was not read: name it with --shard", best.Shard)
		return
	}
	own, _ := find(r.claims[best.Shard].Slots, slot)
	switch {
	case !own.Has && !own.Coming && !r.comes(slot, best.Shard):
		r.problem(slot, "slots {slots} are shard %s's by the registry, and it does not have them: "+
			"restore it to a later point", best.Shard)
	case own.Has && own.Move != "":
		best.Epoch = r.givenBack(slot, best, own.Move)
	}
	r.Owners[slot] = best
}

// gave tells whether a shard knows that another one has had a slot from it.
func (r *rebuilding) gave(id ledger.ShardID, slot ledger.Slot, to ledger.ShardID) bool {
	if r.claims[id] == nil {
		return false
	}
	claim, ok := find(r.claims[id].Slots, slot)
	return ok && !claim.Has && !claim.Coming && claim.MovedTo == to
}

// switchWasLost tells whether the registry has given a slot to its owner by aborting a move that it had switched before it
// was set back. The target says that it was made the owner by that move; and the source has the slot at an older epoch, so it
// was not told of the abort, and nothing was written to it at the epoch that both decisions have.
func (r *rebuilding) switchWasLost(slot ledger.Slot, given placement.Owner, to ledger.ShardID) bool {
	if r.view == nil || r.claims[given.Shard] == nil {
		return false
	}
	claim, _ := find(r.claims[given.Shard].Slots, slot)
	move, _ := r.view.Move(claim.Move)
	return claim.Has && claim.Epoch < given.Epoch && claim.Move != "" && move.Phase == placement.PhaseAborting &&
		move.Source == given.Shard && move.Target == to && slices.Contains(move.Slots, slot) &&
		slices.Contains(r.claims[to].Came, move.ID)
}

// twice says of a slot that it is owned twice at one epoch: by a shard, and by another one or the registry's word.
func (r *rebuilding) twice(slot ledger.Slot, best placement.Owner, id ledger.ShardID) {
	by, says := "the registry", "was not read"
	if r.claims[best.Shard] != nil {
		claim, ok := find(r.claims[best.Shard].Slots, slot)
		if ok && claim.Has && claim.Epoch == best.Epoch {
			by = "its own tables"
		}
		says = "says that it " + tell(claim, ok)
	}
	claim, _ := find(r.claims[id].Slots, slot)
	r.problem(slot, "slots {slots} have two owners at epoch %d: shard %s by %s (it %s), and shard %s, which says that it %s. "+
		"That was decided twice, since etcd was set back: restore a newer snapshot of etcd, or decide which of the two keeps them, "+
		"see Two owners in docs/OPERATIONS.md", best.Epoch, best.Shard, by, says, id, tell(claim, true))
}

// tell says what a shard claims of a slot.
func tell(claim shard.Claim, ok bool) string {
	var what string
	switch {
	case !ok:
		return "does not know them"
	case claim.Has && claim.Fenced:
		what = "has them, fenced,"
	case claim.Has:
		what = "owns them"
	case claim.Coming:
		what = "has a copy of them on its way"
	default:
		what = fmt.Sprintf("gave them to shard %s", claim.MovedTo)
	}
	if what = fmt.Sprintf("%s at epoch %d", what, claim.Epoch); claim.Move != "" {
		what += fmt.Sprintf(" under move %s", claim.Move)
	}
	return what
}

// comes tells whether a slot is on record as switched to a shard that knows nothing of it, after a failover, and the other
// one has the rows yet.
func (r *rebuilding) comes(slot ledger.Slot, to ledger.ShardID) bool {
	if r.view == nil {
		return false
	}
	return slices.ContainsFunc(r.view.Moves, func(move placement.Move) bool {
		if move.Target != to || r.claims[move.Source] == nil || !slices.Contains(move.Slots, slot) {
			return false
		}
		claim, ok := find(r.claims[move.Source].Slots, slot)
		return ok && (move.Phase == placement.PhaseSwitched || move.Phase == placement.PhaseClean) &&
			(claim.Left == move.ID || claim.Has)
	})
}

// givenBack returns the epoch of a slot that its owner has under a move: a later one if the move's target has discarded its
// copy under it. That is done only after an abort, by which the owner keeps the slot at that epoch, and was not told yet.
func (r *rebuilding) givenBack(slot ledger.Slot, owner placement.Owner, move placement.MoveID) ledger.Epoch {
	for id, shard := range r.claims {
		claim, _ := find(shard.Slots, slot)
		if claim.Left == move && claim.Epoch > owner.Epoch && r.gave(id, slot, owner.Shard) {
			r.aborted[move]++
			return claim.Epoch
		}
	}
	return owner.Epoch
}

func find(claims []shard.Claim, slot ledger.Slot) (shard.Claim, bool) {
	i, ok := slices.BinarySearchFunc(claims, slot, func(c shard.Claim, slot ledger.Slot) int { return int(c.Slot) - int(slot) })
	if !ok {
		return shard.Claim{}, false
	}
	return claims[i], true
}

// moves returns those that go on, by what the registry says or what the shards have done since, and notes which records
// are to be others. A shard that was told of a switch which the registry has lost proves it.
func (r *rebuilding) moves(now time.Time) map[placement.MoveID]placement.Move {
	going := make(map[placement.MoveID]placement.Move)
	if r.view == nil {
		return going
	}
	for _, move := range r.view.Moves {
		if move.Phase.Ended() {
			continue
		}
		var source, target int
		var epochs placement.Epochs
		for _, slot := range move.Slots {
			switch r.Owners[slot].Shard {
			case move.Source:
				source++
			case move.Target:
				target++
			}
			epochs = append(epochs, r.Owners[slot].Epoch)
		}
		before := move.Phase.Before()
		switch {
		case !before && move.Phase != placement.PhaseSwitched && move.Phase != placement.PhaseClean &&
			move.Phase != placement.PhaseAborting:
			r.problem(0, "move %s is in a phase %q that this program does not know: use the newest program of the cluster",
				move.ID, move.Phase)
			continue
		case r.claims[move.Source] == nil || r.claims[move.Target] == nil:
			r.Forget = append(r.Forget, move.ID)
			continue
		case source == len(move.Slots) && r.aborted[move.ID] == source:
			move.Phase, move.Epochs, move.DecidedAt = placement.PhaseAborting, epochs, &now
			move.Paused, move.Cause = false, cmp.Or(move.Cause, "it was aborted, which the registry has lost")
			r.Moves = append(r.Moves, move)
		case target == len(move.Slots) && (before || move.Phase == placement.PhaseAborting):
			move.Phase, move.Epochs, move.DecidedAt = placement.PhaseSwitched, epochs, &now
			move.Paused, move.Cause = false, ""
			r.Moves = append(r.Moves, move)
		case move.Phase == placement.PhaseClean,
			source == len(move.Slots) && (before || move.Phase == placement.PhaseAborting && slices.Equal(epochs, move.Epochs)),
			target == len(move.Slots) && move.Phase == placement.PhaseSwitched:
		default:
			r.Forget = append(r.Forget, move.ID)
			continue
		}
		going[move.ID] = move
	}
	return going
}

// judge says what a shard claims that cannot be, once it is decided who owns the slot. move is the one under which the shard
// has the slot, if that goes on.
func (r *rebuilding) judge(id ledger.ShardID, claim shard.Claim, move placement.Move) {
	owner := r.Owners[claim.Slot]
	known := r.claims[id]
	switch {
	case owner.Shard == "": // said already
	case claim.Move != "" && move.ID == "":
		r.problem(claim.Slot, "shard %s has slots {slots} under move %s, which the registry does not have, and what was decided "+
			"about it is not known: restore a newer snapshot of etcd", id, claim.Move)
	case claim.Has && claim.Fenced && claim.Move == "" && owner.Shard == id:
		r.problem(claim.Slot, "shard %s has fenced slots {slots}, since it was adopted, and nobody else has them: "+
			"a person must look", id)
	case claim.Has && owner.Shard != id && known.Adopted == known.Timeline && !claim.Fenced &&
		move.Phase == placement.PhaseSwitched:
		// Told of the switch it leaves a tombstone, over whatever it has done since.
		r.lost.add(claim.Slot, "shard %s takes slots {slots} for its own and has not fenced them, and shard %s was given them "+
			"by move %s: what %s has acknowledged for them since is LOST", id, owner.Shard, move.ID, id)
	case claim.Has && owner.Shard != id && known.Adopted == known.Timeline && !claim.Fenced:
		r.problem(claim.Slot, "shard %s takes slots {slots} for its own, and %s was given them later: it was set back "+
			"without a new timeline: start it with recovery.signal, see Backup and restore", id, owner.Shard)
	case !claim.Has && !claim.Coming && claim.Epoch > owner.Epoch:
		r.problem(claim.Slot, "shard %s has given slots {slots} to shard %s, which has lost them: "+
			"restore that to a later point", id, claim.MovedTo)
	}
}

// left notes a record for each copy that a move has left of which the registry has none: so it is deleted, after the time
// that such copies are kept. Which of the two shards was the source makes no difference any more: the other one has the slots.
// One that is contradicted makes room for it. Where a move has left copies at both, the second one waits for another rebuild.
func (r *rebuilding) left(now time.Time) {
	taken := make(map[placement.MoveID]bool)
	for _, id := range slices.Sorted(maps.Keys(r.claims)) {
		records := make(map[placement.MoveID]placement.Move)
		for _, claim := range r.claims[id].Slots {
			if claim.Left == "" || r.claims[claim.MovedTo] == nil || taken[claim.Left] {
				continue
			}
			if r.view != nil && !slices.Contains(r.Forget, claim.Left) {
				if _, ok := r.view.Move(claim.Left); ok {
					continue
				}
			}
			move, ok := records[claim.Left]
			if !ok {
				move = placement.Move{
					ID: claim.Left, Source: id, Target: claim.MovedTo, Phase: placement.PhaseClean, Why: "its record was lost",
					CreatedAt: now, DecidedAt: &now, ToldAt: &now,
				}
			}
			move.Slots, move.Epochs = append(move.Slots, claim.Slot), append(move.Epochs, claim.Epoch)
			records[claim.Left] = move
		}
		for _, move := range slices.Sorted(maps.Keys(records)) {
			r.Moves = append(r.Moves, records[move])
			taken[move] = true
		}
	}
	r.Forget = slices.DeleteFunc(r.Forget, func(id placement.MoveID) bool { return taken[id] }) // one key, one write
}
