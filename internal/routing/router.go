package routing

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
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
	EndedSagas(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]ledger.Saga, error)
}

// Cluster is what is known of the cluster at the moment.
type Cluster interface {
	// Map is the newest map that is known. It does not wait.
	Map() *placement.Map
	// Refresh makes Map return one that is newer than the wrong one or was read after the call began. Callers at once
	// share one read.
	Refresh(ctx context.Context, wrong *placement.Map) error
	// Shard returns access to a shard, or false if it is not registered.
	Shard(id ledger.ShardID) (Shard, bool)
}

// Config of a router. Zero values mean the defaults.
type Config struct {
	FenceWait time.Duration // for a moving slot; default 2 s
	Reroutes  int           // how often a call follows a changed map; default 8
	Handover  time.Duration // for which a router carries the sagas that it begins; default 1 s; negative: not at all
	Poll      time.Duration // look for ends of sagas that others carry; default 100 ms
}

// Router does use cases on whichever shards they concern. It is safe for concurrent use.
type Router struct {
	cluster Cluster
	config  Config
	log     *slog.Logger

	mu       sync.Mutex
	waiting  map[ledger.ShardID]homeWait // homes with somebody who waits for the end of a saga
	carrying int                         // sagas
	closed   bool
	loops    sync.WaitGroup
	ctx      context.Context // of the loops
	stop     context.CancelFunc
}

// New returns a router. Close ends it.
func New(cluster Cluster, config Config, log *slog.Logger) *Router {
	if config.FenceWait == 0 {
		config.FenceWait = 2 * time.Second
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
	return &Router{cluster: cluster, config: config, log: log, ctx: ctx, stop: stop, waiting: make(map[ledger.ShardID]homeWait)}
}

// Close ends what the router does on its own. Calls under way go on, but no longer wait for ends of sagas.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
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
		err := r.tryShardOf(m, user, do)
		var refused *placement.OwnershipError
		if !errors.As(err, &refused) {
			return r.strangers(err)
		}
		if err := r.follow(ctx, &p, m, refused, err); err != nil {
			return err
		}
	}
}

// pursuit is how a call has followed slots that were not where the map said.
type pursuit struct {
	fenced      int // answers
	fencedSince time.Time
	others      int
}

// follow returns nil when a call that was refused by map m should be made again, after a pause and with whatever map there
// is then. err is the error that refused is a part of.
func (r *Router) follow(ctx context.Context, p *pursuit, m *placement.Map, refused *placement.OwnershipError, err error) error {
	fenced := fenced(refused)
	switch {
	case ledger.CodeOf(err) == ledger.CodeUnknown:
		return err // an attempt was lost before the refusal
	case refused.Ahead():
		r.sayAhead(refused)
		return ledger.Unavailable("the shard is being looked after: nothing was recorded, try again later", err)
	case fenced:
		if p.fenced++; p.fenced == 1 {
			p.fencedSince = time.Now()
		}
		if time.Since(p.fencedSince) > r.config.FenceWait {
			return ledger.Unavailable("the user's slot is moving: nothing was recorded, try again", err)
		}
	default:
		if p.others++; p.others > r.config.Reroutes {
			return ledger.Unavailable("the map of the cluster is changing: nothing was recorded, try again", err)
		}
	}
	if attempts := p.fenced + p.others; attempts > 1 { // the first newer map is often right at once
		if sleepErr := sleep(ctx, rand.N(10*time.Millisecond<<min(attempts-1, 4))); sleepErr != nil {
			return ledger.Unavailable("the user's slot is moving: nothing was recorded, try again", err)
		}
	}
	if fenced { // the fence may be lifted without the map, so a registry that does not answer holds nobody up
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
	}
	if refreshErr := r.cluster.Refresh(ctx, m); refreshErr != nil && !fenced {
		return ledger.Unavailable("the map of the cluster is not up to date: nothing was recorded, try again", errors.Join(err, refreshErr))
	}
	return nil
}

func (r *Router) sayAhead(refused *placement.OwnershipError) {
	r.log.Error("a shard is behind the map: it lost a write or was restored from a backup; nothing is written to its slots until a person has looked",
		"slot", refused.Refusals[0].Slot, "error", refused)
}

func (r *Router) tryShardOf(m *placement.Map, user ledger.UserID, do func(m *placement.Map, s Shard, hold placement.Hold) error) error {
	id, hold := m.HoldOn(user)
	s, err := r.shard(id)
	if err != nil {
		return err
	}
	return do(m, s, hold)
}

// shard returns access to the shard that a map says a user lives on.
func (r *Router) shard(id ledger.ShardID) (Shard, error) {
	if id == "" {
		return nil, ledger.Unavailable("the cluster has no shard for this user yet: try again", nil)
	}
	s, ok := r.cluster.Shard(id)
	if !ok {
		return nil, ledger.Unavailable("the user's shard is not registered: try again", nil)
	}
	return s, nil
}

// strangers turns the refusal of a database that is not the shard into an answer for clients.
func (r *Router) strangers(err error) error {
	var stranger *placement.StrangerError
	if errors.As(err, &stranger) && ledger.CodeOf(err) == "" {
		r.log.Error("a shard's address leads to something else; nothing is written there", "error", err)
		return ledger.Unavailable("the shard is being looked after: nothing was recorded, try again later", err)
	}
	return err
}

func fenced(refused *placement.OwnershipError) bool {
	for _, refusal := range refused.Refusals {
		if refusal.Answer == placement.Fenced {
			return true
		}
	}
	return false
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
