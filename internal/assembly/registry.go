package assembly

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// Registry is etcd as the rebalancer uses it.
type Registry struct {
	cluster *cluster.Cluster
	changed func() <-chan struct{}
	led     *cluster.Led // nil: this process does not lead
}

var _ rebalance.Registry = (*Registry)(nil)

// NewRegistry returns a registry of the cluster under c, for a process that does not lead: it can look, plan and abort.
// w tells when to look again.
func NewRegistry(c *cluster.Cluster, w *cluster.Watcher) *Registry {
	return &Registry{cluster: c, changed: w.Changed}
}

// Led returns the registry for the time of a leadership.
func (r *Registry) Led(leadership cluster.Leadership) *Registry {
	return &Registry{cluster: r.cluster, changed: r.changed, led: r.cluster.Led(leadership)}
}

// View implements rebalance.Registry.
func (r *Registry) View(ctx context.Context) (*rebalance.View, error) {
	view, err := r.cluster.Read(ctx)
	if err != nil {
		return nil, err
	}
	return RebalanceView(view), nil
}

// RebalanceView is what the rebalancer must know of a cluster.
func RebalanceView(view *cluster.View) *rebalance.View {
	to := &rebalance.View{Revision: view.Revision, Map: view.Map, Moves: view.Moves}
	for _, id := range slices.Sorted(maps.Keys(view.Shards)) {
		s := view.Shards[id]
		to.Shards = append(to.Shards, rebalance.Shard{
			ID: id, Weight: s.Weight, Draining: s.State == cluster.ShardDraining,
			Address: s.DSN, Timeline: s.Timeline, Revision: s.Revision,
		})
	}
	return to
}

// Plan implements rebalance.Registry.
func (r *Registry) Plan(ctx context.Context, view *rebalance.View, move placement.Move) (placement.Move, error) {
	// What the registry wants to see of the view is read again. That it is the same, as of the view's revision, is a
	// condition of the write.
	now, err := r.cluster.Read(ctx)
	if err != nil {
		return placement.Move{}, err
	}
	as := *now
	as.Revision = view.Revision
	planned, err := r.cluster.PlanMove(ctx, &as, move)
	return planned, rebalanceError(err)
}

// Advance implements rebalance.Registry.
func (r *Registry) Advance(ctx context.Context, move placement.Move, to placement.Phase, seen int64) (placement.Move, error) {
	if r.led == nil {
		return placement.Move{}, fmt.Errorf("advance move %s: %w", move.ID, rebalance.ErrNotLeading)
	}
	next, err := r.led.AdvanceMove(ctx, move, to, seen)
	return next, rebalanceError(err)
}

// Switch implements rebalance.Registry.
func (r *Registry) Switch(ctx context.Context, move placement.Move, seen int64) (placement.Move, error) {
	if r.led == nil {
		return placement.Move{}, fmt.Errorf("switch move %s: %w", move.ID, rebalance.ErrNotLeading)
	}
	next, err := r.led.SwitchMove(ctx, move, seen)
	return next, rebalanceError(err)
}

// Abort implements rebalance.Registry.
func (r *Registry) Abort(ctx context.Context, move placement.Move, cause string) (placement.Move, error) {
	next, err := r.cluster.AbortMove(ctx, move, cause)
	return next, rebalanceError(err)
}

// Leads implements rebalance.Registry.
func (r *Registry) Leads(ctx context.Context) error {
	if r.led == nil {
		return rebalance.ErrNotLeading
	}
	return rebalanceError(r.led.Leads(ctx))
}

// kept is how long the record of a move is kept when it has ended.
const kept = 30 * 24 * time.Hour

// Forget implements rebalance.Registry.
func (r *Registry) Forget(ctx context.Context) error {
	view, err := r.cluster.Read(ctx)
	if err != nil {
		return err
	}
	_, err = r.cluster.ForgetMoves(ctx, view, time.Now().Add(-kept))
	return rebalanceError(err)
}

// Changed implements rebalance.Registry.
func (r *Registry) Changed() <-chan struct{} { return r.changed() }

// rebalanceError says package cluster's errors in the words of package rebalance.
func rebalanceError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrChanged):
		return fmt.Errorf("%w: %w", rebalance.ErrChanged, err)
	case errors.Is(err, cluster.ErrShardChanged):
		return fmt.Errorf("%w: %w", rebalance.ErrShardChanged, err)
	case errors.Is(err, cluster.ErrNotLeading):
		return fmt.Errorf("%w: %w", rebalance.ErrNotLeading, err)
	}
	return err
}
