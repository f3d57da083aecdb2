package simtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Shard is what the suite holds a shard to: the simulator's and the real one. It owns every slot.
type Shard interface {
	// CreateUser makes a user known. Doing it again changes nothing.
	CreateUser(ctx context.Context, user ledger.UserID) error
	// Submit applies the operations in this order, as one batch or as several batches in this order, and returns an
	// answer for each. A refusal is a result; an error is a conflict or an operation that the book cannot do.
	Submit(ctx context.Context, ops []ledger.Operation) []Answer
	// Complete ends sagas whose credits are applied, in this order, and returns an answer for each.
	Complete(ctx context.Context, ids []ledger.Identity) []CompleteAnswer
	// Balance returns an account, zero if the user has none in the currency; an *Error with CodeUserNotFound if there is
	// no such user.
	Balance(ctx context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error)
	// Transfer returns what the shard knows about a start and its saga, or an *Error with CodeTransferNotFound.
	Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error)
}

// Answer is what became of an operation.
type Answer struct {
	Result ledger.Result
	Err    error
}

// CompleteAnswer is what became of a saga.
type CompleteAnswer struct {
	State ledger.SagaState
	Err   error
}

// Conformance sends random batches to a shard and to a plain book, and compares every answer and, at the end, all that
// can be read. The batches hold what clients may send, and what correct coordinators may send: credits of started sagas,
// refunds of refused ones, ends of credited ones, each in any order and any number of times. Some payers and payees live
// elsewhere; what became of their steps there is drawn.
//
// open is called for every sequence. It may return the same shard each time, and the shard need not be empty: every
// sequence has users of its own. rapid's flags say how many sequences there are. If there are enough, every kind of answer
// must have been met.
func Conformance(t rapid.TB, open func() Shard) {
	t.Helper()
	met, sequences := map[string]int{}, 0
	rapid.Check(t, func(t *rapid.T) {
		c := newConformance(t, open(), met)
		sequences++
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			switch rapid.SampledFrom([]string{"submit", "submit", "submit", "user", "complete", "complete"}).Draw(t, "what") {
			case "user":
				c.createUser(rapid.SampledFrom(c.here).Draw(t, "user"))
			case "submit":
				c.submit(c.drawBatch())
			case "complete":
				c.complete()
			}
		}
		c.compareReads()
		for batch := range slices.Chunk(c.sent, 16) {
			c.submit(batch) // replays, all of them
		}
		c.compareReads()
	})
	for _, answer := range []string{
		"start applied", "start applied, PENDING", "start refused", "credit applied", "credit refused", "refund applied",
		"start replayed", "credit replayed", "refund replayed", "start conflict", "complete",
	} {
		if met[answer] == 0 && sequences >= 100 {
			t.Errorf("in %d sequences no answer was %q: the suite shows nothing about it", sequences, answer)
		}
	}
	t.Logf("%d sequences: %v", sequences, met)
}

type conformance struct {
	*rapid.T
	shard Shard
	book  *ledger.Book
	here  []ledger.UserID // some not yet created
	away  []ledger.UserID
	sent  []ledger.Operation
	// fates are what became, elsewhere, of the credits of sagas whose payees are away.
	fates map[ledger.Identity]ledger.Reason
	// visitors are sagas of payers who are away. Each has one content: its home has seen to that.
	visitors map[ledger.Identity]ledger.Transfer
	met      map[string]int
}

// sequence numbers the sequences of a process, so that no two share a user.
var sequence atomic.Int64

func newConformance(t *rapid.T, shard Shard, met map[string]int) *conformance {
	c := &conformance{
		T: t, shard: shard, book: ledger.NewBook(0), met: met,
		fates: map[ledger.Identity]ledger.Reason{}, visitors: map[ledger.Identity]ledger.Transfer{},
	}
	prefix := fmt.Sprintf("c%x-%d-", time.Now().UnixNano(), sequence.Add(1))
	for i := range 5 {
		c.here = append(c.here, ledger.UserID(fmt.Sprintf("%shere%d", prefix, i)))
	}
	for i := range 2 {
		c.away = append(c.away, ledger.UserID(fmt.Sprintf("%saway%d", prefix, i)))
	}
	var batch []ledger.Operation
	for _, user := range c.here[:3] {
		c.createUser(user)
		batch = append(batch, ledger.Operation{Transfer: Deposit(user, "opening", 1000), Step: ledger.StepStart})
	}
	c.submit(batch)
	return c
}

func (c *conformance) createUser(user ledger.UserID) {
	c.book.AddUser(user)
	if err := c.shard.CreateUser(c.Context(), user); err != nil {
		c.Fatalf("create user %s: %v", user, err)
	}
}

func (c *conformance) drawBatch() []ledger.Operation {
	var batch []ledger.Operation
	for range rapid.IntRange(1, 16).Draw(c.T, "size") {
		batch = append(batch, c.drawOperation(batch))
	}
	return batch
}

