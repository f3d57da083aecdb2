package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/shard"
)

type shardListCommand struct {
	target `embed:""`
	JSON   bool `name:"json" help:"Print them as JSON, for machines."`
}

// Help says what the columns mean.
func (c *shardListCommand) Help() string {
	return "SHARE is the part of all slots that the shard should have by its weight; a draining shard should have none. " +
		"MOVES are those that have not ended, from (-) and to (+) the shard, with their phases; one in phase clean has given its slots away, " +
		"and the copy that was left behind is yet to be deleted."
}

// listedShard is a shard as it is shown.
type listedShard struct {
	cluster.Shard
	Slots   int          `json:"slots"`
	Share   float64      `json:"share"`           // of all slots, that it should have
	Moves   []listedMove `json:"moves"`           // with it that have not ended
	Answers bool         `json:"answers"`         // to this program, now
	Why     string       `json:"error,omitempty"` // it does not
}

var answers = map[bool]string{true: "yes", false: "no"}

// Run also serves a cluster that is not there yet.
func (c *shardListCommand) Run(ctx context.Context, to streams) error {
	etcd, passwords, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer etcd.Close()
	view, err := etcd.Read(ctx)
	if errors.Is(err, cluster.ErrNotInitialized) {
		fmt.Fprintln(to.err, "no cluster under this prefix yet: add a shard with `saldo shard add`")
		return nil
	}
	if err != nil {
		return err
	}
	shards := listShards(view)
	askShards(ctx, view, shards, passwords)
	if c.JSON {
		return printJSON(to.out, append([]listedShard{}, shards...))
	}
	table := newTable(to.out)
	fmt.Fprintln(table, "SHARD\tSTATE\tWEIGHT\tSLOTS\tSHARE\tMOVES\tANSWERS\tDSN")
	for _, s := range shards {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%.1f%%\t%s\t%s\t%s\n",
			s.ID, s.State, s.Weight, s.Slots, 100*s.Share, s.moves(), answers[s.Answers], s.DSN)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, s := range shards {
		if !s.Answers {
			fmt.Fprintf(to.err, "%s does not answer: %s\n", s.ID, s.Why)
		}
	}
	if !view.Founded() {
		fmt.Fprintln(to.err, errNotFounded(view))
	}
	return nil
}

// listShards is what the registry knows of each shard.
func listShards(view *cluster.View) []listedShard {
	slots, weights := slotCounts(view), 0
	for _, id := range view.Active() {
		weights += view.Shards[id].Weight
	}
	var shards []listedShard
	for _, id := range sortedIDs(view.Shards) {
		s := listedShard{Shard: view.Shards[id], Slots: slots[id], Moves: []listedMove{}}
		if s.State == cluster.ShardActive {
			s.Share = float64(s.Weight) / float64(weights)
		}
		for _, move := range view.Moves {
			if !move.Phase.Ended() && (move.Source == id || move.Target == id) {
				s.Moves = append(s.Moves, listMove(move))
			}
		}
		shards = append(shards, s)
	}
	return shards
}

func (s listedShard) moves() string {
	var texts []string
	for _, move := range s.Moves {
		sign := "+"
		if move.Source == s.ID {
			sign = "-"
		}
		texts = append(texts, fmt.Sprintf("%s%d %s", sign, move.Number, move.Phase))
	}
	return strings.Join(texts, ", ")
}

// askShards asks every shard whether it is there, all at once.
func askShards(ctx context.Context, view *cluster.View, shards []listedShard, passwords wire.Passwords) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var asking sync.WaitGroup
	for i := range shards {
		asking.Go(func() {
			s := &shards[i]
			if err := ask(ctx, view.Config.UID, s.Shard, passwords(s.ID)); err != nil {
				s.Why, _, _ = strings.Cut(err.Error(), "\n")
				return
			}
			s.Answers = true
		})
	}
	asking.Wait()
}

func ask(ctx context.Context, uid string, s cluster.Shard, password string) error {
	opened, err := shard.Open(shard.Config{
		Cluster: uid, ID: s.ID, DSN: s.DSN, Timeline: s.Timeline, Password: password, Name: "saldo shard list",
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer opened.Close()
	return opened.Ping(ctx)
}
