package assembly

import (
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// NotFounded says what a cluster waits for whose slots are not spread yet.
func NotFounded(view *cluster.View) error {
	return fmt.Errorf("the cluster's slots are not spread yet: %s", Founding(view))
}

// Owned is how many slots each shard owns.
func Owned(view *cluster.View) map[ledger.ShardID]int {
	slots := make(map[ledger.ShardID]int)
	for _, r := range view.Map.Ranges() {
		slots[r.Shard] += int(r.Last-r.First) + 1
	}
	return slots
}

// Drain says that a registered shard of the view is to have no slots. The last one that may have any is refused.
func Drain(ctx context.Context, c *cluster.Cluster, view *cluster.View, id ledger.ShardID) error {
	if !view.Founded() {
		return NotFounded(view)
	}
	if active := view.Active(); len(active) == 1 && active[0] == id {
		return fmt.Errorf("shard %s is the only one that may have slots: add another one first, or activate one that drains", id)
	}
	_, err := c.DrainShard(ctx, view.Config, id, true)
	return err
}

// Remove forgets a shard that nothing keeps in the cluster. lost: its database is gone for good, and is not asked.
func Remove(ctx context.Context, c *cluster.Cluster, id ledger.ShardID, passwords Passwords, lost bool) error {
	for {
		view, err := c.Read(ctx)
		if err != nil {
			return err
		}
		// The database is asked after the registry was read, and the registry must not have changed when it is written.
		if err := Removable(ctx, view, id, passwords, lost); err != nil {
			return err
		}
		if err := c.RemoveShard(ctx, view, id); !errors.Is(err, cluster.ErrChanged) {
			return err
		}
	}
}

// Removable says what keeps a shard in the cluster.
func Removable(ctx context.Context, view *cluster.View, id ledger.ShardID, passwords Passwords, lost bool) error {
	known, ok := view.Shards[id]
	if !ok {
		return fmt.Errorf("shard %s: %w", id, cluster.ErrNotRegistered)
	}
	if slots := Owned(view)[id]; slots > 0 {
		return fmt.Errorf("shard %s still owns %d slots: drain it with `saldo shard drain %s --wait`", id, slots, id)
	}
	for _, move := range view.Moves {
		if !move.Phase.Ended() && (move.Source == id || move.Target == id) {
			return fmt.Errorf("shard %s takes part in move %s, which is in phase %s: wait with `saldo shard drain %s --wait`", id, move.ID, move.Phase, id)
		}
	}
	if known.State != cluster.ShardDraining {
		return fmt.Errorf("shard %s is %s and may get slots at any time: drain it with `saldo shard drain %s`", id, known.State, id)
	}
	if lost {
		return nil
	}
	left, err := Left(ctx, view, id, passwords)
	switch {
	case err != nil:
		return fmt.Errorf("shard %s cannot be asked what it still holds: %w (if its database is gone for good, say --lost)", id, err)
	case left.Slots > 0:
		return fmt.Errorf("the database of shard %s still holds %d slots, though the registry does not know of them: run `saldo audit`, and look before you remove it", id, left.Slots)
	case left.Uncleaned > 0:
		return fmt.Errorf("the database of shard %s still holds a copy of %d slots, though no move is to delete it: run `saldo audit`, and look before you remove it", id, left.Uncleaned)
	case left.Sagas > 0:
		return fmt.Errorf("the database of shard %s holds %d transfers that have not ended: run `saldo audit`, and look before you remove it", id, left.Sagas)
	}
	return nil
}

// Left asks the database of a registered shard of the view what it holds that nobody else has.
func Left(ctx context.Context, view *cluster.View, id ledger.ShardID, passwords Passwords) (shard.Left, error) {
	known := view.Shards[id]
	return shard.FindLeft(ctx, shard.Config{
		Cluster: view.Config.UID, ID: id, DSN: known.DSN, Timeline: known.Timeline, Password: passwords(id),
	})
}
