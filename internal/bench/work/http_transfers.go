package work

import (
	"math/rand/v2"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Within is between any two users of one shard, which is any one. users are by shard.
func Within(seed uint64, run string, users [][]ledger.UserID) Transfers {
	return func(caller int, n int64) ledger.Transfer {
		random := randomOf(seed, caller, n)
		of := users[below(random, len(users))]
		payer := below(random, len(of))
		payee := (payer + 1 + below(random, len(of)-1)) % len(of)
		return transfer(run, caller, n, of[payer], of[payee])
	}
}

// Partly is Across for a share of the transfers, 0 to 1, and Within for the others.
func Partly(seed uint64, run string, users [][]ledger.UserID, share float64) Transfers {
	within, across := Within(seed, run, users), Across(seed, run, users)
	return func(caller int, n int64) ledger.Transfer {
		if fraction(randomOf(^seed, caller, n)) < share {
			return across(caller, n)
		}
		return within(caller, n)
	}
}

// Skewed is Within where the k-th user of a shard takes part k^-s as often as the first, for s above 1. A caller makes one
// call at a time.
func Skewed(seed uint64, run string, users [][]ledger.UserID, s float64, callers int) Transfers {
	type dice struct {
		source *rand.PCG
		ranks  []*rand.Zipf // by shard
	}
	all := make([]dice, callers)
	for i := range all {
		all[i].source = new(rand.PCG)
		for _, of := range users {
			all[i].ranks = append(all[i].ranks, rand.NewZipf(rand.New(all[i].source), s, 1, uint64(len(of)-1)))
		}
	}
	return func(caller int, n int64) ledger.Transfer {
		d := &all[caller]
		*d.source = *randomOf(seed, caller, n)
		shard := below(d.source, len(users))
		payer, payee := d.ranks[shard].Uint64(), d.ranks[shard].Uint64()
		for payee == payer {
			payee = d.ranks[shard].Uint64()
		}
		return transfer(run, caller, n, users[shard][payer], users[shard][payee])
	}
}

// fraction is from 0 to below 1.
func fraction(random *rand.PCG) float64 { return float64(random.Uint64()>>11) / (1 << 53) }
