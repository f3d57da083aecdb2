package assembly_test

import (
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// claimed is what three shards say: s1 and s2 have half of the slots each at epoch 1, s3 none. Slot 7 is s1's.
type claimed map[ledger.ShardID]*shard.Claims

func newClaimed() claimed {
	c := make(claimed)
	for _, id := range []ledger.ShardID{"s1", "s2", "s3"} {
		c[id] = &shard.Claims{Standing: &shard.Standing{Cluster: "c", Shard: id, Adopted: 1, Timeline: 1}}
	}
	for slot, owner := range placement.Found([]ledger.ShardID{"s1", "s2"}) {
		c.say(owner.Shard, shard.Claim{Slot: slot, Has: true, Epoch: owner.Epoch})
	}
	return c
}

// say has a shard say this of a slot, and nothing else.
func (c claimed) say(id ledger.ShardID, claim shard.Claim) {
	at := 0
	for ; at < len(c[id].Slots) && c[id].Slots[at].Slot < claim.Slot; at++ {
	}
	if at < len(c[id].Slots) && c[id].Slots[at].Slot == claim.Slot {
		c[id].Slots[at] = claim
		return
	}
	c[id].Slots = append(c[id].Slots[:at], append([]shard.Claim{claim}, c[id].Slots[at:]...)...)
}

// moved has slot 7 gone from s1 to s3, at epoch 2.
func (c claimed) moved() {
	c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s3", Left: "m"})
	c.say("s3", shard.Claim{Slot: 7, Has: true, Epoch: 2})
}

// lostSwitch has slot 7 come to s3 by a move from s1 that the registry has aborted since it was set back.
func (c claimed) lostSwitch(source shard.Claim) {
	c.say("s1", source)
	c.say("s3", shard.Claim{Slot: 7, Has: true, Epoch: 2})
	c["s3"].Came = []placement.MoveID{"m"}
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	founded := func(change func(map[ledger.Slot]placement.Owner), moves ...placement.Move) *cluster.View {
		owners := placement.Found([]ledger.ShardID{"s1", "s2"})
		if change != nil {
			change(owners)
		}
		m, err := placement.NewMap(9, owners)
		if err != nil {
			t.Fatal(err)
		}
		return &cluster.View{Map: m, Moves: moves, Revision: 9}
	}
	at := time.Now()
	under := func(phase placement.Phase) placement.Move {
		move := placement.Move{ID: "m", Source: "s1", Target: "s3", Slots: placement.NewSlotSet(7), Phase: phase}
		if !phase.Before() {
			move.Epochs, move.DecidedAt = placement.Epochs{2}, &at
		}
		return move
	}
	again := func(owners map[ledger.Slot]placement.Owner) { owners[7] = placement.Owner{Shard: "s1", Epoch: 2} } // by an abort
	switched := func(owners map[ledger.Slot]placement.Owner) { owners[7] = placement.Owner{Shard: "s3", Epoch: 2} }
	for name, test := range map[string]struct {
		view   *cluster.View // nil: the registry is empty
		change func(c claimed)
		owner  ledger.ShardID // of slot 7
		moves  string         // written and, with a minus, forgotten
		lost   string         // a part of it
		want   string         // a part of the error
		epoch  ledger.Epoch   // of slot 7, if that matters
	}{
		"empty":                        {owner: "s1"},
		"right":                        {view: founded(nil), owner: "s1"},
		"moved, empty":                 {change: claimed.moved, owner: "s3", moves: "m clean"},
		"moved since":                  {view: founded(nil), change: claimed.moved, owner: "s3", moves: "m clean"},
		"the same":                     {view: founded(switched), change: claimed.moved, owner: "s3", moves: "m clean"},
		"moved, recorded":              {view: founded(switched, under(placement.PhaseClean)), change: claimed.moved, owner: "s3"},
		"moved since, which was begun": {view: founded(nil, under(placement.PhaseCopy)), change: claimed.moved, owner: "s3", moves: "m switched"},
		"moved, and the source was not told": {
			view: founded(nil, under(placement.PhaseFence)), owner: "s3", moves: "m switched",
			change: func(c claimed) {
				c.moved()
				c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
			},
		},
		"moved there and back since": {
			view: founded(nil, under(placement.PhaseCopy)), owner: "s1",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 3})
				c.say("s3", shard.Claim{Slot: 7, Epoch: 3, MovedTo: "s1"})
			},
		},
		"on the way": {
			view: founded(nil, under(placement.PhaseFence)), owner: "s1",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
				c.say("s3", shard.Claim{Slot: 7, Coming: true, Epoch: 1, Move: "m"})
			},
		},
		"switched, and nobody was told": {
			view: founded(switched, under(placement.PhaseSwitched)), owner: "s3",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
				c.say("s3", shard.Claim{Slot: 7, Coming: true, Epoch: 1, Move: "m"})
			},
		},
		"on the way, and the registry does not know": {
			view: founded(nil),
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
				c.say("s3", shard.Claim{Slot: 7, Coming: true, Epoch: 1, Move: "m"})
			},
			want: "slots 7 under move m, which the registry does not have",
		},
		"on the way, and the registry is lost": {
			change: func(c claimed) { c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 1, Move: "m"}) },
			want:   "slots 7 under move m, which the registry does not have",
		},
		"a record that is contradicted": {
			view: founded(nil, under(placement.PhaseCopy)), owner: "s2", moves: "-m",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s2"})
				c.say("s2", shard.Claim{Slot: 7, Has: true, Epoch: 2})
			},
		},
		"a record that is contradicted, and a copy of it": {
			view: founded(nil, under(placement.PhaseCopy)), owner: "s2", moves: "m clean",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s2", Left: "m"})
				c.say("s2", shard.Claim{Slot: 7, Has: true, Epoch: 2})
			},
		},
		"aborted since, and the source was not told": {
			view: founded(nil, under(placement.PhaseFence)), owner: "s1", epoch: 2, moves: "m aborting",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
				c.say("s3", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s1", Left: "m"})
			},
		},
		"moved since, and the source has lifted its fence": {
			view: founded(nil, under(placement.PhaseCopy)), owner: "s3", moves: "m switched",
			lost: "shard s1 takes slots 7 for its own and has not fenced them, and shard s3 was given them by move m",
			change: func(c claimed) {
				c.moved()
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 1, Move: "m"})
			},
		},
		"moved since, and the source has lifted its fence, and is not adopted": {
			view: founded(nil, under(placement.PhaseCopy)), owner: "s3", moves: "m switched",
			change: func(c claimed) {
				c.moved()
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 1, Move: "m"})
				c["s1"].Timeline = 2
			},
		},
		"the registry and a shard at one epoch, and the registry's owner gave it to that": {
			view: founded(again), change: claimed.moved, owner: "s3", moves: "m clean",
		},
		"the registry's owner has no row": {
			view:   founded(switched),
			change: func(c claimed) { c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s3"}) },
			want:   "slots 7 are shard s3's by the registry, and it does not have them",
		},
		"the registry's owner has no row, and the source has the copy": {
			view: founded(switched, under(placement.PhaseClean)), owner: "s3",
			change: func(c claimed) { c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s3", Left: "m"}) },
		},
		"two have it": {
			change: func(c claimed) { c.say("s2", shard.Claim{Slot: 7, Has: true, Epoch: 1}) },
			want: "slots 7 have two owners at epoch 1: shard s1 by its own tables (it says that it owns them at epoch 1), and shard s2, " +
				"which says that it owns them at epoch 1.",
		},
		"the registry and a shard disagree at one epoch": {
			view:   founded(switched),
			change: func(c claimed) { c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 2}) },
			want:   "shard s3 by the registry (it says that it does not know them), and shard s1, which says that it owns them at epoch 2.",
		},
		"aborted, and switched before": {
			view: founded(again, under(placement.PhaseAborting)), owner: "s3", epoch: 2, moves: "m switched",
			change: func(c claimed) { c.lostSwitch(shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"}) },
		},
		"aborted, and switched before, and the source has lifted its fence": {
			view: founded(again, under(placement.PhaseAborting)), owner: "s3", epoch: 2, moves: "m switched",
			lost:   "what s1 has acknowledged for them since is LOST",
			change: func(c claimed) { c.lostSwitch(shard.Claim{Slot: 7, Has: true, Epoch: 1, Move: "m"}) },
		},
		"aborted, and switched before, and both were told": {
			view:   founded(again, under(placement.PhaseAborting)),
			change: func(c claimed) { c.lostSwitch(shard.Claim{Slot: 7, Has: true, Epoch: 2}) },
			want:   "shard s1 by its own tables (it says that it owns them at epoch 2), and shard s3, which says that it owns them at epoch 2.",
		},
		"aborted, and the target has them by another move": {
			view: founded(again, under(placement.PhaseAborting)),
			change: func(c claimed) {
				c.lostSwitch(shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1, Move: "m"})
				c["s3"].Came = []placement.MoveID{"other"}
			},
			want: "shard s1 by the registry (it says that it has them, fenced, at epoch 1 under move m), and shard s3, which says that it owns",
		},
		"aborted, and the source does not know of the move": {
			view:   founded(again, under(placement.PhaseAborting)),
			change: func(c claimed) { c.lostSwitch(shard.Claim{Slot: 7, Has: true, Epoch: 1}) },
			want:   "two owners at epoch 2",
		},
		"a person has decided that the source keeps what has two owners": {
			view: founded(again, under(placement.PhaseAborting)), owner: "s1", epoch: 3, moves: "-m",
			change: func(c claimed) {
				c.lostSwitch(shard.Claim{Slot: 7, Has: true, Epoch: 3})
				c.say("s3", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 2})
			},
		},
		"a person has decided that the source keeps what its target may have, which is lost for good": {
			view: founded(again, under(placement.PhaseAborting)), owner: "s1", epoch: 3, moves: "-m",
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 3})
				delete(c, "s3")
			},
		},
		"a person has decided that the target does": {
			view: founded(again, under(placement.PhaseAborting)), owner: "s3", epoch: 3, moves: "m switched",
			change: func(c claimed) {
				c.lostSwitch(shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 2})
				c.say("s3", shard.Claim{Slot: 7, Has: true, Epoch: 3})
			},
		},
		"nobody has it": {
			change: func(c claimed) {
				c.say("s1", shard.Claim{Slot: 7, Epoch: 2, MovedTo: "s4"})
				c.say("s1", shard.Claim{Slot: 8, Epoch: 2, MovedTo: "s4"})
			},
			want: "no shard has slots 7-8: name all of them",
		},
		"a shard is not read": {
			view:   founded(nil),
			change: func(c claimed) { delete(c, "s2") },
			want:   "slots 2048-4095 are shard s2's, which was not read",
		},
		"the one that got it has lost it, and the one that gave it was set back before that": {
			change: func(c claimed) {
				c.say("s3", shard.Claim{Slot: 7, Epoch: 3, MovedTo: "s2"})
			},
			want: "shard s3 has given slots 7 to shard s2, which has lost them",
		},
		"restored to before it gave it away": {
			owner: "s3",
			change: func(c claimed) {
				c.moved()
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 1})
				c["s1"].Timeline = 2
			},
		},
		"set back to before it gave it away, on its timeline": {
			change: func(c claimed) {
				c.moved()
				c.say("s1", shard.Claim{Slot: 7, Has: true, Epoch: 1})
			},
			want: "shard s1 takes slots 7 for its own, and s3 was given them later",
		},
		"fenced since an adoption": {
			change: func(c claimed) { c.say("s1", shard.Claim{Slot: 7, Has: true, Fenced: true, Epoch: 1}) },
			want:   "a person must look",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClaimed()
			if test.change != nil {
				test.change(c)
			}
			rebuilt, lost, err := assembly.Rebuild(test.view, c, at)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, which does not say %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if owner := rebuilt.Owners[7]; owner.Shard != test.owner || len(rebuilt.Owners) != placement.Slots {
				t.Errorf("slot 7 is %v, of %d slots", owner, len(rebuilt.Owners))
			} else if test.epoch != 0 && owner.Epoch != test.epoch {
				t.Errorf("slot 7 is at epoch %d, not %d", owner.Epoch, test.epoch)
			}
			if said := strings.Join(lost, "\n"); !strings.Contains(said, test.lost) || (said == "") != (test.lost == "") {
				t.Errorf("lost: %q, not %q", said, test.lost)
			}
			var moves []string
			for _, move := range rebuilt.Moves {
				moves = append(moves, string(move.ID)+" "+string(move.Phase))
				if err := move.CheckEpochs(); err != nil || move.Slots.String() != "7" || move.Source != "s1" ||
					move.Target != "s3" && move.Target != test.owner {
					t.Errorf("move %+v: %v", move, err)
				}
			}
			for _, id := range rebuilt.Forget {
				moves = append(moves, "-"+string(id))
			}
			if got := strings.Join(moves, ", "); got != test.moves {
				t.Errorf("moves: %q, not %q", got, test.moves)
			}
		})
	}
}

