package work

import (
	"math/bits"
	"math/rand/v2"
	"strconv"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Transfers names a caller's n-th transfer. It depends on nothing but what it was made from, so that two sides of a
// comparison can be given the same. Each has a transaction id of its own, as long as no two are made with the same run.
type Transfers = func(caller int, n int64) ledger.Transfer

// Uniform is between any two of the users.
func Uniform(seed uint64, run string, users []ledger.UserID) Transfers {
	return func(caller int, n int64) ledger.Transfer {
		random := randomOf(seed, caller, n)
		payer := below(random, len(users))
		payee := (payer + 1 + below(random, len(users)-1)) % len(users)
		return transfer(run, caller, n, users[payer], users[payee])
	}
}

// ToOne is from any of the users to one who is not among them.
func ToOne(seed uint64, run string, users []ledger.UserID, payee ledger.UserID) Transfers {
	return func(caller int, n int64) ledger.Transfer {
		return transfer(run, caller, n, users[below(randomOf(seed, caller, n), len(users))], payee)
	}
}

// FromOne is from one user to any of the others, among whom he is not.
func FromOne(seed uint64, run string, payer ledger.UserID, users []ledger.UserID) Transfers {
	return func(caller int, n int64) ledger.Transfer {
		return transfer(run, caller, n, payer, users[below(randomOf(seed, caller, n), len(users))])
	}
}

// Across is from any user to any one of another shard. users are by shard.
func Across(seed uint64, run string, users [][]ledger.UserID) Transfers {
	return func(caller int, n int64) ledger.Transfer {
		random := randomOf(seed, caller, n)
		from := below(random, len(users))
		to := (from + 1 + below(random, len(users)-1)) % len(users)
		return transfer(run, caller, n, users[from][below(random, len(users[from]))], users[to][below(random, len(users[to]))])
	}
}

func transfer(run string, caller int, n int64, payer, payee ledger.UserID) ledger.Transfer {
	id := make([]byte, 0, 32)
	id = append(id, run...)
	id = strconv.AppendInt(append(id, '-'), int64(caller), 36)
	id = strconv.AppendInt(append(id, '-'), n, 36)
	return ledger.Transfer{
		Identity: ledger.Identity{Initiator: payer, TxID: ledger.TxID(id)},
		Kind:     ledger.KindTransfer, Payee: payee, Amount: 1, Currency: "USD",
	}
}

func randomOf(seed uint64, caller int, n int64) *rand.PCG {
	return rand.NewPCG(seed, uint64(caller)<<40^uint64(n))
}

// below is one of n numbers from 0, as likely as any other but for less than n/2^64.
func below(random *rand.PCG, n int) int {
	high, _ := bits.Mul64(random.Uint64(), uint64(n))
	return int(high)
}
