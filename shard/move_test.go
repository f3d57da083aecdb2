package shard_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// twoShards is a cluster without a registry: s1, which owns all slots at first, and s2. The map is what the test says.
type twoShards struct {
	t     testing.TB
	books map[ledger.ShardID]*book

	mu     sync.Mutex
	owners map[ledger.Slot]placement.Owner
}

func openTwo(t testing.TB) *twoShards {
	t.Helper()
	return openTwoAt(t, pgtest.Database(t, guarded), pgtest.Database(t, elsewhere))
}

func openTwoAt(t testing.TB, s1, s2 string) *twoShards {
	t.Helper()
	patient := func(c *shard.Config) { c.LastPatience = 20 * time.Second }
	return &twoShards{
		t:      t,
		owners: placement.Found([]ledger.ShardID{"s1"}),
		books: map[ledger.ShardID]*book{
			"s1": openAt(t, s1, patient),
			"s2": openAt(t, s2, patient, func(c *shard.Config) { c.ID = "s2" }),
		},
	}
}

// prepareOther makes the empty database at dsn the shard s2, which owns nothing, without the triggers of the template.
func prepareOther(t testing.TB, dsn string) {
	t.Helper()
	if _, err := shard.Migrate(t.Context(), dsn, ""); err != nil {
		t.Fatal(err)
	}
	if err := shard.Enroll(t.Context(), dsn, "", cluster, "s2"); err != nil {
		t.Fatal(err)
	}
}

func (w *twoShards) at(slot ledger.Slot) placement.Owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owners[slot]
}

func (w *twoShards) hold(user ledger.UserID) (ledger.ShardID, placement.Hold) {
	slot := placement.SlotOf(user)
	owner := w.at(slot)
	return owner.Shard, placement.Hold{Slot: slot, Epoch: owner.Epoch}
}

// decide is what the registry's transaction does: a new owner, or the old one again, at the next epoch.
func (w *twoShards) decide(slots placement.SlotSet, owner ledger.ShardID) (holds []placement.Hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, slot := range slots {
		w.owners[slot] = placement.Owner{Shard: owner, Epoch: w.owners[slot].Epoch + 1}
		holds = append(holds, placement.Hold{Slot: slot, Epoch: w.owners[slot].Epoch})
	}
	return holds
}

func (w *twoShards) holds(slots placement.SlotSet) (holds []placement.Hold) {
	for _, slot := range slots {
		holds = append(holds, placement.Hold{Slot: slot, Epoch: w.at(slot).Epoch})
	}
	return holds
}

// submit does a step wherever its owner lives, as a router does. A start with both ends on one shard is done there.
func (w *twoShards) submit(op ledger.Operation) (ledger.Result, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		home, hold := w.hold(op.Owner())
		holds := []placement.Hold{hold}
		if op.Step == ledger.StepStart && op.Kind == ledger.KindTransfer {
			other, also := w.hold(op.Payee)
			if op.Saga = other != home; !op.Saga {
				holds = append(holds, also)
			}
		}
		r, err := w.books[home].Submit(context.Background(), op, holds...)
		var refused *placement.OwnershipError
		if !errors.As(err, &refused) && ledger.CodeOf(err) != ledger.CodeUnavailable && ledger.CodeOf(err) != ledger.CodeUnknown || time.Now().After(deadline) {
			return r, err
		}
	}
}

// transfer does the whole of it.
func (w *twoShards) transfer(op ledger.Operation) (ledger.Result, error) {
	r, err := w.submit(op)
	if err != nil || r.State != ledger.SagaPending {
		return r, err
	}
	return r, w.carry(op)
}

