package saga_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a small honest cluster in memory: a book for each shard, and the queue of one home shard, "home". All its
// payers live there. It implements saga.Home and saga.Steps. Tests run it in a synctest bubble, where time is virtual.
type world struct {
	t *testing.T

	mu       sync.Mutex
	books    map[ledger.ShardID]*ledger.Book
	lives    map[ledger.UserID]ledger.ShardID
	queue    []saga.Pending // every saga of home, in the order of its cursor
	nextTx   int64
	inFlight map[int64]struct{} // transactions whose sagas are not visible yet
	pending  map[ledger.Identity]struct{}
	fault    func(c call) fault // what happens to a call; nil: nothing
	calls    []call             // every step that was asked for
	under    map[ledger.ShardID]int
	most     map[ledger.ShardID]int
	pages    int // PendingSagas was called so often
	rows     int // and returned so many
	lookErr  error
	logged   bytes.Buffer
}

// call is a step that the driver asked for.
type call struct {
	shard ledger.ShardID // that does it
	id    ledger.Identity
	what  string // credit, refund, complete
	n     int    // the how many-th call of all, from 1
}

// fault is what happens to one call. The zero fault does it after a millisecond.
type fault struct {
	before error         // the request is lost
	after  error         // it is done, and the reply is lost
	hangs  bool          // the request is lost and nothing says so
	slow   time.Duration // it takes so long
	hook   func()        // called when it is done
}

var errLost = errors.New("lost")

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, books: map[ledger.ShardID]*ledger.Book{}, lives: map[ledger.UserID]ledger.ShardID{}, nextTx: 100,
		inFlight: map[int64]struct{}{}, pending: map[ledger.Identity]struct{}{},
		under: map[ledger.ShardID]int{}, most: map[ledger.ShardID]int{},
	}
	w.user("payer", "home")
	w.apply("home", ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: "payer", TxID: "first"}, Kind: ledger.KindAdd, Amount: funds, Currency: "USD",
	}})
	return w
}

const funds = 1_000_000

func (w *world) book(shard ledger.ShardID) *ledger.Book {
	if w.books[shard] == nil {
		w.books[shard] = ledger.NewBook(0)
	}
	return w.books[shard]
}

func (w *world) user(id ledger.UserID, shard ledger.ShardID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives[id] = shard
	w.book(shard).AddUser(id)
}

// nobody is a user id that the map knows and no book.
func (w *world) nobody(id ledger.UserID, shard ledger.ShardID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives[id] = shard
	w.book(shard)
}

func (w *world) apply(shard ledger.ShardID, op ledger.Operation) {
	w.t.Helper()
	result, err := w.book(shard).Apply(op)
	if err != nil || result.Reason != ledger.Applied {
		w.t.Fatalf("apply %v: %v, %v", op, result, err)
	}
}

// begin debits for sagas from payer to each payee, in one transaction that is not visible until its commit is called.
func (w *world) begin(payees ...ledger.UserID) (ids []ledger.Identity, commit func()) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	tx := w.nextTx
	w.nextTx++
	w.inFlight[tx] = struct{}{}
	for i, payee := range payees {
		start := ledger.Operation{Step: ledger.StepStart, Saga: true, Transfer: ledger.Transfer{
			Identity: ledger.Identity{Initiator: "payer", TxID: ledger.TxID(fmt.Sprintf("t%06d.%04d", tx, i))},
			Kind:     ledger.KindTransfer, Payee: payee, Amount: 1, Currency: "USD",
		}}
		w.apply("home", start)
		p := saga.Pending{Saga: ledger.Saga{Transfer: start.Transfer, State: ledger.SagaPending}, CreatedAt: time.Now()}
		p.Cursor = saga.Cursor{Tx: tx, Slot: 7, Identity: start.Identity}
		w.queue = append(w.queue, p)
		w.pending[p.Identity] = struct{}{}
		ids = append(ids, p.Identity)
	}
	return ids, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.inFlight, tx)
	}
}

