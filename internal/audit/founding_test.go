package audit

import (
	"context"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// blank is a cluster of one shard that was enrolled and has nothing yet, and its snapshot.
type blank struct{ slots map[ledger.Slot]Slot }

func (b blank) View(context.Context) (View, error) {
	m, err := placement.NewMap(1, nil)
	return View{Cluster: "c", Shards: []ledger.ShardID{"s1"}, Map: m}, err
}

func (b blank) Snapshot(context.Context, ledger.ShardID) (Snapshot, error) {
	return snapshotOf{slots: b.slots}, nil
}

type snapshotOf struct {
	Snapshot
	slots map[ledger.Slot]Slot
}

func (s snapshotOf) Identity() Identity {
	return Identity{Cluster: "c", Shard: "s1", Slots: placement.Slots, Hash: placement.HashID, Timeline: 1, Running: 1}
}
func (s snapshotOf) Slots() map[ledger.Slot]Slot                                { return s.slots }
func (s snapshotOf) Totals(context.Context) (Totals, error)                     { return Totals{}, nil }
func (s snapshotOf) Operations(context.Context, Reporter) error                 { return nil }
func (s snapshotOf) Accounts(context.Context, Reporter) error                   { return nil }
func (s snapshotOf) Sagas(context.Context, Reporter) error                      { return nil }
func (s snapshotOf) Rows(context.Context, Reporter) error                       { return nil }
func (s snapshotOf) Credits(context.Context, func(ledger.Recorded) error) error { return nil }
func (s snapshotOf) EndedSagas(context.Context, func(ledger.Saga) error) error  { return nil }
func (s snapshotOf) Close()                                                     {}
func (s snapshotOf) LineSums(context.Context, func(_, _ ledger.Slot, _ uint64, _ bool)) error {
	return nil
}

// A cluster that waits for its first shards is not wrong; one whose shards have slots, and whose map has none, is.
func TestBeforeTheFounding(t *testing.T) {
	t.Parallel()
	options := Options{Patience: 1, Pause: 1}
	r, err := Run(t.Context(), blank{}, options)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Check(CheckSlots); r.Verdict != Incomplete || c.Found != 0 || len(c.Gaps) != 1 || c.Covered != 0 {
		t.Errorf("%s: %+v", r.Verdict, c)
	}
	r, err = Run(t.Context(), blank{slots: map[ledger.Slot]Slot{7: {State: stateOwned, Epoch: 1}}}, options)
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Check(CheckSlots); r.Verdict != Violations || c.Found != placement.Slots+1 {
		t.Errorf("%s: %d found, %q", r.Verdict, c.Found, c.Gaps)
	}
}
