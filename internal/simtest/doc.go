// Package simtest tries the protocol before it has a database: the rules of money (ledger.Book) and the saga machine
// (saga.Step), the very code that production runs, in a world where everything that can go wrong does.
//
// It owns a world small enough to be explored whole, the explorer, the random swarms, and the suite that keeps simulated
// and real shards alike. It refuses to know about SQL, HTTP, clocks and goroutines: nothing here waits, and a run is a
// function of its scope or its seed. Only tests import it.
//
// # The world
//
// Shards are books; each delivered message is one atomic commit. (A real shard commits many operations at once. A batch
// is a run of such commits that nobody sees the middle of, so it can do nothing that single commits cannot.)
// Coordinators are saga machines with nothing durable. Clients ask for transfers, repeat themselves, and remember what
// they were told. The network is a multiset of messages, delivered in any order.
//
// # What goes wrong
//
// Each kind of fault has a budget (Budget), spent at any moment the explorer likes:
//
//   - a request is lost; or executed with the reply lost; or delivered and delivered again later, as is a reply;
//   - a timer fires early: the coordinator is told "no answer" while the call or its reply is still on its way, and may
//     be executed later. (When nothing is on its way any more, the timer fires in its own time and costs nothing.)
//   - a coordinator crashes and comes back knowing nothing. A crash at any moment covers every effect boundary: a reply
//     that finds its coordinator gone is discarded, which is the same as a crash after learning and before acting, and a
//     message that was never sent is the same as one that a crash prevented;
//   - a second coordinator takes up a saga that another one runs;
//   - a client repeats its request; a router reads the map differently than the router before it.
//
// Users are created and money is added or withdrawn once each, at any moment, where a scope says so.
//
// # What must hold
//
// After every step: promises 1, 2, 3 and 5 of docs/ARCHITECTURE.md (conserved, exactly once, a told outcome stands, no overdraft),
// no alarm from the machine, nothing impossible asked of a book. And promise 6, always ends: from every reachable state,
// every schedule without further faults is finite and leaves no saga pending and nothing in transit. The explorer proves
// that for its scope: the steps that are not faults form a graph without cycles whose every sink is a good end.
//
// SALDO_SIM_DEEP=1 explores with larger budgets (minutes, gigabytes). Beyond what can be explored, swarms: random worlds
// and runs, a function of their seed; SALDO_SIM_RUNS says how many, SALDO_SIM_SEED tries one again.
//
// A violation is told as a story, the shortest there is when the explorer finds it. testdata holds the stories of the
// bugs that are planted to see that all this bites (Bug).
package simtest
