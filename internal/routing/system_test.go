package routing_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "4"); err != nil { // most of these tests wait for something
		panic(err)
	}
	pgtest.Main(m)
}

const (
	uid   = "11111111-2222-3333-4444-555555555555"
	never = time.Hour
	// long is what nothing takes that comes by itself, also on a machine that is busy and slow.
	long = time.Minute
)

var migrated = pgtest.Template("migrated", func(dsn string) error {
	_, err := shard.Migrate(context.Background(), dsn, "")
	return err
})

// system is a cluster of real shards s1 … sn behind a registry that the test controls. It implements routing.Cluster as one
// process sees it.
type system struct {
	t    testing.TB
	ctx  context.Context
	dsns map[ledger.ShardID]string
	log  logbook

	mu        sync.Mutex
	seen      *placement.Map // by this process
	truth     *placement.Map // in the registry: what a refresh reads
	open      map[ledger.ShardID]routing.Shard
	spies     map[ledger.ShardID]*spy
	waiting   *flight
	told      chan struct{} // closed and replaced when seen changes
	refreshes int           // reads of the registry
	slow      time.Duration // of a read
	away      error         // the registry's
}

type flight struct {
	done chan struct{}
	err  error
}

func newSystem(t testing.TB, n int) *system {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*long)
	t.Cleanup(cancel)
	s := &system{
		t: t, ctx: ctx, dsns: map[ledger.ShardID]string{}, open: map[ledger.ShardID]routing.Shard{},
		spies: map[ledger.ShardID]*spy{}, told: make(chan struct{}),
	}
	var ids []ledger.ShardID
	for i := range n {
		ids = append(ids, ledger.ShardID(fmt.Sprintf("s%d", i+1)))
	}
	m, err := placement.NewMap(1, placement.Found(ids))
	if err != nil {
		t.Fatal(err)
	}
	s.seen, s.truth = m, m
	for _, id := range ids {
		dsn := pgtest.Database(t, migrated)
		s.dsns[id] = dsn
		if err := shard.Enroll(ctx, dsn, "", uid, id); err != nil {
			t.Fatal(err)
		}
		if err := shard.Found(ctx, dsn, "", uid, id, m); err != nil {
			t.Fatal(err)
		}
		s.openAt(id, dsn)
	}
	return s
}

