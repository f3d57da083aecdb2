package shard

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// lane is the queue and the writers of one shard inside one process.
type lane struct {
	config  Config
	session *pgx.ConnConfig
	log     *slog.Logger
	queue   *queue
	metrics *metrics
	tracer  trace.Tracer // nil if nothing is traced

	accounts knownAccounts
	slots    knownSlots
	replays  replays
}

// item is one caller's wish. The caller owns it until it is taken by a writer, the writer from then on until it has
// answered.
type item struct {
	wish
	holds  []placement.Hold
	keys   [2]ledger.AccountKey // of the accounts that the operation may change
	queued time.Time
	stage  atomic.Int32
	answer answer // from stageAnswered on
	call   *call
	note   *note   // for a trace; nil if nobody looks
	lost   []int64 // transactions that may have recorded the wish
}

const (
	stageNew int32 = iota
	stageQueued
	stageTaken     // by a writer, which will answer
	stageAnswered  // nobody changes it any more
	stageWithdrawn // by its caller, who has gone
)

// call is what one caller waits for.
type call struct {
	items []item
	left  atomic.Int32 // items that are not answered
	done  chan struct{}
}

func (c *call) finish() {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

// wish is what is wanted; exactly one of its fields is set.
type wish struct {
	op   *ledger.Operation
	end  *ledger.Identity // of a saga that is to be completed
	user *ledger.User     // to be created
}

// name is what a log says of a wish.
func (w *wish) name() []any {
	id := w.end
	switch {
	case w.user != nil:
		return []any{"user", w.user.ID}
	case w.op != nil:
		id = &w.op.Identity
	}
	return []any{"initiator", id.Initiator, "tx_id", id.TxID}
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
		config: config, session: session, log: log, metrics: newMetrics(config.ID), tracer: tracing.Tracer("shard"),
		queue: newQueue(config.QueueSize, config.WorthBatch, 2*config.MaxBatch),
	}
}

func (l *lane) start(running *sync.WaitGroup) {
	for range l.config.Writers {
		running.Go(func() {
			defer tracing.Crash(l.log, "writing to a shard")
			(&writer{lane: l}).run()
		})
	}
}

// close lets the writers answer what is queued and end. It does not wait for them.
func (l *lane) close() { l.queue.close() }

// Submit does one operation, and returns its outcome after the commit that holds it is durable. holds are the slots of
// the users whose accounts it may change.
//
// Errors: CodeConflict; CodeOverloaded and CodeUnavailable, when certainly nothing was recorded; CodeUnknown, when the
// same operation must be submitted again to learn its outcome; *placement.OwnershipError and *placement.StrangerError,
// when nothing was recorded here; ledger.ErrImpossible. Any other error is internal, and nothing was recorded.
func (s *Shard) Submit(ctx context.Context, op ledger.Operation, holds ...placement.Hold) (ledger.Result, error) {
	a := s.lane.doOne(ctx, wish{op: &op}, holds)
	return a.result, a.err
}

// SubmitAll does several operations, each as Submit does it, with its own holds. They are queued in their order: of those
// of one user, an earlier one is done first. If there is no room for all, the last ones are refused with CodeOverloaded.
func (s *Shard) SubmitAll(ctx context.Context, ops []ledger.Operation, holds [][]placement.Hold) []ledger.Answer {
	items := make([]item, len(ops))
	for i := range ops {
		items[i].wish, items[i].holds = wish{op: &ops[i]}, holds[i]
	}
	answers := make([]ledger.Answer, len(ops))
	s.lane.do(ctx, items, func(i int, a *answer) { answers[i] = ledger.Answer{Result: a.result, Err: a.err} })
	return answers
}

// Complete ends the saga of a credited transfer at its home and returns the state that it is in. Errors as for Submit.
func (s *Shard) Complete(ctx context.Context, id ledger.Identity, hold placement.Hold) (ledger.SagaState, error) {
	a := s.lane.doOne(ctx, wish{end: &id}, []placement.Hold{hold})
	return a.state, a.err
}

