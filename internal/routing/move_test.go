package routing_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/saga"
)

// journey is a move of slots by hand, step by step, as a mover does it.
type journey struct {
	*system
	slots    []ledger.Slot
	from, to ledger.ShardID
	everyone []*system // whose registry it is; those in watched are told by it
	watched  []*system
}

func (s *system) journey(from, to ledger.ShardID, users ...ledger.UserID) *journey {
	j := &journey{system: s, from: from, to: to, everyone: []*system{s}}
	for _, user := range users {
		j.slots = append(j.slots, placement.SlotOf(user))
	}
	return j
}

// exclusively changes slots as whatever changes ownership does. $1 are the slots of the journey.
func (j *journey) exclusively(id ledger.ShardID, statements ...string) {
	j.t.Helper()
	j.on(id, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(j.ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(j.ctx, `select pg_advisory_xact_lock($1)`, int64(0x53414c444f)); err != nil {
				return err
			}
			for _, statement := range statements {
				if _, err := tx.Exec(j.ctx, statement, j.slots); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (j *journey) fence() {
	j.t.Helper()
	j.exclusively(j.to, `insert into saldo.slots (slot, state, epoch) select unnest($1::smallint[]), 'incoming', 1
	                     on conflict (slot) do update set state = 'incoming'`)
	j.exclusively(j.from, `update saldo.slots set state = 'fenced' where slot = any($1)`)
}

func (j *journey) unfence() {
	j.t.Helper()
	j.exclusively(j.from, `update saldo.slots set state = 'owned' where slot = any($1)`, requeue)
}

// The sagas of slots that come into sight stand behind everybody's horizon.
const requeue = `update saldo.sagas set tx = pg_current_xact_id()::text::bigint where slot = any($1) and state = 1`

func (j *journey) copy() {
	j.t.Helper()
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(j.slots), " ", ","), "[]")
	j.on(j.from, func(from *pgx.Conn) error {
		j.on(j.to, func(to *pgx.Conn) error {
			for _, table := range []string{"users", "accounts", "operations", "entries", "sagas"} {
				var rows bytes.Buffer
				_, err := from.PgConn().CopyTo(j.ctx, &rows, fmt.Sprintf(`copy (select * from saldo.%s where slot in (%s)) to stdout`, table, list))
				if err != nil {
					return err
				}
				// What an earlier move left goes.
				if _, err := to.Exec(j.ctx, `delete from saldo.`+table+` where slot = any($1)`, j.slots); err != nil {
					return err
				}
				if _, err := to.PgConn().CopyFrom(j.ctx, &rows, fmt.Sprintf(`copy saldo.%s from stdin`, table)); err != nil {
					return err
				}
			}
			return nil
		})
		return nil
	})
}

// decide makes the target the owner in the registry.
func (j *journey) decide() {
	j.t.Helper()
	owners := map[ledger.Slot]ledger.ShardID{}
	for _, slot := range j.slots {
		owners[slot] = j.to
	}
	m := j.changed(owners)
	for _, s := range j.everyone {
		s.set(func() { s.truth = m })
	}
	for _, s := range j.watched {
		s.set(func() { s.see(m) })
	}
}

func (j *journey) activate() {
	j.t.Helper()
	j.mu.Lock()
	epoch := j.truth.Owner(j.slots[0]).Epoch
	j.mu.Unlock()
	for _, slot := range j.slots {
		if j.truth.Owner(slot).Epoch != epoch {
			j.t.Fatal("slots at several epochs") // they go together only as long as they always did
		}
	}
	j.exclusively(j.to, fmt.Sprintf(`update saldo.slots set state = 'owned', epoch = %d where slot = any($1)`, epoch), requeue)
}

func (j *journey) tombstone() {
	j.t.Helper()
	epoch := j.truth.Owner(j.slots[0]).Epoch
	j.exclusively(j.from, fmt.Sprintf(
		`update saldo.slots set state = 'moved', epoch = %d, moved_to = '%s' where slot = any($1)`, epoch, j.to))
}

// Many wait for slots that move: nobody asks for himself, all go on as soon as the target is active, and nobody is refused,
// though they are more than a shard is asked at once.
func TestManyWaitForAMove(t *testing.T) {
	t.Parallel()
	for _, watched := range []bool{true, false} {
		t.Run(fmt.Sprintf("watched=%v", watched), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 2)
			r := s.router()
			users, other := s.usersOn("s1", 20), s.usersOn("s2", 1)[0]
			s.create(r, 10_000, append(users, other)...)
			j := s.journey("s1", "s2", users[:10]...)
			if watched {
				j.watched = []*system{s}
			}
			j.fence()
			fenced := time.Now()
			const n = 400
			var (
				group     sync.WaitGroup
				activated atomic.Int64 // when
				slowest   atomic.Int64
				most      = s.spies["s2"].mostSubmitting()
				before    = s.spies["s1"].submits.Load()
			)
			for i := range n {
				if i == 50 { // until it is known which slots are fenced
					for asked := int64(-1); asked != s.spies["s1"].submits.Load(); time.Sleep(200 * time.Millisecond) {
						asked = s.spies["s1"].submits.Load()
					}
				}
				op, moving := transfer(users[i%10], users[10+i%7], ledger.TxID(fmt.Sprint(i)), 1), users[i%10]
				if i%2 == 0 {
					op = transfer(users[10+i%7], users[i%10], ledger.TxID(fmt.Sprint(i)), 1) // its payee moves
				}
				group.Go(func() {
					var err error
					if i%5 == 0 {
						_, err = r.Balance(s.ctx, moving, "USD")
					} else {
						_, _, err = r.Transfer(s.ctx, op, 0)
					}
					if err != nil {
						t.Error(err)
					}
					since := time.Now().UnixNano() - activated.Load()
					for last := slowest.Load(); since > last && !slowest.CompareAndSwap(last, since); last = slowest.Load() {
					}
				})
			}
			j.copy()
			time.Sleep(300 * time.Millisecond)
			j.decide()
			time.Sleep(100 * time.Millisecond)
			if n := s.spies["s1"].submits.Load() - before; n > 50 {
				t.Errorf("the source was asked %d times while its slots were fenced", n)
			}
			if n := s.spies["s2"].submits.Load(); n > 2 {
				t.Errorf("the target was asked %d times before it was active", n)
			}
			j.activate()
			activated.Store(time.Now().UnixNano())
			group.Wait() // the source need not know it
			j.tombstone()
			t.Logf("the last one was answered %v after the target was active", time.Duration(slowest.Load()))
			if took := time.Duration(slowest.Load()); took > long/2 {
				t.Errorf("the last one was answered %v after the target was active", took)
			}
			if n := most(); n > 64+1 {
				t.Errorf("the target was asked %d times at once", n)
			}
			if n, most := s.readsOfRegistry(), int(time.Since(fenced)/(100*time.Millisecond))+5; n > most {
				t.Errorf("the registry was read %d times, not at most %d", n, most)
			}
			if n := s.askAll(`select count(*) from saldo.operations o join saldo.slots w on w.slot = o.slot and w.state = 'owned'
				where tx_id <> 'initial' and reason = ''`); n != 320 {
				t.Errorf("%d transfers are recorded", n)
			}
			if s.log.errors() > 0 {
				t.Error("a person was told")
			}
		})
	}
}

