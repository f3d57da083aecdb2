package audit

import (
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// checkMoves judges what was booked against @moved in round 1.
//
// The target books a move when it begins to own the slots, the source afterwards, when it tells that they have left: each in
// the transaction that changes its slots. So in a settled round both have booked, or neither. In one that is not, the
// target may be alone: that the move hangs there is told by its slots.
//
// The bookings of a shard that was removed went with it. It had no slots left, so they summed to zero, and so do the ones
// that the others have against all such shards together: what these booked among themselves is zero as well.
func (r *run) checkMoves() {
	type booking struct {
		move     placement.MoveID
		currency ledger.Currency
	}
	var (
		sums     = make(map[booking]*big.Int)
		sides    = make(map[booking][]string)
		unread   = make(map[booking]*node)
		moves    = make(map[placement.MoveID]bool)
		gone     = make(map[ledger.Currency]*big.Int)
		goners   []string
		complete = true
	)
	for _, n := range r.nodes {
		if n.totals == nil {
			complete = false
			continue
		}
		for _, b := range n.totals.Bookings {
			moves[b.Move] = true
			other := r.known(b.Other)
			if other == nil {
				if gone[b.Currency] == nil {
					gone[b.Currency] = new(big.Int)
				}
				gone[b.Currency].Add(gone[b.Currency], b.Amount)
				goners = append(goners, string(b.Other))
				continue
			}
			key := booking{b.Move, b.Currency}
			if sums[key] == nil {
				sums[key] = new(big.Int)
			}
			sums[key].Add(sums[key], b.Amount)
			sides[key] = append(sides[key], fmt.Sprintf("%s has booked %v against %s", n.id, b.Amount, b.Other))
			if other.totals == nil {
				unread[key] = other
			}
		}
	}
	for key, sum := range sums {
		switch {
		case unread[key] != nil:
			r.unread(CheckMoves, unread[key])
		case sum.Sign() == 0:
		case len(r.first.unsettled) > 0 && len(sides[key]) == 1:
			r.gap(CheckMoves, "slots were changing hands: what one shard alone has booked against @moved could not be judged")
		default:
			r.violation(CheckMoves, Violation{ID: "move " + string(key.move), Problem: fmt.Sprintf(
				"%s: %s: together %v, not zero", key.currency, strings.Join(sides[key], ", "), sum)})
		}
	}
	for currency, sum := range gone {
		switch {
		case !complete:
			r.gap(CheckMoves, "what was booked against shards that are gone could not be summed")
		case sum.Sign() != 0:
			slices.Sort(goners)
			r.violation(CheckMoves, Violation{ID: string(currency), Problem: fmt.Sprintf(
				"what was booked against shards that are gone (%s) sums to %v, not zero",
				strings.Join(slices.Compact(goners), ", "), sum)})
		}
	}
	for id := range r.first.view.underWay() {
		moves[id] = true
	}
	r.cover(CheckMoves, int64(len(moves)))
}

// known returns the node of a shard of round 1, nil if it is none.
func (r *run) known(id ledger.ShardID) *node {
	if slices.Contains(r.first.view.shards(), id) {
		return r.ensure(id)
	}
	return nil
}
