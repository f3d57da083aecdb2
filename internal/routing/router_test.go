package routing_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
)

func TestRepeatIsAnsweredFromTheStartWhereverItsEndsLive(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 2)
	payer, payee := users[0], users[1]
	s.create(r, 100, payer, payee)

	local := transfer(payer, payee, "local", 10)
	first := s.mustBe(r, local, time.Second, ledger.StatusCompleted, "", false)
	refused := transfer(payer, payee, "refused", 1000)
	s.mustBe(r, refused, time.Second, ledger.StatusRefused, ledger.InsufficientFunds, false)

	s.move(payee, "s2") // what was local is now split
	again := s.mustBe(r, local, time.Second, ledger.StatusCompleted, "", true)
	if again.Outcome != first.Outcome || again.State != 0 {
		t.Errorf("the repeat is answered %+v, the first was %+v", again, first)
	}
	s.mustBe(r, refused, time.Second, ledger.StatusRefused, ledger.InsufficientFunds, true)
	other := local
	other.Amount++
	_, _, err := r.Transfer(s.ctx, other, 0)
	mustFail(t, err, ledger.CodeConflict)

	split := transfer(payer, payee, "split", 10)
	s.mustBe(r, split, 0, ledger.StatusPending, "", false)
	pending := transfer(payer, payee, "pending", 10)
	s.mustBe(r, pending, 0, ledger.StatusPending, "", false)
	s.drain(r, split)

	s.move(payee, "s1") // and together again
	s.mustBe(r, split, time.Second, ledger.StatusCompleted, "", true)
	s.mustBe(r, pending, 0, ledger.StatusPending, "", true)
	s.mustBe(r, local, 0, ledger.StatusCompleted, "", true)
	s.drain(r, pending) // on one shard by now
	s.drain(r, split)   // a late twin
	s.mustBe(r, pending, 0, ledger.StatusCompleted, "", true)

	s.move(payer, "s2") // the home goes as well, with what it knows
	for _, op := range []ledger.Operation{local, split, pending} {
		s.mustBe(r, op, 0, ledger.StatusCompleted, "", true)
	}
	s.drain(r, pending)
	s.mustHave(r, payer, 70)
	s.mustHave(r, payee, 130)
	s.mustBeConserved()
}

func TestStaleMapIsRefreshedOnceForAll(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]ledger.ShardID{"moved": "s2", "epoch old": "s1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 2)
			r := s.router()
			payer := s.usersOn("s1", 1)[0]
			s.create(r, 0, payer)
			s.move(payer, "s2")
			if to == "s1" {
				s.move(payer, "s1")
			}
			s.set(func() { s.slow = 200 * time.Millisecond })
			s.spies["s1"].before(func(op ledger.Operation) error {
				if op.TxID == "0" { // is refused when the others have a new map already
					time.Sleep(800 * time.Millisecond)
				}
				return nil
			})
			const n = 200
			var group sync.WaitGroup
			for i := range n {
				group.Go(func() {
					op := ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
						Identity: ledger.Identity{Initiator: payer, TxID: ledger.TxID(fmt.Sprint(i))}, Kind: ledger.KindAdd, Amount: 1, Currency: "USD",
					}}
					if _, replayed, err := r.Transfer(s.ctx, op, 0); err != nil || replayed {
						t.Errorf("replayed %v, %v", replayed, err)
					}
				})
			}
			group.Wait()
			if n := s.readsOfRegistry(); n != 1 {
				t.Errorf("the registry was read %d times", n)
			}
			s.mustHave(r, payer, n)
			if n := s.spies["s1"].submits.Load(); to == "s2" && n > 200 {
				t.Errorf("the old shard was asked %d times", n)
			}
		})
	}
}

