package shard

import (
	"sync"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// queue is what waits for the writers of a lane, in order. No two writers get work for the same user at once: the second
// would only wait for the first one's row locks. What must wait for a user is passed over, and so is everything behind it
// for the same users; so each user's items are done in the order in which they came.
type queue struct {
	limit     int // items that wait
	maxPassed int // items passed over, after which a look ends: the more there are, the dearer is each look

	mu     sync.Mutex
	some   sync.Cond                  // there may be something to take
	fresh  []*item                    // not looked at since a batch ended
	passed []*item                    // looked at and left; before all that are fresh
	busy   map[ledger.UserID]struct{} // users of the batches under way
	behind map[ledger.UserID]struct{} // users of the items passed over
	closed bool
}

func newQueue(limit, maxPassed int) *queue {
	q := &queue{
		limit: limit, maxPassed: maxPassed,
		busy: make(map[ledger.UserID]struct{}), behind: make(map[ledger.UserID]struct{}),
	}
	q.some.L = &q.mu
	return q
}

// put queues those of the items that are new, in their order, as many as there is room for. The error says why not all
// were queued.
func (q *queue) put(items []item) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ledger.Unavailable("shutting down: nothing was recorded, try again", nil)
	}
	defer q.tell()
	for i := range items {
		it := &items[i]
		if it.stage.Load() != stageNew {
			continue
		}
		if len(q.fresh)+len(q.passed) >= q.limit {
			return ledger.Overloaded("the shard's queue is full: nothing was recorded, try again")
		}
		it.stage.Store(stageQueued)
		q.fresh = append(q.fresh, it)
	}
	return nil
}

// tell wakes a writer if it may find something.
func (q *queue) tell() {
	if len(q.fresh) > 0 && len(q.passed) < q.maxPassed {
		q.some.Signal()
	}
}

// take waits for items and returns at most limit of them, in order. The caller must call done with them. It returns nil
// when the queue is closed and empty.
func (q *queue) take(limit int) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		items := q.look(limit)
		if len(items) > 0 {
			q.tell() // another writer
			return items
		}
		if q.closed && len(q.fresh) == 0 && len(q.passed) == 0 {
			return nil
		}
		q.some.Wait()
	}
}

func (q *queue) look(limit int) (items []*item) {
	looked := 0
	for ; looked < len(q.fresh) && len(items) < limit && len(q.passed) < q.maxPassed; looked++ {
		it := q.fresh[looked]
		switch {
		case q.mustWait(it):
			q.passed = append(q.passed, it)
			for _, key := range it.accounts() {
				q.behind[key.User] = struct{}{}
			}
		case it.stage.CompareAndSwap(stageQueued, stageTaken):
			items = append(items, it)
		}
	}
	clear(q.fresh[:looked])
	if q.fresh = q.fresh[looked:]; len(q.fresh) == 0 {
		q.fresh = nil
	}
	for _, it := range items {
		for _, key := range it.accounts() {
			q.busy[key.User] = struct{}{}
		}
	}
	return items
}

func (q *queue) mustWait(it *item) bool {
	for _, key := range it.accounts() {
		if _, ok := q.busy[key.User]; ok {
			return true
		}
		if _, ok := q.behind[key.User]; ok {
			return true
		}
	}
	return false
}

// done says that items that were taken together are answered.
func (q *queue) done(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range items {
		for _, key := range it.accounts() {
			delete(q.busy, key.User)
		}
	}
	if len(q.passed) > 0 {
		q.fresh = append(q.passed, q.fresh...)
		q.passed = nil
		clear(q.behind)
		q.tell()
	}
	if q.closed {
		q.some.Broadcast()
	}
}

// close lets no more items in. What is queued can still be taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
}
