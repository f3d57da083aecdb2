package routing

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// fences are the slots that calls wait for because they are moving. Nobody who waits asks a shard: one loop asks for all
// (watchFences), and runs as long as there is somebody.
type fences struct {
	slots atomic.Int64 // in waiting

	mu      sync.Mutex
	waiting map[ledger.Slot]map[chan struct{}]struct{} // who is told when a slot is worth another try
	calls   int                                        // that wait
	watched bool                                       // the loop runs
	moves   map[ledger.Slot]placement.MoveID           // of slots in waiting, as far as it is known
	gates   map[ledger.ShardID]chan struct{}           // a place for each call on its way back to a shard
}

const (
	// fenceLook is how soon shards are asked about fenced slots again when the map has changed: then the new owner is about
	// to be told. It doubles each time, up to fenceLookMost.
	fenceLook, fenceLookMost = 5 * time.Millisecond, 50 * time.Millisecond
	// fenceAsk bounds a question to one shard, which holds up those to the others.
	fenceAsk = 200 * time.Millisecond
	// fenceRefresh is how often the registry is read while slots are fenced, in case nobody tells that the map has changed.
	fenceRefresh = 100 * time.Millisecond
	// hurry bounds a read of the registry that nobody depends on.
	hurry = 50 * time.Millisecond
	// throughGate is how many of those that have waited may ask a shard at once. All of them would be more than a shard
	// lets in that serves others besides.
	throughGate = 64
)

var (
	errStillMoving = errors.New("its move takes too long")
	errCrowded     = errors.New("too many calls wait for slots that move")
	errClosing     = errors.New("the router is closing")
)

// has tells whether a slot is known to be fenced, so that there is no use in asking its shard.
func (f *fences) has(slot ledger.Slot) bool {
	if f.slots.Load() == 0 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting[slot]) > 0
}

// waitAtFence returns nil when it is worth trying again at one of the slots.
func (r *Router) waitAtFence(ctx context.Context, until time.Time, slots []ledger.Slot) (err error) {
	defer r.metrics.held(ctx, time.Now(), &err)
	told := make(chan struct{}, 1)
	if err := r.joinFences(slots, told); err != nil {
		return err
	}
	defer r.fences.leave(slots, told)
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-told:
		return nil
	case <-timer.C:
		return errStillMoving
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return errClosing
	}
}

func (r *Router) joinFences(slots []ledger.Slot, told chan struct{}) error {
	f := &r.fences
	r.mu.Lock() // Close waits for no loop that begins later
	defer r.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.closed:
		return errClosing
	case f.calls >= r.config.FenceWaiters:
		return errCrowded
	}
	f.calls++
	for _, slot := range slots {
		if f.waiting[slot] == nil {
			f.waiting[slot] = make(map[chan struct{}]struct{})
		}
		f.waiting[slot][told] = struct{}{}
	}
	f.slots.Store(int64(len(f.waiting)))
	if !f.watched {
		f.watched = true
		r.loops.Go(func() {
			defer tracing.Crash(r.log, "watching slots that move")
			r.watchFences()
		})
	}
	return nil
}

func (f *fences) leave(slots []ledger.Slot, told chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls--
	for _, slot := range slots {
		if delete(f.waiting[slot], told); len(f.waiting[slot]) == 0 {
			delete(f.waiting, slot)
			delete(f.moves, slot)
		}
	}
	f.slots.Store(int64(len(f.waiting)))
}

// open tells everybody who waits for the slots.
func (f *fences) open(slots []ledger.Slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, slot := range slots {
		for told := range f.waiting[slot] {
			select {
			case told <- struct{}{}:
			default: // told already, of another slot
			}
		}
		delete(f.waiting, slot)
		delete(f.moves, slot)
	}
	f.slots.Store(int64(len(f.waiting)))
}

// watch returns the slots that somebody waits for. If there is none, the loop that asks has ended.
func (f *fences) watch() (slots []ledger.Slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for slot := range f.waiting {
		slots = append(slots, slot)
	}
	f.watched = len(slots) > 0
	return slots
}

// gate returns the places for calls on their way back to a shard.
func (f *fences) gate(id ledger.ShardID) chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gates[id] == nil {
		f.gates[id] = make(chan struct{}, throughGate)
	}
	return f.gates[id]
}

// pass takes a place at the gate of a shard. If it does, leave gives it back.
func (r *Router) pass(ctx context.Context, id ledger.ShardID, until time.Time) (leave func(), err error) {
	gate := r.fences.gate(id)
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, nil
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case gate <- struct{}{}:
		return func() { <-gate }, nil
	case <-timer.C:
		return nil, errCrowded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// watchFences asks the owners of fenced slots, at once when the map changes and from time to time besides (a fence may be
// lifted without a new map), until nobody waits.
func (r *Router) watchFences() {
	var (
		m         *placement.Map
		pause     time.Duration
		refreshed = time.Now() // whoever was refused first may have been by a map that is good
	)
	for {
		changed := r.cluster.Changed()
		if now := r.cluster.Map(); now != m {
			m, pause = now, fenceLook
		}
		slots := r.fences.watch()
		if len(slots) == 0 {
			return
		}
		r.askFences(m, slots)
		if time.Since(refreshed) > fenceRefresh {
			_ = r.refresh(r.ctx, m, hurry) // or soon again
			refreshed = time.Now()
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		pause = min(2*pause, fenceLookMost)
	}
}

// askFences opens those of the slots that are worth another try: their owners by the map do not say that they are moving,
// nor that they have moved, for which a newer map is needed.
func (r *Router) askFences(m *placement.Map, slots []ledger.Slot) {
	owned := make(map[ledger.ShardID][]placement.Hold)
	for _, slot := range slots {
		owner := m.Owner(slot)
		owned[owner.Shard] = append(owned[owner.Shard], placement.Hold{Slot: slot, Epoch: owner.Epoch})
	}
	var group sync.WaitGroup
	for id, holds := range owned {
		s, ok := r.cluster.Shard(id)
		if !ok {
			continue // not yet
		}
		group.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, fenceAsk)
			defer cancel()
			r.fences.open(worthTrying(holds, s.Check(ctx, holds)))
		})
	}
	group.Wait()
}

// worthTrying returns the slots of the holds that a shard's answer to a check leaves a chance, or of which whoever tries
// learns what is the matter.
func worthTrying(holds []placement.Hold, err error) (slots []ledger.Slot) {
	if code := ledger.CodeOf(err); code == ledger.CodeUnavailable || code == ledger.CodeOverloaded {
		return nil
	}
	answers := make(map[ledger.Slot]placement.Answer)
	var refused *placement.OwnershipError
	if errors.As(err, &refused) {
		for _, refusal := range refused.Refusals {
			answers[refusal.Slot] = refusal.Answer
		}
	}
	for _, hold := range holds {
		switch answers[hold.Slot] {
		case placement.Fenced, placement.Moved, placement.EpochOld:
		default:
			slots = append(slots, hold.Slot)
		}
	}
	return slots
}
