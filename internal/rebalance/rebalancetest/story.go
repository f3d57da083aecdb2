package rebalancetest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// Kind is what goes wrong.
type Kind string

// What can go wrong.
const (
	Crash       Kind = "crash"             // and another process comes after a while
	Sleep       Kind = "sleep"             // for a while; without noticing it, the process goes on where it was
	Depose      Kind = "depose"            // another process leads, and this one is told
	Lost        Kind = "lost answer"       // its next request is done, the answer is lost
	Refused     Kind = "lost"              // its next request is lost
	Late        Kind = "late"              // its next request is done after a while, whether somebody still waits for it or not
	Abort       Kind = "abort"             // a person aborts the move
	Pause       Kind = "pause"             // a person pauses the move, for a while
	SourceDown  Kind = "source down"       // for a while
	TargetDown  Kind = "target down"       // for a while
	SourceFails Kind = "source fails over" // and lacks what it did for so long
	TargetFails Kind = "target fails over" // and lacks what it did for so long
	Corrupt     Kind = "corrupt"           // an entry of the target's copy becomes another
)

// Fault happens to the process that comes to a point for the nth time, counted over all processes.
type Fault struct {
	At   string // "before " or "after " one of rebalance.Points
	Nth  int    // from 1
	Kind Kind
	For  time.Duration // of those that last for a while
}

func (f Fault) String() string {
	text := fmt.Sprintf("%s #%d: %s", f.At, f.Nth, f.Kind)
	if f.For > 0 {
		text += fmt.Sprintf(" for %v", f.For)
	}
	return text
}

// Story is a move of some slots under load, in which things go wrong. If it is Automatic, nobody says which slots: the
// rebalancer balances two shards, of which the second then drains, at once.
type Story struct {
	Seed      uint64
	Bug       Bug
	Automatic bool
	Faults    []Fault
}

func (s Story) String() string {
	faults := make([]string, len(s.Faults))
	for i, fault := range s.Faults {
		faults[i] = fault.String()
	}
	return fmt.Sprintf("seed %d: %s", s.Seed, strings.Join(faults, "; "))
}

// End is how a story has ended.
type End struct {
	Broken   []string       // the promises that were, each beginning with its name
	Told     []string       // what happened
	Happened int            // of the faults
	Move     placement.Move // the last one
	Slowest  time.Duration  // of a client that was not in the way of a fault of its own
	Writes   int
	Moves    int
}

// The virtual times of stories.
const (
	lease = 2 * time.Second // of a leader
	// Retention of what is left of a move.
	Retention = time.Second

	longest = 20 * time.Minute
)

const moveID placement.MoveID = "m"

// Play plays a story.
func Play(t *testing.T, story Story) (end End) {
	synctest.Test(t, func(*testing.T) { end = play(story) })
	return end
}

// stage is a story while it is played.
type stage struct {
	*World
	story     Story
	processes []*process // guarded by mu
	begin     func()     // one more of them
	visits    map[string]int
	happened  int
	visitors  sync.WaitGroup // what a fault has set off
}

func play(story Story) End {
	w := newWorld(story.Seed, story.Bug)
	s := &stage{World: w, story: story, visits: make(map[string]int)}
	for _, fault := range story.Faults {
		for _, b := range w.books {
			b.keeps = b.keeps || fault.Kind == SourceFails || fault.Kind == TargetFails
		}
	}
	ctx, stop := context.WithCancel(context.Background())

	var clients, processes sync.WaitGroup
	for i := range 4 {
		c := &client{world: w, name: fmt.Sprintf("client%d", i), eager: i == 2, frozen: i == 3}
		clients.Go(func() { c.run(ctx) })
	}
	time.Sleep(2 * time.Second) // there is something to copy
	now := time.Now()
	w.mu.Lock()
	if !story.Automatic {
		w.write("a person", placement.Move{
			ID: moveID, Source: source, Target: target, Slots: moving, Phase: placement.PhasePlanned, Why: "a story", CreatedAt: now,
		})
	}
	w.mu.Unlock()
	running, kill := context.WithCancel(context.Background())
	s.begin = func() {
		p := &process{world: w, name: fmt.Sprintf("p%d", len(s.processes)+1), leads: make(chan int64, 1), later: s.later}
		s.processes = append(s.processes, p)
		p.at = func(point string) { s.at(p, point) }
		own := rebalance.Config{
			Automatic: story.Automatic, SlotsPerMove: 1, Retention: Retention, ChunkRows: 20, SmallPass: 10, At: p.at,
		}
		processes.Go(func() { p.run(running, own) })
	}
	w.mu.Lock()
	for range 3 {
		s.begin()
	}
	w.mu.Unlock()
	processes.Go(func() { s.elect(running) })

	for again := true; again; again = s.goesOn() && time.Since(now) < longest {
		for s.goesOn() && time.Since(now) < longest {
			time.Sleep(100 * time.Millisecond)
		}
		s.visitors.Wait()
		time.Sleep(5 * time.Second) // what comes late comes now
	}
	stop()
	clients.Wait()
	kill()
	processes.Wait()
	s.visitors.Wait() // who may begin another process
	processes.Wait()

	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkEnd()
	return End{
		Broken: w.broken, Told: w.told, Happened: s.happened, Slowest: w.slowest, Writes: len(w.acked),
		Moves: len(w.moves), Move: w.moves[slices.Max(slices.Collect(maps.Keys(w.moves)))],
	}
}