func (w *twoShards) carry(op ledger.Operation) error {
	credit := op
	credit.Step, credit.Saga = ledger.StepCredit, false
	credited, err := w.submit(credit)
	if err != nil {
		return err
	}
	if credited.Reason != ledger.Applied {
		credit.Step, credit.Cause = ledger.StepRefund, credited.Reason
		_, err = w.submit(credit)
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		home, hold := w.hold(op.Initiator)
		_, err := w.books[home].Complete(context.Background(), op.Identity, hold)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *twoShards) user(ids ...ledger.UserID) {
	w.t.Helper()
	for _, id := range ids {
		home, hold := w.hold(id)
		if _, _, err := w.books[home].CreateUser(w.t.Context(), ledger.User{ID: id, Name: string(id)}, hold); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *twoShards) must(op ledger.Operation) ledger.Result {
	w.t.Helper()
	r, err := w.transfer(op)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// move is one way of the slots, and who makes it.
type move struct {
	*shard.Pair
	w              *twoShards
	id             placement.MoveID
	source, target ledger.ShardID
	slots          placement.SlotSet
	token          int64
	stale          []placement.Hold // what a mover holds that has not heard of a decision
}

// move opens the pair for a mover.
func (w *twoShards) move(id placement.MoveID, source, target ledger.ShardID, slots placement.SlotSet, token int64) *move {
	w.t.Helper()
	return w.moveVia(w.books[target].dsn, id, source, target, slots, token)
}

// moveVia is move with another way to the target.
func (w *twoShards) moveVia(
	dsn string, id placement.MoveID, source, target ledger.ShardID, slots placement.SlotSet, token int64, more ...func(*shard.PairConfig),
) *move {
	w.t.Helper()
	config := shard.PairConfig{
		Source: shard.Config{Cluster: cluster, ID: source, DSN: w.books[source].dsn},
		Target: shard.Config{Cluster: cluster, ID: target, DSN: dsn},
		MoveID: id, Slots: slots, Token: token,
	}
	for _, change := range more {
		change(&config)
	}
	pair, err := shard.OpenPair(config, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(pair.Close)
	return &move{Pair: pair, w: w, id: id, source: source, target: target, slots: slots, token: token}
}

// next is the same move under the next leader.
func (m *move) next() *move {
	m.w.t.Helper()
	return m.w.move(m.id, m.source, m.target, m.slots, m.token+1)
}

// held are the slots at the epochs that the map has now, unless the mover has not heard of these.
func (m *move) held() []placement.Hold {
	if m.stale != nil {
		return m.stale
	}
	return m.w.holds(m.slots)
}

// traces is all that both shards know of the slots and of the move, and the target's rows.
func (m *move) traces() string {
	var text strings.Builder
	for _, id := range []ledger.ShardID{"s1", "s2"} {
		b := m.w.books[id]
		text.WriteString(b.sql(`select string_agg(to_jsonb(s)::text, E'\n' order by slot) from saldo.slots s where slot = any($1)`, slotList(m.slots)))
		text.WriteString(b.sql(`select string_agg(to_jsonb(m)::text, E'\n') from saldo.moves m where move_id = $1`, m.id))
	}
	return text.String() + m.w.books[m.target].content(m.slots)
}

// stage is a stage of a move that was not aborted, each repeatable.
type stage struct {
	name string
	do   func(m *move) error
}

func (m *move) copyAll() error {
	return until(func() (int, error) { return m.CopyChunk(context.Background(), 100) })
}
func (m *move) verifyAll() error {
	return until(func() (int, error) { return m.VerifyChunk(context.Background()) })
}
func (m *move) cleanAll() error {
	return until(func() (int, error) { return m.CleanChunk(context.Background(), 70) })
}

// until calls a chunk until it says that nothing is left. Busy shards are asked again.
func until(chunk func() (int, error)) error {
	for {
		n, err := chunk()
		if err != nil && !errors.Is(err, rebalance.ErrBusy) {
			return err
		}
		if err == nil && n == 0 {
			return nil
		}
	}
}

func patiently(do func() error) error {
	for {
		if err := do(); !errors.Is(err, rebalance.ErrBusy) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// before are the stages up to the decision, after those that follow a switch, afterAbort those that follow an abort.
var before = []stage{
	{"mark", func(m *move) error { return m.Mark(context.Background(), m.held()) }},
	{"some chunks", func(m *move) error {
		for range 3 {
			if _, err := m.CopyChunk(context.Background(), 50); err != nil {
				return err
			}
		}
		return nil
	}},
	{"copy", (*move).copyAll},
	{"pass", func(m *move) error { _, err := m.Pass(context.Background()); return err }},
	{"verify", (*move).verifyAll},
	{"fence", func(m *move) error { return m.Fence(context.Background(), m.held()) }},
	{"unfence", func(m *move) error { return m.Unfence(context.Background(), m.held()) }},
	{"pass again", func(m *move) error { _, err := m.Pass(context.Background()); return err }},
	{"fence again", func(m *move) error { return m.Fence(context.Background(), m.held()) }},
	{"final", func(m *move) error { _, err := m.Final(context.Background()); return err }},
}

var after = []stage{
	{"activate", func(m *move) error { return m.Activate(context.Background(), m.held()) }},
	{"tombstone", func(m *move) error { return m.Tombstone(context.Background(), m.held()) }},
	{"clean", (*move).cleanAll},
}

var afterAbort = []stage{
	{"restore", func(m *move) error { return m.Restore(context.Background(), m.held()) }},
	{"discard", func(m *move) error { return m.Discard(context.Background(), m.held()) }},
	{"clean", (*move).cleanAll},
}

func (m *move) run(stages ...stage) {
	m.w.t.Helper()
	for _, s := range stages {
		if err := patiently(func() error { return s.do(m) }); err != nil {
			m.w.t.Fatalf("%s: %v", s.name, err)
		}
	}
}

// finish switches and does what follows.
func (m *move) finish() {
	m.w.t.Helper()
	m.w.decide(m.slots, m.target)
	m.run(after...)
}

func (m *move) abort() {
	m.w.t.Helper()
	m.w.decide(m.slots, m.source)
	m.run(afterAbort...)
}

const answers = `(select slot from saldo.slots where state in ('owned', 'fenced'))`

// mustBeSound checks both shards' books as they are: of the slots that they answer for.
func (w *twoShards) mustBeSound() {
	w.t.Helper()
	for id, b := range w.books {
		for _, check := range []struct{ promise, query string }{
			{"an account is the sum of its entries, which have no gap", `
				select count(*) from saldo.accounts a
				left join lateral (select count(*) n, coalesce(max(version), 0) last, coalesce(sum(amount), 0) sum from saldo.entries e
				                   where e.slot = a.slot and e.user_id = a.user_id and e.currency = a.currency) e on true
				where a.slot in ` + answers + ` and (e.n <> a.version or e.last <> a.version or e.sum <> a.balance)`},
			{"an entry has an account", `
				select count(*) from saldo.entries e left join saldo.accounts a using (slot, user_id, currency)
				where e.slot in ` + answers + ` and a.slot is null`},
			{"each entry carries the balance after it and times do not go back", `
				select count(*) from (
				    select slot, balance, sum(amount) over w sum, created_at, lag(created_at) over w before
				    from saldo.entries window w as (partition by slot, user_id, currency order by version)) e
				where slot in ` + answers + ` and (balance <> sum or created_at < before)`},
			{"the books sum to zero", `
				select count(*) from (
				    select currency, sum(amount) from (
				        select currency, amount from saldo.entries where slot in ` + answers + `
				        union all select currency, system_amount from saldo.operations where slot in ` + answers + `
				        union all select currency, amount from saldo.moved) all_of_it
				    group by currency having sum(amount) <> 0) wrong`},
			{"a start that debited for a saga has a saga", `
				select count(*) from saldo.operations o
				left join saldo.sagas s using (slot, initiator, tx_id)
				where o.slot in ` + answers + ` and o.step = 1 and o.saga and o.reason = '' and s.state is null`},
		} {
			if got := b.sql(`select (` + check.query + `)::text`); got != "0" {
				w.t.Errorf("shard %s: %s: %s are wrong", id, check.promise, got)
			}
		}
	}
	var total int
	for _, b := range w.books {
		var n int
		_, _ = fmt.Sscan(b.sql(`select coalesce(sum(amount), 0)::text from saldo.moved`), &n)
		total += n
	}
	if total != 0 {
		w.t.Errorf("what was moved sums to %d", total)
	}
}

// content is all rows of some slots, but the transactions that wrote them.
func (b *book) content(slots placement.SlotSet) string {
	b.t.Helper()
	numbers := make([]int16, len(slots))
	for i, slot := range slots {
		numbers[i] = int16(slot)
	}
	var text strings.Builder
	for _, table := range []string{"users", "accounts", "operations", "entries", "sagas"} {
		where := ""
		if table == "accounts" {
			where = "and version > 0"
		}
		text.WriteString(table + ":\n" + b.sql(`
			select string_agg(row, E'\n' order by row)
			from (select (to_jsonb(t) - 'tx')::text as row from saldo.`+table+` t where slot = any($1) `+where+`) rows`, numbers) + "\n")
	}
	return text.String()
}

// moveLoad is transfers of every kind among some users, from several callers, and what they were told.
type moveLoad struct {
	w     *twoShards
	users []ledger.UserID
	rest  time.Duration // of a caller after each
	stop  chan struct{}
	group sync.WaitGroup
	done  atomic.Int64

	mu    sync.Mutex
	told  map[ledger.Identity]ledger.Outcome
	pause time.Duration // the longest that a caller had to wait
}

func (w *twoShards) load(users []ledger.UserID, callers int, rest time.Duration) *moveLoad {
	l := &moveLoad{w: w, users: users, rest: rest, stop: make(chan struct{}), told: make(map[ledger.Identity]ledger.Outcome)}
	for c := range callers {
		l.group.Go(func() { l.call(rand.New(rand.NewPCG(uint64(c), 1)), c) })
	}
	return l
}

func (l *moveLoad) call(random *rand.Rand, c int) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		from, to := l.users[random.IntN(len(l.users))], l.users[random.IntN(len(l.users))]
		op := pay(from, fmt.Sprintf("c%d-%d", c, i), to, ledger.Amount(1+random.IntN(30)))
		switch i % 6 {
		case 1:
			op = add(from, string(op.TxID), 10)
		case 2:
			op = start(ledger.KindWithdraw, from, string(op.TxID), "", 15)
		case 3:
			op = pay(from, string(op.TxID), "nobody at all", 1)
		}
		if op.Kind == ledger.KindTransfer && from == op.Payee {
			continue
		}
		begun := time.Now()
		r, err := l.w.transfer(op)
		took := time.Since(begun)
		if err != nil || r.Replayed {
			l.w.t.Errorf("%s: %+v, %v", op.Identity, r, err)
			return
		}
		l.mu.Lock()
		l.told[op.Identity] = r.Outcome
		l.pause = max(l.pause, took)
		l.mu.Unlock()
		l.done.Add(1)
		time.Sleep(l.rest)
	}
}

func (l *moveLoad) progress() {
	l.w.t.Helper()
	before := l.done.Load()
	eventually(l.w.t, "load goes on", func() bool { return l.done.Load() > before+10 || l.w.t.Failed() })
}

// finish stops the load and checks that what was told is what is there, once, at the shard that the map names.
func (l *moveLoad) finish() {
	w := l.w
	w.t.Helper()
	close(l.stop)
	l.group.Wait()
	there := 0
	for _, b := range w.books {
		conn := session(w.t, b.dsn)
		rows, err := conn.Query(context.Background(),
			`select initiator, tx_id, reason, balance, version from saldo.operations where step = 1 and tx_id like 'c%' and slot in `+answers)
		if err != nil {
			w.t.Fatal(err)
		}
		var (
			id ledger.Identity
			o  ledger.Outcome
		)
		_, err = pgx.ForEachRow(rows, []any{&id.Initiator, &id.TxID, &o.Reason, &o.Balance, &o.Version}, func() error {
			there++
			if told, ok := l.told[id]; !ok || told != o {
				w.t.Errorf("%s: told %+v (%v), recorded %+v", id, told, ok, o)
			}
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if there != len(l.told) {
		w.t.Errorf("%d starts were told, %d are there", len(l.told), there)
	}
	w.mustBeSound()
	w.t.Logf("%d transfers, the longest took %v", len(l.told), l.pause)
}

// half funds users and returns them with the slots of every other one.
func (w *twoShards) half(n int) (users []ledger.UserID, slots placement.SlotSet) {
	w.t.Helper()
	users = apart(n)
	w.user(users...)
	for i, u := range users {
		w.must(add(u, "fund", 100_000))
		if i%2 == 0 {
			slots = append(slots, placement.SlotOf(u))
		}
	}
	return users, placement.NewSlotSet(slots...)
}

func TestMoveUnderLoad(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	users, slots := w.half(40)
	// A transfer between users of which one moves, to be repeated afterwards; and back.
	old := pay(users[0], "parted", users[1], 7)
	first := w.must(old)
	l := w.load(users, 8, time.Millisecond)
	l.progress()
	source, target := ledger.ShardID("s1"), ledger.ShardID("s2")
	for round := range 3 {
		m := w.move(placement.MoveID(fmt.Sprint("m", round)), source, target, slots, 1)
		m.run(before[0], before[2])
		l.progress()
		m.run(before[3], before[4])
		l.progress()
		begun := time.Now()
		m.run(before[5], before[9])
		final := time.Since(begun)
		if a, b := w.books[source].content(slots), w.books[target].content(slots); a != b {
			t.Fatalf("round %d: the copy is\n%s\nnot\n%s", round, b, a)
		}
		m.finish()
		l.progress()
		t.Logf("fenced and copied in %v", final)
		source, target = target, source
	}
	l.finish()
	again, err := w.submit(old)
	if err != nil || !again.Replayed || again.Outcome != first.Outcome {
		t.Errorf("the repeat of an old transfer: %+v, %v; it was %+v", again, err, first)
	}
	if got := w.books["s1"].sql(`select count(*)::text from saldo.entries where slot = any($1)`, slotList(slots)); got != "0" {
		t.Errorf("%s entries are left at s1", got)
	}
}

func slotList(slots placement.SlotSet) (numbers []int16) {
	for _, slot := range slots {
		numbers = append(numbers, int16(slot))
	}
	return numbers
}

// Every stage is done twice, and then once more by the next leader.
func TestMoveStagesAgain(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	users, slots := w.half(20)
	l := w.load(users, 3, 2*time.Millisecond)
	m := w.move("m", "s1", "s2", slots, 1)
	stages := func(stages []stage) {
		for _, s := range stages {
			m.run(s, s)
			m = m.next()
			if s.name != "clean" {
				m.run(before[0])
			}
			m.run(s)
			l.progress()
		}
	}
	stages(before[:5])
	m.run(before[5], before[5], before[6], before[6], before[5])
	m = m.next()
	m.run(before[0], before[5], before[9], before[9])
	m = m.next()
	m.run(before[0], before[9])
	w.decide(slots, "s2")
	stages(after)
	l.progress()
	l.finish()
	if got := w.books["s2"].sql(`select count(*)::text from saldo.slots where state = 'owned' and epoch = 2 and move_id = '' and clean`); got != fmt.Sprint(len(slots)) {
		t.Errorf("s2 owns %s slots, not %d", got, len(slots))
	}
	if got := w.books["s1"].sql(`select count(*)::text from saldo.slots where state = 'moved' and epoch = 2 and moved_to = 's2' and move_id = '' and clean`); got != fmt.Sprint(len(slots)) {
		t.Errorf("s1 has %s tombstones, not %d", got, len(slots))
	}
}

// After any stage (of those that differ in what is there) a move can be aborted, and the slots may move once the copy was cleaned.
func TestMoveAborts(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 3, 5, 9} {
		t.Run(before[n].name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			users, slots := w.half(12)
			l := w.load(users, 3, 2*time.Millisecond)
			l.progress()
			m := w.move("m1", "s1", "s2", slots, 1)
			m.run(before[:n+1]...)
			late := w.move(m.id, "s1", "s2", slots, 1)
			late.stale = m.held()
			w.decide(slots, "s1")
			m.run(afterAbort[0], afterAbort[0], afterAbort[1], afterAbort[1])
			l.progress()
			was := m.traces()
			for _, s := range before {
				if err := s.do(late); err == nil && (s.name == "mark" || s.name == "final" || strings.HasPrefix(s.name, "fence")) {
					t.Errorf("%s after the abort is not refused", s.name)
				}
			}
			if is := m.traces(); is != was {
				t.Errorf("what was late has changed\n%s\nto\n%s", was, is)
			}
			again := w.move("m2", "s1", "s2", slots, 5)
			if err := patiently(func() error { return again.Mark(t.Context(), again.held()) }); !errors.Is(err, rebalance.ErrNotClean) || !errors.Is(err, rebalance.ErrHalfMarked) {
				t.Errorf("to a shard that is not clean: %v", err)
			}
			m.run(afterAbort[2])
			if got := w.books["s2"].content(slots); strings.Contains(got, "{") {
				t.Errorf("left at the target: %s", got)
			}
			again.run(before[0], before[2], before[3], before[4], before[8], before[9])
			again.finish()
			l.progress()
			l.finish()
		})
	}
}

// What a mover does that has slept through a takeover has no effect.
func TestMoverSleeps(t *testing.T) {
	t.Parallel()
	for n, s := range before {
		if strings.HasSuffix(s.name, "again") {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			_, slots := w.half(6)
			old := w.move("m", "s1", "s2", slots, 1)
			old.run(before[:n]...)
			current := old.next()
			current.run(before[0])
			was := old.traces()
			if err := s.do(old); !errors.Is(err, rebalance.ErrTokenLost) && !(s.name == "copy" && err == nil) {
				t.Errorf("%v", err)
			}
			if is := old.traces(); is != was {
				t.Error("it has changed something")
			}
			current.run(before[n:]...)
			current.finish()
			w.mustBeSound()
		})
	}
}

// A mover that sleeps in the middle of a transaction holds nobody up for long, and what it had begun is refused when it wakes.
func TestMoverSleepsInATransaction(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		meant func(begins int, r request) bool // the request that is not sent before the mover wakes
	}{
		{"before it took the lock", func(begins int, r request) bool { return r.begin && begins == 1 }},
		{"before its commit", func(begins int, r request) bool { return r.commit && begins == 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			users, slots := w.half(6)
			p, slow := via(t, w.books["s2"].dsn)
			old := w.moveVia(slow, "m", "s1", "s2", slots, 1)
			old.run(before[:4]...)
			for _, u := range users {
				w.must(add(u, "since", 1))
			}
			asleep, begins := make(chan struct{}), 0
			p.onRequest(func(r request) fault {
				if r.begin {
					begins++
				}
				if c.meant(begins, r) {
					close(asleep)
					return holdRequest
				}
				return pass
			})
			woken := make(chan error)
			go func() {
				_, err := old.Pass(context.Background())
				woken <- err
			}()
			<-asleep
			current := w.move("m", "s1", "s2", slots, 2)
			begun := time.Now()
			current.run(before[0])
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("held up for %v", took)
			}
			current.run(before[3:]...)
			w.decide(slots, "s2")
			current.run(after[0])
			was := current.traces()
			p.onRequest(nil)
			close(p.release)
			if err := <-woken; err == nil {
				t.Error("it went through")
			}
			if current.traces() != was {
				t.Error("it has changed something")
			}
			current.run(after[1:]...)
			w.mustBeSound()
		})
	}
}

// A mark that reaches the target after the abort is refused: nobody would ever clean up behind it.
func TestLateMark(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	_, slots := w.half(6)
	p, slow := via(t, w.books["s2"].dsn)
	late := w.moveVia(slow, "m1", "s1", "s2", slots, 1)
	asleep := p.once(func(r request) bool { return r.begin }, holdRequest)
	woken, held := make(chan error), late.held()
	go func() { woken <- late.Mark(context.Background(), held) }()
	<-asleep
	m := w.move("m1", "s1", "s2", slots, 1)
	m.abort()
	was := m.traces()
	close(p.release)
	if err := <-woken; !errors.Is(err, rebalance.ErrHalfMarked) || refusals(err) == nil {
		t.Errorf("%v", err)
	}
	if m.traces() != was {
		t.Errorf("it has changed\n%s\nto\n%s", was, m.traces())
	}
	again := w.move("m2", "s1", "s2", slots, 2)
	again.run(before...)
	again.finish()
	w.mustBeSound()
}

// A slot whose old copy is still there is not taken back.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	users, slots := w.half(10)
	l := w.load(users, 3, 2*time.Millisecond)
	there := w.move("there", "s1", "s2", slots, 1)
	there.run(before[0], before[2], before[3], before[5], before[9])
	w.decide(slots, "s2")
	there.run(after[:2]...)
	l.progress()
	back := w.move("back", "s2", "s1", slots, 2)
	refused := func() {
		t.Helper()
		if err := patiently(func() error { return back.Mark(t.Context(), back.held()) }); !errors.Is(err, rebalance.ErrNotClean) {
			t.Fatalf("taken back: %v", err)
		}
	}
	refused()
	if n, err := there.CleanChunk(t.Context(), 10); err != nil || n != 10 {
		t.Fatalf("%d, %v", n, err)
	}
	refused()
	there.run(after[2])
	back.run(before[0], before[2], before[3], before[4], before[5], before[9])
	back.finish()
	l.progress()
	l.finish()
	for _, slot := range slots {
		if owner := w.at(slot); owner != (placement.Owner{Shard: "s1", Epoch: 3}) {
			t.Errorf("slot %d: %+v", slot, owner)
		}
	}
}

// Rows that are not the source's are found before the fence, or in the pass that touches them.
func TestMismatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, tamper, says string
		pass               bool // found by a pass that touches it, too
	}{
		{"entry changed", `update saldo.entries set counterparty = 'eve' where user_id = 'u0' and version = 1`, "u0 USD 1 is different", false},
		{"entry gone", `delete from saldo.entries where user_id = 'u0' and version = 2`, "u0 USD 2 is not at the target", false},
		{"newest entry gone", `delete from saldo.entries where user_id = 'u0' and version = 3`, "u0 USD 3 is not at the target", true},
		{"entry too many", `insert into saldo.entries select 9, amount, balance, created_at, tx, slot, step, kind, user_id, currency, tx_id, counterparty
			from saldo.entries where user_id = 'u0' and version = 1`, "u0 USD 9 is not at the source", true},
		{"operation changed", `update saldo.operations set description = 'x' where initiator = 'u0' and tx_id = 't'`, "t u0 1 is different", false},
		{"operation gone", `delete from saldo.operations where initiator = 'u0' and tx_id = 't'`, "t u0 1 is not at the target", false},
		{"balance changed", `update saldo.accounts set balance = balance + 1 where user_id = 'u0'`, "u0 USD is different", false},
		{"balance of another changed", `update saldo.accounts set balance = balance + 1 where user_id = 'u0x'`, "u0x USD is different", true},
		{"account of another gone", `delete from saldo.accounts where user_id = 'u0x'`, "u0x USD is not at the target", true},
		{"version ahead", `update saldo.accounts set version = 99 where user_id = 'u0'`, "u0 USD is different", true},
		{"account gone", `delete from saldo.accounts where user_id = 'u0'`, "u0 USD is not at the target", false},
		{"user changed", `update saldo.users set email = 'x' where id = 'u0'`, "u0 is different", false},
		{"saga ended", `update saldo.sagas set state = 2, ended_at = now() where initiator = 'u0'`, "saga u0 is different", false},
		{"sums", `update saldo.move_sums set sides = sides + 1`, "the sums kept", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := openTwo(t)
			w.user("u0")
			w.must(add("u0", "fund", 100))
			w.must(add("u0", "t", 100))
			b := w.books["s1"]
			if _, err := b.Submit(t.Context(), debit("u0", "saga", "far", 1), b.hold("u0")); err != nil {
				t.Fatal(err)
			}
			w.user("u0x") // whom no pass touches
			w.must(add("u0x", "fund", 100))
			m := w.move("m", "s1", "s2", placement.NewSlotSet(placement.SlotOf("u0"), placement.SlotOf("u0x")), 1)
			m.run(before[0], before[2], before[3])
			w.books["s2"].alter(`alter table saldo.entries disable trigger guarded`, `alter table saldo.operations disable trigger guarded`,
				`alter table saldo.accounts disable trigger guarded`, `alter table saldo.users disable trigger guarded`,
				`alter table saldo.sagas disable trigger guarded`, c.tamper)
			err := m.verifyAll()
			if !errors.Is(err, rebalance.ErrMismatch) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, not %q", err, c.says)
			}
			w.must(add("u0", "late", 1))
			m.run(before[5])
			if _, err := m.Final(t.Context()); c.pass != errors.Is(err, rebalance.ErrMismatch) {
				t.Errorf("the last pass: %v", err)
			}
			w.decide(m.slots, "s1")
			m.run(afterAbort[:2]...)
		})
	}
}

