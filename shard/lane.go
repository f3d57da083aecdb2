package shard

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// lane is the queue and the writers of one shard inside one process.
type lane struct {
	config  Config
	session *pgx.ConnConfig
	log     *slog.Logger
	notices *noticeSender

	mu     sync.RWMutex // held for reading while sending to queue, for writing to close it
	closed bool
	queue  chan *item
}

// item is one caller's wish. The caller owns it until it is taken by a writer, the writer from then on.
type item struct {
	wish
	holds []placement.Hold
	stage atomic.Int32 // stageQueued, then one of the others
	done  chan answer  // room for one
	lost  []int64      // transactions that may have recorded the wish
}

const (
	stageQueued    int32 = iota
	stageTaken           // by a writer, which will answer
	stageWithdrawn       // by its caller, who has gone
)

// wish is what is wanted; exactly one of its fields is set.
type wish struct {
	op   *ledger.Operation
	end  *ledger.Identity // of a saga that is to be completed
	user *ledger.User     // to be created
}

type answer struct {
	result  ledger.Result    // to op
	state   ledger.SagaState // to end
	user    ledger.User      // to user, as stored
	created bool             // to user
	err     error
}

func newLane(config Config, session *pgx.ConnConfig, log *slog.Logger) *lane {
	return &lane{
		config: config, session: session, log: log,
		notices: newNoticeSender(session, log),
		queue:   make(chan *item, config.QueueSize),
	}
}

func (l *lane) start(ctx context.Context, running *sync.WaitGroup) {
	for range l.config.Writers {
		running.Go(func() { (&writer{lane: l}).run() })
	}
	running.Go(func() { l.notices.run(ctx) })
}

// close lets the writers answer what is queued and end. It does not wait for them.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
}

// Submit does one operation, and returns its outcome after the commit that holds it is durable. holds are the slots of
// the users whose accounts it may change.
//
// Errors: CodeConflict; CodeOverloaded and CodeUnavailable, when certainly nothing was recorded; CodeUnknown, when the
// same operation must be submitted again to learn its outcome; *placement.OwnershipError and *placement.StrangerError,
// when nothing was recorded here; ledger.ErrImpossible. Any other error is internal, and nothing was recorded.
func (s *Shard) Submit(ctx context.Context, op ledger.Operation, holds ...placement.Hold) (ledger.Result, error) {
	a := s.lane.do(ctx, wish{op: &op}, holds)
	return a.result, a.err
}

// Complete ends the saga of a credited transfer at its home and returns the state that it is in. Errors as for Submit.
func (s *Shard) Complete(ctx context.Context, id ledger.Identity, hold placement.Hold) (ledger.SagaState, error) {
	a := s.lane.do(ctx, wish{end: &id}, []placement.Hold{hold})
	return a.state, a.err
}

// CreateUser stores a user (ID, Name and Email of it). created is false if exactly this user was there. Errors as for
// Submit, and CodeUserConflict if the id is taken with other contents.
func (s *Shard) CreateUser(ctx context.Context, user ledger.User, hold placement.Hold) (stored ledger.User, created bool, err error) {
	a := s.lane.do(ctx, wish{user: &user}, []placement.Hold{hold})
	return a.user, a.created, a.err
}

func (l *lane) do(ctx context.Context, w wish, holds []placement.Hold) answer {
	it := &item{wish: w, holds: holds, done: make(chan answer, 1)}
	if err := it.covered(); err != nil {
		return answer{err: err}
	}
	if err := l.enqueue(it); err != nil {
		return answer{err: err}
	}
	select {
	case a := <-it.done:
		return a
	case <-ctx.Done():
	}
	if it.stage.CompareAndSwap(stageQueued, stageWithdrawn) {
		return answer{err: ledger.Unavailable("the shard is busy or down: nothing was recorded, try again", ctx.Err())}
	}
	select {
	case a := <-it.done: // it came at the same moment
		return a
	default:
		return answer{err: ledger.Unknown(ctx.Err())}
	}
}

// covered makes sure that the guard will be asked about every slot that the wish may write to.
func (it *item) covered() error {
	var keys [2]ledger.AccountKey
	users := keys[:0]
	switch {
	case it.op != nil:
		users = it.op.Accounts(users)
	case it.end != nil:
		users = append(users, ledger.AccountKey{User: it.end.Initiator})
	case it.user != nil:
		users = append(users, ledger.AccountKey{User: it.user.ID})
	}
	for _, key := range users {
		slot := placement.SlotOf(key.User)
		if !slices.ContainsFunc(it.holds, func(h placement.Hold) bool { return h.Slot == slot }) {
			return fmt.Errorf("%w: slot %d of user %s is not held", ledger.ErrImpossible, slot, key.User)
		}
	}
	return nil
}

func (l *lane) enqueue(it *item) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ledger.Unavailable("shutting down: nothing was recorded, try again", nil)
	}
	select {
	case l.queue <- it:
		return nil
	default:
		return ledger.Overloaded("the shard's queue is full: nothing was recorded, try again")
	}
}

// take waits for an item and returns it with what else is queued, at most MaxBatch; nil when the lane is closed and empty.
func (l *lane) take() []*item {
	for {
		it, ok := <-l.queue
		if !ok {
			return nil
		}
		items := make([]*item, 0, min(len(l.queue)+1, l.config.MaxBatch))
		for ok {
			if it.stage.CompareAndSwap(stageQueued, stageTaken) {
				items = append(items, it)
			}
			if len(items) == l.config.MaxBatch {
				return items
			}
			select {
			case it, ok = <-l.queue:
				continue
			default:
			}
			break
		}
		if len(items) > 0 {
			return items
		}
	}
}

func (it *item) answer(a answer) { it.done <- a }

func (it *item) fail(err error) { it.done <- answer{err: err} }
