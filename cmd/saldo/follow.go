package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// follower shows a person how moves come along: a line for what has happened to one, and between them how far they are, on
// a terminal all the time, elsewhere now and then.
type follower struct {
	cluster *cluster.Cluster
	watcher *cluster.Watcher
	shards  *assembly.Shards
	to      streams
	line    progress
	live    bool // line is shown
	left    func(*cluster.View) int

	moves map[placement.MoveID]*followed
	begun time.Time
	total int       // slots that were left at first
	moved time.Time // when something happened last, or was complained about
}

// followed is a move as it was seen last.
type followed struct {
	move      placement.Move
	pair      rebalance.Pair // nil until it was asked
	progress  rebalance.Progress
	began     time.Time // to be watched, with so many rows
	beganWith int64
}

const (
	lookInterval = 500 * time.Millisecond // at the progress of moves
	sayInterval  = 5 * time.Second        // of a line about it where there is no terminal
	idleTime     = 15 * time.Second       // without an event, after which a person is told who may be to blame
)

var errStopped = errors.New("stopped waiting")

// goal is what a person waits for.
type goal struct {
	// done tells whether it has come. It gets every view of the cluster that comes, in order.
	done func(*cluster.View) (bool, error)
	// left is how many slots have yet to move; nil if nobody knows.
	left func(*cluster.View) int
}

// follow shows how moves come along until a goal is reached.
func follow(ctx context.Context, c *cluster.Cluster, passwords wire.Passwords, to streams, until goal) error {
	watcher, err := c.Watch(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return errStopped
	case err != nil:
		return err
	}
	defer watcher.Close()
	f := &follower{
		cluster: c, watcher: watcher, to: to, line: newProgress(to.err, false), live: isTerminal(to.err), left: until.left,
		shards: assembly.NewShards(watcher.Current, passwords, "saldo move", slog.New(slog.DiscardHandler)),
		moves:  make(map[placement.MoveID]*followed), begun: time.Now(), moved: time.Now(),
	}
	defer f.close()
	for _, move := range watcher.Current().Moves {
		if !move.Occupies() {
			f.moves[move.ID] = &followed{move: move} // no news
		}
	}
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	said := time.Now()
	for {
		changed := watcher.Changed()
		view := watcher.Current()
		f.tell(ctx, view)
		if ok, err := until.done(view); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-look.C:
			f.look(ctx, view)
			if f.live || time.Since(said) > sayInterval {
				f.show(view)
				said = time.Now()
			}
			f.wonder(ctx, view)
		case <-ctx.Done():
			return errStopped
		}
	}
}

func (f *follower) close() {
	f.line.clear()
	for _, m := range f.moves {
		if m.pair != nil {
			m.pair.Close()
		}
	}
	f.shards.Close()
}

// say says what has happened.
func (f *follower) say(format string, args ...any) {
	f.line.clear()
	fmt.Fprintf(f.to.err, format+"\n", args...)
	f.moved = time.Now()
}

// tell says what has happened to moves since it was last called. That one has begun is not said: the progress shows it.
func (f *follower) tell(ctx context.Context, view *cluster.View) {
	if f.left != nil {
		f.total = max(f.total, f.left(view))
	}
	for _, move := range view.Moves {
		m, known := f.moves[move.ID]
		if !known {
			m = &followed{began: time.Now()}
			f.moves[move.ID] = m
		}
		before := m.move
		m.move = move
		if before.Phase == move.Phase && before.Paused == move.Paused {
			continue
		}
		f.moved = time.Now()
		name := journey(move)
		switch {
		case move.Paused && !before.Paused:
			f.say("%s: paused in phase %s (`saldo move resume %s`)", name, move.Phase, move.ID)
		case moved(move) && !moved(before):
			f.ask(ctx, view, m)
			f.say("%s: %d slots have moved after %s%s", name, len(move.Slots), took(move), m.cost())
		case move.Phase == placement.PhaseAborting || move.Phase == placement.PhaseAborted && before.Phase != placement.PhaseAborting:
			f.say("%s: aborted: %s", name, move.Cause)
		}
	}
}

// moved tells whether a move's target owns the slots and knows.
func moved(move placement.Move) bool {
	return move.Phase == placement.PhaseClean || move.Phase == placement.PhaseDone
}

// journey names a move to a person who knows the shards.
func journey(move placement.Move) string { return fmt.Sprintf("%s → %s", move.Source, move.Target) }

// took is how long a move took that has been decided.
func took(move placement.Move) time.Duration {
	return move.DecidedAt.Sub(move.CreatedAt).Round(100 * time.Millisecond)
}