// A row that is there already and differs is never passed over.
func TestMismatchOfWhatIsThere(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	w.user("u0")
	w.must(add("u0", "fund", 100))
	m := w.move("m", "s1", "s2", placement.NewSlotSet(placement.SlotOf("u0")), 1)
	m.run(before[0])
	w.books["s2"].alter(`alter table saldo.users disable trigger guarded`, fmt.Sprintf(
		`insert into saldo.users (slot, id, name, email) values (%d, 'u0', 'Eve', '')`, placement.SlotOf("u0")))
	if err := m.copyAll(); !errors.Is(err, rebalance.ErrMismatch) || !strings.Contains(err.Error(), "u0") {
		t.Errorf("%v", err)
	}
}

// The copy goes on only with the server that it began with.
func TestSourceIsAnotherServer(t *testing.T) {
	t.Parallel()
	for _, change := range []string{`system = system + 1`, `timeline = timeline + 1`, `lsn = lsn + 1e12`,
		`snapshot = '999999999:999999999:'`} {
		w := openTwo(t)
		_, slots := w.half(4)
		m := w.move("m", "s1", "s2", slots, 1)
		m.run(before[:4]...)
		w.books["s2"].alter(`update saldo.moves set ` + change)
		_, pass := m.Pass(t.Context())
		_, verify := m.VerifyChunk(t.Context())
		m.run(before[5])
		_, final := m.Final(t.Context())
		for name, err := range map[string]error{"pass": pass, "verify": verify, "final": final} {
			if !errors.Is(err, rebalance.ErrStale) {
				t.Errorf("%s, %s: %v", change, name, err)
			}
		}
	}
}

