package routing

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// awaitEnds waits for the ends of sagas, but no longer than there is time, or than ctx or the router lives. It returns those
// that have ended, with State and Cause.
//
// For each home there is one loop that asks for all who wait (watchEnds), as long as there are any.
func (r *Router) awaitEnds(ctx context.Context, ids map[ledger.Identity]struct{}, over <-chan time.Time) (ended []ledger.Saga) {
	told := make(chan ledger.Saga, len(ids))
	defer func() {
		for id := range ids {
			r.removeWaiter(id, told)
		}
	}()
	for id := range ids {
		if !r.addWaiter(id, told) {
			return ended
		}
	}
	for len(ended) < len(ids) {
		select {
		case saga := <-told:
			ended = append(ended, saga)
			r.removeWaiter(saga.Identity, told)
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

func (r *Router) addWaiter(id ledger.Identity, told chan<- ledger.Saga) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.ends[id] = append(r.ends[id], told)
	r.askAt(r.ShardOf(id.Initiator))
	return true
}

// askAt makes sure that a home is asked. The caller holds r.mu.
func (r *Router) askAt(home ledger.ShardID) {
	if _, ok := r.asked[home]; !ok {
		r.asked[home] = struct{}{}
		r.loops.Go(func() { r.watchEnds(home) })
	}
}

func (r *Router) removeWaiter(id ledger.Identity, told chan<- ledger.Saga) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest := slices.DeleteFunc(r.ends[id], func(other chan<- ledger.Saga) bool { return other == told })
	if len(rest) == 0 {
		delete(r.ends, id)
	} else {
		r.ends[id] = rest
	}
}

// watchEnds asks a home for its sagas at each poll, until nobody waits for one.
func (r *Router) watchEnds(home ledger.ShardID) {
	poll := time.NewTicker(r.config.Poll)
	defer poll.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-poll.C:
		}
		m := r.cluster.Map()
		ids := r.waitedFor(m, home)
		if ids == nil {
			return
		}
		r.answerEnded(m, home, ids)
	}
}

// waitedFor returns the sagas that somebody waits for and whose home this is by a map. If there is none it returns nil, and
// who waits next begins another loop. Sagas that have moved with their homes are asked for there.
func (r *Router) waitedFor(m *placement.Map, home ledger.ShardID) (ids []ledger.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.ends {
		if now := m.OwnerOf(id.Initiator).Shard; now == home {
			ids = append(ids, id)
		} else {
			r.askAt(now)
		}
	}
	if ids == nil {
		delete(r.asked, home)
	}
	return ids
}

func (r *Router) answerEnded(m *placement.Map, home ledger.ShardID, ids []ledger.Identity) {
	s, ok := r.cluster.Shard(home)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
	defer cancel()
	ended, err := s.EndedSagas(ctx, ids) // if not of all, the next poll asks again
	r.tellEnded(ended)
	var refused *placement.OwnershipError
	if errors.As(err, &refused) {
		_ = r.refresh(ctx, m, r.config.Poll)
	}
}

func (r *Router) tellEnded(ended map[ledger.Identity]ledger.Saga) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, saga := range ended {
		saga.Identity = id
		for _, waiter := range r.ends[id] {
			select {
			case waiter <- saga:
			default: // told already
			}
		}
	}
}