// cost is what a move did that was switched.
func (m *followed) cost() string {
	var text string
	if m.progress.Rows > 0 {
		text = fmt.Sprintf(": %s rows, %d passes", count(m.progress.Rows), m.progress.Passes)
	}
	if m.move.FenceMillis > 0 {
		text += fmt.Sprintf(", writes to them waited %d ms", m.move.FenceMillis)
	}
	return text
}

// look asks how far the moves are.
func (f *follower) look(ctx context.Context, view *cluster.View) {
	for _, m := range f.moves {
		if m.move.Occupies() && m.move.Phase != placement.PhasePlanned {
			f.ask(ctx, view, m)
		}
	}
}

// ask asks how far a move is. A shard that does not answer is asked again later: here it is only for show.
func (f *follower) ask(ctx context.Context, view *cluster.View, m *followed) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if m.pair == nil {
		pair, err := f.shards.Pair(assembly.RebalanceView(view), m.move, 0)
		if err != nil {
			return
		}
		m.pair = pair
	}
	progress, err := m.pair.Progress(ctx)
	if moved(m.move) {
		m.pair.Close() // for good
		m.pair = nil
	}
	if err != nil {
		return
	}
	if m.progress.Rows == 0 {
		m.began, m.beganWith = time.Now(), progress.Rows
	}
	m.progress = progress
}

// show says how far the moves are that are under way.
func (f *follower) show(view *cluster.View) {
	texts, cleaning := f.overall(view), 0
	for _, move := range view.Moves {
		if move.Occupies() {
			texts = append(texts, journey(move)+": "+f.moves[move.ID].status(time.Now()))
		} else if move.Phase == placement.PhaseClean {
			cleaning++
		}
	}
	if cleaning > 0 {
		texts = append(texts, fmt.Sprintf("copies left behind and yet to be deleted: %d", cleaning))
	}
	if !f.live {
		for _, text := range texts {
			fmt.Fprintln(f.to.err, text)
		}
		return
	}
	const width = 79 // what is longer could not be taken back on a narrow terminal
	line := []rune(strings.Join(texts, "; "))
	if len(line) > width {
		line = append(line[:width-1], '…')
	}
	f.line.say(string(line))
}

// overall says how much of all that is to move has moved.
func (f *follower) overall(view *cluster.View) []string {
	if f.left == nil {
		return nil
	}
	left := f.left(view)
	if left == 0 {
		return nil
	}
	text := fmt.Sprintf("%s of %s slots have moved", count(f.total-left), count(f.total))
	if gone := f.total - left; gone > 0 {
		text += fmt.Sprintf(", about %v left", (time.Since(f.begun) / time.Duration(gone) * time.Duration(left)).Round(time.Second))
	}
	return []string{text}
}

// status says how far a move is.
func (m *followed) status(now time.Time) string {
	if m.move.Paused {
		return "paused in phase " + string(m.move.Phase)
	}
	switch m.move.Phase {
	case placement.PhaseCopy:
		text := fmt.Sprintf("copying, %s rows", count(m.progress.Rows))
		if m.progress.Expected > 0 {
			text = fmt.Sprintf("copying, %s of about %s rows", count(m.progress.Rows), count(m.progress.Expected))
		}
		if rate := m.rate(now); rate > 0 {
			text += fmt.Sprintf(", %s a second", count(int64(rate)))
			if left := m.progress.Expected - m.progress.Rows; left > 0 {
				text += fmt.Sprintf(", about %v left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
			}
		}
		return text
	case placement.PhaseCatchup:
		return fmt.Sprintf("catching up, %s rows, pass %d had %s", count(m.progress.Rows), m.progress.Passes, count(m.progress.LastPass))
	}
	return string(m.move.Phase)
}

// rate is how many rows are copied a second, as far as was seen.
func (m *followed) rate(now time.Time) float64 {
	if seconds := now.Sub(m.began).Seconds(); seconds > 1 {
		return float64(m.progress.Rows-m.beganWith) / seconds
	}
	return 0
}

// wonder says who may be to blame when nothing happens.
func (f *follower) wonder(ctx context.Context, view *cluster.View) {
	if time.Since(f.moved) < idleTime {
		return
	}
	f.moved = time.Now()
	for _, move := range view.Moves {
		if !move.Phase.Ended() && !move.Paused {
			return // somebody is at work, or waits for a retention to end
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	switch name, ok, err := f.cluster.Leader(ctx, wire.RebalancerElection); {
	case err != nil:
		f.say("etcd does not answer: moves wait")
	case !ok:
		f.say("no coordinator moves slots: is one running?")
	default:
		f.say("coordinator %s leads and has begun nothing yet: its log may say why", name)
	}
}
