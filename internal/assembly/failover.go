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
func Lost(ctx context.Context, c *cluster.Cluster, id ledger.ShardID, server *shard.Standing) (texts []string, err error) {
	losses, err := Losses(ctx, c, id, server)
	for _, loss := range losses {
		texts = append(texts, loss.Text)
	}
	return texts, err
}

// Loss is what a server lacks of what was noted about its shard on one timeline.
type Loss struct {
	Text    string
	Current bool // of the timeline that the server is on; else it was lost before the server was adopted
	SetBack bool // nobody may use it: it goes on along its timeline from older files than the shard had, which no guard can tell
}

// Losses are what Lost says, one by one.
func Losses(ctx context.Context, c *cluster.Cluster, id ledger.ShardID, server *shard.Standing) (losses []Loss, err error) {
	positions, err := c.Positions(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, noted := range positions {
		lsn, err := shard.ParseLSN(noted.LSN)
		if err != nil {
			return losses, fmt.Errorf("read the positions of shard %s: %w", id, err)
		}
		loss := Loss{
			Text:    server.Loss(shard.Position{Timeline: noted.Timeline, LSN: lsn}),
			Current: noted.Timeline == server.Timeline,
		}
		loss.SetBack = loss.Current && noted.SetBack
		switch { // a log that was set back and has grown beyond again lacks what it had all the same
		case loss.Text != "" || !noted.SetBack:
		case loss.Current:
			loss.Text = fmt.Sprintf("the log was durable up to %v on timeline %d, was set back to an earlier place, and has been "+
				"written anew since: what was between is lost", lsn, noted.Timeline)
		default:
			loss.Text = fmt.Sprintf("the log was durable up to %v on timeline %d, and was set back then: unless timeline %d goes on "+
				"from an archive of before, some of that is lost", lsn, noted.Timeline, server.Timeline)
		}
		if loss.Text != "" {
			losses = append(losses, loss)
		}
	}
	return losses, nil
}