// goesOn tells whether a move has not ended, or somebody sleeps, or a failover has left
// something to be tidied up, or there is something to be balanced.
func (s *stage) goesOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	owns := false
	for _, owner := range s.owners {
		owns = owns || owner.Shard == target
	}
	if s.story.Automatic && owns && !s.drains {
		s.drains = true
		s.touch()
		s.tell("shard %s drains", target)
	}
	left := false
	for _, b := range s.books {
		for _, row := range b.slots {
			left = left || row.state == fenced || !row.clean && row.state != owned
		}
	}
	return s.sleepers > 0 || s.current() != nil || left && s.lossy || s.story.Automatic && (owns || !s.drains)
}

// current returns a move that has not ended, or nil. The caller holds s.mu.
func (s *stage) current() *placement.Move {
	for _, id := range slices.Sorted(maps.Keys(s.moves)) {
		if move := s.moves[id]; !move.Phase.Ended() {
			return &move
		}
	}
	return nil
}

// run is a process's life: it watches, and leads when it is elected.
func (p *process) run(ctx context.Context, config rebalance.Config) {
	ctx, p.stop = context.WithCancel(ctx)
	defer p.stop()
	log := slog.New(slog.DiscardHandler)
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { rebalance.New(&registry{process: p}, &shards{p}, config, log).Watch(ctx) })
	for {
		var token int64
		select {
		case <-ctx.Done():
			return
		case token = <-p.leads:
		}
		leading, depose := context.WithCancel(ctx)
		p.world.mu.Lock()
		p.depose = depose
		p.world.mu.Unlock()
		_ = rebalance.New(&registry{process: p, token: token}, &shards{p}, config, log).Run(leading, token)
		depose()
	}
}

// elect makes another process lead when the one that does is gone or has slept for as long as a lease lasts.
func (s *stage) elect(ctx context.Context) {
	tick := time.NewTicker(lease / 10)
	defer tick.Stop()
	leads := -1
	for {
		s.mu.Lock()
		if leads < 0 || s.leader < 0 || s.processes[leads].gone() {
			for next := range s.processes {
				next = (leads + 1 + next) % len(s.processes)
				if p := s.processes[next]; !p.gone() && len(p.leads) == 0 && next != leads {
					leads = next
					s.leader = s.touch()
					s.tell("%s leads, with token %d", p.name, s.leader)
					p.leads <- s.leader
					break
				}
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gone tells whether the process's lease has ended. The caller holds w.mu.
func (p *process) gone() bool {
	return p.dead || !p.asleep.IsZero() && time.Since(p.asleep) >= lease
}

// at is where faults happen.
func (s *stage) at(p *process, point string) {
	s.mu.Lock()
	if p.dead {
		s.mu.Unlock()
		return
	}
	s.visits[point]++
	var due []Fault
	for _, fault := range s.story.Faults {
		if fault.At == point && fault.Nth == s.visits[point] {
			due = append(due, fault)
			s.happened++
			s.tell("%s: %v", p.name, fault)
		}
	}
	s.mu.Unlock()
	for _, fault := range due {
		s.happen(p, fault)
	}
}

func (s *stage) happen(p *process, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch fault.Kind {
	case Crash:
		p.dead = true
		p.stop()
		s.later(3*time.Second, s.begin)
	case Sleep:
		p.sleep(fault.For)
	case Depose:
		if p.depose != nil {
			p.depose()
			s.leader = -1
		}
	case Lost, Refused, Late:
		p.next = fault
	case Abort:
		if move := s.current(); move != nil && move.Phase.Before() {
			_, _ = s.abort("a person", *move, "a person said so")
		}
	case Pause:
		if s.pause(true) {
			s.later(fault.For, func() { s.pause(false) })
		}
	case Corrupt:
		s.books[target].corrupt()
	case SourceFails:
		s.failOver(source, fault.For)
	case TargetFails:
		s.failOver(target, fault.For)
	case SourceDown:
		s.away(source, fault.For)
	case TargetDown:
		s.away(target, fault.For)
	}
}

// pause says whether the move may be gone on with. The caller holds s.mu.
func (s *stage) pause(paused bool) bool {
	move := s.current()
	if move == nil || move.Phase == placement.PhaseSwitched || move.Phase == placement.PhaseAborting {
		return false
	}
	move.Paused = paused
	s.write("a person", *move)
	return true
}

// away takes a shard away for a while. The caller holds s.mu.
func (s *stage) away(id ledger.ShardID, pause time.Duration) {
	s.books[id].down = true
	s.later(pause, func() { s.books[id].down = false })
}

// later does something under the lock after a while.
func (s *stage) later(pause time.Duration, do func()) {
	s.visitors.Go(func() {
		time.Sleep(pause)
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	})
}
