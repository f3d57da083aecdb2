package assembly

import (
	"context"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// Adopt makes the server at ownerDSN the primary that a shard has from now on: see shard.Adopt. It returns what the server
// is, which slots it took for its own and is not known to have, and what is known to be lost.
func Adopt(
	ctx context.Context, c *cluster.Cluster, view *cluster.View, id ledger.ShardID, ownerDSN, password string,
) (server *shard.Standing, fenced []placement.Hold, lost []string, err error) {
	known, ok := view.Shards[id]
	if !ok {
		return nil, nil, nil, fmt.Errorf("adopt the primary of shard %s: %w", id, cluster.ErrNotRegistered)
	}
	last := shard.Known{Timeline: known.Timeline, Mark: known.Adoption}
	server, fenced, err = shard.Adopt(ctx, ownerDSN, password, view.Config.UID, id, last,
		func(ctx context.Context, a shard.Adoption) error {
			_, err := c.Adopt(ctx, view.Config, id, a.From, a.To, a.Mark)
			return err
		},
		func(ctx context.Context) ([]placement.Hold, error) {
			now, err := c.Read(ctx)
			if err != nil {
				return nil, err
			}
			return holdsOf(now.Map, id), nil
		})
	if err != nil {
		return server, nil, nil, err
	}
	lost, err = Lost(ctx, c, id, server)
	return server, fenced, lost, err
}

// holdsOf returns the slots that the map gives to a shard.
func holdsOf(m *placement.Map, id ledger.ShardID) (holds []placement.Hold) {
	for slot := range ledger.Slot(placement.Slots) {
		if owner := m.Owner(slot); owner.Shard == id {
			holds = append(holds, placement.Hold{Slot: slot, Epoch: owner.Epoch})
		}
	}
	return holds
}

// Lost says what a server lacks of what was noted about a shard before. Nothing is not a promise: what was written in the
// last second or so before a failover was not noted.
func Lost(ctx context.Context, c *cluster.Cluster, id ledger.ShardID, server *shard.Standing) ([]string, error) {
	positions, err := c.Positions(ctx, id)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, noted := range positions {
		lsn, err := shard.ParseLSN(noted.LSN)
		if err != nil {
			return lost, fmt.Errorf("read the positions of shard %s: %w", id, err)
		}
		if loss := server.Loss(shard.Position{Timeline: noted.Timeline, LSN: lsn}); loss != "" {
			lost = append(lost, loss)
		}
	}
	return lost, nil
}
