package admin

import (
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// SlotList is runs of slots.
type SlotList struct {
	Revision int64     `json:"revision"` // of the map
	Slots    int       `json:"slots"`    // in all
	Ranges   []SlotRun `json:"ranges"`   // in order; those without an owner, before the founding, are left out
}

// SlotRun is neighbouring slots with one owner, one epoch and one move.
type SlotRun struct {
	First ledger.Slot      `json:"first"`
	Last  ledger.Slot      `json:"last"`
	Shard ledger.ShardID   `json:"shard"`
	Epoch ledger.Epoch     `json:"epoch"`
	Move  placement.MoveID `json:"move,omitempty"` // that is under way with them
	To    ledger.ShardID   `json:"to,omitempty"`   // its target
	User  ledger.UserID    `json:"user,omitempty"` // who was asked for
}

func (f *Face) slots(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	list := SlotList{Revision: view.Map.Revision(), Slots: placement.Slots, Ranges: slotRuns(view)}
	if text := r.query("shard"); text != "" {
		if !knows(view, ledger.ShardID(text)) {
			return nil, f.noShard(view, text)
		}
		list.Ranges = filter(list.Ranges, func(run SlotRun) bool { return string(run.Shard) == text })
	}
	if text := r.query("slot"); text != "" {
		set, err := placement.ParseSlotSet(text)
		if err != nil {
			return nil, malformed("slot: %v", err)
		}
		list.Ranges = cut(list.Ranges, set)
	}
	if text := r.query("user"); text != "" {
		user, err := ledger.ParseUserID(text)
		if err != nil {
			return nil, err
		}
		list.Ranges = cut(list.Ranges, placement.NewSlotSet(placement.SlotOf(user)))
		for i := range list.Ranges {
			list.Ranges[i].User = user
		}
	}
	return list, nil
}

func slotRuns(view *View) []SlotRun {
	var moving [placement.Slots]*placement.Move
	for i, move := range view.Moves {
		if move.Phase.Before() {
			for _, slot := range move.Slots {
				moving[slot] = &view.Moves[i]
			}
		}
	}
	runs := []SlotRun{}
	for _, owned := range view.Map.Ranges() {
		for slot := owned.First; slot <= owned.Last; slot++ {
			run := SlotRun{First: slot, Last: slot, Shard: owned.Shard, Epoch: owned.Epoch}
			if move := moving[slot]; move != nil {
				run.Move, run.To = move.ID, move.Target
			}
			if n := len(runs); n > 0 && slot > owned.First && runs[n-1].Move == run.Move {
				runs[n-1].Last = slot
				continue
			}
			runs = append(runs, run)
		}
	}
	return runs
}

// cut returns those slots of the runs that are in a set, each by itself.
func cut(runs []SlotRun, set placement.SlotSet) []SlotRun {
	kept := []SlotRun{}
	for _, run := range runs {
		for _, slot := range set {
			if run.First <= slot && slot <= run.Last {
				one := run
				one.First, one.Last = slot, slot
				kept = append(kept, one)
			}
		}
	}
	return kept
}

func filter[T any](all []T, keep func(T) bool) []T {
	kept := []T{}
	for _, one := range all {
		if keep(one) {
			kept = append(kept, one)
		}
	}
	return kept
}

func knows(view *View, id ledger.ShardID) bool {
	for _, s := range view.Shards {
		if s.ID == id {
			return true
		}
	}
	return false
}
