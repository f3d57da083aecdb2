package routing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Shard is one shard. Errors that its methods share: CodeUnavailable and CodeOverloaded, when nothing was recorded;
// CodeUnknown, when that is not known; *placement.OwnershipError and *placement.StrangerError, when the shard refuses to
// act for a slot.
type Shard interface {
	Submit(ctx context.Context, op ledger.Operation, holds ...placement.Hold) (ledger.Result, error)
	// SubmitAll does several operations, each as Submit does it, with its own holds. Those of one user are done in their
	// order.
	SubmitAll(ctx context.Context, ops []ledger.Operation, holds [][]placement.Hold) []ledger.Answer
	// CompleteAll ends sagas whose credits are applied. The State of a Result is the saga's, with an error too, if known.
	CompleteAll(ctx context.Context, ids []ledger.Identity, holds []placement.Hold) []ledger.Answer
	CreateUser(ctx context.Context, user ledger.User, hold placement.Hold) (stored ledger.User, created bool, err error)
	User(ctx context.Context, id ledger.UserID) (ledger.User, error)
	Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error)
	History(ctx context.Context, id ledger.UserID, currency ledger.Currency, before int64, limit int) (ledger.HistoryPage, error)
	Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error)
	TransfersByTxID(ctx context.Context, id ledger.TxID, slots []ledger.Slot) ([]ledger.TransferRecord, error)
	// EndedSagas returns those that have ended, also with the *placement.OwnershipError that it has for others.
	EndedSagas(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]ledger.Saga, error)
	// Check returns what the shard would answer now to an act that holds these slots.
	Check(ctx context.Context, holds []placement.Hold) error
}

// Cluster is what is known of the cluster at the moment.
type Cluster interface {
	// Map is the newest map that is known. It does not wait.
	Map() *placement.Map
	// Changed returns a channel that is closed when Map returns another one than when Changed was called, or for less. So
	// call it first, then look, then wait, but not only for this: nothing may tell that there is a newer map.
	Changed() <-chan struct{}
	// Refresh makes Map return one that is newer than the wrong one or was read after the call began. Callers at once
	// share one read.
	Refresh(ctx context.Context, wrong *placement.Map) error
	// Shard returns access to a shard, or false if it is not registered.
	Shard(id ledger.ShardID) (Shard, bool)
}

// Config of a router. Zero values mean the defaults.
type Config struct {
	FenceWait    time.Duration // for a moving slot; default 2 s
	FenceWaiters int           // calls that wait for moving slots at a time; default 2048
	Reroutes     int           // how often a call follows a changed map; default 8
	Handover     time.Duration // for which a router carries the sagas that it begins; default 1 s; negative: not at all
	Poll         time.Duration // look for ends of sagas that others carry; default 100 ms
}

// Router does use cases on whichever shards they concern. It is safe for concurrent use.
type Router struct {
	cluster Cluster
	config  Config
	log     *slog.Logger
	metrics metrics
	tracer  trace.Tracer // nil if nothing is traced

	fences fences

	mu       sync.Mutex                               // before fences.mu
	ends     map[ledger.Identity][]chan<- ledger.Saga // who waits for the end of a saga that somebody else carries
	asked    map[ledger.ShardID]struct{}              // homes with a loop that asks for ends
	carrying int                                      // sagas
	said     map[string]time.Time                     // what a person was told, and when
	closed   bool
	loops    sync.WaitGroup
	ctx      context.Context // of the loops
	stop     context.CancelFunc

	stopMetrics func()
}

// New returns a router. Close ends it.
func New(cluster Cluster, config Config, log *slog.Logger) *Router {
	if config.FenceWait == 0 {
		config.FenceWait = 2 * time.Second
	}
	if config.FenceWaiters == 0 {
		config.FenceWaiters = 2048
	}
	if config.Reroutes == 0 {
		config.Reroutes = 8
	}
	if config.Handover == 0 {
		config.Handover = time.Second
	}
	if config.Poll == 0 {
		config.Poll = 100 * time.Millisecond
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Router{
		cluster: cluster, config: config, log: log, metrics: newMetrics(), ctx: ctx, stop: stop,
		tracer: tracing.Tracer("internal/routing"),
		fences: fences{
			waiting: make(map[ledger.Slot]map[chan struct{}]struct{}), gates: make(map[ledger.ShardID]chan struct{}),
			moves: make(map[ledger.Slot]placement.MoveID),
		},
		ends: make(map[ledger.Identity][]chan<- ledger.Saga), asked: make(map[ledger.ShardID]struct{}),
		said: make(map[string]time.Time),
	}
	r.stopMetrics = r.observe()
	return r
}

// Close ends what the router does on its own. Calls under way go on, but no longer wait for ends of sagas and moves.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.stopMetrics()
	r.loops.Wait()
}

// ShardOf says where a user lives by the newest map; "" if nowhere yet.
func (r *Router) ShardOf(user ledger.UserID) ledger.ShardID {
	return r.cluster.Map().OwnerOf(user).Shard
}

// onShardOf calls do with the shard of a user and follows the user when the map turns out to be wrong. do gets the map
// that it is called by.
func (r *Router) onShardOf(ctx context.Context, user ledger.UserID, do func(m *placement.Map, s Shard, hold placement.Hold) error) error {
	for p := (pursuit{}); ; {
		m := r.cluster.Map()
		err := r.tryShardOf(ctx, &p, m, user, do)
		if err == nil {
			return nil
		}
		var refused *placement.OwnershipError
		if !errors.As(err, &refused) {
			return r.strangers(err)
		}
		if err := r.follow(ctx, &p, m, refused, err); err != nil {
			return err
		}
	}
}

