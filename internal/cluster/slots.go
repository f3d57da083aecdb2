package cluster

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

const (
	chunks     = 64
	chunkSlots = placement.Slots / chunks
)

// run is one element of a chunk: the slots First to Last, inclusive, of one owner.
type run struct {
	First ledger.Slot    `json:"first"`
	Last  ledger.Slot    `json:"last"`
	Shard ledger.ShardID `json:"shard"`
	Epoch ledger.Epoch   `json:"epoch"`
}

// formatChunk returns the value of a chunk's key. Every slot of the chunk has an owner.
func formatChunk(chunk int, owners map[ledger.Slot]placement.Owner) (string, error) {
	var runs []run
	for i := range chunkSlots {
		slot := ledger.Slot(chunk*chunkSlots + i)
		owner, ok := owners[slot]
		if !ok {
			return "", fmt.Errorf("slot %d has no owner", slot)
		}
		if n := len(runs); n > 0 && runs[n-1].Shard == owner.Shard && runs[n-1].Epoch == owner.Epoch {
			runs[n-1].Last = slot
			continue
		}
		runs = append(runs, run{First: slot, Last: slot, Shard: owner.Shard, Epoch: owner.Epoch})
	}
	value, err := json.Marshal(runs)
	if err != nil {
		return "", fmt.Errorf("chunk %02x: %w", chunk, err)
	}
	return string(value), nil
}

// parseChunk adds the owners that a chunk says; whoever has read all chunks checks that no slot is left. name is the last segment of the chunk's key.
func parseChunk(name, value string, owners map[ledger.Slot]placement.Owner) error {
	chunk, err := strconv.ParseUint(name, 16, 8)
	if err != nil || chunk >= chunks || name != fmt.Sprintf("%02x", chunk) {
		return fmt.Errorf("there is no chunk %q", name)
	}
	var runs []run
	if err := json.Unmarshal([]byte(value), &runs); err != nil {
		return fmt.Errorf("chunk %s: %w", name, err)
	}
	next := int(chunk) * chunkSlots
	end := next + chunkSlots
	for _, r := range runs {
		switch {
		case int(r.First) < next:
			return fmt.Errorf("chunk %s: slot %d is said twice or out of order", name, r.First)
		case r.Last < r.First || int(r.Last) >= end:
			return fmt.Errorf("chunk %s: a run from %d to %d", name, r.First, r.Last)
		case r.Shard == "" || r.Epoch < 1:
			return fmt.Errorf("chunk %s: slot %d has owner %q at epoch %d", name, r.First, r.Shard, r.Epoch)
		}
		for slot := r.First; slot <= r.Last; slot++ {
			owners[slot] = placement.Owner{Shard: r.Shard, Epoch: r.Epoch}
		}
		next = int(r.Last) + 1
	}
	return nil
}
