package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// ErrChanged: what was decided about is not what was read any more. Nothing was written. Read again and decide again.
var ErrChanged = errors.New("the cluster has changed since it was read")

// foundingDue tells whether the slots of a cluster that is not founded should be spread now: active shards are there,
// initial were asked for (0: not said), and settled tells whether the set of active shards has stood still for long enough.
func foundingDue(initial, active int, settled bool) bool {
	if initial > 0 {
		return active >= initial
	}
	return active > 0 && settled
}

// Found spreads the slots over the active shards of the view, at epoch 1, and tells whether it did: it did not if the
// cluster is founded already. The error is ErrChanged if another shard came, or one changed, since the view.
func (c *Cluster) Found(ctx context.Context, view *View) (founded bool, err error) {
	active := view.Active()
	if len(active) == 0 {
		return false, errors.New("found the cluster: no shard is active")
	}
	owners := placement.Found(active)
	puts := make([]clientv3.Op, 0, chunks)
	for chunk := range chunks {
		value, err := formatChunk(chunk, owners)
		if err != nil {
			return false, fmt.Errorf("found the cluster: %w", err)
		}
		puts = append(puts, clientv3.OpPut(c.keys.chunk(chunk), value))
	}
	slots, shards, retired := c.keys.slots(), c.keys.shards(), c.keys.retired()
	resp, err := c.client.Txn(ctx).
		If(
			c.same(view.Config),
			// A compare with a prefix holds if it holds for each key, and for an absent one if there is none.
			clientv3.Compare(clientv3.CreateRevision(slots).WithPrefix(), "=", 0),
			clientv3.Compare(clientv3.ModRevision(shards).WithPrefix(), "<", view.Revision+1),
			clientv3.Compare(clientv3.ModRevision(retired).WithPrefix(), "<", view.Revision+1),
		).
		Then(puts...).
		Else(clientv3.OpGet(slots, clientv3.WithPrefix(), clientv3.WithCountOnly())).
		Commit()
	if err != nil {
		return false, fmt.Errorf("found the cluster: %w", err)
	}
	if !resp.Succeeded && resp.Responses[0].GetResponseRange().Count == 0 {
		return false, fmt.Errorf("found the cluster: %w", ErrChanged)
	}
	if resp.Succeeded {
		c.log.InfoContext(ctx, "cluster founded", "shards", active)
	}
	return resp.Succeeded, nil
}

// FoundIfDue founds the cluster if its config says for how many shards to wait and they are there. Whoever has registered a
// shard calls it.
func (c *Cluster) FoundIfDue(ctx context.Context) (founded bool, err error) {
	for {
		view, err := c.Read(ctx)
		if err != nil {
			return false, err
		}
		if view.Founded() || !foundingDue(view.Config.InitialShards, len(view.Active()), false) {
			return false, nil
		}
		founded, err := c.Found(ctx, view)
		if !errors.Is(err, ErrChanged) { // which means that another one got on, so this ends
			return founded, err
		}
	}
}

// RunFounder founds the cluster when that is due, and has a founded cluster's slots written into the shards' own tables by
// activate, again and again until it returns nil. Then it returns nil; if ctx ends before, ctx's error.
// The leading coordinator runs it. What activate may do is in the package's doc: insert absent rows of slots at epoch 1.
func (c *Cluster) RunFounder(ctx context.Context, watcher *Watcher, settle time.Duration, activate func(context.Context, *View) error) error {
	if err := c.foundWhenDue(ctx, watcher, settle); err != nil {
		return err
	}
	for pause := newPause(); ; {
		err := activate(ctx, watcher.Current())
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.log.WarnContext(ctx, "slots not activated on all shards yet", "error", err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

func (c *Cluster) foundWhenDue(ctx context.Context, watcher *Watcher, settle time.Duration) error {
	var active []ledger.ShardID
	since := time.Now() // of active
	pause := newPause()
	for {
		changed := watcher.Changed()
		view := watcher.Current()
		if view.Founded() {
			return nil
		}
		if now := view.Active(); !slices.Equal(active, now) {
			active, since = now, time.Now()
		}
		settled := time.Since(since) >= settle
		if foundingDue(view.Config.InitialShards, len(active), settled) {
			if err := c.foundAndSee(ctx, watcher, view); err != nil {
				c.log.WarnContext(ctx, "cluster not founded yet", "error", err)
				if err := pause.wait(ctx); err != nil {
					return err
				}
			}
			continue
		}
		wait := time.NewTimer(max(settle-time.Since(since), 0))
		if settled {
			wait.Stop() // only a change can make it due
		}
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// foundAndSee founds the cluster and makes the watcher know, whoever did it.
func (c *Cluster) foundAndSee(ctx context.Context, watcher *Watcher, view *View) error {
	if _, err := c.Found(ctx, view); err != nil && !errors.Is(err, ErrChanged) {
		return err
	}
	_, err := watcher.Refresh(ctx, view.Revision)
	return err
}
