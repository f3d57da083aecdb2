package wire

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/shard"
)

// noteEach is how old a noted position may be: what a shard loses that was written later is not found out by it.
const noteEach = time.Second

// notePositions notes in the registry how far a shard's log is durable, again and again until ctx ends, so that a failover
// that loses something is found out. It costs a commit of nothing and a write to etcd, and neither while nothing is written.
// Nobody waits for it.
func notePositions(ctx context.Context, c *cluster.Cluster, s *shard.Shard, log *slog.Logger) {
	tick := time.NewTicker(noteEach)
	defer tick.Stop()
	setBack := 0
	for last := (shard.Position{}); ; {
		now, err := notePosition(ctx, c, s, last)
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, cluster.ErrSetBack):
			// Once may be the word of one who does not lead any more; a log that grows is beyond it the next time.
			if setBack++; setBack == 2 {
				log.Error("a shard's files are older than what it had: nobody may use it until it was started with recovery.signal "+
					"and adopted, see Backup and restore in docs/OPERATIONS.md", "shard", s.ID(), "error", err)
			}
		case err != nil:
			log.Debug("a shard's position is not noted", "shard", s.ID(), "error", err)
		default:
			setBack = 0
		}
		last = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// notePosition returns what is noted now; the zero value if that is not known.
func notePosition(ctx context.Context, c *cluster.Cluster, s *shard.Shard, last shard.Position) (shard.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	now, err := s.Position(ctx, last)
	if err != nil || now == last {
		return now, err
	}
	err = c.NotePosition(ctx, s.ID(), cluster.Position{Timeline: now.Timeline, LSN: now.LSN.String(), At: time.Now().UTC()})
	if err != nil {
		return shard.Position{}, err
	}
	return now, nil
}