// openAt opens the shard id at whatever is behind dsn.
func (s *system) openAt(id ledger.ShardID, dsn string) *shard.Shard {
	s.t.Helper()
	opened, err := shard.Open(shard.Config{Cluster: uid, ID: id, DSN: dsn}, slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(opened.Close)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spies[id] = &spy{Shard: opened, real: opened}
	s.open[id] = s.spies[id]
	return opened
}

// router returns a router that leaves the sagas that it begins to the test, and waits for as long as it takes the test to
// move slots, unless config is changed.
func (s *system) router(change ...func(*routing.Config)) *routing.Router {
	config := routing.Config{Handover: -1, FenceWait: long}
	for _, c := range change {
		c(&config)
	}
	r := routing.New(s, config, slog.New(slog.NewTextHandler(&s.log, nil)))
	s.t.Cleanup(r.Close)
	return r
}

// Map implements routing.Cluster.
func (s *system) Map() *placement.Map {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Changed implements routing.Cluster.
func (s *system) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

// see makes this process see a map. The caller holds s.mu.
func (s *system) see(m *placement.Map) {
	if s.seen != m {
		s.seen = m
		close(s.told)
		s.told = make(chan struct{})
	}
}

// Shard implements routing.Cluster.
func (s *system) Shard(id ledger.ShardID) (routing.Shard, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	opened, ok := s.open[id]
	return opened, ok
}

// Refresh implements routing.Cluster, in the way of cluster.Watcher.
func (s *system) Refresh(ctx context.Context, wrong *placement.Map) error {
	s.mu.Lock()
	if s.seen.Revision() > wrong.Revision() {
		s.mu.Unlock()
		return nil
	}
	if s.waiting == nil {
		f := &flight{done: make(chan struct{})}
		s.waiting = f
		slow := s.slow
		go func() {
			select {
			case <-time.After(5*time.Millisecond + slow):
			case <-s.ctx.Done():
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.refreshes++
			if f.err = s.away; f.err == nil {
				s.see(s.truth)
			}
			s.waiting = nil
			close(f.done)
		}()
	}
	f := s.waiting
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *system) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *system) readsOfRegistry() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshes
}

// changed returns the newest map with other owners of some slots, at the next epoch and revision.
func (s *system) changed(owners map[ledger.Slot]ledger.ShardID) *placement.Map {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[ledger.Slot]placement.Owner{}
	for slot := range ledger.Slot(placement.Slots) {
		if all[slot] = s.truth.Owner(slot); owners[slot] != "" {
			all[slot] = placement.Owner{Shard: owners[slot], Epoch: all[slot].Epoch + 1}
		}
		if all[slot] == (placement.Owner{}) || owners[slot] == "-" {
			delete(all, slot)
		}
	}
	m, err := placement.NewMap(s.truth.Revision()+1, all)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// move moves a user's slot to another shard, by hand: rows, slot tables, registry. This process does not see it yet.
func (s *system) move(user ledger.UserID, to ledger.ShardID) {
	s.t.Helper()
	slot := placement.SlotOf(user)
	s.mu.Lock()
	owner := s.truth.Owner(slot)
	s.mu.Unlock()
	s.sql(owner.Shard, `update saldo.slots set state = 'moved', epoch = $2, moved_to = $3 where slot = $1`, slot, owner.Epoch+1, to)
	s.journey(owner.Shard, to, user).copy()
	s.sql(to, `insert into saldo.slots (slot, state, epoch) values ($1, 'owned', $2)
	           on conflict (slot) do update set state = 'owned', epoch = excluded.epoch, moved_to = ''`, slot, owner.Epoch+1)
	m := s.changed(map[ledger.Slot]ledger.ShardID{slot: to})
	s.set(func() { s.truth = m })
}

// on works as superuser.
func (s *system) on(id ledger.ShardID, work func(conn *pgx.Conn) error) {
	s.t.Helper()
	conn, err := pgx.Connect(s.ctx, s.dsns[id])
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(s.ctx)
	if err := work(conn); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) sql(id ledger.ShardID, statement string, args ...any) {
	s.t.Helper()
	s.on(id, func(conn *pgx.Conn) error {
		_, err := conn.Exec(s.ctx, statement, args...)
		return err
	})
}

// ask returns one number.
func (s *system) ask(id ledger.ShardID, query string, args ...any) (n int64) {
	s.t.Helper()
	s.on(id, func(conn *pgx.Conn) error { return conn.QueryRow(s.ctx, query, args...).Scan(&n) })
	return n
}

func (s *system) askAll(query string, args ...any) (n int64) {
	s.t.Helper()
	for id := range s.dsns {
		n += s.ask(id, query, args...)
	}
	return n
}

// usersOn returns n user ids, no two in one slot, that live on a shard by the newest map.
func (s *system) usersOn(id ledger.ShardID, n int) []ledger.UserID {
	var users []ledger.UserID
	taken := map[ledger.Slot]bool{}
	for i := 0; len(users) < n; i++ {
		user := ledger.UserID(fmt.Sprintf("u%d", i))
		if slot := placement.SlotOf(user); s.Map().Owner(slot).Shard == id && !taken[slot] {
			taken[slot] = true
			users = append(users, user)
		}
	}
	return users
}

// create creates users with money.
func (s *system) create(r *routing.Router, amount ledger.Amount, users ...ledger.UserID) {
	s.t.Helper()
	for _, user := range users {
		if _, _, err := r.CreateUser(s.ctx, ledger.User{ID: user, Name: string(user)}); err != nil {
			s.t.Fatal(err)
		}
		if amount > 0 {
			s.do(r, ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
				Identity: ledger.Identity{Initiator: user, TxID: "initial"}, Kind: ledger.KindAdd, Amount: amount, Currency: "USD",
			}}, 0)
		}
	}
}