// mostSubmitting begins to count, and returns what tells how many calls of Submit there were at most at once.
func (s *spy) mostSubmitting() func() int64 {
	var now, most atomic.Int64
	s.mu.Lock()
	defer s.mu.Unlock()
	s.around = func(submit func()) {
		n := now.Add(1)
		for last := most.Load(); n > last && !most.CompareAndSwap(last, n); last = most.Load() {
		}
		submit()
		now.Add(-1)
	}
	return most.Load
}

// Who finds too many waiting is sent away at once; the others are not harmed.
func TestTooManyWaitForAMove(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router(func(c *routing.Config) { c.FenceWaiters = 2 })
	users := s.usersOn("s1", 2)
	s.create(r, 10, users...)
	j := s.journey("s1", "s2", users[0])
	j.fence()
	answers := make(chan error, 3)
	for range 2 {
		go func() { _, err := r.Balance(s.ctx, users[0], "USD"); answers <- err }()
	}
	eventually(t, "both have asked", func() bool { return s.spies["s1"].reads.Load() == 2 })
	time.Sleep(300 * time.Millisecond) // and wait
	began := time.Now()
	_, err := r.Balance(s.ctx, users[0], "USD")
	mustFail(t, err, ledger.CodeUnavailable)
	if took := time.Since(began); took > long/2 {
		t.Errorf("it took %v", took)
	}
	s.mustHave(r, users[1], 10)
	j.unfence()
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	s.mustHave(r, users[0], 10)
}

