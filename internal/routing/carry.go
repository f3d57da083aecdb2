package routing

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
	"github.com/saldo-ledger/saldo/saga"
)

// maxCarried bounds the sagas that a router carries at a time. Beyond, they are left to whoever runs their home's queue.
const maxCarried = 8192

// finish carries the sagas that results have opened, whether or not somebody waits for that, and waits for the ends of all
// that are pending, but no longer than wait, ctx or the router's life. What has ended in time is entered into the results.
func (r *Router) finish(ctx context.Context, results []*ledger.Result, wait time.Duration) {
	var begun []ledger.Saga
	for _, result := range results {
		if result.State == ledger.SagaPending && !result.Replayed {
			begun = append(begun, ledger.Saga{Transfer: result.Transfer, Trace: result.Trace})
		}
	}
	var carried <-chan []ledger.Saga
	if len(begun) > 0 {
		carried = r.carry(begun)
	}
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	if carried != nil {
		select {
		case ended := <-carried:
			enter(results, ended)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-r.ctx.Done():
			return
		}
	}
	var waiting map[ledger.Identity]struct{} // what somebody else carries
	for _, result := range results {
		if result.State == ledger.SagaPending {
			if waiting == nil {
				waiting = make(map[ledger.Identity]struct{})
			}
			waiting[result.Identity] = struct{}{}
		}
	}
	if waiting != nil {
		enter(results, r.awaitEnds(ctx, waiting, timer.C))
	}
}

// carry takes sagas that this router has just begun to their ends, in the background, and says once which have ended: all
// of them, unless something came between.
func (r *Router) carry(begun []ledger.Saga) <-chan []ledger.Saga {
	carried := make(chan []ledger.Saga, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.config.Handover < 0 || r.carrying+len(begun) > maxCarried {
		carried <- nil
		return carried
	}
	r.carrying += len(begun)
	r.loops.Go(func() {
		defer tracing.Crash(r.log, "carrying sagas")
		ctx, cancel := context.WithTimeout(r.ctx, r.config.Handover)
		defer cancel()
		carried <- saga.Carry(ctx, r, begun)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.carrying -= len(begun)
	})
	return carried
}

// enter enters the ends of sagas into the results of their starts. Several results may have one identity.
func enter(results []*ledger.Result, ended []ledger.Saga) {
	ends := make(map[ledger.Identity]*ledger.Saga, len(ended))
	for i := range ended {
		ends[ended[i].Identity] = &ended[i]
	}
	for _, result := range results {
		if end := ends[result.Identity]; end != nil && result.State == ledger.SagaPending {
			result.State, result.Cause = end.State, end.Cause
		}
	}
}
