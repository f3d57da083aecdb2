package routing_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
)

// brief is an answer in a few words, as in "COMPLETED", "REFUSED insufficient_funds again" or "unavailable".
func brief(a ledger.Answer) string {
	if a.Err != nil {
		if code := ledger.CodeOf(a.Err); code != "" {
			return string(code)
		}
		return a.Err.Error()
	}
	record := ledger.TransferRecord{Recorded: a.Result.Recorded, State: a.Result.State, Cause: a.Result.Cause}
	words := []string{string(record.Status())}
	if why := record.WhyNot(); why != ledger.Applied {
		words = append(words, string(why))
	}
	if a.Result.Replayed {
		words = append(words, "again")
	}
	return strings.Join(words, " ")
}

// step is one transfer of a batch and what it must be answered.
type step struct {
	op   ledger.Operation
	want string
}

// mustAnswer does the steps as one batch.
func (s *system) mustAnswer(r *routing.Router, wait time.Duration, steps ...step) []ledger.Answer {
	s.t.Helper()
	starts := make([]ledger.Operation, len(steps))
	for i, step := range steps {
		starts[i] = step.op
	}
	answers := r.TransferAll(s.ctx, starts, wait)
	if len(answers) != len(steps) {
		s.t.Fatalf("%d answers to %d transfers", len(answers), len(steps))
	}
	for i, step := range steps {
		if got := brief(answers[i]); got != step.want {
			s.t.Errorf("%d: transfer %v is answered %q, not %q: %v", i, step.op.Identity, got, step.want, answers[i].Err)
		}
		if answers[i].Err == nil && answers[i].Result.Transfer != step.op.Transfer {
			s.t.Errorf("%d: transfer %v is answered with %v", i, step.op.Transfer, answers[i].Result.Transfer)
		}
	}
	return answers
}

func TestBatchAnswersEach(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	r := s.router()
	a, b, c := s.usersOn("s1", 3), s.usersOn("s2", 2), s.usersOn("s3", 2)
	s.create(r, 100, a[0], a[1], b[0], c[0])
	s.mustBe(r, transfer(a[0], a[1], "before", 5), 0, ledger.StatusCompleted, "", false)

	first := transfer(a[0], a[1], "twice", 10)
	answers := s.mustAnswer(r, 0,
		step{first, "COMPLETED"},
		step{transfer(b[0], c[0], "1", 10), "PENDING"},
		step{transfer(a[0], b[0], "2", 10), "PENDING"},
		step{transfer(c[0], a[0], "3", 101), "REFUSED insufficient_funds"},
		step{transfer(a[0], a[1], "before", 5), "COMPLETED again"},
		step{first, "COMPLETED again"},
		step{transfer(a[0], a[1], "twice", 11), "transaction_id_conflict"},
		step{transfer(a[0], b[0], "twice", 10), "transaction_id_conflict"},
		step{transfer(a[0], b[0], "2", 10), "PENDING again"},
		step{transfer(a[1], c[0], "twice", 11), "PENDING"},
		step{transfer(a[2], a[0], "4", 1), "REFUSED user_not_found"},
		step{transfer(a[0], a[2], "5", 1), "REFUSED payee_not_found"},
		step{transfer(a[0], a[0], "6", 1), "REFUSED same_account"},
		step{transfer(a[0], c[0], "7", 76), "REFUSED insufficient_funds"},
		step{transfer(a[0], c[0], "8", 75), "PENDING"},
	)
	if answers[0].Result.Outcome != answers[5].Result.Outcome {
		t.Errorf("the first is answered %+v, its repeat %+v", answers[0].Result, answers[5].Result)
	}
	for id, n := range map[ledger.ShardID]int64{"s1": 2, "s2": 1, "s3": 1} { // the repeats in a second one
		if got := s.spies[id].batches.Load(); got != n {
			t.Errorf("%s got %d batches", id, got)
		}
	}
	for _, op := range []ledger.Operation{
		transfer(b[0], c[0], "1", 10), transfer(a[0], b[0], "2", 10), transfer(a[0], c[0], "8", 75), transfer(a[1], c[0], "twice", 11),
	} {
		s.drain(r, op)
	}
	s.mustHave(r, a[0], 0)
	s.mustHave(r, a[1], 104)
	s.mustHave(r, b[0], 100)
	s.mustHave(r, c[0], 196)
	s.mustBeConserved()
	if len(r.TransferAll(s.ctx, nil, time.Second)) != 0 {
		t.Error("no transfers have answers")
	}
}

