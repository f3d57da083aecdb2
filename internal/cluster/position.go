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

	// SetBack: the shard has not what it had here. What it notes on the same timeline comes after this one, and may be beyond
	// it by now.
	SetBack bool `json:"set_back,omitempty"`
}

// keptPositions is how many are kept: one of each timeline, two of one on which the shard was set back.
const keptPositions = 8

// ErrSetBack: a shard's log ends before what was noted on the same timeline. So its files are older ones, which nobody else
// can tell: a restore that is done as it should be begins a new timeline.
var ErrSetBack = errors.New("the log ends before what was durable on the same timeline: the shard was set back")

// NotePosition notes a shard's position in place of the one before on the same timeline. Those of earlier timelines are
// kept. A position of an old primary is not noted. One before what was noted is noted beside that, and the error is
// ErrSetBack: once it may be the word of one who does not lead any more, which the next one from beyond refutes; twice in a
// row it is so, and the error stays for as long as the timeline does, however far the log grows. Positions are no part of a
// View, and nobody decides by them.
func (c *Cluster) NotePosition(ctx context.Context, id ledger.ShardID, position Position) error {
	key := c.keys.positions(id)
	for {
		positions, revision, err := c.readPositions(ctx, id)
		if err != nil {
			return fmt.Errorf("note the position of shard %q: %w", id, err)
		}
		if n := len(positions); n > 0 && positions[n-1].Timeline > position.Timeline {
			return nil
		}
		positions, back := noted(positions, position)
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
		if resp.Succeeded && back != nil {
			return fmt.Errorf("note the position of shard %q: %w", id, back)
		}
		if resp.Succeeded {
			return nil
		}
	}
}

// noted adds a position to those before, and returns ErrSetBack if it shows that the shard was set back, or one before did.
func noted(positions []Position, position Position) ([]Position, error) {
	first := len(positions) // of the same timeline
	for first > 0 && positions[first-1].Timeline == position.Timeline {
		first--
	}
	same := positions[first:]
	if len(same) == 0 || !same[0].SetBack && !earlier(position.LSN, same[0].LSN) {
		return append(positions[:first], position), nil
	}
	high := same[0]
	high.SetBack = high.SetBack || len(same) > 1
	return append(positions[:first], high, position),
		fmt.Errorf("%w: it is at %s, and was at %s", ErrSetBack, position.LSN, high.LSN)
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
