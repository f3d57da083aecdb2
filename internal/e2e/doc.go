// Package e2e tests Saldo from the outside: the built programs, as separate processes, on real Postgres servers and a
// real etcd, asked over HTTP.
//
// It owns the claims that need a whole cluster: what the seeds' clients see, what a bad request leaves behind, what two
// routers make of one transfer at once, what happens while a part is down, and what is left after parts were killed. It
// refuses to test what a package can test alone, and to look inside a process: what it knows it read from an answer, from
// a shard's tables, from the registry, from a log line or from /proc.
//
// # The judge
//
// What clients were told while parts were killed is kept as a history and judged after everything has come to rest.
// Every entry has a number, so the order of an account's entries is read from the shards, not searched:
// every answer that names a balance and a version is compared with that very entry. The judge uses nothing of the
// product's but the parsing of an id's slot, and does not trust `saldo audit`, which is run beside it.
//
// While the harm is done, services reach Postgres through gates, which can lose the answers to commits: the only way to a
// commit of which nobody knows that is not left to luck.
//
// # Slots on the move
//
// TestScale has two shards become five and two again, and no client may meet an error. TestScaleInTrouble kills, stops and
// cuts off coordinators at every step of a move meanwhile, and Postgres servers at both ends. For that the programs are
// built with the tag failpoints: a file in a folder tells the coordinator that comes first to a point what to do there.
// etcd is reached through gates then: one holds back what has changed, so that a router knows of no move until a shard
// refuses it, and others cut a mover off from etcd alone, which goes on beside its successor.
//
// # Robustness
//
// Nothing here waits for a fixed time for something to happen: it polls, with bounds that are far longer than what a busy
// machine with two cores needs. Processes are ended by their pid only. When the test process dies, the kernel ends them
// (on Linux).
//
// TestKills runs for SALDO_E2E_SECONDS (default 20, but at least until every fault was injected once) with the seed
// SALDO_E2E_SEED (default 1); both are printed. So does TestScaleInTrouble, which kills a coordinator after each step of a
// move, and leaves out other faults when that is done, unless SALDO_SCALE_SECONDS says for how long it is to go on: then it
// kills before each step too. With that TestScale moves more, and reports what moving costs (`make scale.demo`). With -short
// only the judge itself is tested.
//
// Where moves tell that slots were fenced for longer than a router has its clients wait, which takes a very slow machine,
// clients may be refused because of that, and of nothing else.
package e2e