// CompleteAll completes several sagas, each as Complete does it. The State of each answer's Result is the saga's.
func (s *Shard) CompleteAll(ctx context.Context, ids []ledger.Identity, holds []placement.Hold) []ledger.Answer {
	items := make([]item, len(ids))
	for i := range ids {
		items[i].wish, items[i].holds = wish{end: &ids[i]}, holds[i:i+1]
	}
	answers := make([]ledger.Answer, len(ids))
	s.lane.do(ctx, items, func(i int, a *answer) { answers[i] = ledger.Answer{Result: ledger.Result{State: a.state}, Err: a.err} })
	return answers
}

// CreateUser stores a user (ID, Name and Email of it). created is false if exactly this user was there. Errors as for
// Submit, and CodeUserConflict if the id is taken with other contents.
func (s *Shard) CreateUser(ctx context.Context, user ledger.User, hold placement.Hold) (stored ledger.User, created bool, err error) {
	a := s.lane.doOne(ctx, wish{user: &user}, []placement.Hold{hold})
	return a.user, a.created, a.err
}

func (l *lane) doOne(ctx context.Context, w wish, holds []placement.Hold) (one answer) {
	l.do(ctx, []item{{wish: w, holds: holds}}, func(_ int, a *answer) { one = *a })
	return one
}

// do queues the items, waits until all are answered or ctx ends, and gives each one's answer to tell.
func (l *lane) do(ctx context.Context, items []item, tell func(i int, a *answer)) {
	c := &call{items: items, done: make(chan struct{})}
	l.noteAll(ctx, items)
	c.left.Store(int32(len(items)) + 1) // one more, for the time until all are queued
	for i := range items {
		it := &items[i]
		it.call = c
		if err := it.prepare(); err != nil {
			it.fail(err)
		}
	}
	if err := l.queue.put(items); err != nil {
		for i := range items { // no writer has those that were not queued
			if items[i].stage.Load() == stageNew {
				items[i].fail(err)
			}
		}
	}
	c.finish()
	select {
	case <-c.done:
	case <-ctx.Done():
	}
	for i := range c.items {
		var a *answer
		switch it := &c.items[i]; {
		case it.stage.CompareAndSwap(stageQueued, stageWithdrawn):
			a = &answer{err: ledger.Unavailable("the shard is busy or down: nothing was recorded, try again", ctx.Err())}
		case it.stage.Load() == stageAnswered:
			a = &it.answer
		default:
			a = &answer{err: ledger.Unknown(ctx.Err())}
		}
		tell(i, a)
		l.tellNote(items, i, a)
	}
}

// prepare makes sure that the guard will be asked about every slot that the wish may write to.
func (it *item) prepare() error {
	switch {
	case it.op != nil:
		for i, key := range it.op.Accounts(it.keys[:0]) {
			it.keys[i] = key
			if err := it.covers(key.User); err != nil {
				return err
			}
		}
		return nil
	case it.end != nil:
		return it.covers(it.end.Initiator)
	default:
		return it.covers(it.user.ID)
	}
}

func (it *item) covers(user ledger.UserID) error {
	slot := placement.SlotOf(user)
	if !slices.ContainsFunc(it.holds, func(h placement.Hold) bool { return h.Slot == slot }) {
		return fmt.Errorf("%w: slot %d of user %s is not held", ledger.ErrImpossible, slot, user)
	}
	return nil
}

// accounts returns the keys of the accounts that the item may change.
func (it *item) accounts() []ledger.AccountKey {
	n := 0
	for n < len(it.keys) && it.keys[n].User != "" {
		n++
	}
	return it.keys[:n]
}

func (it *item) give(a answer) {
	it.answer = a
	it.stage.Store(stageAnswered)
	it.call.finish()
}

func (it *item) fail(err error) { it.give(answer{err: err}) }
