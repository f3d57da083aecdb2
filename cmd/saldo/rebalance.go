package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/internal/rebalance/plan"
)

type rebalanceCommand struct {
	target    `embed:""`
	DryRun    bool `name:"dry-run" help:"Only show what would move."`
	JSON      bool `name:"json" help:"With --dry-run: print it as JSON, for machines."`
	MoveSlots int  `name:"move-slots" env:"SALDO_MOVE_SLOTS" default:"128" help:"Slots that move together, at most."`
}

// Validate is called by the flag parser.
func (c *rebalanceCommand) Validate() error {
	if c.MoveSlots < 1 {
		return fmt.Errorf("--move-slots is %d, not 1 or more", c.MoveSlots)
	}
	return nil
}

// Help says how it is done.
func (c *rebalanceCommand) Help() string {
	return "Draining shards are emptied and the others get what their weights say, by the fewest slots that have to move. " +
		"This plans one move after the other for each pair of shards, the elected coordinator does them, and this shows how, until all is balanced. " +
		"It can be ended at any time: each move by itself makes the balance better, and what is planned already goes on. " +
		"Where the coordinators run with --rebalance=auto they plan by themselves."
}

func (c *rebalanceCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	if !view.Founded() {
		return errNotFounded(view)
	}
	steps, err := propose(ctx, view, passwords)
	if err != nil {
		return err
	}
	if c.DryRun {
		return c.show(to, steps)
	}
	for _, step := range steps {
		for _, id := range []ledger.ShardID{step.Source, step.Target} {
			if err := fitForMoves(ctx, view, id, passwords); err != nil {
				return err
			}
		}
	}
	return rebalanceNow(ctx, etcd, passwords, to, c.MoveSlots)
}

// propose plans for a cluster as it is.
func propose(ctx context.Context, view *cluster.View, passwords wire.Passwords) ([]plan.Step, error) {
	shards := assembly.NewShards(func() *cluster.View { return view }, passwords, "saldo rebalance", slog.New(slog.DiscardHandler))
	defer shards.Close()
	as := assembly.RebalanceView(view)
	uncleaned := make(map[ledger.ShardID]placement.SlotSet)
	for _, s := range as.Shards {
		slots, err := shards.Uncleaned(ctx, as, s.ID)
		if err != nil {
			return nil, fmt.Errorf("shard %s cannot be asked which copies it holds: %w", s.ID, err)
		}
		uncleaned[s.ID] = slots
	}
	return rebalance.Propose(as, uncleaned)
}

// plannedStep is a step of a plan as it is shown.
type plannedStep struct {
	Source ledger.ShardID    `json:"source"`
	Target ledger.ShardID    `json:"target"`
	Number int               `json:"number"`
	Slots  placement.SlotSet `json:"slots"`
	Why    string            `json:"why"`
}

func (c *rebalanceCommand) show(to streams, steps []plan.Step) error {
	shown := []plannedStep{}
	for _, step := range steps {
		shown = append(shown, plannedStep{
			Source: step.Source, Target: step.Target, Number: len(step.Slots), Slots: step.Slots, Why: why(step),
		})
	}
	if c.JSON {
		return printJSON(to.out, shown)
	}
	if len(shown) == 0 {
		fmt.Fprintln(to.err, "nothing to do: every shard has what its weight says, or it is on its way")
		return nil
	}
	table := newTable(to.out)
	fmt.Fprintln(table, "FROM\tTO\tNUMBER\tWHY\tSLOTS")
	for _, step := range shown {
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\n", step.Source, step.Target, step.Number, step.Why, step.Slots)
	}
	return table.Flush()
}

func why(step plan.Step) string {
	if step.Drains {
		return rebalance.WhyDrain
	}
	return rebalance.WhyRebalance
}

// rebalanceNow plans moves as there is room for them, and shows how they come along, until nothing is left to plan or to
// move.
func rebalanceNow(ctx context.Context, c *cluster.Cluster, passwords wire.Passwords, to streams, size int) error {
	var planned []placement.MoveID
	done := func(view *cluster.View) (bool, error) {
		for _, id := range planned {
			if move, ok := view.Move(id); ok && move.Phase == placement.PhaseAborted {
				return false, fmt.Errorf("move %s was aborted: %s", id, move.Cause)
			}
		}
		steps, moving, err := unbalanced(view)
		if err != nil {
			return false, err
		}
		for _, step := range steps {
			if taken(view, step) {
				continue
			}
			move, err := c.PlanMove(ctx, view, placement.Move{
				ID: rebalance.NewMoveID(), Source: step.Source, Target: step.Target, Slots: plan.Split(step, size)[0].Slots, Why: why(step),
			})
			switch {
			case err == nil:
				planned = append(planned, move.ID)
			case !errors.Is(err, cluster.ErrChanged):
				return false, err
			}
			return false, nil // until the view has it, or whatever else has come
		}
		return len(steps) == 0 && moving == 0, nil
	}
	switch err := follow(ctx, c, passwords, to, goal{done: done, left: slotsLeft}); {
	case err != nil:
		return fmt.Errorf("%w (what was planned goes on: see `saldo move list`)", err)
	case len(planned) == 0:
		fmt.Fprintln(to.err, "nothing to do: every shard has what its weight says")
	default:
		fmt.Fprintln(to.err, "balanced; the copies that were left behind are deleted after a while")
	}
	return nil
}

// unbalanced returns what is to be planned, as far as the registry knows, and how many slots are on their way. What only a
// shard knows, an old copy that it still has, its mover finds out.
func unbalanced(view *cluster.View) (steps []plan.Step, moving int, err error) {
	steps, err = rebalance.Propose(assembly.RebalanceView(view), nil)
	for _, move := range view.Moves {
		if move.Occupies() {
			moving += len(move.Slots)
		}
	}
	return steps, moving, err
}

// slotsLeft is how many slots have yet to move until there is balance.
func slotsLeft(view *cluster.View) int {
	steps, left, err := unbalanced(view)
	if err != nil {
		return 0 // whoever waits is told
	}
	for _, step := range steps {
		left += len(step.Slots)
	}
	return left
}

// taken tells whether one of the step's shards takes part in another move.
func taken(view *cluster.View, step plan.Step) bool {
	return slices.ContainsFunc(view.Moves, func(move placement.Move) bool {
		return move.Occupies() && (move.Source == step.Source || move.Target == step.Target)
	})
}
