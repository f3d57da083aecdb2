package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	registry "github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Two shards become five and two again, while clients pay each other, and no client meets an error.
func TestScale(t *testing.T) {
	// The founders keep most of their slots, so that a few moves are enough.
	s := size{durable: true, weight: 6, coordinator: []string{"SALDO_RETENTION=1s", "SALDO_MOVE_SHARE=1", "SALDO_MOVE_SLOTS=512"}}
	atRest, past := time.Second, 0
	if watched() {
		s = size{durable: true, coordinator: []string{"SALDO_RETENTION=2s"}}
		atRest, past = seconds(t, 0)/3, 1000*int(seconds(t, 0).Seconds())
	}
	c := newScaled(t, s)
	l := newLoadOf(t, c.cluster, uint64(setting(t, "SALDO_E2E_SEED", 1)), usersAllOver(64, "u"), usersAllOver(4, "ghost"))
	var probes []*probe
	const pause = 50 * time.Millisecond // most of the processors' time should not be the clients'
	l.rest = resting()
	count := 16
	if l.light = watched(); l.light { // time is measured
		count = 32
	}
	for _, user := range usersAllOver(count, "probe") {
		c.face(t, 0).newUser(user, 0)
		probes = append(probes, &probe{user: user})
	}
	c.preload(t, l, l.users, past)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for n := range 2 {
		clients.Go(func() { l.client(ctx, n) })
	}
	for n, p := range probes {
		clients.Go(func() { p.run(ctx, l, n, pause) })
	}
	w := &walker{c: c, t: t, lines: make(map[account]map[int64]line)}
	for n := range 2 {
		clients.Go(func() { w.run(ctx, l.users, l.routers, n) })
	}
	clients.Go(func() { c.follow(ctx, t) })
	c.say(t, "clients pay each other on 2 shards")
	time.Sleep(atRest)
	c.grow(t)
	c.comes(t, "five shards have their parts", func(view *registry.View) bool {
		return balanced(view) && !moving(view) && (!watched() || len(unfinished(view)) == 0)
	})
	c.say(t, "5 shards have their parts")
	time.Sleep(atRest)
	c.shrink(t)
	c.comes(t, "two shards have all", func(view *registry.View) bool { return balanced(view) && len(unfinished(view)) == 0 })
	c.say(t, "2 shards have all")
	time.Sleep(atRest / 2)
	stop()
	clients.Wait()

	l.wantNoErrors(t, slices.ContainsFunc(c.view(t).Moves, func(move placement.Move) bool {
		return time.Duration(move.FenceMillis)*time.Millisecond > tooLong
	}))
	until(t, "every saga has ended", long, func() bool { return pending(t, c.cluster) == 0 })
	c.wantSettled(t)
	c.report(t, l, probes).publish(t)
	c.wantClean(t)
	c.wantRemoved(t)
	c.wantClean(t)
	end := readWorld(t, c.cluster)
	end.check(t)
	l.history().check(t, end)
	w.check(end, 1)
	l.wantTold(t, end)
}