// Sagas under way are found by the runner of the shard that owns their home, in whatever order the slots came and went.
func TestPendingSagasMove(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	users, slots := w.half(2)
	begin := func(tx string) {
		t.Helper()
		home, hold := w.hold(users[0])
		if _, err := w.books[home].Submit(t.Context(), debit(users[0], tx, "far", 1), hold); err != nil {
			t.Fatal(err)
		}
	}
	queues := map[ledger.ShardID]*queueReader{"s1": {b: w.books["s1"]}, "s2": {b: w.books["s2"]}}
	sees := func(id ledger.ShardID, want ...string) {
		t.Helper()
		if got := queues[id].read(); !slices.Equal(got, want) {
			t.Errorf("the runner of %s sees %v, not %v", id, got, want)
		}
	}
	begin("t1")
	sees("s1", "t1")
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[0], before[2])
	begin("t2")
	sees("s1", "t2")
	m.run(before[3], before[4], before[5])
	sees("s1")
	sees("s2")
	m.run(before[6])
	sees("s1", "t1", "t2")
	if err := w.carryPart(users[0], "t1"); err != nil {
		t.Fatal(err)
	}
	m.run(before[7], before[8], before[9])
	sees("s2")
	w.decide(slots, "s2")
	m.run(after[0])
	sees("s2", "t2")
	m.run(after[1:]...)
	sees("s1")
	back := w.move("back", "s2", "s1", slots, 1)
	back.run(before[0], before[2], before[3], before[5])
	sees("s2")
	w.decide(slots, "s2")
	back.run(afterAbort...)
	sees("s2", "t2")
	record, err := w.books["s2"].Transfer(t.Context(), ledger.Identity{Initiator: users[0], TxID: "t1"})
	if err != nil || record.Status() != ledger.StatusCompleted {
		t.Errorf("%+v, %v", record, err)
	}
	w.mustBeSound()
}