func (r *Router) tryShardOf(
	ctx context.Context, p *pursuit, m *placement.Map, user ledger.UserID, do func(m *placement.Map, s Shard, hold placement.Hold) error,
) error {
	id, hold := m.HoldOn(user)
	if !p.waited() && r.fences.has(hold.Slot) {
		return knownFence(hold.Slot)
	}
	s, err := r.shard(id, hold.Slot)
	if err != nil {
		return err
	}
	if p.waited() {
		leave, err := r.pass(ctx, id, p.until)
		if err != nil {
			return ledger.Unavailable("the user's slot has moved, and many wait for that: nothing was recorded, try again", err)
		}
		defer leave()
	}
	return do(m, s, hold)
}

// pursuit is how a call has followed slots that were not where the map said.
type pursuit struct {
	until  time.Time // it waits for moving slots; zero if it has met none
	others int       // refusals for other reasons
}

// waited tells whether the call has waited for a slot.
func (p *pursuit) waited() bool { return !p.until.IsZero() }

// follow returns nil when a call that was refused by map m should be made again, with whatever map there is then. err is
// the error that refused is a part of.
func (r *Router) follow(ctx context.Context, p *pursuit, m *placement.Map, refused *placement.OwnershipError, err error) error {
	slots := fenced(nil, refused)
	switch {
	case ledger.CodeOf(err) == ledger.CodeUnknown:
		return err // an attempt was lost before the refusal
	case refused.Ahead():
		r.sayAhead(refused)
		return ledger.Unavailable("the shard is being looked after: nothing was recorded, try again later", err)
	case len(slots) > 0:
		return r.awaitMove(ctx, p, slots, err)
	}
	return r.renewMap(ctx, p, m, err)
}

// awaitMove returns nil when it is worth trying again at one of the slots, which are fenced.
func (r *Router) awaitMove(ctx context.Context, p *pursuit, slots []ledger.Slot, err error) error {
	if !p.waited() {
		p.until = time.Now().Add(r.config.FenceWait)
	}
	ctx, span := r.beginWait(ctx, slots, err)
	waitErr := r.waitAtFence(ctx, p.until, slots)
	endSpan(span, waitErr)
	if waitErr != nil {
		return ledger.Unavailable("the user's slot is moving: nothing was recorded, try again", errors.Join(waitErr, err))
	}
	return nil
}

// renewMap returns nil when there may be a newer map than m, which was wrong.
func (r *Router) renewMap(ctx context.Context, p *pursuit, m *placement.Map, err error) error {
	if p.others++; p.others > r.config.Reroutes {
		return ledger.Unavailable("the map of the cluster is changing: nothing was recorded, try again", err)
	}
	if p.others > 1 { // the first newer map is often right at once
		if sleepErr := sleep(ctx, rand.N(10*time.Millisecond<<min(p.others-1, 4))); sleepErr != nil {
			return ledger.Unavailable("the map of the cluster is changing: nothing was recorded, try again", err)
		}
	}
	if refreshErr := r.refresh(ctx, m, r.config.FenceWait); refreshErr != nil {
		return ledger.Unavailable("the map of the cluster is not up to date: nothing was recorded, try again", errors.Join(err, refreshErr))
	}
	return nil
}

// refresh waits for a newer map than m, which may be wrong, but no longer than limit. All that want one come here.
func (r *Router) refresh(ctx context.Context, m *placement.Map, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, span := tracing.StartUnder(ctx, r.tracer, "refresh the map")
	err := r.cluster.Refresh(ctx, m)
	endSpan(span, err)
	r.metrics.refresh(err)
	return err
}

func (r *Router) sayAhead(refused *placement.OwnershipError) {
	for _, refusal := range refused.Refusals {
		if refusal.Answer == placement.EpochAhead {
			r.tell(fmt.Sprint("slot ", refusal.Slot),
				"a shard is behind the map: it lost a write or was restored from a backup; nothing is written to its slots until a person has looked",
				"slot", refusal.Slot, "error", refused)
		}
	}
}

// tell tells a person, but not more than once a minute about the same.
func (r *Router) tell(about, message string, args ...any) {
	r.mu.Lock()
	now := time.Now()
	again := now.Sub(r.said[about]) >= time.Minute
	if again {
		r.said[about] = now
	}
	r.mu.Unlock()
	if again {
		r.log.Error(message, args...)
	}
}

// shard returns access to the shard that a map says a slot is on.
func (r *Router) shard(id ledger.ShardID, slot ledger.Slot) (Shard, error) {
	if id == "" {
		return nil, ledger.Unavailable("the cluster has no shard for this user yet: try again", nil)
	}
	s, ok := r.cluster.Shard(id)
	if !ok { // the map is newer than what this process has opened
		return nil, fmt.Errorf("shard %s is not open here: %w", id, knownFence(slot))
	}
	return s, nil
}

// knownFence is what a shard would answer about a slot that is known to be moving.
func knownFence(slot ledger.Slot) error {
	return &placement.OwnershipError{Refusals: []placement.Refusal{{Slot: slot, Answer: placement.Fenced}}}
}

// strangers turns the refusal of a database that is not the shard into an answer for clients.
func (r *Router) strangers(err error) error {
	if err == nil {
		return nil
	}
	var stranger *placement.StrangerError
	if errors.As(err, &stranger) && ledger.CodeOf(err) == "" {
		r.tell(stranger.Message, "a shard's address leads to something else; nothing is written there", "error", err)
		return ledger.Unavailable("the shard is being looked after: nothing was recorded, try again later", err)
	}
	return err
}

// fenced appends the slots that a shard has refused because they are moving.
func fenced(slots []ledger.Slot, refused *placement.OwnershipError) []ledger.Slot {
	for _, refusal := range refused.Refusals {
		if refusal.Answer == placement.Fenced {
			slots = append(slots, refusal.Slot)
		}
	}
	return slots
}

func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