// open is begin and commit.
func (w *world) open(payees ...ledger.UserID) []ledger.Identity {
	w.t.Helper()
	ids, commit := w.begin(payees...)
	commit()
	return ids
}

func after(a, b saga.Cursor) int {
	return cmp.Or(cmp.Compare(a.Tx, b.Tx), cmp.Compare(a.Slot, b.Slot), strings.Compare(string(a.TxID), string(b.TxID)),
		strings.Compare(string(a.Initiator), string(b.Initiator)))
}

// PendingSagas implements saga.Home.
func (w *world) PendingSagas(ctx context.Context, from saga.Cursor, before int64, limit int) (saga.Page, error) {
	time.Sleep(time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages++
	if w.lookErr != nil {
		return saga.Page{}, w.lookErr
	}
	page := saga.Page{Horizon: w.nextTx, End: w.nextTx}
	for tx := range w.inFlight {
		page.Horizon = min(page.Horizon, tx)
	}
	first, _ := slices.BinarySearchFunc(w.queue, from, func(p saga.Pending, c saga.Cursor) int { return after(p.Cursor, c) })
	for _, p := range w.queue[first:] {
		_, hidden := w.inFlight[p.Cursor.Tx]
		if _, is := w.pending[p.Identity]; is && !hidden && after(p.Cursor, from) > 0 && p.Cursor.Tx < before {
			page.Sagas = append(page.Sagas, p)
		}
		if len(page.Sagas) == limit {
			break
		}
	}
	w.rows += len(page.Sagas)
	page.More = len(page.Sagas) == limit
	return page, ctx.Err()
}

// ShardOf implements saga.Steps.
func (w *world) ShardOf(user ledger.UserID) ledger.ShardID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lives[user]
}

// Await implements saga.Steps.
func (w *world) Await(ctx context.Context, _ []ledger.Slot) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

// ID implements saga.Home.
func (w *world) ID() ledger.ShardID { return "home" }

// SubmitAll implements saga.Steps.
func (w *world) SubmitAll(ctx context.Context, ops []ledger.Operation) []ledger.Answer {
	return together(ops, func(op ledger.Operation) (answer ledger.Answer) {
		answer.Result, answer.Err = w.submit(ctx, op)
		return answer
	})
}

// CompleteAll implements saga.Steps.
func (w *world) CompleteAll(ctx context.Context, ids []ledger.Identity) []ledger.Answer {
	return together(ids, func(id ledger.Identity) (answer ledger.Answer) {
		answer.Result.State, answer.Err = w.complete(ctx, id)
		return answer
	})
}

func together[T any](steps []T, do func(T) ledger.Answer) []ledger.Answer {
	answers := make([]ledger.Answer, len(steps))
	var all sync.WaitGroup
	for i, step := range steps {
		all.Go(func() { answers[i] = do(step) })
	}
	all.Wait()
	return answers
}

func (w *world) submit(ctx context.Context, op ledger.Operation) (result ledger.Result, err error) {
	callErr := w.do(ctx, op.Owner(), op.Identity, op.Step.String(), func(book *ledger.Book) {
		if result, err = book.Apply(op); op.Step == ledger.StepRefund && err == nil {
			delete(w.pending, op.Identity)
		}
	})
	if callErr != nil {
		return ledger.Result{}, callErr
	}
	return result, err
}

func (w *world) complete(ctx context.Context, id ledger.Identity) (state ledger.SagaState, err error) {
	callErr := w.do(ctx, id.Initiator, id, "complete", func(book *ledger.Book) {
		if state, err = book.Complete(id); err == nil {
			delete(w.pending, id)
		}
	})
	if callErr != nil {
		return 0, callErr
	}
	return state, err
}