// The transfers of one payer are done in the order of the list, however many there are and whatever else is done.
func TestBatchKeepsTheOrderOfAPayer(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	payers, payees := s.usersOn("s1", 8), s.usersOn("s2", 4)
	s.create(r, 400, payers...)
	s.create(r, 0, payees...)
	var batches sync.WaitGroup
	for n := range 4 {
		batches.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(n)))
			starts := make([]ledger.Operation, 1000)
			for i := range starts {
				to := payees[rng.IntN(len(payees))]
				if rng.IntN(2) == 0 {
					to = payers[rng.IntN(len(payers))]
				}
				starts[i] = transfer(payers[rng.IntN(len(payers))], to, ledger.TxID(fmt.Sprintf("%d.%d", n, i)), 1)
			}
			last := map[ledger.UserID]int64{}
			for i, answer := range r.TransferAll(s.ctx, starts, 0) {
				if answer.Err != nil {
					t.Errorf("%v: %v", starts[i].Identity, answer.Err)
				}
				if answer.Result.Reason != ledger.Applied {
					continue
				}
				if payer := starts[i].Initiator; answer.Result.Version <= last[payer] {
					t.Errorf("%v made entry %d, after %d", starts[i].Identity, answer.Result.Version, last[payer])
				} else {
					last[payer] = answer.Result.Version
				}
			}
		})
	}
	batches.Wait()
}

func TestBatchWaitsOnceForAll(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	const wait, every = 6 * time.Second, time.Second // far longer than it takes a busy machine to drain a hundred sagas at once
	r := s.router(poll(every))
	a, b, c := s.usersOn("s1", 1)[0], s.usersOn("s2", 2), s.usersOn("s3", 1)[0]
	s.create(r, 1000, a, b[0], c)
	var starts []ledger.Operation
	for i := range 100 {
		starts = append(starts, transfer([]ledger.UserID{a, b[0], c}[i%3], []ledger.UserID{b[0], c, a}[i%3], ledger.TxID(fmt.Sprint(i)), 1))
	}
	local, gone, never := transfer(b[0], b[1], "local", 1), transfer(a, b[1], "gone", 1), transfer(c, a, "never", 1)
	starts = append(starts, local, gone, never, starts[0])
	answers := make(chan []ledger.Answer)
	began := time.Now()
	go func() { answers <- r.TransferAll(s.ctx, starts, wait) }()
	eventually(t, "all are debited", func() bool { return s.askAll(`select count(*) from saldo.sagas`) == 102 })
	s.drainAll(r, append(starts[:100:100], gone))
	got := <-answers
	took := time.Since(began)
	if took < wait || took > 2*wait { // one after the other they would be waited for 100 times as long
		t.Errorf("one saga did not end, and it took %v", took)
	}
	for i, answer := range got {
		want := "COMPLETED"
		switch starts[i].TxID {
		case "local":
			want = "REFUSED payee_not_found"
		case "gone":
			want = "REFUNDED payee_not_found"
		case "never":
			want = "PENDING"
		}
		if i == len(got)-1 {
			want += " again"
		}
		if text := brief(answer); text != want {
			t.Errorf("%v is answered %q, not %q", starts[i].Identity, text, want)
		}
	}
	for id, spy := range s.spies {
		if n, polls := spy.looks.Load(), int64(took/every)+2; n > polls {
			t.Errorf("%s was asked %d times at %d polls", id, n, polls)
		}
	}
	s.drain(r, never)
	s.mustAnswer(r, time.Minute, step{never, "COMPLETED again"}, step{gone, "REFUNDED payee_not_found again"})
}