func (c *conformance) drawOperation(batch []ledger.Operation) ledger.Operation {
	known := append(append([]ledger.Operation(nil), c.sent...), batch...)
	what := []string{"start", "start", "start", "start", "visitor"}
	if len(known) > 0 {
		what = append(what, "repeat", "conflict")
	}
	sagas := c.openedSagas()
	if len(sagas) > 0 {
		what = append(what, "next", "next", "next", "next")
	}
	switch rapid.SampledFrom(what).Draw(c.T, "operation") {
	case "repeat":
		op := rapid.SampledFrom(known).Draw(c.T, "repeated")
		if op.Step == ledger.StepStart && slices.Contains(c.here, op.Payee) {
			op.Saga = rapid.Bool().Draw(c.T, "saga") // by a router with another map
		}
		return op
	case "conflict":
		op := rapid.SampledFrom(known).Draw(c.T, "contradicted")
		if op.Step == ledger.StepStart {
			return c.drawStart(op.Identity)
		}
		return op
	case "visitor":
		return c.drawVisitor()
	case "next":
		if op, ok := c.nextStep(rapid.SampledFrom(sagas).Draw(c.T, "saga")); ok {
			return op
		}
	}
	return c.drawStart(ledger.Identity{
		Initiator: rapid.SampledFrom(c.here).Draw(c.T, "initiator"),
		TxID:      ledger.TxID(rapid.StringMatching("t[0-9a-f]").Draw(c.T, "tx")),
	})
}

func (c *conformance) drawStart(id ledger.Identity) ledger.Operation {
	op := ledger.Operation{Step: ledger.StepStart}
	op.Identity = id
	op.Kind = rapid.SampledFrom([]ledger.Kind{
		ledger.KindAdd, ledger.KindWithdraw, ledger.KindTransfer, ledger.KindTransfer, ledger.KindTransfer, ledger.KindTransfer,
	}).Draw(c.T, "kind")
	op.Amount, op.Currency = c.drawAmount(), c.drawCurrency()
	op.Description = rapid.SampledFrom([]string{"", "rent", "a 'quoted' \"ünïcode\" text"}).Draw(c.T, "description")
	if op.Kind == ledger.KindTransfer {
		op.Payee = rapid.SampledFrom(append(append([]ledger.UserID(nil), c.here...), c.away...)).Draw(c.T, "payee")
		op.Saga = slices.Contains(c.away, op.Payee) || rapid.Bool().Draw(c.T, "saga")
	}
	if op.Saga {
		op.Trace = rapid.SampledFrom([]string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}).Draw(c.T, "trace")
	}
	return op
}

func (c *conformance) drawAmount() ledger.Amount {
	return rapid.SampledFrom([]ledger.Amount{
		1, 2, 3, 5, 10, 100, 300, 1000, ledger.MaxAmount / 2, ledger.MaxAmount - 1000, ledger.MaxAmount - 1, ledger.MaxAmount,
	}).Draw(c.T, "amount")
}

func (c *conformance) drawCurrency() ledger.Currency {
	return rapid.SampledFrom([]ledger.Currency{"USD", "USD", "USD", "JPY"}).Draw(c.T, "currency")
}

// drawVisitor is the credit of a saga whose payer is away.
func (c *conformance) drawVisitor() ledger.Operation {
	id := ledger.Identity{
		Initiator: rapid.SampledFrom(c.away).Draw(c.T, "payer"),
		TxID:      rapid.SampledFrom([]ledger.TxID{"v0", "v1", "v2", "v3"}).Draw(c.T, "tx"),
	}
	transfer, ok := c.visitors[id]
	if !ok {
		transfer = ledger.Transfer{
			Identity: id, Kind: ledger.KindTransfer, Payee: rapid.SampledFrom(c.here).Draw(c.T, "payee"),
			Amount: c.drawAmount(), Currency: c.drawCurrency(),
		}
		c.visitors[id] = transfer
	}
	return ledger.Operation{Transfer: transfer, Step: ledger.StepCredit}
}

func (c *conformance) openedSagas() []ledger.Transfer {
	var sagas []ledger.Transfer
	seen := map[ledger.Identity]bool{}
	for _, op := range c.sent {
		if saga, ok := c.book.Saga(op.Identity); ok && !seen[op.Identity] {
			seen[op.Identity] = true
			sagas = append(sagas, saga.Transfer)
		}
	}
	return sagas
}

// credited returns what became of a saga's credit, here or elsewhere.
func (c *conformance) credited(transfer ledger.Transfer) (reason ledger.Reason, known bool) {
	if slices.Contains(c.here, transfer.Payee) {
		credit, ok := c.book.Operation(ledger.Key{Identity: transfer.Identity, Step: ledger.StepCredit})
		return credit.Reason, ok
	}
	reason, known = c.fates[transfer.Identity]
	if !known {
		reason = rapid.SampledFrom([]ledger.Reason{
			ledger.Applied, ledger.PayeeNotFound, ledger.BalanceLimit,
		}).Draw(c.T, "fate")
		c.fates[transfer.Identity] = reason
	}
	return reason, true
}