// Reads follow the user as well.
func TestReadsFollowTheUser(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 4)
	s.create(r, 5, users...)
	for i, read := range []func(user ledger.UserID) error{
		func(user ledger.UserID) error { _, err := r.Balance(s.ctx, user, "USD"); return err },
		func(user ledger.UserID) error { _, err := r.User(s.ctx, user); return err },
		func(user ledger.UserID) error { _, err := r.History(s.ctx, user, "USD", 0, 10); return err },
		func(user ledger.UserID) error {
			_, err := r.Find(s.ctx, ledger.Identity{Initiator: user, TxID: "initial"})
			return err
		},
	} {
		s.move(users[i], "s2")
		if err := read(users[i]); err != nil {
			t.Errorf("read %d: %v", i, err)
		}
	}
	s.move(users[0], "s1")
	if err := s.createAgain(r, users[0]); err != nil {
		t.Error(err)
	}
}

func (s *system) createAgain(r *routing.Router, user ledger.UserID) error {
	_, created, err := r.CreateUser(s.ctx, ledger.User{ID: user, Name: string(user)})
	if created {
		return errors.New("created twice")
	}
	return err
}

// fenceWait is short, for tests.
func fenceWait(wait time.Duration) func(*routing.Config) {
	return func(c *routing.Config) { c.FenceWait = wait }
}

func TestFencedSlotIsWaitedFor(t *testing.T) {
	t.Parallel()
	fence := `update saldo.slots set state = 'fenced' where slot = $1`
	for _, test := range []struct {
		name    string
		prepare func(s *system, user ledger.UserID)
		after   func(s *system, user ledger.UserID) // a while later; nil: it stays fenced
	}{
		{
			name: "for ever",
		}, {
			name:    "for ever, and the registry does not answer",
			prepare: func(s *system, _ ledger.UserID) { s.set(func() { s.slow = 2 * long }) },
		}, {
			name:    "for ever, and the registry is away",
			prepare: func(s *system, _ ledger.UserID) { s.set(func() { s.away = errors.New("etcd is away") }) },
		}, {
			name: "until it is released",
			after: func(s *system, user ledger.UserID) {
				s.sql("s1", `update saldo.slots set state = 'owned' where slot = $1`, placement.SlotOf(user))
			},
		}, {
			name:    "until it is released, and the registry does not answer",
			prepare: func(s *system, _ ledger.UserID) { s.set(func() { s.slow = 2 * long }) },
			after: func(s *system, user ledger.UserID) {
				s.sql("s1", `update saldo.slots set state = 'owned' where slot = $1`, placement.SlotOf(user))
			},
		}, {
			name:  "until it has moved",
			after: func(s *system, user ledger.UserID) { s.move(user, "s2") },
		}, {
			name: "until the move is aborted",
			after: func(s *system, user ledger.UserID) {
				slot := placement.SlotOf(user)
				s.sql("s1", `update saldo.slots set state = 'owned', epoch = epoch + 1 where slot = $1`, slot)
				m := s.changed(map[ledger.Slot]ledger.ShardID{slot: "s1"})
				time.Sleep(50 * time.Millisecond) // the shard knows it before the registry's readers do
				s.set(func() { s.truth = m })
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 2)
			least, code := 1500*time.Millisecond, ledger.CodeUnavailable
			r := s.router(fenceWait(least))
			if test.after != nil {
				least, code, r = 900*time.Millisecond, "", s.router()
			}
			users := s.usersOn("s1", 2)
			s.create(r, 100, users...)
			s.sql("s1", fence, placement.SlotOf(users[1]))
			if test.prepare != nil {
				test.prepare(s, users[1])
			}
			type answer struct {
				err  error
				took time.Duration
			}
			began := time.Now()
			answers := make(chan answer, 3)
			go func() { // the payee is fenced
				_, _, err := r.Transfer(s.ctx, transfer(users[0], users[1], "t1", 1), 0)
				answers <- answer{err, time.Since(began)}
			}()
			go func() { // the payer is
				_, _, err := r.Transfer(s.ctx, transfer(users[1], users[0], "t2", 1), 0)
				answers <- answer{err, time.Since(began)}
			}()
			go func() {
				_, err := r.Balance(s.ctx, users[1], "USD")
				answers <- answer{err, time.Since(began)}
			}()
			s.mustBe(r, transfer(users[0], s.usersOn("s1", 3)[2], "free", 1), 0, ledger.StatusRefused, ledger.PayeeNotFound, false)
			if test.after != nil {
				time.Sleep(time.Until(began.Add(least)))
				test.after(s, users[1])
			}
			for range 3 {
				a := <-answers
				if ledger.CodeOf(a.err) != code {
					t.Errorf("the error is %v", a.err)
				}
				if a.took < least || a.took > least+long/2 {
					t.Errorf("it took %v", a.took)
				}
			}
			if s.log.errors() > 0 {
				t.Error("a person was told")
			}
		})
	}
}