// Sagas that ended before anybody waited for them.
func TestBatchFindsWhatHasEnded(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router()
	op := transfer(payer, payee, "t", 1)
	s.spies["s2"].before(func(ledger.Operation) error { // the other shard takes its time
		for _, err := r.Find(s.ctx, op.Identity); err != nil; _, err = r.Find(s.ctx, op.Identity) {
			time.Sleep(time.Millisecond)
		}
		s.spies["s2"].before(nil)
		s.drain(r, op)
		return nil
	})
	s.mustAnswer(r, long, step{op, "COMPLETED"}, step{transfer(payee, s.usersOn("s2", 2)[1], "other", 1), "REFUSED payee_not_found"})
}

func TestBatchEndsWithItsCallerOrRouter(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router(poll(never))
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	answers := r.TransferAll(ctx, []ledger.Operation{transfer(payer, payee, "1", 1), transfer(payer, payee, "2", 1)}, never)
	if brief(answers[0]) != "PENDING" || brief(answers[1]) != "PENDING" {
		t.Errorf("answered %v", answers)
	}
	time.AfterFunc(300*time.Millisecond, r.Close)
	began := time.Now()
	s.mustAnswer(r, never, step{transfer(payer, payee, "3", 1), "PENDING"})
	s.mustAnswer(r, never, step{transfer(payer, payee, "4", 1), "PENDING"})
	if took := time.Since(began); took > long {
		t.Errorf("it took %v", took)
	}
}

func TestBatchFollowsTheMap(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	users := s.usersOn("s1", 6)
	payer, stays, goes, leaves, back := users[0], users[1], users[2], users[3], users[4]
	s.create(r, 100, payer, stays, goes, leaves, back)
	s.move(goes, "s2")
	s.move(leaves, "s2")
	s.move(back, "s2")
	s.move(back, "s1")
	split := transfer(payer, goes, "split", 1)
	s.mustAnswer(r, 0,
		step{split, "PENDING"},
		step{transfer(payer, stays, "split", 1), "transaction_id_conflict"}, // though it could be done at once
		step{transfer(payer, stays, "together", 1), "COMPLETED"},
		step{transfer(leaves, payer, "1", 90), "PENDING"},
		step{transfer(leaves, goes, "2", 20), "REFUSED insufficient_funds"},
		step{transfer(leaves, goes, "3", 10), "COMPLETED"},
		step{transfer(back, payer, "4", 1), "COMPLETED"},
		step{split, "PENDING again"},
	)
	if n := s.readsOfRegistry(); n != 1 {
		t.Errorf("the registry was read %d times", n)
	}
	s.drain(r, split)
	s.drain(r, transfer(leaves, payer, "1", 90))
	s.mustHave(r, payer, 189)
	s.mustHave(r, goes, 111)
	s.mustBeConserved()
	if s.log.errors() > 0 {
		t.Error("a person was told")
	}
}

// What is sent again keeps its order, for whatever reasons it was refused.
func TestBatchIsSentAgainInItsOrder(t *testing.T) {
	t.Parallel()
	s, payer, payee := pair(t)
	r := s.router()
	var once sync.Map
	s.spies["s1"].before(func(op ledger.Operation) error {
		if _, again := once.LoadOrStore(op.TxID, true); again || op.TxID == "3" {
			return nil
		}
		answer := map[ledger.TxID]placement.Answer{"0": placement.Moved, "1": placement.Fenced, "2": placement.EpochOld, "4": placement.Fenced, "5": placement.Moved}[op.TxID]
		return &placement.OwnershipError{Refusals: []placement.Refusal{{Answer: answer}}}
	})
	var starts []ledger.Operation
	for i := range 6 {
		starts = append(starts, transfer(payer, payee, ledger.TxID(fmt.Sprint(i)), 1))
	}
	answers := r.TransferAll(s.ctx, starts, 0)
	for i, version := range []int64{3, 4, 5, 2, 6, 7} {
		if answers[i].Err != nil || answers[i].Result.Version != version {
			t.Errorf("transfer %d made entry %d, not %d: %v", i, answers[i].Result.Version, version, answers[i].Err)
		}
	}
}