// A map may name a shard that this process has not opened yet.
func TestShardIsOpenedLate(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	here, there := s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
	s.create(r, 10, here, there)
	late := s.open["s2"]
	s.set(func() { delete(s.open, "s2") })
	time.AfterFunc(200*time.Millisecond, func() { s.set(func() { s.open["s2"] = late }) })
	s.mustAnswer(r, 0, step{transfer(there, here, "1", 1), "PENDING"}, step{transfer(here, there, "2", 1), "PENDING"})
	s.set(func() { delete(s.open, "s2") })
	time.AfterFunc(200*time.Millisecond, func() { s.set(func() { s.open["s2"] = late }) })
	s.mustHave(r, there, 9)
	s.set(func() { delete(s.open, "s2") })
	time.AfterFunc(200*time.Millisecond, func() { s.set(func() { s.open["s2"] = late }) })
	if found, err := r.FindByTxID(s.ctx, "1"); err != nil || found.Initiator != there {
		t.Errorf("found %v, %v", found, err)
	}
}

// Whoever waits for the end of a saga is told though its home has moved, and nobody but the one who waits finds that out.
func TestEndIsToldWhereTheHomeHasMoved(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	waiting, ending := s.another(poll(50*time.Millisecond)), s.another()
	op := transfer(payer, payee, "t", 1)
	waits := waiting.start(waiting.router, op, long)
	for _, to := range []ledger.ShardID{"s2", "s1", "s2"} {
		s.move(payer, to)
		for _, p := range []*process{waiting, ending} {
			p.set(func() { p.truth = s.truth })
		}
		time.Sleep(200 * time.Millisecond)
	}
	ending.drain(ending.router, op)
	if a := <-waits; a.err != nil || a.record.Status() != ledger.StatusCompleted {
		t.Errorf("answered %v, %v", a.record.Status(), a.err)
	}
	if waiting.Map().OwnerOf(payer).Shard != "s2" {
		t.Error("the map was not renewed")
	}
}

// What only needs a newer map does not wait for what is fenced, though both are answered together.
func TestBatchWaitsForAMoveLast(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 3)
	s.create(r, 100, users...)
	fenced := s.journey("s1", "s2", users[0])
	fenced.fence()
	s.move(users[1], "s2")
	moved := transfer(users[1], users[2], "1", 1)
	answers := make(chan []ledger.Answer, 1)
	go func() {
		answers <- r.TransferAll(s.ctx, []ledger.Operation{transfer(users[0], users[2], "0", 1), moved}, 0)
	}()
	eventually(t, "the other is recorded", func() bool { _, err := r.Find(s.ctx, moved.Identity); return err == nil })
	if len(answers) > 0 {
		t.Fatal("the fence came too late")
	}
	fenced.unfence()
	for i, want := range []string{"COMPLETED", "PENDING"} {
		a := <-answers
		answers <- a
		if brief(a[i]) != want {
			t.Errorf("%d is answered %s", i, brief(a[i]))
		}
	}
}