// What is rebuilt is written as a whole, into an empty registry or over the one that was read, and read again it is right.
func TestRebuildIsWritten(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := cluster.Connect(ctx, cluster.Config{Endpoints: etcdtest.Endpoints(t), Prefix: etcdtest.Prefix(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	claims := newClaimed()
	write := func(view *cluster.View, change func(*cluster.Rebuilt)) (*cluster.View, error) {
		t.Helper()
		rebuilt, _, err := assembly.Rebuild(view, claims, time.Now().UTC())
		if err != nil {
			t.Fatal(err)
		}
		rebuilt.UID = "c"
		if change != nil {
			change(rebuilt)
		}
		if err := c.Rebuild(ctx, view, *rebuilt); err != nil {
			return nil, err
		}
		view, err = c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return view, nil
	}
	shards := func(r *cluster.Rebuilt) {
		for _, id := range []ledger.ShardID{"s1", "s2", "s3"} {
			r.Shards = append(r.Shards, cluster.Shard{ID: id, DSN: "postgres://u:secret@nowhere/" + string(id), Timeline: 4, Adoption: "mark"})
		}
		r.Retired = []ledger.ShardID{"s9"}
	}
	if _, err := write(nil, nil); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("without shards: %v", err)
	}
	view, err := write(nil, shards)
	if err != nil {
		t.Fatal(err)
	}
	if s := view.Shards["s1"]; s.DSN != "postgres://u@nowhere/s1" || s.Timeline != 4 || s.Adoption != "mark" || view.Config.UID != "c" || !view.Founded() {
		t.Errorf("%+v, %+v", s, view.Config)
	}
	if gone, err := c.Retired(ctx); err != nil || len(gone) != 1 || gone[0] != "s9" {
		t.Errorf("retired: %v, %v", gone, err)
	}
	if _, err := write(nil, shards); err == nil || !strings.Contains(err.Error(), cluster.ErrChanged.Error()) {
		t.Errorf("over a registry that is there: %v", err)
	}

	old := view
	claims.moved()
	if view, err = write(view, nil); err != nil {
		t.Fatal(err)
	}
	if owner := view.Map.Owner(7); owner.Shard != "s3" || owner.Epoch != 2 || len(view.Moves) != 1 {
		t.Errorf("%v, %v", owner, view.Moves)
	}
	if _, err := write(old, nil); err == nil || !strings.Contains(err.Error(), cluster.ErrChanged.Error()) {
		t.Errorf("by an old view: %v", err)
	}
	if _, err := write(view, func(r *cluster.Rebuilt) { r.UID = "d" }); err == nil || !strings.Contains(err.Error(), cluster.ErrMismatch.Error()) {
		t.Errorf("another cluster's: %v", err)
	}
	if _, err := write(view, func(r *cluster.Rebuilt) { r.Retired = []ledger.ShardID{"s1"} }); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("without an owner: %v", err)
	}
}
