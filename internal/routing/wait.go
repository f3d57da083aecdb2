package routing

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// homeWait is everybody who waits for the end of a saga of one home shard that somebody else carries. One loop asks for all
// of them; it runs as long as there are any. Router.mu guards it.
type homeWait map[ledger.Identity][]chan<- ledger.Saga

// awaitEnds waits for the ends of sagas, given with their homes, but no longer than there is time, or than ctx or the
// router lives. It returns those that have ended, with State and Cause.
func (r *Router) awaitEnds(
	ctx context.Context, homes map[ledger.Identity]ledger.ShardID, over <-chan time.Time,
) (ended []ledger.Saga) {
	told := make(chan ledger.Saga, len(homes))
	defer func() {
		for id, home := range homes {
			r.removeWaiter(home, id, told)
		}
	}()
	for id, home := range homes {
		if !r.addWaiter(home, id, told) {
			return ended
		}
	}
	for len(ended) < len(homes) {
		select {
		case saga := <-told:
			ended = append(ended, saga)
			r.removeWaiter(homes[saga.Identity], saga.Identity, told)
		case <-over:
			return ended
		case <-ctx.Done():
			return ended
		case <-r.ctx.Done():
			return ended
		}
	}
	return ended
}

func (r *Router) addWaiter(home ledger.ShardID, id ledger.Identity, told chan<- ledger.Saga) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	h := r.waiting[home]
	if h == nil {
		h = make(homeWait)
		r.waiting[home] = h
		r.loops.Go(func() { r.watchEnds(home, h) })
	}
	h[id] = append(h[id], told)
	return true
}

func (r *Router) removeWaiter(home ledger.ShardID, id ledger.Identity, told chan<- ledger.Saga) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.waiting[home]
	rest := h[id][:0:0]
	for _, other := range h[id] {
		if other != told {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(h, id)
	} else {
		h[id] = rest
	}
}

// watchEnds asks for a home's sagas at each poll, until nobody waits for one.
func (r *Router) watchEnds(home ledger.ShardID, h homeWait) {
	poll := time.NewTicker(r.config.Poll)
	defer poll.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-poll.C:
		}
		ids := r.waitedFor(home, h)
		if ids == nil {
			return
		}
		r.answerEnded(home, h, ids)
	}
}

// waitedFor returns the sagas of a home that somebody waits for. If there is none it returns nil, and who waits next begins
// another loop.
func (r *Router) waitedFor(home ledger.ShardID, h homeWait) []ledger.Identity {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(h) == 0 {
		delete(r.waiting, home)
		return nil
	}
	ids := make([]ledger.Identity, 0, len(h))
	for id := range h {
		ids = append(ids, id)
	}
	return ids
}

func (r *Router) answerEnded(home ledger.ShardID, h homeWait, ids []ledger.Identity) {
	s, ok := r.cluster.Shard(home)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	ended, err := s.EndedSagas(ctx, ids)
	if err != nil {
		return // the next poll asks again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, saga := range ended {
		saga.Identity = id
		for _, waiter := range h[id] {
			select {
			case waiter <- saga:
			default: // told already
			}
		}
	}
}