// queueReader reads the queue of a home as its runner does: from where all before has been seen on.
type queueReader struct {
	b     *book
	after saga.Cursor
	seen  map[saga.Cursor]bool // other tests' transactions may hold the horizon back
}

func (q *queueReader) read() (fresh []string) {
	q.b.t.Helper()
	page, err := q.b.PendingSagas(q.b.t.Context(), q.after, math.MaxInt64, 100)
	if err != nil || page.More {
		q.b.t.Fatalf("%+v, %v", page, err)
	}
	if q.seen == nil {
		q.seen = make(map[saga.Cursor]bool)
	}
	for _, s := range page.Sagas {
		if !q.seen[s.Cursor] {
			fresh = append(fresh, string(s.TxID))
		}
		q.seen[s.Cursor] = true
	}
	q.after = saga.Cursor{Tx: page.Horizon}
	return fresh
}

// carryPart completes a saga, as if its credit had been applied elsewhere.
func (w *twoShards) carryPart(user ledger.UserID, tx ledger.TxID) error {
	home, hold := w.hold(user)
	_, err := w.books[home].Complete(context.Background(), ledger.Identity{Initiator: user, TxID: tx}, hold)
	return err
}

// Nothing may be activated that was not copied under the fence.
func TestActivateNeedsTheLastPass(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	_, slots := w.half(4)
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[:5]...)
	if _, err := m.Final(t.Context()); refusals(err) == nil {
		t.Errorf("the last pass without a fence: %v", err)
	}
	m.run(before[5], before[9], before[6], before[7])
	held := m.held()
	for i := range held {
		held[i].Epoch++
	}
	if err := m.Activate(t.Context(), held); err == nil {
		t.Error("activated after a pass that was not the last one")
	}
	if err := m.Tombstone(t.Context(), held); err == nil {
		t.Error("a tombstone before the target owns the slots")
	}
	m.abort()
	w.mustBeSound()
}