// A move was aborted, and the map knows that before the source does: that is no lost write. Reads need not wait.
func TestAbortedMoveIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users, there := s.usersOn("s1", 2), s.usersOn("s2", 1)[0]
	s.create(r, 100, append(users, there)...)
	slot := placement.SlotOf(users[0])
	s.sql("s1", `update saldo.slots set move_id = 'm', token = 7 where slot = $1`, slot)
	s.mustBe(r, transfer(users[0], users[1], "before", 1), 0, ledger.StatusCompleted, "", false)
	m := s.changed(map[ledger.Slot]ledger.ShardID{slot: "s1"})
	s.set(func() { s.truth = m; s.see(m) })
	s.mustHave(r, users[0], 99)
	began := time.Now()
	time.AfterFunc(500*time.Millisecond, func() {
		s.sql("s1", `update saldo.slots set epoch = 2, move_id = '', token = 0 where slot = $1`, slot)
	})
	before := s.spies["s1"].submits.Load()
	s.mustAnswer(r, 0,
		step{transfer(users[0], there, "1", 1), "PENDING"},
		step{transfer(users[1], users[0], "2", 1), "COMPLETED"})
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the others took %v", took)
	}
	if n := s.spies["s1"].submits.Load() - before; n != 4 {
		t.Errorf("%d operations were sent", n)
	}
	if s.log.errors() > 0 {
		t.Error("a person was told")
	}
}

// Either end moves while a router carries a saga between them; it goes on as soon as it can.
func TestCarriedSagaWaitsForAMove(t *testing.T) {
	t.Parallel()
	for _, moves := range []string{"payer", "payee"} {
		t.Run(moves, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 3)
			r := s.router(handover(2*long), poll(never))
			ends := map[string]ledger.UserID{"payer": s.usersOn("s1", 1)[0], "payee": s.usersOn("s2", 1)[0]}
			payer, payee := ends["payer"], ends["payee"]
			other := s.usersOn("s2", 2)[1]
			s.create(r, 100, payer, payee, other)
			j := s.journey(r.ShardOf(ends[moves]), "s3", ends[moves])
			fenced := make(chan struct{})
			var once sync.Once
			s.spies["s2"].before(func(op ledger.Operation) error {
				if op.Step == ledger.StepCredit {
					once.Do(func() { j.fence(); close(fenced) })
				}
				return nil
			})
			activated := make(chan time.Time, 1)
			go func() {
				<-fenced
				j.copy()
				time.Sleep(300 * time.Millisecond)
				j.decide()
				time.Sleep(100 * time.Millisecond)
				j.activate()
				activated <- time.Now()
				j.tombstone()
			}()
			s.mustAnswer(r, 2*long, step{transfer(payer, payee, "1", 1), "COMPLETED"}, step{transfer(payer, other, "2", 1), "COMPLETED"})
			if took := time.Since(<-activated); took > long/2 {
				t.Errorf("it ended %v after the target was active", took)
			}
			if n := s.spies["s1"].submits.Load() + s.spies["s2"].submits.Load() + s.spies["s3"].submits.Load(); n > 11 {
				t.Errorf("%d operations were sent", n)
			}
			s.mustHave(r, payee, 101)
			s.mustHave(r, payer, 98)
			s.mustBeConserved()
		})
	}
}

// A shard that is behind the map is told of once, not once for each request.
func TestPersonIsToldOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 2)
	s.create(r, 100, users...)
	m := s.changed(map[ledger.Slot]ledger.ShardID{placement.SlotOf(users[0]): "s1", placement.SlotOf(users[1]): "s1"})
	s.set(func() { s.seen, s.truth = m, m })
	for i := range 5 {
		_, _, err := r.Transfer(s.ctx, transfer(users[0], "x", ledger.TxID(fmt.Sprint(i)), 1), 0)
		mustFail(t, err, ledger.CodeUnavailable)
		s.mustAnswer(r, 0, step{transfer(users[0], users[1], "t", 1), "unavailable"})
		if err := r.CompleteAll(s.ctx, []ledger.Identity{{Initiator: users[1], TxID: "t"}})[0].Err; err == nil {
			t.Error("it was completed")
		}
	}
	if n := s.log.errors(); n != 2 {
		t.Errorf("a person was told %d times of two slots", n)
	}
}