func transfer(from, to ledger.UserID, tx ledger.TxID, amount ledger.Amount) ledger.Operation {
	return ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: from, TxID: tx}, Kind: ledger.KindTransfer, Payee: to, Amount: amount, Currency: "USD",
	}}
}

// do transfers, and fails the test on an error.
func (s *system) do(r *routing.Router, op ledger.Operation, wait time.Duration) (ledger.TransferRecord, bool) {
	s.t.Helper()
	record, replayed, err := r.Transfer(s.ctx, op, wait)
	if err != nil {
		s.t.Fatalf("transfer %v: %v", op.Identity, err)
	}
	return record, replayed
}

// mustBe does the transfer and compares what became of it.
func (s *system) mustBe(r *routing.Router, op ledger.Operation, wait time.Duration, status ledger.Status, why ledger.Reason, wantReplayed bool) ledger.TransferRecord {
	s.t.Helper()
	record, replayed := s.do(r, op, wait)
	if record.Status() != status || record.WhyNot() != why || replayed != wantReplayed {
		s.t.Fatalf("transfer %v is %s, why %q, replayed %v; want %s, %q, %v", op.Identity, record.Status(), record.WhyNot(), replayed,
			status, why, wantReplayed)
	}
	return record
}

// drain ends a saga, as a coordinator does.
func (s *system) drain(r *routing.Router, op ledger.Operation) {
	s.t.Helper()
	op.Step = ledger.StepCredit
	if result := s.submit(r, op); result.Reason == ledger.Applied {
		s.again(func() error { return r.CompleteAll(s.ctx, []ledger.Identity{op.Identity})[0].Err })
	} else {
		op.Step, op.Cause = ledger.StepRefund, result.Reason
		s.submit(r, op)
	}
}

// drainAll ends sagas together, whose slots do not move.
func (s *system) drainAll(r *routing.Router, ops []ledger.Operation) {
	s.t.Helper()
	credits := slices.Clone(ops)
	for i := range credits {
		credits[i].Step = ledger.StepCredit
	}
	var (
		completed []ledger.Identity
		refunds   []ledger.Operation
	)
	for i, answer := range r.SubmitAll(s.ctx, credits) {
		if answer.Err != nil {
			s.t.Error(answer.Err)
		} else if answer.Result.Reason == ledger.Applied {
			completed = append(completed, ops[i].Identity)
		} else {
			refund := ops[i]
			refund.Step, refund.Cause = ledger.StepRefund, answer.Result.Reason
			refunds = append(refunds, refund)
		}
	}
	for _, answer := range append(r.CompleteAll(s.ctx, completed), r.SubmitAll(s.ctx, refunds)...) {
		if answer.Err != nil {
			s.t.Error(answer.Err)
		}
	}
}

// submit does a step, however often it takes.
func (s *system) submit(r *routing.Router, op ledger.Operation) (result ledger.Result) {
	s.t.Helper()
	s.again(func() error {
		answer := r.SubmitAll(s.ctx, []ledger.Operation{op})[0]
		result = answer.Result
		return answer.Err
	})
	return result
}

