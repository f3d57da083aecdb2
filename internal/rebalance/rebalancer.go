package rebalance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Rebalancer plans moves and takes them through their phases, where it leads (Run), and ends what others left fenced
// (Watch).
type Rebalancer struct {
	registry Registry
	shards   Shards
	config   Config
	log      *slog.Logger
	metrics  metrics
	tracer   trace.Tracer // nil if nothing is traced

	mu      sync.Mutex // guards what follows
	running map[placement.MoveID]*mover
	cleaned map[ledger.ShardID]chan struct{} // has room while nobody deletes there
	problem error                            // why nothing could be planned
	resting map[placement.MoveID]rested      // moves that are left alone for a while
}

// rested is why a move is left alone, and until when.
type rested struct {
	cause error
	until time.Time
}

// New returns a rebalancer. Nothing happens before Run or Watch.
func New(registry Registry, shards Shards, config Config, log *slog.Logger) *Rebalancer {
	config.setDefaults()
	return &Rebalancer{
		registry: registry, shards: shards, config: config, log: log, metrics: newMetrics(),
		tracer:  tracing.Tracer("internal/rebalance"),
		running: make(map[placement.MoveID]*mover), cleaned: make(map[ledger.ShardID]chan struct{}),
		resting: make(map[placement.MoveID]rested),
	}
}

// registryTimeout bounds one question to the registry.
const registryTimeout = 5 * time.Second

// Run leads: it goes on with every move that has not ended, plans new ones, and returns ctx's error when ctx ends, or
// earlier if it finds that it does not lead any more. token is this leader's, larger than every earlier leader's. Run must
// have returned before another Run of the same Rebalancer begins.
func (r *Rebalancer) Run(ctx context.Context, token int64) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer r.observe()()
	var movers sync.WaitGroup
	defer movers.Wait()
	defer stop(nil)
	var (
		pause     = newPause(r.config.MinPause, r.config.MaxPause)
		ended     = make(chan struct{}, 1) // a mover has
		next      time.Time                // do not plan before
		forgotten time.Time                // when Forget was called last
		tidied    = time.Now()             // when copies of moves that have ended were looked for last
	)
	start := func(move placement.Move, run func(*mover, context.Context) error) {
		m := r.newMover(move, token)
		movers.Go(func() {
			defer tracing.Crash(m.log, "moving slots")
			err := run(m, ctx)
			if errors.Is(err, ErrTokenLost) && r.leads(ctx) {
				r.rest(ctx, move.ID, err)
				err = nil
			}
			r.mu.Lock()
			delete(r.running, move.ID)
			r.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				stop(err)
			}
			select {
			case ended <- struct{}{}:
			default:
			}
		})
	}
	for ctx.Err() == nil {
		changed := r.registry.Changed()
		view, err := r.view(ctx)
		if err == nil {
			for _, move := range view.Moves {
				if !move.Phase.Ended() && !r.config.rests(move) && !r.runs(move.ID) {
					start(move, (*mover).run)
				}
			}
		}
		if err == nil && time.Since(tidied) > tidying*r.config.Poll {
			tidied = time.Now()
			for _, move := range r.untidy(ctx, view) {
				start(move, (*mover).tidy)
			}
		}
		if err == nil && !time.Now().Before(next) {
			var planned bool
			if planned, err = r.plan(ctx, view); planned {
				continue // there may be room for another one
			}
			if err == nil {
				pause.Reset()
			} else {
				next = time.Now().Add(pause.NextBackOff())
			}
		}
		if err == nil && time.Since(forgotten) > time.Hour {
			if err = r.forget(ctx); err == nil {
				forgotten = time.Now()
			}
		}
		switch {
		case errors.Is(err, ErrNotLeading):
			return err
		case err != nil && !errors.Is(err, ErrChanged) && ctx.Err() == nil:
			r.log.WarnContext(ctx, "cannot plan moves; trying again", "error", err)
		}
		r.setProblem(err)
		wait := r.config.Poll
		if view == nil {
			changed, wait = nil, pause.NextBackOff()
		} else if until := time.Until(next); until > 0 {
			wait = min(wait, until)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-ended:
		case <-timer.C:
		}
		timer.Stop()
	}
	return context.Cause(ctx)
}

// runs tells whether a move has its mover, or is left alone.
func (r *Rebalancer) runs(id placement.MoveID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().After(r.resting[id].until) {
		delete(r.resting, id)
	}
	return r.running[id] != nil || r.resting[id].cause != nil
}

// leads tells whether this process leads, or it is not known that it does not.
func (r *Rebalancer) leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	return !errors.Is(r.registry.Leads(ctx), ErrNotLeading)
}

// rest leaves a move alone for a while: a shard has a token that is larger than this leader's, who is the latest. So the
// registry counts anew, from a backup. That is no reason to leave the other moves alone.
func (r *Rebalancer) rest(ctx context.Context, id placement.MoveID, cause error) {
	const pause = time.Minute
	r.log.ErrorContext(ctx, "a shard knows a later leader than the registry does: was the registry restored from a backup, "+
		"without raising its revision? The move rests", "move", id, "error", cause)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resting[id] = rested{cause: cause, until: time.Now().Add(pause)}
}

// tidying is after how many Polls it is looked for copies of moves that have ended.
const tidying = 12

// untidy returns the moves that have ended and of which a shard has a copy: its failover has lost that it was deleted, or to
// be deleted.
func (r *Rebalancer) untidy(ctx context.Context, view *View) []placement.Move {
	ctx, cancel := context.WithTimeout(ctx, r.config.Deadman)
	defer cancel()
	var moves []placement.Move
	for _, shard := range view.Shards {
		copies, err := r.shards.Copies(ctx, view, shard.ID)
		if err != nil {
			r.log.WarnContext(ctx, "cannot look for copies that are left", "shard", shard.ID, "error", err)
			continue
		}
		for _, id := range copies {
			move, ok := find(view, id)
			same := func(move placement.Move) bool { return move.ID == id }
			switch {
			case !ok:
				r.log.ErrorContext(ctx, "a shard has a copy of a move that the registry does not have: a person must look",
					"shard", shard.ID, "move", id)
			case move.Phase.Ended() && !r.runs(id) && !slices.ContainsFunc(moves, same):
				moves = append(moves, move)
			}
		}
	}
	return moves
}

func (r *Rebalancer) newMover(move placement.Move, token int64) *mover {
	m := &mover{
		registry: r.registry, shards: r.shards, config: &r.config, cleaned: r.cleanerOf,
		log:   r.log.With("move", move.ID, "source", move.Source, "target", move.Target),
		token: token, move: move, metrics: r.metrics.of(move), tracer: r.tracer,
	}
	m.report.note(move)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[move.ID] = m
	return m
}

// cleanerOf returns a channel with room for one: who deletes at this shard.
func (r *Rebalancer) cleanerOf(id ledger.ShardID) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cleaned[id] == nil {
		r.cleaned[id] = make(chan struct{}, 1)
	}
	return r.cleaned[id]
}

func (r *Rebalancer) view(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	view, err := r.registry.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	return view, nil
}

func (r *Rebalancer) forget(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	if err := r.registry.Forget(ctx); err != nil {
		return fmt.Errorf("forget moves that ended long ago: %w", err)
	}
	return nil
}

func (r *Rebalancer) setProblem(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = err
}
