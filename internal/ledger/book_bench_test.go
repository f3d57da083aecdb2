package ledger_test

import (
	"fmt"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// BenchmarkBook is the life of a book as a lane lives it, once for each batch: made, loaded with what the operations need,
// asked about each of them, and emptied. The last part of a name is the number of operations.
func BenchmarkBook(b *testing.B) {
	for _, work := range []struct {
		name string
		make func(payer, payee ledger.UserID) part
	}{
		{"local", func(payer, payee ledger.UserID) part {
			return part{op: pay(payer, payee, 1), accounts: []ledger.UserID{payer, payee}}
		}},
		{"add", func(user, _ ledger.UserID) part {
			return part{op: add(user, 1), accounts: []ledger.UserID{user}}
		}},
		{"refused", func(payer, payee ledger.UserID) part {
			return part{op: pay(payer, payee, ledger.MaxAmount), accounts: []ledger.UserID{payer, payee}, reason: ledger.InsufficientFunds}
		}},
		{"replay", func(payer, payee ledger.UserID) part {
			op := pay(payer, payee, 1)
			return part{op: op, accounts: []ledger.UserID{payer, payee}, known: true}
		}},
		{"start", func(payer, payee ledger.UserID) part {
			return part{op: saga(payer, payee, 1), accounts: []ledger.UserID{payer}}
		}},
		{"credit", func(payer, payee ledger.UserID) part {
			return part{op: credit(payer, payee, 1), accounts: []ledger.UserID{payee}}
		}},
		{"refund", func(payer, payee ledger.UserID) part {
			return part{op: refund(payer, payee, 1), accounts: []ledger.UserID{payer}, pending: true}
		}},
	} {
		for _, n := range []int{1, 100, 500} {
			b.Run(fmt.Sprintf("%s/%d", work.name, n), func(b *testing.B) {
				batch := make([]part, n)
				for i := range batch {
					batch[i] = work.make(benchUser(2*i), benchUser(2*i+1))
				}
				b.ReportAllocs()
				for b.Loop() {
					live(b, batch)
				}
			})
		}
	}
}

// part is one operation of a batch, what must be loaded for it, and what its outcome must be.
type part struct {
	op             ledger.Operation
	accounts       []ledger.UserID
	known, pending bool // the operation is recorded already; its saga is pending
	reason         ledger.Reason
}

func benchUser(i int) ledger.UserID {
	return ledger.UserID(fmt.Sprintf("6d7750a1-c3f2-4765-bf8f-%012d", i))
}

func live(b *testing.B, batch []part) {
	book := ledger.NewBook(len(batch))
	for i := range batch {
		p := &batch[i]
		for _, user := range p.accounts {
			book.LoadAccount(ledger.AccountKey{User: user, Currency: usd}, ledger.Account{Balance: 1000, Version: 7})
		}
		if p.known {
			book.LoadOperation(ledger.Recorded{Operation: p.op, Outcome: ledger.Outcome{Balance: 1000, Version: 7}})
		}
		if p.pending {
			book.LoadSaga(ledger.Saga{Transfer: p.op.Transfer, State: ledger.SagaPending})
		}
	}
	for i := range batch {
		p := &batch[i]
		if result, err := book.Apply(p.op); err != nil || result.Reason != p.reason || result.Replayed != p.known {
			b.Fatalf("%v %v: %+v, %v", p.op.Step, p.op.Identity, result, err)
		}
	}
	changes := book.TakeChanges()
	if len(changes.Operations) == 0 && !batch[0].known {
		b.Fatal("nothing was recorded")
	}
}