// Servers are killed in the middle of each stage.
func TestMoveThroughCrashes(t *testing.T) {
	t.Parallel()
	s1, s2 := private(t, nil), pgtest.Start(t, nil)
	prepareOther(t, s2.DSN())
	fill(t, s1.DSN(), 200, 5000)
	w := openTwoAt(t, s1.DSN(), s2.DSN())
	users, slots := w.half(20)
	for slot := range ledger.Slot(placement.Slots / 4) {
		slots = append(slots, slot)
	}
	slots = placement.NewSlotSet(slots...)
	l := w.load(users, 3, 5*time.Millisecond)
	m := w.move("m", "s1", "s2", slots, 1)
	random := rand.New(rand.NewPCG(1, 2))
	crashes, failed := 0, 0
	crash := func(s stage, server *local.Postgres) {
		t.Helper()
		var killed sync.WaitGroup
		killed.Go(func() {
			time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
			if pid := server.PID(); pid > 0 { // it may not be back from the last one
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
		crashes++
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := s.do(m)
			if err == nil {
				break
			}
			failed++
			if errors.Is(err, rebalance.ErrMismatch) || errors.Is(err, rebalance.ErrTokenLost) || refusals(err) != nil || time.Now().After(deadline) {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
		killed.Wait()
	}
	for i, s := range before {
		switch s.name {
		case "some chunks", "unfence", "fence again":
			continue
		case "pass again":
			m.run(before[6])
		case "final":
			m.run(before[8])
		}
		for _, server := range []*local.Postgres{s1, s2}[i%2:] {
			crash(s, server)
		}
	}
	w.decide(slots, "s2")
	crash(after[0], s2)
	crash(after[1], s1)
	l.progress()
	crash(after[2], s1)
	m.run(after...)
	l.finish()
	if got := w.books["s1"].content(slots); strings.Contains(got, "{") {
		t.Error("rows are left at the source")
	}
	t.Logf("%d crashes, by which %d calls failed", crashes, failed)
}

// A pass that is too much for one transaction is cut off in the middle.
func TestLargePass(t *testing.T) {
	t.Parallel()
	s1, s2 := pgtest.Database(t, nil), pgtest.Database(t, nil)
	prepare(t, s1)
	prepareOther(t, s2)
	w := openTwoAt(t, s1, s2)
	var slots placement.SlotSet
	for i := range 300 {
		slots = append(slots, placement.SlotOf(filled(i)))
	}
	slots = placement.NewSlotSet(slots...)
	p, slow := via(t, s2)
	m := w.moveVia(slow, "m", "s1", "s2", slots, 1)
	m.run(before[0], before[2])
	fill(t, s1, 300, 6_000)
	begins := 0
	p.onRequest(func(r request) fault {
		if r.begin {
			begins++
		}
		if begins == 3 {
			return cutRequest
		}
		return pass
	})
	if _, err := m.Pass(t.Context()); err == nil {
		t.Fatal("it was not cut off")
	}
	p.onRequest(nil)
	if got := w.books["s2"].sql(`select half::text from saldo.moves`); got != "true" {
		t.Fatalf("half a pass was made: %s", got)
	}
	m.run(before[4]) // makes the pass first
	if progress, err := m.Progress(t.Context()); err != nil || progress.Passes != 1 || progress.LastPass != 12_600 {
		t.Errorf("%+v, %v", progress, err)
	}
	if a, b := w.books["s1"].content(slots), w.books["s2"].content(slots); a != b {
		t.Error("the copy differs")
	}
	m.run(before[5], before[9])
	m.finish()
	w.mustBeSound()
}

// What is read inside the fence is found by an index, however much history there is, and however the planner judges it.
func TestMovePlans(t *testing.T) {
	t.Parallel()
	w := openTwo(t)
	_, slots := w.half(20)
	m := w.move("m", "s1", "s2", slots, 1)
	m.run(before[0], before[2], before[3])
	for name, plan := range m.Plans(t) {
		index := "_pkey"
		if strings.HasPrefix(name, "delta 1") {
			index = "_tx"
		}
		if strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort") || !strings.Contains(plan, index) {
			t.Errorf("%s:\n%s", name, plan)
		}
	}
}