// Each transfer that the map does not fit is answered as it would be alone, and the others are done.
func TestBatchWithSlotsInTrouble(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	const wait = 3 * time.Second
	r := s.router(fenceWait(wait), func(c *routing.Config) { c.Reroutes = 3 })
	users := s.usersOn("s1", 6)
	fine, fenced, briefly, ahead, lost, nobody := users[0], users[1], users[2], users[3], users[4], users[5]
	there := s.usersOn("s2", 1)[0]
	s.create(r, 100, append(users, there)...)
	for _, user := range []ledger.UserID{fenced, briefly} {
		s.sql("s1", `update saldo.slots set state = 'fenced' where slot = $1`, placement.SlotOf(user))
	}
	s.sql("s1", `delete from saldo.slots where slot = $1`, placement.SlotOf(lost))
	m := s.changed(map[ledger.Slot]ledger.ShardID{placement.SlotOf(ahead): "s1", placement.SlotOf(nobody): "-"})
	s.set(func() { s.seen, s.truth = m, m })
	time.AfterFunc(400*time.Millisecond, func() {
		s.sql("s1", `update saldo.slots set state = 'owned' where slot = $1`, placement.SlotOf(briefly))
	})
	began := time.Now()
	s.mustAnswer(r, 0,
		step{transfer(fenced, fine, "1", 1), "unavailable"},
		step{transfer(fine, fenced, "1", 1), "unavailable"},
		step{transfer(fine, briefly, "2", 1), "COMPLETED"},
		step{transfer(briefly, there, "3", 1), "PENDING"},
		step{transfer(ahead, fine, "4", 1), "unavailable"},
		step{transfer(fine, ahead, "5", 1), "unavailable"},
		step{transfer(lost, fine, "6", 1), "unavailable"},
		step{transfer(nobody, fine, "7", 1), "unavailable"},
		step{transfer(fine, nobody, "8", 1), "PENDING"},
		step{transfer(fine, there, "9", 1), "PENDING"},
		step{transfer(there, fine, "10", 1), "PENDING"},
	)
	if took := time.Since(began); took < wait || took > long {
		t.Errorf("it took %v", took)
	}
	if s.log.errors() != 1 {
		t.Errorf("a person was told %d times", s.log.errors())
	}
	if n := s.askAll(`select count(*) from saldo.operations where tx_id in ('1', '4', '5', '6', '7')`); n != 0 {
		t.Errorf("%d of those that are not recorded are", n)
	}
}

func TestBatchMeetsAStranger(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	here, there := s.usersOn("s1", 2), s.usersOn("s2", 2)
	s.create(r, 100, append(here, there...)...)
	s.openAt("s2", s.dsns["s1"])
	s.mustAnswer(r, 0,
		step{transfer(there[0], there[1], "1", 1), "unavailable"},
		step{transfer(here[0], here[1], "2", 1), "COMPLETED"},
		step{transfer(there[1], here[1], "3", 1), "unavailable"},
	)
	if s.log.errors() != 1 {
		t.Errorf("a person was told %d times", s.log.errors())
	}
}

