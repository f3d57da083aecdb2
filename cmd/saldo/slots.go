package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

type slotsCommand struct {
	target `embed:""`
	Shard  string   `name:"shard" placeholder:"ID" help:"Show those of one shard."`
	User   []string `name:"user" placeholder:"ID" help:"Show those in which these users live."`
	JSON   bool     `name:"json" help:"Print them as JSON, for machines."`
}

// Help says more.
func (c *slotsCommand) Help() string {
	return "A user's id decides in which of 4096 slots the user lives; each slot is owned by one shard. " +
		"The epoch of a slot grows with every decision about who owns it."
}

// ownedRange is a run of slots as it is shown.
type ownedRange struct {
	First ledger.Slot      `json:"first"`
	Last  ledger.Slot      `json:"last"`
	Shard ledger.ShardID   `json:"shard"`
	Epoch ledger.Epoch     `json:"epoch"`
	Move  placement.MoveID `json:"move,omitempty"` // that is under way with them
	To    ledger.ShardID   `json:"to,omitempty"`   // its target
	Users []ledger.UserID  `json:"users,omitempty"`
}

func (c *slotsCommand) Run(ctx context.Context, to streams) error {
	etcd, _, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	if !view.Founded() {
		return errNotFounded(view)
	}
	ranges := ownedRanges(view)
	if len(c.User) > 0 {
		if ranges, err = rangesOf(c.User, ranges); err != nil {
			return err
		}
	}
	if c.Shard != "" {
		if _, err := shardOf(view, c.Shard); err != nil {
			return err
		}
		var own []ownedRange
		for _, r := range ranges {
			if r.Shard == ledger.ShardID(c.Shard) {
				own = append(own, r)
			}
		}
		ranges = own
	}
	if c.JSON {
		return printJSON(to.out, append([]ownedRange{}, ranges...))
	}
	table := newTable(to.out)
	fmt.Fprintln(table, "SLOTS\tNUMBER\tSHARD\tEPOCH\tMOVING TO\tUSERS")
	for _, r := range ranges {
		slots := fmt.Sprintf("%d-%d", r.First, r.Last)
		if r.First == r.Last {
			slots = fmt.Sprint(r.First)
		}
		var users []string
		for _, user := range r.Users {
			users = append(users, string(user))
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\t%s\n",
			slots, r.Last-r.First+1, r.Shard, r.Epoch, r.To, strings.Join(users, " "))
	}
	return table.Flush()
}

// ownedRanges returns the slots as the fewest runs of one owner, epoch and move.
func ownedRanges(view *cluster.View) []ownedRange {
	moving := make(map[ledger.Slot]placement.Move)
	for _, move := range view.Moves {
		if move.Phase.Before() {
			for _, slot := range move.Slots {
				moving[slot] = move
			}
		}
	}
	var ranges []ownedRange
	for _, r := range view.Map.Ranges() {
		for slot := r.First; slot <= r.Last; slot++ {
			move := moving[slot]
			if n := len(ranges); n > 0 && slot > r.First && ranges[n-1].Move == move.ID {
				ranges[n-1].Last = slot
				continue
			}
			ranges = append(ranges, ownedRange{First: slot, Last: slot, Shard: r.Shard, Epoch: r.Epoch, Move: move.ID, To: move.Target})
		}
	}
	return ranges
}

// rangesOf returns the slots of users, each by itself.
func rangesOf(users []string, ranges []ownedRange) ([]ownedRange, error) {
	var own []ownedRange
	for _, text := range users {
		user, err := ledger.ParseUserID(text)
		if err != nil {
			return nil, err
		}
		slot := placement.SlotOf(user)
		for _, r := range ranges {
			if r.First <= slot && slot <= r.Last {
				r.First, r.Last, r.Users = slot, slot, []ledger.UserID{user}
				own = append(own, r)
			}
		}
	}
	return own, nil
}
