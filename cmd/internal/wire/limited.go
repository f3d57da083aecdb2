package wire

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/admission"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
)

// limited is a shard as a router uses it for its clients: it is given as much at a time as it gets done soon. Each kind of
// work has a limit of its own, so that no kind keeps another out; and each shard has, so that one that is slow or down
// keeps nobody from the others.
//
// Who waits for a slot that moves has no place here meanwhile: the shard has refused, and was left. On their way back they
// come no more at a time than a shard always takes (package routing sees to that), so that none is refused who was let in.
//
// The steps of sagas have no limits, in routers and in coordinators: they finish what was let in, and slow down by themselves.
type limited struct {
	shard    routing.Shard
	writes   *admission.Limiter // single operations, through the lane
	batches  *admission.Limiter // many operations at once, through the lane
	balances *admission.Limiter // reads that coalesce
	queries  *admission.Limiter // every other read: each is a query
}

var _ routing.Shard = (*limited)(nil)

const (
	// always is what a shard is given of each kind however long it takes: enough for its commits to be worth their flush.
	always = 128
	// waiting is how many calls of each kind may wait for a shard. Clients with no more than always + waiting requests at a
	// time are never refused, however slow the shard is, unless one waits too long.
	waiting = 128
	// batchPatience is how long a batch waits for room: whoever sends much at once has time.
	batchPatience = 2 * time.Second
)

// limit returns the shard with limits by which what is let in is done in about the target time.
func limit(s routing.Shard, target time.Duration) *limited {
	config := admission.Config{Target: target, Always: always, Waiting: waiting}
	l := &limited{shard: s, writes: admission.New(config), balances: admission.New(config), queries: admission.New(config)}
	config.Patience = batchPatience
	l.batches = admission.New(config)
	return l
}

func overloaded() error {
	return ledger.Overloaded("the shard has more to do than it can do soon: nothing was recorded, try again")
}

func (l *limited) Submit(ctx context.Context, op ledger.Operation, holds ...placement.Hold) (ledger.Result, error) {
	if !l.writes.Enter(ctx, 1) {
		return ledger.Result{}, overloaded()
	}
	defer l.writes.Leave(1)
	return l.shard.Submit(ctx, op, holds...)
}

func (l *limited) SubmitAll(ctx context.Context, ops []ledger.Operation, holds [][]placement.Hold) []ledger.Answer {
	if len(ops) > 0 && ops[0].Step != ledger.StepStart { // of sagas: what was let in is finished
		return l.shard.SubmitAll(ctx, ops, holds)
	}
	if !l.batches.Enter(ctx, len(ops)) {
		answers := make([]ledger.Answer, len(ops))
		for i := range answers {
			answers[i].Err = overloaded()
		}
		return answers
	}
	defer l.batches.Leave(len(ops))
	return l.shard.SubmitAll(ctx, ops, holds)
}

func (l *limited) CompleteAll(ctx context.Context, ids []ledger.Identity, holds []placement.Hold) []ledger.Answer {
	return l.shard.CompleteAll(ctx, ids, holds)
}

func (l *limited) CreateUser(ctx context.Context, user ledger.User, hold placement.Hold) (ledger.User, bool, error) {
	if !l.writes.Enter(ctx, 1) {
		return ledger.User{}, false, overloaded()
	}
	defer l.writes.Leave(1)
	return l.shard.CreateUser(ctx, user, hold)
}

func (l *limited) Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	if !l.balances.Enter(ctx, 1) {
		return ledger.Account{}, overloaded()
	}
	defer l.balances.Leave(1)
	return l.shard.Balance(ctx, id, currency)
}

func (l *limited) User(ctx context.Context, id ledger.UserID) (ledger.User, error) {
	if !l.queries.Enter(ctx, 1) {
		return ledger.User{}, overloaded()
	}
	defer l.queries.Leave(1)
	return l.shard.User(ctx, id)
}

func (l *limited) History(
	ctx context.Context, id ledger.UserID, currency ledger.Currency, before int64, limit int,
) (ledger.HistoryPage, error) {
	if !l.queries.Enter(ctx, 1) {
		return ledger.HistoryPage{}, overloaded()
	}
	defer l.queries.Leave(1)
	return l.shard.History(ctx, id, currency, before, limit)
}

func (l *limited) Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	if !l.queries.Enter(ctx, 1) {
		return ledger.TransferRecord{}, overloaded()
	}
	defer l.queries.Leave(1)
	return l.shard.Transfer(ctx, id)
}

func (l *limited) TransfersByTxID(ctx context.Context, id ledger.TxID, slots []ledger.Slot) ([]ledger.TransferRecord, error) {
	if !l.queries.Enter(ctx, 1) {
		return nil, overloaded()
	}
	defer l.queries.Leave(1)
	return l.shard.TransfersByTxID(ctx, id, slots)
}

func (l *limited) Check(ctx context.Context, holds []placement.Hold) error {
	return l.shard.Check(ctx, holds) // one query at a time, for all who wait
}

func (l *limited) EndedSagas(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]ledger.Saga, error) {
	return l.shard.EndedSagas(ctx, ids) // one query at a time, for all who wait
}
