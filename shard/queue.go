package shard

import (
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// queue is what waits for the writers of a lane, in order. No two writers get work for the same user at once: the second
// would only wait for the first one's row locks. What must wait for a user is passed over, and so is everything behind it
// for the same users; so each user's items are done in the order in which they came.
type queue struct {
	limit     int // items that wait
	worth     int // items that must wait before another batch is begun beside one that is under way
	maxPassed int // items passed over, after which a look ends: the more there are, the dearer is each look

	mu     sync.Mutex
	some   sync.Cond                  // there may be something to take
	fresh  []*item                    // not looked at since a batch ended
	passed []*item                    // looked at and left; before all that are fresh
	busy   map[ledger.UserID]struct{} // users of the batches under way
	behind map[ledger.UserID]struct{} // users of the items passed over
	under  int                        // batches under way
	late   bool                       // what is fresh has waited long enough for others
	timed  bool                       // late will be set
	closed bool
}

// maxGather is how long items wait for others before another batch is begun beside one that is under way: longer than a
// batch takes, but not as long as one may wait for a lock or a server.
const maxGather = 10 * time.Millisecond

func newQueue(limit, worth, maxPassed int) *queue {
	q := &queue{
		limit: limit, worth: worth, maxPassed: maxPassed,
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
	now := time.Now()
	for i := range items {
		it := &items[i]
		if it.stage.Load() != stageNew {
			continue
		}
		if len(q.fresh)+len(q.passed) >= q.limit {
			return ledger.Overloaded("the shard's queue is full: nothing was recorded, try again")
		}
		it.queued = now
		it.stage.Store(stageQueued)
		q.fresh = append(q.fresh, it)
	}
	return nil
}

// tell wakes a writer if it may find something, now or later.
func (q *queue) tell() {
	if q.ready() {
		q.some.Signal()
		return
	}
	if len(q.fresh) > 0 && !q.timed {
		q.timed = true
		time.AfterFunc(maxGather, q.setLate)
	}
}

func (q *queue) setLate() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timed, q.late = false, len(q.fresh) > 0
	if q.ready() {
		q.some.Signal()
	}
}

// ready tells whether it is worth a look. A queue that nobody works on never waits. Otherwise a batch has its own price
// (statements, a flush), which a few items should not pay: soon there will be more, or the writer that is at work is done.
func (q *queue) ready() bool {
	return len(q.fresh) > 0 && len(q.passed) < q.maxPassed && (q.under == 0 || q.late || len(q.fresh) >= q.worth)
}

// take waits for items and returns at most limit of them, in order. The caller must call done with them. It returns nil
// when the queue is closed and empty.
func (q *queue) take(limit int) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.ready() {
			if items := q.look(limit); len(items) > 0 {
				q.under++
				q.late = false
				q.tell() // another writer
				return items
			}
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
	q.under--
	for _, it := range items {
		for _, key := range it.accounts() {
			delete(q.busy, key.User)
		}
	}
	if len(q.passed) > 0 {
		q.fresh = append(q.passed, q.fresh...)
		q.passed = nil
		clear(q.behind)
	}
	q.tell()
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