// What a shard answers to one transfer is no concern of the others.
func TestBatchTellsErrorsApart(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	here, there := s.usersOn("s1", 2), s.usersOn("s2", 1)[0]
	s.create(r, 100, append(here, there)...)
	refused := &placement.OwnershipError{Refusals: []placement.Refusal{{Answer: placement.Moved}}}
	stranger := &placement.StrangerError{Message: "x"}
	var once sync.Once
	s.spies["s1"].before(func(op ledger.Operation) (err error) {
		if op.TxID == "moved" {
			once.Do(func() { err = refused })
			return err
		}
		return map[ledger.TxID]error{
			"full": ledger.Overloaded("the shard's queue is full"), "bug": errors.New("a bug"),
			"lost": ledger.Unknown(errLost), "lost and moved": ledger.Unknown(refused),
			"elsewhere": stranger, "lost and elsewhere": ledger.Unknown(stranger), "elsewhere too": stranger,
		}[op.TxID]
	})
	s.mustAnswer(r, 0,
		step{transfer(here[0], here[1], "elsewhere", 1), "unavailable"},
		step{transfer(here[0], here[1], "lost and elsewhere", 1), "outcome_unknown"},
		step{transfer(here[0], here[1], "elsewhere too", 1), "unavailable"},
		step{transfer(here[0], here[1], "full", 1), "overloaded"},
		step{transfer(here[0], here[1], "lost", 1), "outcome_unknown"},
		step{transfer(here[0], there, "moved", 1), "PENDING"},
		step{transfer(here[0], there, "lost and moved", 1), "outcome_unknown"},
		step{transfer(here[0], there, "bug", 1), "a bug"},
		step{transfer(here[0], here[1], "fine", 1), "COMPLETED"},
		step{transfer(there, here[1], "full", 1), "PENDING"},
	)
	if n := s.spies["s1"].submits.Load(); n != 2+9+1 { // the users' money, the batch, what had moved
		t.Errorf("%d operations were submitted", n)
	}
}

