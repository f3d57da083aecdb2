package assembly

import (
	"context"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/mend"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

var _ mend.Books = (*World)(nil)

// Balance implements mend.Books, by the map of the latest View.
func (w *World) Balance(ctx context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	s, _, err := w.shardOf(user)
	if err != nil {
		return ledger.Account{}, err
	}
	return s.Balance(ctx, user, currency)
}

// Submit implements mend.Books.
func (w *World) Submit(ctx context.Context, op ledger.Operation) (ledger.Result, error) {
	s, hold, err := w.shardOf(op.Owner())
	if err != nil {
		return ledger.Result{}, err
	}
	return s.Submit(ctx, op, hold)
}

// Complete implements mend.Books.
func (w *World) Complete(ctx context.Context, id ledger.Identity) (ledger.SagaState, error) {
	s, hold, err := w.shardOf(id.Initiator)
	if err != nil {
		return 0, err
	}
	return s.Complete(ctx, id, hold)
}

func (w *World) shardOf(user ledger.UserID) (*shard.Shard, placement.Hold, error) {
	w.mu.Lock()
	id, hold := w.view.Map.HoldOn(user)
	w.mu.Unlock()
	s, err := w.shard(id)
	return s, hold, err
}
