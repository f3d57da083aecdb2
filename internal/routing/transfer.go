package routing

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Transfer does the start of a transfer (its Saga flag is decided here) at the initiator's home. If that opens a saga, or
// finds one that is still running, it waits for the end, but no longer than wait. What it opens it carries to its end, also
// when wait is over. replayed tells that the identity was known, with the same contents. The record has no times.
//
// A refusal is a record, not an error. Errors: CodeConflict, CodeUnavailable, CodeOverloaded, CodeUnknown.
func (r *Router) Transfer(ctx context.Context, start ledger.Operation, wait time.Duration) (record ledger.TransferRecord, replayed bool, err error) {
	var (
		result ledger.Result
		tried  bool
	)
	err = r.onShardOf(ctx, start.Initiator, func(m *placement.Map, s Shard, _ placement.Hold) (err error) {
		holds := aim(m, &start, make([]placement.Hold, 0, 2))
		if payee := holds[len(holds)-1].Slot; !tried && r.fences.has(payee) {
			tried = true
			return knownFence(payee)
		}
		result, err = s.Submit(ctx, start, holds...)
		return err
	})
	if err != nil {
		return ledger.TransferRecord{}, false, err
	}
	r.finish(ctx, []*ledger.Result{&result}, wait)
	return ledger.TransferRecord{Recorded: result.Recorded, State: result.State, Cause: result.Cause}, result.Replayed, nil
}

// aim makes a start one of a saga if its payee lives elsewhere by the map, and appends what it holds.
func aim(m *placement.Map, start *ledger.Operation, holds []placement.Hold) []placement.Hold {
	home, hold := m.HoldOn(start.Initiator)
	holds = append(holds, hold)
	start.Saga = false
	if start.Kind == ledger.KindTransfer && start.Payee != start.Initiator {
		if shard, hold := m.HoldOn(start.Payee); shard == home {
			holds = append(holds, hold)
		} else {
			start.Saga = true
		}
	}
	return holds
}

// Find reads what became of a transfer. Errors: CodeTransferNotFound, CodeUnavailable.
func (r *Router) Find(ctx context.Context, id ledger.Identity) (record ledger.TransferRecord, err error) {
	err = r.onShardOf(ctx, id.Initiator, func(_ *placement.Map, s Shard, _ placement.Hold) (err error) {
		record, err = s.Transfer(ctx, id)
		return err
	})
	return record, err
}

// FindByTxID asks every shard for a transfer of any initiator. Errors: CodeTransferNotFound only if every slot was asked;
// CodeAmbiguous if there are several; CodeUnavailable.
func (r *Router) FindByTxID(ctx context.Context, id ledger.TxID) (ledger.TransferRecord, error) {
	found, err := r.askUntilFit(ctx, id)
	switch {
	case len(found) > 1:
		return ledger.TransferRecord{}, &ledger.Error{
			Code: ledger.CodeAmbiguous, Message: "several users have used this transaction id: ask for one of them, at /users/{uid}/transfers/{tx_id}",
		}
	case err != nil:
		return ledger.TransferRecord{}, ledger.Unavailable("not every shard answered: try again, or ask at /users/{uid}/transfers/{tx_id}", err)
	case len(found) == 0:
		return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeTransferNotFound, Message: "transfer not found"}
	}
	return found[0], nil
}

// askUntilFit asks every slot once, wherever it is: those of a shard that refuses some of them are asked again by the next
// map. Each slot has an answer from one shard that owned it when it answered.
func (r *Router) askUntilFit(ctx context.Context, id ledger.TxID) (found []ledger.TransferRecord, err error) {
	open := make([]ledger.Slot, placement.Slots)
	for slot := range open {
		open[slot] = ledger.Slot(slot)
	}
	for p := (pursuit{}); ; {
		m := r.cluster.Map()
		var records []ledger.TransferRecord
		records, open, err = r.askAll(ctx, m, id, open)
		found = append(found, records...)
		var refused *placement.OwnershipError
		if !errors.As(err, &refused) {
			return found, r.strangers(err)
		}
		if followErr := r.follow(ctx, &p, m, refused, err); followErr != nil {
			return found, followErr
		}
	}
}

// askAll asks the owners of the slots by a map. It returns what those that answered found, the slots of the others, and
// the error of one of these; only if it was for want of a better map that all of these did not answer, it is a
// *placement.OwnershipError.
func (r *Router) askAll(
	ctx context.Context, m *placement.Map, id ledger.TxID, slots []ledger.Slot,
) (found []ledger.TransferRecord, open []ledger.Slot, err error) {
	owned := make(map[ledger.ShardID][]ledger.Slot)
	for _, slot := range slots {
		owner := m.Owner(slot)
		if owner.Shard == "" {
			return nil, slots, ledger.Unavailable("the cluster has slots without a shard", nil)
		}
		owned[owner.Shard] = append(owned[owner.Shard], slot)
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
	)
	for shard, slots := range owned {
		group.Go(func() {
			records, askErr := r.ask(ctx, shard, id, slots)
			mu.Lock()
			defer mu.Unlock()
			if askErr == nil {
				found = append(found, records...)
				return
			}
			open = append(open, slots...)
			var refused *placement.OwnershipError
			if err == nil || !errors.As(askErr, &refused) {
				err = askErr
			}
		})
	}
	group.Wait()
	return found, open, err
}

func (r *Router) ask(ctx context.Context, shard ledger.ShardID, id ledger.TxID, slots []ledger.Slot) ([]ledger.TransferRecord, error) {
	s, err := r.shard(shard, slots[0])
	if err != nil {
		return nil, err
	}
	return s.TransfersByTxID(ctx, id, slots)
}
