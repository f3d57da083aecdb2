package wire

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// A mover and its target die inside the fence: the source is opened at once. It stays fenced where the registry does not know
// of the fence: that was set back, and the target may own the slots.
func TestTargetIsAwayWhenAFenceIsEnded(t *testing.T) {
	t.Parallel()
	way := []placement.Phase{placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup, placement.PhaseFence}
	for name, test := range map[string]struct {
		way   []placement.Phase // that the registry knows of
		opens bool
	}{
		"in the fence":                         {way, true},
		"when the next leader was catching up": {append(way[:4:4], placement.PhaseCatchup), true},
		"before any fence that it knows of":    {way[:2], false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			dsn := w.register("s1", "")
			w.register("s2", "postgres://postgres@127.0.0.1:1/x?sslmode=disable")
			if _, err := w.c.FoundIfDue(w.ctx); err != nil {
				t.Fatal(err)
			}
			view, err := w.c.Read(w.ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = assembly.Activate(w.ctx, view, w.passwords) // s2 is down
			move, err := w.c.PlanMove(w.ctx, view, placement.Move{
				ID: "m", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(1), Why: "a test",
			})
			if err != nil {
				t.Fatal(err)
			}
			leading, resign := context.WithCancel(w.ctx)
			_ = w.c.Lead(leading, RebalancerElection, "test", func(ctx context.Context, leadership cluster.Leadership) error {
				defer resign()
				for _, phase := range test.way {
					if move, err = w.c.Led(leadership).AdvanceMove(ctx, move, phase, move.Revision); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			w.sql(dsn, `update saldo.slots set state = 'fenced', fenced_at = now() - interval '1 min', move_id = 'm', token = 1 where slot = 1`)

			watcher, err := w.c.Watch(w.ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(watcher.Close)
			log := new(written)
			logger := slog.New(slog.NewTextHandler(log, nil))
			shards := assembly.NewShards(watcher.Current, w.passwords, "test", logger)
			t.Cleanup(shards.Close)
			w.background(func(ctx context.Context) error {
				rebalance.New(assembly.NewRegistry(w.c, watcher), shards, rebalance.Config{Deadman: time.Second}, logger).Watch(ctx)
				return nil
			})
			state := func() (state string) {
				conn, err := pgx.Connect(w.ctx, dsn)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(w.ctx)
				if err := conn.QueryRow(w.ctx, `select state || ' ' || epoch from saldo.slots where slot = 1`).Scan(&state); err != nil {
					t.Fatal(err)
				}
				return state
			}
			if test.opens {
				w.eventually(time.Minute, "the source owns the slot", func() bool { return state() == "owned 2" })
				return
			}
			w.eventually(time.Minute, "it says why not", func() bool { return log.has("level=WARN", "they stay fenced until it does") })
			if is := state(); is != "fenced 1" {
				t.Errorf("the slot is %s", is)
			}
		})
	}
}
