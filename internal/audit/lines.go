package audit

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// lineSum compares two bags of lines: those that operations call for are added, those that entries show are taken away.
// Nothing is left if the bags are equal.
type lineSum struct {
	lines int64 // in both bags
	n     int64
	hash  uint64
}

// between are the lines of payers on one shard and of payees in one slot.
type between struct {
	payers ledger.ShardID
	payees ledger.Slot
}

// checkLines joins what local transfers call for with what their payees' entries show, wherever these are now, in round 1.
// It is judged by the payee's slot and the payer's shard, so that a shard that cannot be read hides only its own.
//
// One transaction wrote both, when both slots were on one shard. If they are on two now, they were already when a settled
// round began, and what they call for and show no longer grows; or one of them has moved during the round, and the other
// shows more or less: so what two shards disagree on is a suspect, to be read again. What one shard disagrees with itself
// about is wrong.
func checkLines(ctx context.Context, r *run) {
	sums := make(map[between]*lineSum)
	for _, n := range r.nodes {
		if r.failed(n) || n.first == nil {
			continue
		}
		r.progress("shard %s: joining local transfers", n.id)
		err := n.first.LineSums(ctx, func(payer, payee ledger.Slot, hash uint64, called bool) {
			key := between{r.first.answers[payer], payee}
			sum := sums[key]
			if sum == nil {
				sum = new(lineSum)
				sums[key] = sum
			}
			sum.lines++
			if called {
				sum.n++
				sum.hash += hash
			} else {
				sum.n--
				sum.hash -= hash
			}
		})
		if err != nil {
			r.fail(n, fmt.Errorf("read local transfers: %w", err))
		}
	}
	var differing []between
	for key, sum := range sums {
		payees := r.first.answers[key.payees]
		switch {
		case key.payers == "" || payees == "":
			r.gap(CheckOperations, "some ends of local transfers are in slots that no shard answers for, or several do")
		case r.failed(r.ensure(key.payers)):
			r.unread(CheckOperations, r.ensure(key.payers))
		case r.failed(r.ensure(payees)):
			r.unread(CheckOperations, r.ensure(payees))
		case sum.n != 0 || sum.hash != 0:
			differing = append(differing, key)
		}
	}
	slices.SortFunc(differing, func(x, y between) int {
		return cmp.Or(cmp.Compare(x.payees, y.payees), cmp.Compare(x.payers, y.payers))
	})
	for len(differing) > 0 {
		n, lines := 1, sums[differing[0]].lines
		for n < len(differing) && lines+sums[differing[n]].lines <= int64(r.options.Lines) {
			lines += sums[differing[n]].lines
			n++
		}
		nameLines(ctx, r, differing[:n])
		differing = differing[n:]
	}
}

// nameLines finds the lines that are called for and not shown, or shown and not called for.
func nameLines(ctx context.Context, r *run, differing []between) {
	var (
		wanted = make(map[between]bool)
		payees = make(map[ledger.Slot]bool)
		shards = make(map[ledger.ShardID]bool)
		net    = make(map[Line]int64) // called for less shown
	)
	for _, key := range differing {
		wanted[key], payees[key.payees] = true, true
		shards[key.payers], shards[r.first.answers[key.payees]] = true, true
	}
	for _, id := range sortedKeys(shards) {
		n := r.ensure(id)
		if r.failed(n) {
			r.unread(CheckOperations, n)
			return
		}
		r.progress("shard %s: reading the local transfers to %d slots again", id, len(payees))
		err := n.first.FindLines(ctx, payees, func(line Line, called bool) {
			payer, payee := placement.SlotOf(line.Initiator), placement.SlotOf(line.Payee)
			if !wanted[between{r.first.answers[payer], payee}] {
				return
			}
			if called {
				net[line]++
			} else {
				net[line]--
			}
			if net[line] == 0 {
				delete(net, line)
			}
		})
		if err != nil {
			r.fail(n, fmt.Errorf("read local transfers: %w", err))
			r.unread(CheckOperations, n)
			return
		}
	}
	wrong := slices.SortedFunc(maps.Keys(net), func(x, y Line) int { return cmp.Compare(x.String(), y.String()) })
	var suspects []Line
	for _, line := range wrong {
		if on := r.first.where(line.Initiator); on == r.first.where(line.Payee) {
			r.badLine(on, line, net[line])
		} else {
			suspects = append(suspects, line)
		}
	}
	for chunk := range slices.Chunk(suspects, maxSuspects) {
		settle(ctx, r, CheckOperations, chunk, lineID, func(last, view View, suspects []Line) []Line {
			return readLines(ctx, r, last, view, suspects)
		})
	}
}

func lineID(line Line) string { return line.String() + " start" }

// badLine reports a line that is called for too often, or shown too often.
func (r *run) badLine(shard ledger.ShardID, line Line, n int64) {
	what := fmt.Sprintf("entry of %+d %s for %s", line.Amount, line.Currency, line.Payee)
	v := Violation{Shard: shard, ID: lineID(line), Line: true, Problem: "it lacks its " + what}
	if n < 0 {
		v.Problem = fmt.Sprintf("there is an %s that it does not call for", what)
	}
	r.violation(CheckOperations, v)
}

// readLines looks suspects up in fresh snapshots and returns those that need another reading. One round is enough: what
// they miss was committed before they were suspected.
func readLines(ctx context.Context, r *run, last, view View, suspects []Line) (unsettled []Line) {
	var (
		payers = make(map[ledger.ShardID][]ledger.Identity)
		payees = make(map[ledger.ShardID][]Line)
		ids    []ledger.ShardID
	)
	for _, line := range suspects {
		payer, payee := view.Map.OwnerOf(line.Initiator).Shard, view.Map.OwnerOf(line.Payee).Shard
		payers[payer] = append(payers[payer], line.Identity)
		payees[payee] = append(payees[payee], line)
		ids = append(ids, payer, payee)
	}
	snapshots := r.look(ctx, ids)
	defer closeAll(snapshots)
	net := make(map[Line]int64)
	unread := make(map[ledger.ShardID]bool)
	for id, identities := range payers {
		snapshot, ok := snapshots[id]
		if !ok {
			unread[id] = true
			continue
		}
		homes, err := snapshot.FindHomes(ctx, identities)
		unread[id] = err != nil
		for _, home := range homes {
			start := home.Start
			if start != nil && start.Kind == ledger.KindTransfer && !start.Saga && start.Reason == ledger.Applied {
				net[Line{start.Identity, start.Payee, start.Amount, start.Currency}] = 1
			}
		}
	}
	for id, lines := range payees {
		snapshot, ok := snapshots[id]
		if !ok {
			unread[id] = true
			continue
		}
		shown, err := snapshot.CountEntries(ctx, lines)
		unread[id] = unread[id] || err != nil
		for line, n := range shown {
			net[line] -= n
		}
	}
	for _, line := range suspects {
		payer, payee := view.Map.OwnerOf(line.Initiator).Shard, view.Map.OwnerOf(line.Payee).Shard
		settled := unchanged(last, view, snapshots, line.Initiator) && unchanged(last, view, snapshots, line.Payee)
		switch n := net[line]; {
		case unread[payer] || unread[payee] || !settled:
			unsettled = append(unsettled, line)
		case n > 0:
			r.badLine(payer, line, n)
		case n < 0:
			r.badLine(payee, line, n)
		}
	}
	return unsettled
}