// A local transfer whose payee's slot moves before it arrives is refused, and becomes a saga under the same identity.
// Whichever way it was recorded, repeats are answered from that, also by those who build it the other way.
func TestTransferIsLocalOrASagaNeverBoth(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 2)
	payer, payee := users[0], users[1]
	s.create(r, 100, payer, payee)
	stale := s.another() // still thinks that they live together

	j := s.journey("s1", "s2", payee)
	j.everyone = append(j.everyone, stale.system)
	local := transfer(payer, payee, "local", 1)
	s.mustBe(r, local, 0, ledger.StatusCompleted, "", false)
	j.fence()
	answers := make(chan answer, 20)
	split := transfer(payer, payee, "split", 10)
	for i := range cap(answers) {
		router := []*routing.Router{r, stale.router}[i%2]
		go func() {
			record, _, err := router.Transfer(s.ctx, split, 0)
			answers <- answer{record: record, err: err}
		}()
	}
	j.copy()
	time.Sleep(100 * time.Millisecond)
	j.decide()
	j.activate()
	j.tombstone()
	for range cap(answers) {
		if a := <-answers; a.err != nil || a.record.Status() != ledger.StatusPending {
			t.Errorf("answered %v, %v", a.record.Status(), a.err)
		}
	}
	s.mustBe(r, local, 0, ledger.StatusCompleted, "", true)
	if n := s.askAll(`select count(*) from saldo.entries where tx_id = 'split'`); n != 1 {
		t.Errorf("%d entries", n)
	}

	// Together again, by a move of the home to the payee's shard, while the saga is under way.
	home := s.journey("s1", "s2", payer)
	home.everyone = append(home.everyone, stale.system)
	home.fence()
	home.copy()
	home.decide()
	home.activate()
	home.tombstone()
	for _, router := range []*routing.Router{r, stale.router} {
		s.mustBe(router, split, 0, ledger.StatusPending, "", true)
		s.mustBe(router, local, 0, ledger.StatusCompleted, "", true)
	}
	s.drain(stale.router, split)
	s.drain(r, split)
	for _, router := range []*routing.Router{r, stale.router} {
		s.mustBe(router, split, time.Second, ledger.StatusCompleted, "", true)
	}
	s.mustHave(r, payer, 89)
	s.mustHave(r, payee, 111)
	s.mustBeConserved()
}

