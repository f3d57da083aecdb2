package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/shard"
)

type moveCommand struct {
	List   moveListCommand   `cmd:"" help:"Show the moves of a cluster."`
	Start  moveStartCommand  `cmd:"" help:"Move slots from one shard to another, by hand."`
	Pause  movePauseCommand  `cmd:"" help:"Have a move wait where it is."`
	Resume moveResumeCommand `cmd:"" help:"Have a paused move go on."`
	Abort  moveAbortCommand  `cmd:"" help:"Take a move back, as long as its slots have not been given away."`
}

type moveListCommand struct {
	target `embed:""`
	All    bool `name:"all" help:"Also those that have ended."`
	JSON   bool `name:"json" help:"Print them as JSON, for machines."`
}

// Help says what the phases are.
func (c *moveListCommand) Help() string {
	return "Phases: planned, mark (the shards are told), copy, catchup (what was written meanwhile), fence (writes to the slots wait), " +
		"switched (the target owns them), clean (the copy that was left behind waits to be deleted), done; or aborting, aborted."
}

// listedMove is a move as it is shown.
type listedMove struct {
	placement.Move
	Number int `json:"number"` // of slots
}

func listMove(move placement.Move) listedMove { return listedMove{Move: move, Number: len(move.Slots)} }

func (c *moveListCommand) Run(ctx context.Context, to streams) error {
	etcd, _, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	moves := []listedMove{}
	for _, move := range view.Moves {
		if c.All || !move.Phase.Ended() {
			moves = append(moves, listMove(move))
		}
	}
	if c.JSON {
		return printJSON(to.out, moves)
	}
	if len(moves) == 0 && len(view.Moves) > 0 {
		fmt.Fprintf(to.err, "no move is under way; %d have ended (--all shows them)\n", len(view.Moves))
		return nil
	}
	table := newTable(to.out)
	fmt.Fprintln(table, "MOVE\tFROM\tTO\tSLOTS\tPHASE\tWHY\tBEGUN\tWAITED\tNOTES")
	for _, move := range moves {
		waited := ""
		if move.FenceMillis > 0 {
			waited = fmt.Sprintf("%d ms", move.FenceMillis)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", move.ID, move.Source, move.Target, move.Number, move.Phase, move.Why,
			move.CreatedAt.Local().Format(time.DateTime), waited, notes(move.Move))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if name, ok, err := etcd.Leader(ctx, wire.RebalancerElection); err != nil {
		return err
	} else if ok {
		fmt.Fprintf(to.err, "coordinator %s leads\n", name)
	} else {
		fmt.Fprintln(to.err, "no coordinator leads, so nothing moves")
	}
	return nil
}

// notes is what else is to be known of a move.
func notes(move placement.Move) string {
	var texts []string
	if move.Paused {
		texts = append(texts, "paused")
	}
	if move.Cause != "" {
		texts = append(texts, move.Cause)
	}
	if move.Evidence {
		texts = append(texts, fmt.Sprintf("the copy on %s is kept for you to look at", move.Target))
	}
	return strings.Join(texts, "; ")
}

type moveStartCommand struct {
	target `embed:""`
	From   string            `name:"from" required:"" placeholder:"ID" help:"The shard that owns them all."`
	To     string            `name:"to" required:"" placeholder:"ID" help:"The shard that is to own them."`
	Slots  placement.SlotSet `name:"slots" required:"" placeholder:"0-127,300" help:"Which."`
	Why    string            `name:"why" help:"For whoever reads the list of moves."`
	Wait   bool              `name:"wait" help:"Until the target owns the slots, showing how it comes along. The move goes on if this is ended."`
}

// Help says what happens next.
func (c *moveStartCommand) Help() string {
	return "The elected coordinator does it. Slots that were moved by hand stay where they are when slots are spread anew, " +
		"for as long as the record of the move is kept, which is 30 days; a drain moves them too. " +
		"`saldo slots --user ID` says in which slot a user lives."
}

func (c *moveStartCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	move := placement.Move{
		ID: rebalance.NewMoveID(), Source: ledger.ShardID(c.From), Target: ledger.ShardID(c.To), Slots: c.Slots, Why: "by hand",
	}
	if c.Why != "" {
		move.Why += ": " + c.Why
	}
	planned, err := startMove(ctx, etcd, passwords, move)
	if err != nil {
		return err
	}
	fmt.Fprintf(to.err, "move %s: %d slots from %s to %s\n", planned.ID, len(planned.Slots), planned.Source, planned.Target)
	if !c.Wait {
		return nil
	}
	if err := follow(ctx, etcd, passwords, to, goal{done: hasMoved(planned.ID)}); err != nil {
		return fmt.Errorf("%w (see `saldo move list --all`)", err)
	}
	return nil
}

// startMove records a move between two shards that are fit for it.
func startMove(ctx context.Context, c *cluster.Cluster, passwords wire.Passwords, move placement.Move) (placement.Move, error) {
	for {
		view, err := c.Read(ctx)
		if err != nil {
			return move, err
		}
		for _, id := range []ledger.ShardID{move.Source, move.Target} {
			if err := fitForMoves(ctx, view, id, passwords); err != nil {
				return move, err
			}
		}
		planned, err := c.PlanMove(ctx, view, move)
		if !errors.Is(err, cluster.ErrChanged) {
			return planned, err
		}
	}
}

// fitForMoves says why no slot should move to or from a shard now.
func fitForMoves(ctx context.Context, view *cluster.View, id ledger.ShardID, passwords wire.Passwords) error {
	known, err := shardOf(view, string(id))
	if err != nil {
		return err
	}
	found, err := shard.Examine(ctx, known.DSN, passwords(id))
	if err == nil {
		err = found.TakesMoves()
	}
	if err != nil {
		return fmt.Errorf("shard %s: %w", id, err)
	}
	return nil
}

// hasMoved tells whether a move has given its slots to the target.
func hasMoved(id placement.MoveID) func(*cluster.View) (bool, error) {
	return func(view *cluster.View) (bool, error) {
		move, ok := view.Move(id)
		switch {
		case !ok:
			return false, fmt.Errorf("move %s has been forgotten", id)
		case move.Phase == placement.PhaseAborting || move.Phase == placement.PhaseAborted:
			return false, fmt.Errorf("move %s was aborted: %s", id, move.Cause)
		}
		return moved(move), nil
	}
}

type movePauseCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"The move, or how its id begins or ends."`
}

func (c *movePauseCommand) Run(ctx context.Context, to streams) error {
	return c.pause(ctx, to, c.ID, true)
}

type moveResumeCommand struct {
	target `embed:""`
	ID     string `arg:"" help:"The move, or how its id begins or ends."`
}

func (c *moveResumeCommand) Run(ctx context.Context, to streams) error {
	return c.pause(ctx, to, c.ID, false)
}

func (t *target) pause(ctx context.Context, to streams, text string, paused bool) error {
	etcd, _, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if err != nil {
		return err
	}
	move, err := moveOf(view, text)
	if err != nil {
		return err
	}
	if move, err = etcd.PauseMove(ctx, move.ID, paused); err != nil {
		return err
	}
	what := map[bool]string{true: "waits in", false: "goes on from"}[paused]
	fmt.Fprintf(to.err, "move %s %s phase %s\n", move.ID, what, move.Phase)
	return nil
}

type moveAbortCommand struct {
	target       `embed:""`
	confirmation `embed:""`
	ID           string `arg:"" help:"The move, or how its id begins or ends."`
	Why          string `name:"why" default:"by hand" help:"For whoever reads the list of moves."`
}

// Help says what happens next.
func (c *moveAbortCommand) Help() string {
	return "The source keeps the slots and what was copied is deleted. A move that was planned automatically may be planned again: " +
		"drain nothing, balance the weights, or run the coordinators with --rebalance=manual, to have it stay so."
}

func (c *moveAbortCommand) Run(ctx context.Context, to streams) error {
	etcd, _, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	for asked := false; ; {
		view, err := etcd.Read(ctx)
		if err != nil {
			return err
		}
		move, err := moveOf(view, c.ID)
		if err != nil {
			return err
		}
		if !asked && move.Phase.Before() { // else there is nothing to be asked: it is refused, or was aborted
			what := fmt.Sprintf("Move %s of %d slots from %s to %s is in phase %s; what it has copied is thrown away.",
				move.ID, len(move.Slots), move.Source, move.Target, move.Phase)
			if err := c.ask(to, what, "abort"); err != nil {
				return err
			}
			asked = true
			continue // it has come along meanwhile
		}
		ended, err := etcd.AbortMove(ctx, move, c.Why)
		if errors.Is(err, cluster.ErrChanged) {
			continue
		}
		if err != nil {
			return err
		}
		if ended.Phase.Before() {
			fmt.Fprintf(to.err, "move %s is aborted as soon as its source knows of it\n", ended.ID)
		} else {
			fmt.Fprintf(to.err, "move %s: %s\n", ended.ID, ended.Phase)
		}
		return nil
	}
}

// moveOf returns the move whose id begins or ends so.
func moveOf(view *cluster.View, text string) (found placement.Move, err error) {
	matches := 0
	for _, move := range view.Moves {
		if id := string(move.ID); strings.HasPrefix(id, text) || strings.HasSuffix(id, text) {
			found = move
			matches++
		}
	}
	if matches != 1 {
		return found, fmt.Errorf("%d moves have an id that begins or ends with %q: see `saldo move list --all`", matches, text)
	}
	return found, nil
}