// again tries until a slot that has moved is found.
func (s *system) again(try func() error) {
	s.t.Helper()
	for tries := 0; ; tries++ {
		err := try()
		if err == nil {
			return
		}
		if tries == 20 {
			s.t.Error(err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *system) mustHave(r *routing.Router, user ledger.UserID, amount ledger.Amount) {
	s.t.Helper()
	account, err := r.Balance(s.ctx, user, "USD")
	if err != nil || account.Balance != amount {
		s.t.Fatalf("%s has %d, %v; want %d", user, account.Balance, err, amount)
	}
}

// mustBeConserved compares the users' money on all shards with what came in, and all money in transit with 0.
func (s *system) mustBeConserved() {
	s.t.Helper()
	// Copies that a move left behind do not count.
	owned := ` join saldo.slots o on o.slot = x.slot and o.state = 'owned'`
	if users, world, transit := s.askAll(`select coalesce(sum(balance), 0)::bigint from saldo.accounts x`+owned),
		s.askAll(`select coalesce(sum(system_amount) filter (where system_account = '@world'), 0)::bigint from saldo.operations x`+owned),
		s.askAll(`select coalesce(sum(system_amount) filter (where system_account = '@transit'), 0)::bigint from saldo.operations x`+owned); users != -world || transit != 0 {
		s.t.Errorf("the users have %d, the world gave %d, in transit are %d", users, -world, transit)
	}
}

// spy counts the calls of a shard, and may answer instead of it.
type spy struct {
	routing.Shard
	real    *shard.Shard
	submits atomic.Int64 // operations
	batches atomic.Int64 // calls of SubmitAll
	looks   atomic.Int64 // EndedSagas
	asked   atomic.Int64 // TransfersByTxID
	reads   atomic.Int64 // Balance

	mu       sync.Mutex
	onSubmit func(op ledger.Operation) error // before the shard does it
	onFind   func() error
	around   func(submit func())
}

func (s *spy) before(f func(op ledger.Operation) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onSubmit = f
}

func (s *spy) Submit(ctx context.Context, op ledger.Operation, holds ...placement.Hold) (result ledger.Result, err error) {
	s.submits.Add(1)
	s.mu.Lock()
	f, around := s.onSubmit, s.around
	s.mu.Unlock()
	if f != nil {
		if err := f(op); err != nil {
			return ledger.Result{}, err
		}
	}
	if around != nil {
		around(func() { result, err = s.Shard.Submit(ctx, op, holds...) })
		return result, err
	}
	return s.Shard.Submit(ctx, op, holds...)
}

func (s *spy) SubmitAll(ctx context.Context, ops []ledger.Operation, holds [][]placement.Hold) []ledger.Answer {
	s.batches.Add(1)
	s.submits.Add(int64(len(ops)))
	s.mu.Lock()
	f := s.onSubmit
	s.mu.Unlock()
	if f == nil {
		return s.Shard.SubmitAll(ctx, ops, holds)
	}
	answers := make([]ledger.Answer, len(ops))
	var (
		at        []int
		restOps   []ledger.Operation
		restHolds [][]placement.Hold
	)
	for i, op := range ops {
		if answers[i].Err = f(op); answers[i].Err == nil {
			at, restOps, restHolds = append(at, i), append(restOps, op), append(restHolds, holds[i])
		}
	}
	for i, answer := range s.Shard.SubmitAll(ctx, restOps, restHolds) {
		answers[at[i]] = answer
	}
	return answers
}

func (s *spy) Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	s.mu.Lock()
	f := s.onFind
	s.mu.Unlock()
	if f != nil {
		if err := f(); err != nil {
			return ledger.TransferRecord{}, err
		}
	}
	return s.Shard.Transfer(ctx, id)
}

func (s *spy) EndedSagas(ctx context.Context, ids []ledger.Identity) (map[ledger.Identity]ledger.Saga, error) {
	s.looks.Add(1)
	return s.Shard.EndedSagas(ctx, ids)
}

func (s *spy) Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	s.reads.Add(1)
	return s.Shard.Balance(ctx, id, currency)
}

func (s *spy) TransfersByTxID(ctx context.Context, id ledger.TxID, slots []ledger.Slot) ([]ledger.TransferRecord, error) {
	s.asked.Add(1)
	return s.Shard.TransfersByTxID(ctx, id, slots)
}

// logbook keeps what was logged.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logbook) errors() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), "level=ERROR")
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * long); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func mustFail(t testing.TB, err error, code ledger.Code) {
	t.Helper()
	if ledger.CodeOf(err) != code {
		t.Fatalf("the error is %v, not %s", err, code)
	}
}