// The same while coordinators, movers and Postgres servers are killed and stopped at every step of a move, moves are
// aborted, answers are lost, and a router hears nothing of what changes.
func TestScaleInTrouble(t *testing.T) {
	seed := uint64(setting(t, "SALDO_E2E_SEED", 1))
	least := seconds(t, 0)
	t.Logf("SALDO_E2E_SEED=%d SALDO_SCALE_SECONDS=%.0f", seed, least.Seconds())
	env := []string{"SALDO_RETENTION=500ms", "SALDO_MOVE_SHARE=1"}
	if least == 0 { // a few moves are enough
		env = append(env, "SALDO_MOVE_SLOTS=400")
	}
	c := newScaled(t, size{durable: true, gated: true, coordinators: 3, coordinator: env})
	gate := newEtcdGate(t, c.etcd)
	c.ready(t, c.addRouter(t, "SALDO_ETCD=http://"+gate.address))
	l := newLoadOf(t, c.cluster, seed, usersAllOver(48, "u"), usersAllOver(4, "ghost"))
	l.routers = len(c.routers)
	l.rest = resting()
	gate.frozen.Store(true)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for n := range 6 {
		clients.Go(func() { l.client(ctx, n) })
	}
	w := &walker{c: c, t: t, patient: true, lines: make(map[account]map[int64]line)}
	for n := range 2 {
		clients.Go(func() { w.run(ctx, l.users, l.routers, n) })
	}
	clients.Go(func() { l.auditAlong(ctx, t) })
	clients.Go(func() { c.follow(ctx, t) })
	l.fairWeather(t)

	over, end := context.WithTimeout(ctx, max(15*time.Minute, 2*least))
	defer end()
	x := &trouble{scaled: c, t: t, over: over, armed: make(map[string]bool)}
	begun := time.Now()
	harm := func(faults []fault, seed uint64, enough <-chan struct{}) <-chan struct{} {
		done := make(chan struct{})
		clients.Go(func() {
			defer close(done)
			for round := uint64(0); round == 0 || time.Since(begun) < least; round++ {
				missed := x.all(slices.Clone(faults), seed+round, enough)
				if round > 0 || len(missed) == 0 {
					continue
				}
				t.Errorf("%d faults were not done: %v", len(missed), missed)
			}
		})
		return done
	}
	// In a short run other faults go on for as long as coordinators are killed, after each step: before a step everything is
	// as it was after the one before.
	kills := x.kills("after ")
	if least > 0 {
		kills = append(kills, x.kills("before ")...)
	}
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	killed := []<-chan struct{}{harm(kills[:len(kills)/2], seed, nil), harm(kills[len(kills)/2:], seed, nil)}
	enough := killed[0]
	if least > 0 {
		enough = nil
	}
	others := harm(x.others(), seed+1000, enough)

	c.grow(t)
	x.nudge("five shards have their parts", func() bool {
		view := c.view(t)
		return balanced(view) || least == 0 && len(slotsOf(view)) == allShards && x.done.Load() > 30
	})
	c.say(t, "5 shards have %v; %d faults so far", slotsOf(c.view(t)), x.done.Load())
	restless, rest := context.WithCancel(ctx)
	defer rest()
	if least > 0 {
		clients.Go(func() { x.keepMoving(restless) })
		until(t, "half of the time is over", least, func() bool { return time.Since(begun) >= least/2 })
	}
	c.shrink(t)
	drained := func() bool { return len(slotsOf(c.view(t))) == founders }
	x.nudge("two shards have all", drained)
	c.say(t, "2 shards have all; %d faults so far", x.done.Load())
	if least == 0 {
		clients.Go(func() { x.keepMoving(restless) })
	}
	for _, done := range append(killed, others) {
		<-done
	}
	rest()
	x.thereAndBack()
	c.say(t, "%d faults were injected", x.done.Load())
	for _, p := range c.coordinators {
		if p.gone() {
			t.Errorf("%s is gone", p.name)
		}
	}
	c.comes(t, "no move is under way", func(view *registry.View) bool { return drained() && len(unfinished(view)) == 0 })
	l.wantAudited(t)
	stop()
	clients.Wait()

	for i := range c.routers {
		c.ready(t, i)
	}
	l.resolve(t)
	until(t, "every saga has ended", 2*long, func() bool { return pending(t, c.cluster) == 0 })
	c.wantSettled(t)
	c.wantClean(t)
	c.wantRemoved(t)
	l.replay(t, c)
	c.wantClean(t)
	books := readWorld(t, c.cluster)
	books.check(t)
	h := l.history()
	h.check(t, books)
	w.check(books, 3)
	l.wantTold(t, books)
	if gate.held.Load() == 0 {
		t.Error("the frozen router's gate has held nothing back")
	}
	frozen := 0
	for _, a := range h.attempts {
		if a.router == 2 && a.class == ok {
			frozen++
		}
	}
	if t.Logf("the router that hears nothing has done %d requests", frozen); frozen < 100 {
		t.Errorf("the router that hears nothing has done %d requests only", frozen)
	}
	l.wantCovered(t, h, books, map[string]int{
		"lost commits": 1, "ok": 300, "rejected": 10, "conflict": 5, "replayed": 20,
		"saga COMPLETED": 50, "saga REFUNDED": 3, "COMPLETED": 50, "REFUSED": 5,
	})
}

// replay repeats transfers whose ends have parted since, or met.
func (l *load) replay(t *testing.T, c *scaled) {
	t.Helper()
	view, books := c.view(t), readWorld(t, c.cluster)
	home := func(id string) ledger.ShardID { return view.Map.Owner(placement.SlotOf(ledger.UserID(id))).Shard }
	parted, met := 0, 0
	for id, start := range books.starts {
		if start.kind != "transfer" || start.reason != "" || l.opening[id] {
			continue
		}
		apart := home(id.initiator) != home(start.payee)
		switch {
		case !start.saga && apart && parted < 60:
			parted++
		case start.saga && !apart && met < 60:
			met++
		default:
			continue
		}
		a := l.write((parted+met)%l.routers, id, start.contents, false, false)
		if !a.replayed || !a.definite() || a.class == pending_ {
			t.Errorf("a repeat of %v is not recognized: %v", id, a)
		}
	}
	t.Logf("%d transfers were repeated whose ends have parted, and %d whose ends have met", parted, met)
	if parted < 5 || met < 5 {
		t.Error("these are few")
	}
}
