package routing

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// homeWait is everybody who waits for the end of a saga of one home shard. One loop asks for all of them; it runs as long
// as there are any.
type homeWait struct {
	wake chan struct{} // room for one

	// guarded by Router.mu
	waiters map[ledger.Identity][]chan ledger.Saga
	asked   map[ledger.Identity]struct{} // to be looked up at the next query
}

// Ended says that sagas of a home may have ended: those, or any if ids is nil. It never waits.
func (r *Router) Ended(home ledger.ShardID, ids []ledger.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.waiting[home]
	if h == nil {
		return
	}
	if ids == nil {
		h.askAll()
	}
	for _, id := range ids {
		if _, ok := h.waiters[id]; ok {
			h.asked[id] = struct{}{}
		}
	}
	if len(h.asked) > 0 {
		due(h.wake)
	}
}

func (h *homeWait) askAll() {
	for id := range h.waiters {
		h.asked[id] = struct{}{}
	}
}

// awaitEnd waits for the end of a saga, but no longer than wait, ctx or the router's life.
func (r *Router) awaitEnd(ctx context.Context, home ledger.ShardID, id ledger.Identity, wait time.Duration) (ledger.Saga, bool) {
	ended := make(chan ledger.Saga, 1)
	if !r.addWaiter(home, id, ended) {
		return ledger.Saga{}, false
	}
	defer r.removeWaiter(home, id, ended)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case saga := <-ended:
		return saga, true
	case <-timer.C:
	case <-ctx.Done():
	case <-r.ctx.Done():
	}
	return ledger.Saga{}, false
}

func (r *Router) addWaiter(home ledger.ShardID, id ledger.Identity, ended chan ledger.Saga) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	h := r.waiting[home]
	if h == nil {
		h = &homeWait{
			wake:    make(chan struct{}, 1),
			waiters: make(map[ledger.Identity][]chan ledger.Saga), asked: make(map[ledger.Identity]struct{}),
		}
		r.waiting[home] = h
		r.loops.Go(func() { r.watchEnds(home, h) })
	}
	h.waiters[id] = append(h.waiters[id], ended)
	return true
}

func (r *Router) removeWaiter(home ledger.ShardID, id ledger.Identity, ended chan ledger.Saga) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.waiting[home]
	if h == nil {
		return
	}
	rest := h.waiters[id][:0:0]
	for _, other := range h.waiters[id] {
		if other != ended {
			rest = append(rest, other)
		}
	}
	if h.waiters[id] = rest; len(rest) == 0 {
		delete(h.waiters, id)
		delete(h.asked, id)
	}
}

// watchEnds answers a home's waiters until there are none.
func (r *Router) watchEnds(home ledger.ShardID, h *homeWait) {
	poll := time.NewTicker(r.config.Poll)
	defer poll.Stop()
	for idle := 0; ; {
		select {
		case <-r.ctx.Done():
			return
		case <-h.wake:
		case <-poll.C: // a notice may be lost, or may have come before its waiter
			r.mu.Lock()
			h.askAll()
			if len(h.waiters) > 0 {
				idle = 0
			} else if idle++; idle > 50 {
				delete(r.waiting, home)
				r.mu.Unlock()
				return
			}
			r.mu.Unlock()
		}
		r.answerEnded(home, h)
	}
}

func (r *Router) answerEnded(home ledger.ShardID, h *homeWait) {
	r.mu.Lock()
	ids := make([]ledger.Identity, 0, len(h.asked))
	for id := range h.asked {
		ids = append(ids, id)
	}
	clear(h.asked)
	r.mu.Unlock()
	s, ok := r.cluster.Shard(home)
	if !ok || len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	ended, err := s.EndedSagas(ctx, ids)
	if err != nil {
		return // the poll asks again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, saga := range ended {
		saga.Identity = id
		for _, waiter := range h.waiters[id] {
			select {
			case waiter <- saga:
			default: // told already
			}
		}
	}
}

func due(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}