// Slots move to and fro all the time, under everything that clients do, at two routers of which one has a watch that brings
// nothing. Clients see no error and wait no longer than a move takes; each transfer is done once.
func TestClientsSeeNothingOfMoves(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	ctx, stop := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	watched, deaf := s.another(handover(time.Second)), s.another(handover(time.Second))
	coordinators := []*process{s.another(), s.another()}
	for _, p := range coordinators {
		p.runs(ctx, &running, 200*time.Millisecond)
	}
	ids := []ledger.ShardID{"s1", "s2", "s3"}
	groups := [][]ledger.UserID{s.usersOn("s1", 4), s.usersOn("s2", 4), s.usersOn("s3", 4)} // each goes together
	users := slices.Concat(groups...)
	s.create(watched.router, 10_000, users...)

	var (
		mu      sync.Mutex
		told    = map[ledger.Identity]ledger.TransferRecord{}
		wanted  = map[ledger.Identity]ledger.Operation{}
		longest time.Duration
		calls   = map[string]int{}
	)
	hear := func(record ledger.TransferRecord, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("%v: %v", record.Identity, err)
			return
		}
		before, known := told[record.Identity]
		if known && (before.Outcome != record.Outcome ||
			before.Status() != ledger.StatusPending && record.Status() != ledger.StatusPending && before.Status() != record.Status()) {
			t.Errorf("%v was told %s %+v and then %s %+v", record.Identity, before.Status(), before.Outcome, record.Status(), record.Outcome)
		}
		if !known || before.Status() == ledger.StatusPending {
			told[record.Identity] = record
		}
	}
	end := time.Now().Add(4 * time.Second)
	var (
		moves   int
		slowest time.Duration // move, from its fence to the new owner
		over    atomic.Bool
	)
	running.Go(func() {
		rng := rand.New(rand.NewPCG(7, 7))
		at := []int{0, 1, 2}
		defer over.Store(true)
		for time.Now().Before(end) || moves < 6 && s.ctx.Err() == nil {
			group := rng.IntN(len(groups))
			from := at[group]
			to := (from + 1 + rng.IntN(2)) % 3
			j := s.journey(ids[from], ids[to], groups[group]...)
			j.everyone = append(j.everyone, watched.system, deaf.system, coordinators[0].system, coordinators[1].system)
			j.watched = []*system{watched.system, coordinators[0].system}
			fenced := time.Now()
			j.fence()
			if rng.IntN(5) == 0 {
				time.Sleep(30 * time.Millisecond)
				j.unfence()
				continue
			}
			j.copy()
			j.decide()
			time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
			j.activate()
			slowest = max(slowest, time.Since(fenced))
			time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
			j.tombstone()
			at[group] = to
			moves++
			time.Sleep(50 * time.Millisecond)
		}
	})
	var clients sync.WaitGroup
	for client := range 16 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(5, uint64(client)))
			var mine []ledger.Operation
			for i := 0; !over.Load(); i++ {
				r := []*process{watched, deaf}[rng.IntN(2)].router
				from, to := users[rng.IntN(len(users))], users[rng.IntN(len(users))]
				op := transfer(from, to, ledger.TxID(fmt.Sprintf("c%d.%d", client, i)), ledger.Amount(1+rng.IntN(60)))
				if len(mine) > 0 && rng.IntN(3) == 0 {
					op = mine[rng.IntN(len(mine))]
				} else if rng.IntN(8) == 0 {
					op.Kind, op.Payee = ledger.KindAdd, ""
				}
				what := []string{"transfer", "transfer", "batch", "balance", "user", "history", "find", "find by tx_id", "create"}[rng.IntN(9)]
				if what == "transfer" || what == "batch" {
					mine = append(mine, op)
					mu.Lock()
					wanted[op.Identity] = op
					mu.Unlock()
				}
				began := time.Now()
				var err error
				wait := []time.Duration{0, 300 * time.Millisecond}[rng.IntN(2)]
				switch what {
				case "transfer":
					record, _, err := r.Transfer(s.ctx, op, wait)
					record.Identity = op.Identity
					hear(record, err)
				case "batch":
					all := []ledger.Operation{op}
					for range 5 {
						all = append(all, mine[rng.IntN(len(mine))])
					}
					for i, a := range r.TransferAll(s.ctx, all, wait) {
						a.Result.Identity = all[i].Identity
						hear(ledger.TransferRecord{Recorded: a.Result.Recorded, State: a.Result.State, Cause: a.Result.Cause}, a.Err)
					}
				case "balance":
					_, err = r.Balance(s.ctx, from, "USD")
				case "user":
					_, err = r.User(s.ctx, from)
				case "history":
					_, err = r.History(s.ctx, from, "USD", 0, 3)
				case "create":
					_, _, err = r.CreateUser(s.ctx, ledger.User{ID: from, Name: string(from)})
				default: // what was answered must be found
					if len(mine) == 0 {
						continue
					}
					id := mine[rng.IntN(len(mine))].Identity
					if what == "find" {
						var record ledger.TransferRecord
						record, err = r.Find(s.ctx, id)
						hear(record, err)
						break
					}
					_, err = r.FindByTxID(s.ctx, id.TxID)
				}
				took := time.Since(began)
				if what == "transfer" || what == "batch" {
					took -= wait
				}
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
				mu.Lock()
				calls[what]++
				longest = max(longest, took)
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	eventually(t, "all sagas end", func() bool {
		return s.askAll(`select count(*) from saldo.sagas s join saldo.slots o on o.slot = s.slot and o.state = 'owned' where s.state = 1`) == 0
	})
	stop()
	running.Wait()
	t.Logf("%d transfers, %d moves, calls %v, the longest took %v, the slowest move %v", len(wanted), moves, calls, longest, slowest)
	if len(wanted) < 50 {
		t.Error("the test is too tame")
	}
	if longest > 5*slowest+2*time.Second {
		t.Errorf("somebody waited for %v, and no move took longer than %v", longest, slowest)
	}
	final := s.finals()
	for id, op := range wanted {
		record, ok := final[id]
		if !ok || record.Transfer != op.Transfer {
			t.Errorf("%v is stored as %+v", id, record.Transfer)
			continue
		}
		before := told[id]
		if before.Outcome != record.Outcome || before.Status() != ledger.StatusPending && before.Status() != record.Status() {
			t.Errorf("%v was told %s %+v and is %s %+v", id, before.Status(), before.Outcome, record.Status(), record.Outcome)
		}
		entries := int64(0)
		if record.Status() == ledger.StatusCompleted {
			if entries = 2; op.Kind != ledger.KindTransfer {
				entries = 1
			}
		}
		if record.entries != entries {
			t.Errorf("%v is %s and has %d entries", id, record.Status(), record.entries)
		}
	}
	if len(final) != len(wanted)+len(users) {
		t.Errorf("%d transfers are stored, %d were asked for", len(final), len(wanted)+len(users))
	}
	s.mustBeSound()
	for _, p := range []*process{watched, deaf, coordinators[0], coordinators[1]} {
		if p.log.errors() > 0 {
			t.Errorf("a person was told: %s", p.log.text.String())
		}
	}
}