// nextStep is what a coordinator might send to this shard for a saga.
func (c *conformance) nextStep(transfer ledger.Transfer) (op ledger.Operation, ok bool) {
	reason, known := c.credited(transfer)
	switch {
	case known && reason != ledger.Applied:
		return ledger.Operation{Transfer: transfer, Step: ledger.StepRefund, Cause: reason}, true
	case slices.Contains(c.here, transfer.Payee):
		return ledger.Operation{Transfer: transfer, Step: ledger.StepCredit}, true
	}
	return op, false
}

func (c *conformance) submit(batch []ledger.Operation) {
	answers := c.shard.Submit(c.Context(), batch)
	if len(answers) != len(batch) {
		c.Fatalf("%d answers to %d operations", len(answers), len(batch))
	}
	for i, op := range batch {
		want, err := c.book.Apply(op)
		if errors.Is(err, ledger.ErrImpossible) {
			c.Fatalf("the suite sends what nobody may send: %v", err)
		}
		c.meet(op, want, err)
		got := answers[i]
		if ledger.CodeOf(got.Err) != ledger.CodeOf(err) || (got.Err == nil) != (err == nil) {
			c.Fatalf("operation %d of %d, %#v:\n got error %v\nwant error %v", i, len(batch), op, got.Err, err)
		}
		// The trace belongs to the saga, not to the answer.
		got.Result.Trace, want.Trace = "", ""
		if err == nil && got.Result != want {
			c.Fatalf("operation %d of %d, %#v:\n got %#v\nwant %#v", i, len(batch), op, got.Result, want)
		}
	}
	c.sent = append(c.sent, batch...)
}

func (c *conformance) meet(op ledger.Operation, result ledger.Result, err error) {
	outcome := "applied"
	switch {
	case err != nil:
		outcome = "conflict"
	case result.Replayed:
		outcome = "replayed"
	case result.Reason != ledger.Applied:
		outcome = "refused"
	case result.State != 0:
		outcome += ", " + result.State.String()
	}
	c.met[op.Step.String()+" "+outcome]++
}

func (c *conformance) complete() {
	var ids []ledger.Identity
	for _, transfer := range c.openedSagas() {
		reason, known := c.credited(transfer)
		if known && reason == ledger.Applied && rapid.Bool().Draw(c.T, "complete") {
			ids = append(ids, transfer.Identity)
		}
	}
	if len(ids) == 0 {
		return
	}
	ids = append(ids, rapid.SampledFrom(ids).Draw(c.T, "again"))
	answers := c.shard.Complete(c.Context(), ids)
	if len(answers) != len(ids) {
		c.Fatalf("%d answers to %d ends", len(answers), len(ids))
	}
	for i, id := range ids {
		want, err := c.book.Complete(id)
		if err != nil {
			c.Fatalf("the suite sends what nobody may send: %v", err)
		}
		c.met["complete"]++
		if got := answers[i]; got.Err != nil || got.State != want {
			c.Fatalf("complete %v: got %v, %v; want %v", id, got.State, got.Err, want)
		}
	}
}

func (c *conformance) compareReads() {
	for _, user := range append(append([]ledger.UserID(nil), c.here...), c.away...) {
		for _, currency := range []ledger.Currency{"USD", "JPY", "EUR"} {
			got, err := c.shard.Balance(c.Context(), user, currency)
			if !c.book.HasUser(user) {
				if ledger.CodeOf(err) != ledger.CodeUserNotFound {
					c.Fatalf("balance of %s, who does not exist: %v, %v", user, got, err)
				}
				continue
			}
			want := c.book.Account(ledger.AccountKey{User: user, Currency: currency})
			if err != nil || got != want {
				c.Fatalf("balance of %s in %s: got %+v, %v; want %+v", user, currency, got, err, want)
			}
		}
	}
	seen := map[ledger.Identity]bool{}
	for _, op := range c.sent {
		if id := op.Identity; !seen[id] {
			seen[id] = true
			c.compareTransfer(id)
		}
	}
}

func (c *conformance) compareTransfer(id ledger.Identity) {
	got, gotErr := c.shard.Transfer(c.Context(), id)
	want, wantErr := transferRecord(c.book, id)
	if ledger.CodeOf(gotErr) != ledger.CodeOf(wantErr) || (gotErr == nil) != (wantErr == nil) {
		c.Fatalf("transfer %v: got error %v, want error %v", id, gotErr, wantErr)
	}
	got.CreatedAt, got.EndedAt = time.Time{}, time.Time{}
	got.Trace, want.Trace = "", ""
	if got != want {
		c.Fatalf("transfer %v:\n got %#v\nwant %#v", id, got, want)
	}
}
