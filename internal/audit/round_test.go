package audit

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// word is what a shard says of its slots.
type word struct {
	Snapshot
	slots map[ledger.Slot]Slot
}

func (w word) Slots() map[ledger.Slot]Slot { return w.slots }

// Who answers for a slot that belongs to s1 by the map, and whether that is how it was at some instant.
func TestWhoAnswers(t *testing.T) {
	t.Parallel()
	m, err := placement.NewMap(1, map[ledger.Slot]placement.Owner{7: {Shard: "s1", Epoch: 2}})
	if err != nil {
		t.Fatal(err)
	}
	const down = "down"
	for _, c := range []struct {
		name    string
		rows    [3]Slot
		answers ledger.ShardID
		settled bool
	}{
		{"at rest", [3]Slot{{State: "owned", Epoch: 2}}, "s1", true},
		{"on its way", [3]Slot{{State: "fenced", Epoch: 2}, {State: "incoming", Epoch: 2}}, "s1", true},
		{"the map is behind", [3]Slot{{State: "moved", Epoch: 3}, {State: "owned", Epoch: 3}}, "s2", true},
		{"not left yet", [3]Slot{{State: "fenced", Epoch: 2}, {State: "owned", Epoch: 3}}, "", false},
		{"seen after it left and before it came", [3]Slot{{State: "moved", Epoch: 3}, {State: "incoming", Epoch: 2}}, "", false},
		{"seen before it left and after it was passed on", [3]Slot{{State: "owned", Epoch: 2}, {State: "moved", Epoch: 4}, {State: "incoming", Epoch: 3}}, "s1", false},
		{"nowhere", [3]Slot{}, "", false},
		{"at a shard that is down", [3]Slot{{State: down}, {State: "moved", Epoch: 2}}, "s1", true},
		{"elsewhere, the owner is down", [3]Slot{{State: down}, {State: "fenced", Epoch: 1}}, "s2", true},
	} {
		snapshots := make(map[ledger.ShardID]Snapshot)
		for i, id := range []ledger.ShardID{"s1", "s2", "s3"} {
			switch c.rows[i].State {
			case down:
			case "":
				snapshots[id] = word{}
			default:
				snapshots[id] = word{slots: map[ledger.Slot]Slot{7: c.rows[i]}}
			}
		}
		r := newRound(View{Map: m}, snapshots)
		if r.answers[7] != c.answers || r.unsettled[7] == c.settled {
			t.Errorf("%s: %q answers, settled %v", c.name, r.answers[7], !r.unsettled[7])
		}
	}
}
