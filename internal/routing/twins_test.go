package routing_test

import (
	"sync"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Of starts with one identity the first counts, also where certainly nothing was recorded of it: no later one takes its
// place. Where that is not known, a later one may tell.
func TestFirstOfTwinsCountsWhereNothingWasRecorded(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	payer, payee := s.usersOn("s1", 2)[0], s.usersOn("s1", 2)[1]
	s.create(r, 100, payer, payee)
	var (
		mu   sync.Mutex
		errs = map[ledger.TxID]error{
			"busy": ledger.Overloaded("no room"), "down": ledger.Unavailable("down", nil), "lost": ledger.Unknown(nil),
		}
	)
	s.spies["s1"].before(func(op ledger.Operation) error {
		mu.Lock()
		defer mu.Unlock()
		err := errs[op.TxID]
		delete(errs, op.TxID) // the next one is done
		return err
	})
	s.mustAnswer(r, 0,
		step{transfer(payer, payee, "busy", 1), "overloaded"},
		step{transfer(payer, payee, "down", 1), "unavailable"},
		step{transfer(payer, payee, "lost", 1), "outcome_unknown"},
		step{transfer(payer, payee, "fine", 1), "COMPLETED"},
		step{transfer(payer, payee, "busy", 1), "overloaded"},
		step{transfer(payer, payee, "down", 2), "unavailable"},
		step{transfer(payer, payee, "lost", 1), "COMPLETED"},
		step{transfer(payer, payee, "fine", 2), "transaction_id_conflict"},
		step{transfer(payer, payee, "fine", 1), "COMPLETED again"},
	)
	s.mustHave(r, payer, 98)
	s.mustBeConserved()
}
