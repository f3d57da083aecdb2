package audit_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// dying is a world in which a shard's snapshot of one of the rounds breaks when it is read.
type dying struct {
	*world
	id    ledger.ShardID
	round int32
	taken atomic.Int32 // snapshots of the shard
}

func (d *dying) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	snapshot, err := d.world.Snapshot(ctx, id)
	if id == d.id && d.taken.Add(1) == d.round && err == nil {
		return broken{snapshot}, nil
	}
	return snapshot, err
}

type broken struct{ audit.Snapshot }

func (broken) Totals(context.Context) (audit.Totals, error) {
	return audit.Totals{}, errors.New("the connection broke")
}

// What was not read is not zero: the debits of a home that died between the rounds are missing from the money in transit,
// which is no violation.
func TestShardThatDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	for _, id := range shardIDs {
		for round := range int32(2) {
			d := &dying{world: w, id: id, round: round + 1}
			r, err := audit.Run(t.Context(), d, audit.Options{})
			if err != nil || r.Verdict != audit.Incomplete || !r.Partial {
				t.Errorf("%s dies in round %d: %v\n%s", id, round+1, err, table(r))
			}
		}
	}
}
