package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Position is a place in a shard's log up to which everything was durable, noted outside of the shard: so that after a
// failover it can be told whether the new primary has what the old one had acknowledged.
type Position struct {
	Timeline int       `json:"timeline"`
	LSN      string    `json:"lsn"` // as Postgres writes it
	At       time.Time `json:"at"`  // when it was noted, by the clock of whoever did
}

// keptPositions are those of so many timelines.
const keptPositions = 8

// ErrSetBack: a shard's log ends before what was noted on the same timeline. So its files are older ones, which nobody else
// can tell: a restore that is done as it should be begins a new timeline.
var ErrSetBack = errors.New("the log ends before what was durable on the same timeline: the shard was set back")

// NotePosition notes a shard's position in place of the one before on the same timeline. Those of earlier timelines are
// kept. A position of an old primary is not noted, nor one before what was noted: the error is ErrSetBack then. Positions are no
// part of a View, and nobody decides by them.
func (c *Cluster) NotePosition(ctx context.Context, id ledger.ShardID, position Position) error {
	key := c.keys.positions(id)
	for {
		positions, revision, err := c.readPositions(ctx, id)
		if err != nil {
			return fmt.Errorf("note the position of shard %q: %w", id, err)
		}
		if n := len(positions); n > 0 && positions[n-1].Timeline > position.Timeline {
			return nil
		} else if n > 0 && positions[n-1].Timeline == position.Timeline {
			if earlier(position.LSN, positions[n-1].LSN) {
				return fmt.Errorf("note the position of shard %q: %w: it is at %s, and was at %s", id, ErrSetBack, position.LSN, positions[n-1].LSN)
			}
			positions = positions[:n-1]
		}
		positions = append(positions, position)
		value, err := json.Marshal(positions[max(len(positions)-keptPositions, 0):])
		if err != nil {
			return fmt.Errorf("note the position of shard %q: %w", id, err)
		}
		resp, err := c.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, string(value))).
			Commit()
		if err != nil {
			return fmt.Errorf("note the position of shard %q: %w", id, err)
		}
		if resp.Succeeded {
			return nil
		}
	}
}

// earlier tells whether a place in a log comes before another one. What is no place comes before none.
func earlier(x, y string) bool {
	xHigh, xLow, _ := strings.Cut(x, "/")
	yHigh, yLow, _ := strings.Cut(y, "/")
	number := func(text string) uint64 {
		n, _ := strconv.ParseUint(text, 16, 64) // 0 if it is none
		return n
	}
	return cmp.Or(cmp.Compare(number(xHigh), number(yHigh)), cmp.Compare(number(xLow), number(yLow))) < 0
}

// Positions returns what was noted last about a shard on each of its timelines, oldest first.
func (c *Cluster) Positions(ctx context.Context, id ledger.ShardID) ([]Position, error) {
	positions, _, err := c.readPositions(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read the positions of shard %q: %w", id, err)
	}
	return positions, nil
}

func (c *Cluster) readPositions(ctx context.Context, id ledger.ShardID) (positions []Position, revision int64, err error) {
	got, err := c.client.Get(ctx, c.keys.positions(id))
	if err != nil || len(got.Kvs) == 0 {
		return nil, 0, err
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &positions); err != nil {
		return nil, 0, err
	}
	return positions, got.Kvs[0].ModRevision, nil
}
