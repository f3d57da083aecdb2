package main

import (
	"context"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestRegistryRebuild(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	rebuild := func(more ...string) []string { return append([]string{"registry", "rebuild", "--yes"}, more...) }
	u.refused("name every shard", rebuild()...)
	first := u.addShard("s1", "--initial-shards", "2")
	second := u.addShard("s2", "--weight", "3")
	if _, says, err := u.types("", rebuild()...); err != nil || !strings.Contains(says, "nothing to do") {
		t.Errorf("%v, %s", err, says)
	}
	u.refused("is registered at", rebuild("--shard", "s2="+second)...)

	u.flags[3] = etcdtest.Prefix(t) // etcd is lost
	u.refused("no shard has slots 2048-4095", rebuild("--shard", "s1="+first)...)
	u.refused("is shard s1, not s2", rebuild("--shard", "s1="+first, "--shard", "s2="+first)...)
	u.refused("said to be there and to be removed", rebuild("--shard", "s1="+first, "--retired", "s1")...)
	both := []string{"registry", "rebuild", "--shard", "s1=" + first, "--shard", "s2=" + second, "--retired", "s3"}
	u.refused("not confirmed", both...)
	if _, says, err := u.types("rebuild\n", both...); err != nil || !strings.Contains(says, "2 shards are registered, 1 retired, 4096 slots") {
		t.Fatalf("%v, %s", err, says)
	}
	if _, says, err := u.types("", rebuild()...); err != nil || !strings.Contains(says, "nothing to do") {
		t.Errorf("again: %v, %s", err, says)
	}
	var shards []listedShard
	u.reads(&shards, "shard", "list")
	if len(shards) != 2 || shards[0].Slots != 2048 || !shards[1].Answers || !strings.Contains(shards[1].DSN, "//postgres@") || shards[1].Timeline != 1 {
		t.Errorf("%+v", shards)
	}
	u.refused("choose a new id", "shard", "add", "--id", "s3", "--dsn", pgtest.Database(t, nil))
	u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "1")
}

// An id that slots went to is not forgotten, what would be lost is for a person to agree to, and an old primary is not asked.
func TestRegistryRebuildRefusesToForget(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	rebuild := []string{"registry", "rebuild"}
	first := u.addShard("s1", "--initial-shards", "2")
	second := u.addShard("s2")
	u.sql(second, `insert into saldo.moved (move_id, other, currency, amount) values ('old', 's8', 'USD', 1)`)
	u.refused("shard s2 knows of a shard s8: name it with --retired", rebuild...)
	if _, says, err := u.types("rebuild\n", append(rebuild, "--retired", "s8")...); err != nil || !strings.Contains(says, "1 retired") {
		t.Fatalf("%v, %s", err, says)
	}
	u.sql(second, `update saldo.slots set moved_to = 's9' where slot = 4095`)
	u.refused("shard s2 knows of a shard s9", rebuild...)
	u.sql(second, `update saldo.slots set moved_to = '' where slot = 4095`)
	if _, says, err := u.types("", rebuild...); err != nil || !strings.Contains(says, "nothing to do") {
		t.Fatalf("retired before: %v, %s", err, says)
	}

	u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "1")
	var moves []listedMove
	u.reads(&moves, "move", "list")
	slot := moves[0].Slots.String()
	u.sql(first, `update saldo.slots set move_id = '`+string(moves[0].ID)+`' where slot = `+slot)
	u.sql(second, `insert into saldo.slots (slot, state, epoch) values (`+slot+`, 'owned', 2)`)
	u.refused("is LOST", append(rebuild, "--yes")...)
	for _, word := range []string{"rebuild", "lose"} {
		if _, says, err := u.types(word+"\n", rebuild...); (err == nil) != (word == "lose") || !strings.Contains(says, "has acknowledged for them since is LOST") {
			t.Errorf("to type %s: %v, %s", word, err, says)
		}
	}
	if _, says, err := u.types("", rebuild...); err == nil || !strings.Contains(says, "LOST") {
		t.Errorf("again, with a registry that says it: %v, %s", err, says)
	}

	etcd := u.registry()
	view, err := etcd.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Adopt(t.Context(), view.Config, "s1", 1, 2, "mark"); err != nil {
		t.Fatal(err)
	}
	u.refused("is an old primary", rebuild...)
	u.refused("is an old primary", "shard", "migrate", "s1")
}

// A registry that was set back to before a switch has aborted the move: the slot is the target's where the source was not
// told, and where it was, two shards have it at one epoch until a person has decided, in the way that the handbook tells.
func TestRegistryRebuildAfterAnAbortOfALostSwitch(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"the source was not told": false, "both were told": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newTerminal(t)
			first := u.addShard("s1", "--initial-shards", "2")
			second := u.addShard("s2")
			u.does("move", "start", "--from", "s1", "--to", "s2", "--slots", "1")
			etcd := u.registry()
			view, err := etcd.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			move := view.Moves[0]
			ctx, done := context.WithCancel(t.Context())
			_ = etcd.Lead(ctx, "mover", "test", func(ctx context.Context, leadership cluster.Leadership) error {
				defer done()
				for _, phase := range []placement.Phase{placement.PhaseMark, placement.PhaseCopy} {
					if move, err = etcd.Led(leadership).AdvanceMove(ctx, move, phase, view.Revision); err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil {
				_, err = etcd.AbortMove(t.Context(), move, "a test")
			}
			if err != nil {
				t.Fatal(err)
			}
			id := string(move.ID)
			u.sql(second, `insert into saldo.slots (slot, state, epoch) values (1, 'owned', 2)`)
			u.sql(second, `insert into saldo.moves (move_id, source, system, timeline, snapshot, lsn, expected, activated_at)
				select '`+id+`', 's1', 0, 1, pg_current_snapshot(), '0/0', 0, now()`)
			u.sql(first, `update saldo.slots set state = 'fenced', fenced_at = now(), move_id = '`+id+`', token = 1 where slot = 1`)
			rebuild := []string{"registry", "rebuild", "--yes"}
			want := placement.Owner{Shard: "s2", Epoch: 2}
			if told {
				u.sql(first, `update saldo.slots set state = 'owned', fenced_at = null, epoch = 2, move_id = '' where slot = 1`)
				u.refused("slots 1 have two owners at epoch 2: shard s1 by its own tables", rebuild...)
				u.sql(first, `update saldo.slots set state = 'owned', fenced_at = null, move_id = '', epoch = epoch + 2 where slot in (1)`)
				u.sql(second, `update saldo.slots set state = 'fenced', fenced_at = now(), move_id = '' where slot in (1)`)
				want = placement.Owner{Shard: "s1", Epoch: 4}
			}
			if _, says, err := u.types("", rebuild...); err != nil || !strings.Contains(says, "1 slots get another owner or epoch") {
				t.Fatalf("%v, %s", err, says)
			}
			if view, err = etcd.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			now, there := view.Move(move.ID)
			if owner := view.Map.Owner(1); owner != want || there == told || there && now.Phase != placement.PhaseSwitched {
				t.Errorf("it is %v's, and the move is %+v", owner, now)
			}
			if _, says, err := u.types("", rebuild...); err != nil || !strings.Contains(says, "nothing to do") {
				t.Errorf("again: %v, %s", err, says)
			}
		})
	}
}