// Two routers, a coordinator and three shards: batches from many clients at once, with repeats and conflicts in them, and
// one shard that is down for a while.
func TestWholeSystemWithBatches(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	ctx, stop := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	routers := []*process{s.another(handover(time.Second)), s.another(handover(time.Second))}
	s.another().runs(ctx, &running, 200*time.Millisecond)

	var users []ledger.UserID
	homes := map[ledger.UserID]ledger.ShardID{}
	for _, id := range []ledger.ShardID{"s1", "s2", "s3"} {
		for _, user := range s.usersOn(id, 5) {
			users = append(users, user)
			homes[user] = id
		}
	}
	s.create(routers[0].router, 20_000, users...)
	poor, nobody := s.usersOn("s2", 6)[5], s.usersOn("s3", 6)[5]
	s.create(routers[0].router, 0, poor)
	euros := transfer(users[0], "", "euros", 5)
	euros.Kind, euros.Currency = ledger.KindAdd, "EUR"
	s.mustBe(routers[0].router, euros, 0, ledger.StatusCompleted, "", false)

	var (
		mu     sync.Mutex
		told   = map[ledger.Identity]ledger.Answer{} // the last answer that is not an error
		wanted = map[ledger.Identity]ledger.Operation{}
		counts = map[string]int{}
	)
	hear := func(starts []ledger.Operation, answers []ledger.Answer) (failed []ledger.Operation) {
		mu.Lock()
		defer mu.Unlock()
		for i, a := range answers {
			counts[brief(a)]++
			switch code := ledger.CodeOf(a.Err); {
			case a.Err == nil && a.Result.Transfer != starts[i].Transfer:
				t.Errorf("%v is answered with %v", starts[i].Transfer, a.Result.Transfer)
			case a.Err == nil:
				before, known := told[starts[i].Identity]
				if known && before.Result.Outcome != a.Result.Outcome {
					t.Errorf("%v was told %+v and then %+v", starts[i].Identity, before.Result.Outcome, a.Result.Outcome)
				}
				told[starts[i].Identity] = a
			case code == ledger.CodeConflict:
				if starts[i].Transfer == wanted[starts[i].Identity].Transfer {
					t.Errorf("the first of %v is a conflict", starts[i].Identity)
				}
			case code == ledger.CodeUnavailable || code == ledger.CodeUnknown:
				failed = append(failed, starts[i])
			default:
				t.Errorf("%v: %v", starts[i].Identity, a.Err)
			}
		}
		return failed
	}
	draw := func(rng *rand.Rand, client, n int) []ledger.Operation {
		starts := make([]ledger.Operation, 0, 200)
		for i := range 150 {
			from, to := users[rng.IntN(len(users))], users[rng.IntN(len(users))]
			switch rng.IntN(20) {
			case 0:
				to = nobody
			case 1:
				from = poor
			}
			op := transfer(from, to, ledger.TxID(fmt.Sprintf("%d.%d.%d", client, n, i)), ledger.Amount(1+rng.IntN(60)))
			starts = append(starts, op)
			mu.Lock()
			wanted[op.Identity] = op
			mu.Unlock()
			if again := starts[rng.IntN(len(starts))]; rng.IntN(6) == 0 {
				if rng.IntN(2) == 0 {
					again.Amount++ // other contents
				}
				starts = append(starts, again)
			}
		}
		return starts
	}
	var clients sync.WaitGroup
	for client := range 6 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(2, uint64(client)))
			for n := range 6 {
				starts := draw(rng, client, n)
				router := routers[rng.IntN(2)].router
				hear(starts, router.TransferAll(s.ctx, starts, []time.Duration{0, 3 * time.Second}[rng.IntN(2)]))
				if rng.IntN(2) == 0 { // all of it again, elsewhere
					hear(starts, routers[rng.IntN(2)].router.TransferAll(s.ctx, starts, 0))
				}
			}
		})
	}
	clients.Wait()

	// One shard is down: its transfers fail, certainly or not, and the others are done.
	s.allowConnections("s3", false)
	starts := draw(rand.New(rand.NewPCG(3, 3)), 100, 0)
	answers := routers[0].router.TransferAll(s.ctx, starts, 0)
	failed := hear(starts, answers)
	for i, a := range answers {
		home := homes[starts[i].Initiator]
		if isDown := home == "s3"; a.Err != nil && ledger.CodeOf(a.Err) != ledger.CodeConflict != isDown {
			t.Errorf("a transfer of %s is answered %s", home, brief(a))
		}
	}
	if len(failed) == 0 {
		t.Error("no transfer failed")
	}
	s.allowConnections("s3", true)
	eventually(t, "those that failed are done", func() bool {
		failed = hear(failed, routers[1].router.TransferAll(s.ctx, failed, 0))
		return len(failed) == 0
	})

	eventually(t, "all sagas end", func() bool { return s.askAll(`select count(*) from saldo.sagas where state = 1`) == 0 })
	t.Logf("%d transfers: %v", len(wanted), counts)
	for _, answer := range []string{
		"COMPLETED", "COMPLETED again", "PENDING", "PENDING again", "REFUSED insufficient_funds", "REFUSED insufficient_funds again",
		"REFUNDED payee_not_found", "transaction_id_conflict", "unavailable",
	} {
		if counts[answer] == 0 {
			t.Errorf("nothing was answered %q: the load is too tame", answer)
		}
	}
	final := s.finals()
	for id, op := range wanted {
		record, before := final[id], told[id]
		if record.Transfer != op.Transfer {
			t.Errorf("%v is stored as %+v", id, record.Transfer)
			continue
		}
		status := before.Result.Status()
		if before.Result.Outcome != record.Outcome || status != ledger.StatusPending && status != record.Status() {
			t.Errorf("%v was told %s %+v and is %s %+v", id, status, before.Result.Outcome, record.Status(), record.Outcome)
		}
	}
	if len(final) != len(wanted)+len(users)+1 {
		t.Errorf("%d transfers are stored, %d were asked for", len(final), len(wanted)+len(users))
	}
	s.mustBeSound()
}

// allowConnections brings a shard's database down, or up again.
func (s *system) allowConnections(id ledger.ShardID, allow bool) {
	s.t.Helper()
	config, err := pgx.ParseConfig(s.dsns[id])
	if err != nil {
		s.t.Fatal(err)
	}
	beside := *config
	beside.Database = "postgres"
	conn, err := pgx.ConnectConfig(s.ctx, &beside)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.ctx)
	if _, err := conn.Exec(s.ctx, fmt.Sprintf(`alter database %s allow_connections %v`, pgx.Identifier{config.Database}.Sanitize(), allow)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := conn.Exec(s.ctx, `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, config.Database); err != nil {
		s.t.Fatal(err)
	}
}