func (w *world) do(ctx context.Context, user ledger.UserID, id ledger.Identity, what string, act func(book *ledger.Book)) error {
	w.mu.Lock()
	c := call{shard: w.lives[user], id: id, what: what, n: len(w.calls) + 1}
	w.calls = append(w.calls, c)
	if what == "credit" {
		w.under[c.shard]++
		w.most[c.shard] = max(w.most[c.shard], w.under[c.shard])
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.under[c.shard]--
		}()
	}
	var f fault
	if w.fault != nil {
		f = w.fault(c)
	}
	w.mu.Unlock()
	wait := time.Millisecond + f.slow
	if f.hangs {
		wait = time.Hour
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ledger.Unknown(ctx.Err())
	}
	if f.before == nil {
		w.mu.Lock()
		act(w.book(c.shard))
		w.mu.Unlock()
	}
	if f.hook != nil {
		f.hook()
	}
	return errors.Join(f.before, f.after)
}

func (w *world) setFault(f func(c call) fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// Write takes what the drivers log.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged.Write(line)
}

// told counts the log lines with a text.
func (w *world) told(text string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.logged.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// drive runs a driver until the returned function is called, which waits for its end. Unless config says otherwise nobody
// else carries sagas, and it need not wait for that.
func (w *world) drive(config saga.Config) (stop func()) {
	w.t.Helper()
	config.Handover = cmp.Or(config.Handover, -1)
	driver := saga.NewDriver(w, w, config, slog.New(slog.NewTextHandler(w, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		driver.Run(ctx)
	}()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return stop
}

// open sagas, all of them or toward a shard.
func (w *world) left(shards ...ledger.ShardID) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.queue {
		if _, is := w.pending[p.Identity]; is && (len(shards) == 0 || slices.Contains(shards, w.lives[p.Payee])) {
			n++
		}
	}
	return n
}

func (w *world) count(what string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if c.what == what {
			n++
		}
	}
	return n
}

func (w *world) looked() (pages, rows int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pages, w.rows
}

// within waits in virtual time.
func (w *world) within(limit time.Duration, what string, is func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for ; !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > limit {
			w.t.Fatalf("not within %v: %s; %d sagas left", limit, what, w.left())
		}
	}
	return time.Since(began)
}

// check holds the ended world to the promises: every saga of the queue has ended, moved its money once or not at all, and
// says why; and all money is somewhere.
func (w *world) check() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	type effect struct {
		ledger.Identity
		ledger.Step
	}
	entries, refused := map[effect]int{}, map[ledger.Identity]ledger.Reason{}
	sum := ledger.Amount(0)
	for _, book := range w.books {
		all := book.TakeChanges() // nobody has taken any before
		for _, e := range all.Entries {
			entries[effect{e.Identity, e.Step}]++
		}
		for _, op := range all.Operations {
			if op.Step == ledger.StepCredit && op.Reason != ledger.Applied {
				refused[op.Identity] = op.Reason
			}
		}
		for account := range maps.Values(book.Accounts()) {
			sum += account.Balance
			if account.Balance < 0 {
				w.t.Errorf("a balance is %d", account.Balance)
			}
		}
	}
	if sum != funds {
		w.t.Errorf("the accounts sum to %d of %d", sum, funds)
	}
	for _, p := range w.queue {
		stored, _ := w.books["home"].Saga(p.Identity)
		credits, refunds := entries[effect{p.Identity, ledger.StepCredit}], entries[effect{p.Identity, ledger.StepRefund}]
		want := [...]int{1, 0}
		if refused[p.Identity] != ledger.Applied {
			want = [...]int{0, 1}
		}
		state := ledger.SagaCompleted
		if want[1] == 1 {
			state = ledger.SagaRefunded
		}
		if got := [...]int{credits, refunds}; got != want || stored.State != state || stored.Cause != refused[p.Identity] {
			w.t.Errorf("saga %v: %d credits, %d refunds, state %v, cause %q; the payee's book refused with %q",
				p.Identity, credits, refunds, stored.State, stored.Cause, refused[p.Identity])
		}
	}
}

func repeat(user ledger.UserID, n int) []ledger.UserID {
	return slices.Repeat([]ledger.UserID{user}, n)
}