// Coordinators find the sagas of slots that come into sight, without looking through the whole queue: those of a slot that
// has come, and those of one whose fence was lifted. Who had them before lets them go.
func TestCoordinatorsFindSagasThatHaveMoved(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	r := s.router()
	payers, payee := s.usersOn("s1", 2), s.usersOn("s3", 1)[0]
	s.create(r, 100, append(payers, payee)...)
	var goes, stays []ledger.Operation
	for i := range 5 {
		goes = append(goes, transfer(payers[0], payee, ledger.TxID(fmt.Sprint("goes", i)), 1))
		stays = append(stays, transfer(payers[1], payee, ledger.TxID(fmt.Sprint("stays", i)), 1))
	}
	for _, op := range append(goes, stays...) {
		s.mustBe(r, op, 0, ledger.StatusPending, "", false)
	}
	coordinator := s.another()
	var down atomic.Bool
	down.Store(true)
	coordinator.spies["s3"].before(func(op ledger.Operation) error {
		if down.Load() {
			return ledger.Unavailable("down", errLost)
		}
		return nil
	})
	j, fence := s.journey("s1", "s2", payers[0]), s.journey("s1", "s2", payers[1])
	fence.fence()
	ctx, stop := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	coordinator.runsWith(ctx, &running, saga.Config{
		Handover: -1, Poll: 20 * time.Millisecond, Sweep: time.Hour, MaxPause: 100 * time.Millisecond, OldAge: 3 * time.Second,
	})
	eventually(t, "the first home has them", func() bool { return coordinator.spies["s3"].submits.Load() >= 10 })
	j.everyone, j.watched = append(j.everyone, coordinator.system), []*system{coordinator.system}
	j.fence()
	j.copy()
	j.decide()
	j.activate()
	j.tombstone()
	down.Store(false)
	ended := func(ops []ledger.Operation) func() bool {
		return func() bool {
			for _, op := range ops {
				if found, err := r.Find(s.ctx, op.Identity); err != nil || found.Status() != ledger.StatusCompleted {
					return false
				}
			}
			return true
		}
	}
	eventually(t, "those that have moved end", ended(goes))
	fence.unfence()
	eventually(t, "those that were fenced end", ended(stays))
	if coordinator.log.errors() > 0 {
		t.Errorf("a person was told: %s", coordinator.log.text.String())
	}
	s.mustBeConserved()
}

// The registry is away and a slot has moved: its users are told to come again, soon; others notice nothing.
func TestMovedWhileTheRegistryHangs(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router(fenceWait(300 * time.Millisecond))
	users := s.usersOn("s1", 3)
	s.create(r, 100, users...)
	s.move(users[0], "s2")
	s.set(func() { s.slow, s.away = long, errors.New("etcd is away") })
	began := time.Now()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			_, _, err := r.Transfer(s.ctx, transfer(users[0], users[1], "t", 1), 0)
			if ledger.CodeOf(err) != ledger.CodeUnavailable {
				t.Errorf("the error is %v", err)
			}
		})
	}
	s.mustBe(r, transfer(users[1], users[2], "t", 1), 0, ledger.StatusCompleted, "", false)
	if took := time.Since(began); took > 250*time.Millisecond {
		t.Logf("others took %v", took)
	}
	group.Wait()
	if took := time.Since(began); took > long/2 {
		t.Errorf("it took %v", took)
	}
}
