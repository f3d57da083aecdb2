package simtest_test

import (
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/simtest"
)

// scopes are small enough to be explored whole. Each has something to tell of its own, with every kind of fault that its
// budget has on top. The deep budgets take minutes and gigabytes; SALDO_SIM_DEEP=1 asks for them.
var scopes = []struct {
	simtest.Scope
	deep simtest.Budget
}{
	{Scope: simtest.Scope{
		Name: "one saga, every fault", Shards: 2, Coordinators: 2,
		Users:     []simtest.User{{ID: "alice", Shard: 0, Balance: 10}, {ID: "bob", Shard: 1}},
		Transfers: []ledger.Transfer{simtest.Payment("alice", "t1", "bob", 5)},
		Budget:    simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1, Seconds: 1, Repeats: 1},
	}, deep: simtest.Budget{Losses: 2, Duplicates: 1, Timeouts: 2, Crashes: 2, Seconds: 1, Repeats: 1}},
	{Scope: simtest.Scope{
		Name: "one saga to a payee created late", Shards: 2, Coordinators: 2,
		Users:     []simtest.User{{ID: "alice", Shard: 0, Balance: 10}, {ID: "bob", Shard: 1, Late: true}},
		Transfers: []ledger.Transfer{simtest.Payment("alice", "t1", "bob", 5)},
		Budget:    simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1, Seconds: 1, Repeats: 1},
	}, deep: simtest.Budget{Losses: 2, Duplicates: 1, Timeouts: 1, Crashes: 2, Seconds: 1, Repeats: 1}},
	{Scope: simtest.Scope{
		Name: "two sagas that cross", Shards: 2, Coordinators: 2,
		Users: []simtest.User{{ID: "alice", Shard: 0, Balance: 5}, {ID: "bob", Shard: 1, Balance: 5}},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("bob", "t1", "alice", 5),
		},
		Budget: simtest.Budget{Losses: 1, Timeouts: 1, Crashes: 1},
	}, deep: simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1}},
	{Scope: simtest.Scope{
		Name: "a saga spends what another brings, on three shards", Shards: 3, Coordinators: 2,
		Users: []simtest.User{
			{ID: "alice", Shard: 0, Balance: 5}, {ID: "bob", Shard: 1}, {ID: "carol", Shard: 2},
		},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("bob", "t1", "carol", 5),
		},
		Budget: simtest.Budget{Losses: 1, Timeouts: 1, Crashes: 1},
	}, deep: simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1}},
	{Scope: simtest.Scope{
		Name: "two sagas for one balance and a top-up", Shards: 2, Coordinators: 2,
		Users: []simtest.User{{ID: "alice", Shard: 0, Balance: 5}, {ID: "bob", Shard: 1}},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("alice", "t2", "bob", 5),
		},
		Sometime: []ledger.Transfer{simtest.Deposit("alice", "top-up", 5)},
		Budget:   simtest.Budget{Duplicates: 1, Seconds: 1, Repeats: 1},
	}, deep: simtest.Budget{Duplicates: 1, Crashes: 1, Repeats: 1}},
	{Scope: simtest.Scope{
		Name: "a full payee makes room", Shards: 2, Coordinators: 2,
		Users: []simtest.User{{ID: "alice", Shard: 0, Balance: 10}, {ID: "bob", Shard: 1, Balance: ledger.MaxAmount - 5}},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("alice", "t2", "bob", 5),
		},
		Sometime: []ledger.Transfer{simtest.Withdrawal("bob", "spend", 5)},
		Budget:   simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1},
	}, deep: simtest.Budget{Duplicates: 1, Timeouts: 1, Crashes: 1}},
	{Scope: simtest.Scope{
		Name: "a local pair becomes split, and the reverse", Shards: 2, Coordinators: 2,
		Users: []simtest.User{
			{ID: "alice", Shard: 0, Balance: 10}, {ID: "bob", Shard: 0}, {ID: "carol", Shard: 1},
		},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("alice", "t2", "carol", 5),
		},
		Budget: simtest.Budget{Losses: 1, Duplicates: 1, Repeats: 2, MapChanges: 2},
	}, deep: simtest.Budget{Losses: 1, Crashes: 1, Repeats: 2, MapChanges: 2}},
	{Scope: simtest.Scope{
		Name: "one identity, two contents", Shards: 3, Coordinators: 2,
		Users: []simtest.User{
			{ID: "alice", Shard: 0, Balance: 5}, {ID: "bob", Shard: 1, Late: true}, {ID: "carol", Shard: 2},
		},
		Transfers: []ledger.Transfer{
			simtest.Payment("alice", "t1", "bob", 5), simtest.Payment("alice", "t1", "carol", 3),
		},
		Budget: simtest.Budget{Duplicates: 1, Timeouts: 1, Crashes: 1, Repeats: 1},
	}, deep: simtest.Budget{Losses: 1, Duplicates: 1, Timeouts: 1, Crashes: 1, Seconds: 1, Repeats: 2}},
}