// Nothing is tried again when the shard is behind the map.
func TestShardBehindTheMapIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	user := s.usersOn("s1", 1)[0]
	s.create(r, 100, user)
	m := s.changed(map[ledger.Slot]ledger.ShardID{placement.SlotOf(user): "s1"}) // epoch 2; the shard has 1
	s.set(func() { s.seen, s.truth = m, m })
	before := s.spies["s1"].submits.Load()
	_, _, err := r.Transfer(s.ctx, transfer(user, "x", "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	if n := s.spies["s1"].submits.Load() - before; n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	if s.readsOfRegistry() != 0 || s.log.errors() != 1 {
		t.Errorf("%d reads of the registry, %d errors logged", s.readsOfRegistry(), s.log.errors())
	}
	if n := s.askAll(`select count(*) from saldo.operations where tx_id = 't'`); n != 0 {
		t.Error("it was recorded")
	}
}

func TestStrangerBehindTheAddress(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	user := s.usersOn("s2", 1)[0]
	s.create(r, 100, user)
	s.openAt("s2", s.dsns["s1"])
	_, _, err := r.Transfer(s.ctx, transfer(user, "x", "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	_, err = r.Balance(s.ctx, user, "USD")
	mustFail(t, err, ledger.CodeUnavailable)
	_, err = r.FindByTxID(s.ctx, "t")
	mustFail(t, err, ledger.CodeUnavailable)
	if s.log.errors() != 1 {
		t.Errorf("a person was told %d times of one stranger", s.log.errors())
	}
	if n := s.spies["s2"].submits.Load(); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	if n := s.askAll(`select count(*) from saldo.operations where tx_id = 't'`); n != 0 {
		t.Error("it was recorded")
	}
}

func TestWithoutAShardNothingIsRecorded(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router(fenceWait(200 * time.Millisecond))
	payer, payee := s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
	s.create(r, 100, payer, payee)

	s.set(func() { delete(s.open, "s2") })
	_, _, err := r.Transfer(s.ctx, transfer(payee, payer, "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	_, err = r.FindByTxID(s.ctx, "t")
	mustFail(t, err, ledger.CodeUnavailable)
	// The payee's shard is not needed for the start.
	s.mustBe(r, transfer(payer, payee, "saga", 1), 0, ledger.StatusPending, "", false)

	m := s.changed(map[ledger.Slot]ledger.ShardID{placement.SlotOf(payer): "-"})
	s.set(func() { s.seen, s.truth = m, m })
	_, _, err = r.Transfer(s.ctx, transfer(payer, payee, "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	_, err = r.Balance(s.ctx, payer, "USD")
	mustFail(t, err, ledger.CodeUnavailable)
	if id := r.ShardOf(payer); id != "" {
		t.Errorf("the payer lives on %q", id)
	}
}

// The cluster's registry is away: with the right map all goes on; with a wrong one certainly nothing was recorded.
func TestRegistryIsAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 2)
	s.create(r, 100, users...)
	s.move(users[0], "s2")
	s.set(func() { s.away = errors.New("etcd is away") })
	s.mustBe(r, transfer(users[1], s.usersOn("s2", 1)[0], "t", 1), 0, ledger.StatusPending, "", false)
	_, _, err := r.Transfer(s.ctx, transfer(users[0], users[1], "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	s.set(func() { s.away = nil })
	s.mustBe(r, transfer(users[0], users[1], "t", 1), 0, ledger.StatusPending, "", false)
}

func TestMapThatNeverFits(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router(func(c *routing.Config) { c.Reroutes = 3 })
	user := s.usersOn("s1", 1)[0]
	s.create(r, 100, user)
	s.sql("s1", `delete from saldo.slots where slot = $1`, placement.SlotOf(user))
	before := s.spies["s1"].submits.Load()
	_, _, err := r.Transfer(s.ctx, transfer(user, "x", "t", 1), 0)
	mustFail(t, err, ledger.CodeUnavailable)
	if n := s.spies["s1"].submits.Load() - before; n != 4 {
		t.Errorf("it was tried %d times, not once and 3 times more", n)
	}
}

// An outcome that is not known stays so, whatever else an error says.
func TestUnknownStaysUnknown(t *testing.T) {
	t.Parallel()
	refused := &placement.OwnershipError{Refusals: []placement.Refusal{{Answer: placement.Moved}}}
	ahead := &placement.OwnershipError{Refusals: []placement.Refusal{{Answer: placement.EpochAhead}}}
	fenced := &placement.OwnershipError{Refusals: []placement.Refusal{{Answer: placement.Fenced}}}
	for name, cause := range map[string]error{
		"plain": errLost, "then moved": refused, "then ahead": ahead, "then fenced": fenced, "then a stranger": &placement.StrangerError{Message: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, 2)
			r := s.router()
			payer, payee := s.usersOn("s1", 1)[0], s.usersOn("s2", 1)[0]
			s.create(r, 100, payer, payee)
			before := s.spies["s1"].submits.Load()
			s.spies["s1"].before(func(ledger.Operation) error { return ledger.Unknown(cause) })
			_, _, err := r.Transfer(s.ctx, transfer(payer, payee, "t", 1), time.Second)
			mustFail(t, err, ledger.CodeUnknown)
			if n := s.spies["s1"].submits.Load() - before; n != 1 {
				t.Errorf("it was tried %d times", n)
			}
			s.spies["s1"].before(nil)
			s.mustBe(r, transfer(payer, payee, "t", 1), 0, ledger.StatusPending, "", false)
		})
	}
}

var errLost = errors.New("lost")

func TestReasonsAreTheSameTogetherAndApart(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	here, there := s.usersOn("s1", 5), s.usersOn("s2", 5)
	payer, together, apart := here[0], here[1], there[1]
	s.create(r, 100, payer)
	s.create(r, ledger.MaxAmount, together, apart)
	for i, test := range []struct {
		from     ledger.UserID
		to       [2]ledger.UserID // together, apart
		amount   ledger.Amount
		why      ledger.Reason
		refunded bool // where they live apart, and it is the payee's shard that refuses
	}{
		{from: here[4], to: [2]ledger.UserID{together, apart}, amount: 1, why: ledger.UserNotFound},
		{from: here[4], to: [2]ledger.UserID{here[3], there[3]}, amount: 1, why: ledger.UserNotFound},
		{from: payer, to: [2]ledger.UserID{here[3], there[3]}, amount: 1, why: ledger.PayeeNotFound, refunded: true},
		{from: payer, to: [2]ledger.UserID{here[3], there[3]}, amount: 101, why: ledger.InsufficientFunds},
		{from: payer, to: [2]ledger.UserID{together, apart}, amount: 101, why: ledger.InsufficientFunds},
		{from: payer, to: [2]ledger.UserID{together, apart}, amount: 1, why: ledger.BalanceLimit, refunded: true},
	} {
		for j, to := range test.to {
			op := transfer(test.from, to, ledger.TxID(fmt.Sprintf("t%d.%d", i, j)), test.amount)
			status := ledger.StatusRefused
			replayed := false
			if j == 1 && test.refunded {
				s.mustBe(r, op, 0, ledger.StatusPending, "", false)
				s.drain(r, op)
				status, replayed = ledger.StatusRefunded, true
			}
			s.mustBe(r, op, time.Second, status, test.why, replayed)
			s.mustBe(r, op, 0, status, test.why, true)
			found, err := r.Find(s.ctx, op.Identity)
			if err != nil || found.Status() != status || found.WhyNot() != test.why {
				t.Errorf("found %v, %v", found, err)
			}
		}
	}
	// Oneself is told apart by neither.
	self := transfer(payer, payer, "self", 1)
	s.mustBe(r, self, time.Second, ledger.StatusRefused, ledger.SameAccount, false)
	s.mustBe(r, self, time.Second, ledger.StatusRefused, ledger.SameAccount, true)
	s.mustHave(r, payer, 100)
	s.mustBeConserved()
}

func TestFindByTxID(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	r := s.router()
	one, two, three := s.usersOn("s1", 2), s.usersOn("s2", 1)[0], s.usersOn("s3", 1)[0]
	s.create(r, 100, one[0], one[1], two, three)
	s.mustBe(r, transfer(one[0], one[1], "single", 1), 0, ledger.StatusCompleted, "", false)
	s.mustBe(r, transfer(one[0], one[1], "twice", 1), 0, ledger.StatusCompleted, "", false)
	s.mustBe(r, transfer(three, two, "twice", 1), 0, ledger.StatusPending, "", false)
	s.mustBe(r, transfer(one[0], one[1], "near", 1), 0, ledger.StatusCompleted, "", false)
	s.mustBe(r, transfer(one[1], one[0], "near", 1), 0, ledger.StatusCompleted, "", false)

	if found, err := r.FindByTxID(s.ctx, "single"); err != nil || found.Initiator != one[0] || found.Status() != ledger.StatusCompleted {
		t.Errorf("found %v, %v", found, err)
	}
	for tx, code := range map[ledger.TxID]ledger.Code{"none": ledger.CodeTransferNotFound, "twice": ledger.CodeAmbiguous, "near": ledger.CodeAmbiguous} {
		_, err := r.FindByTxID(s.ctx, tx)
		mustFail(t, err, code)
	}
	if n := s.readsOfRegistry(); n != 0 {
		t.Errorf("the registry was read %d times with a good map", n)
	}

	s.move(one[0], "s2") // the old shard keeps a copy
	found, err := r.FindByTxID(s.ctx, "single")
	if err != nil || found.Initiator != one[0] {
		t.Errorf("with a stale map: found %v, %v", found, err)
	}
	_, err = r.FindByTxID(s.ctx, "none")
	mustFail(t, err, ledger.CodeTransferNotFound)
	if n := s.readsOfRegistry(); n != 1 {
		t.Errorf("the registry was read %d times", n)
	}

	// One shard is down: what could be there is not known.
	down := s.openAt("s3", s.dsns["s3"])
	down.Close()
	for tx, code := range map[ledger.TxID]ledger.Code{
		"none": ledger.CodeUnavailable, "single": ledger.CodeUnavailable, "near": ledger.CodeAmbiguous,
	} {
		_, err := r.FindByTxID(s.ctx, tx)
		mustFail(t, err, code)
	}
	if n := s.spies["s1"].asked.Load(); n > 20 {
		t.Errorf("a shard was asked %d times", n)
	}
}

// A slot that moves somewhere pauses a question to all shards no longer than the move takes.
func TestFindByTxIDWaitsForAFence(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r, patient := s.router(fenceWait(300*time.Millisecond)), s.router()
	user := s.usersOn("s1", 1)[0]
	s.create(r, 100, user)
	s.sql("s1", `update saldo.slots set state = 'fenced' where slot = $1`, placement.SlotOf(user))
	_, err := r.FindByTxID(s.ctx, "initial")
	mustFail(t, err, ledger.CodeUnavailable)
	found := make(chan error, 1)
	go func() {
		_, err := patient.FindByTxID(s.ctx, "initial")
		found <- err
	}()
	time.Sleep(300 * time.Millisecond)
	s.sql("s1", `update saldo.slots set state = 'owned' where slot = $1`, placement.SlotOf(user))
	if err := <-found; err != nil {
		t.Error(err)
	}
}

// The contexts of callers end.
func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	user := s.usersOn("s1", 1)[0]
	s.create(r, 100, user)
	s.sql("s1", `update saldo.slots set state = 'fenced' where slot = $1`, placement.SlotOf(user))
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, _, err := r.Transfer(ctx, transfer(user, "x", "t", 1), 0)
	if code := ledger.CodeOf(err); code != ledger.CodeUnavailable && code != ledger.CodeUnknown {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(began); took > long/2 {
		t.Errorf("it took %v", took)
	}
}
