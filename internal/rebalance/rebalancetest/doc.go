// Package rebalancetest tries the rebalancer in a world where everything that can go wrong does, without a database: the
// very code that production runs (rebalance.Rebalancer), on a model of the registry and of the shards.
//
// It owns the model, the stories and what must hold. It refuses to know SQL and etcd: a transaction of the model is one
// step that nobody sees the middle of, and what Postgres needs in order to be like that, package shard's tests show.
//
// # The world
//
// A registry with a leader's token, two shards with slots and rows, three processes that each run a rebalancer and the
// dead-man, and clients that write all the time: some get a newer map when they are refused, one never does. Time is
// virtual (testing/synctest), so that a story of minutes takes milliseconds. What happens in a story is its faults and its
// seed, up to the order in which the scheduler runs goroutines that are woken at the same instant.
//
// # What goes wrong
//
// A fault happens to whoever comes to a point (rebalance.Points) for the nth time: it crashes; it sleeps, so that another
// one leads and it wakes up as a second mover; it is deposed; its next request is lost, or done and the answer lost, or
// done much later; a person aborts the move, or pauses it for a while; the source or the target is away for a while, or
// fails over to a standby that lacks what it did lately, while its old primary goes on answering whoever is connected to it;
// a row of the copy becomes another.
//
// # What must hold
//
// At every step: at most one shard owns a slot; a shard that is ahead of no map never looks as if it had lost a write; on
// each shard, the entries and system sides of the slots that it answers for and what is booked against @moved sum to zero.
// In the end: the move has ended, the registry's owner owns, no other shard has a row or a slot that is fenced or incoming,
// every acknowledged write is at the owner exactly once, entries are numbered without a gap. After a failover this does not
// hold for sums, nor for what the lost primary had acknowledged of its own slots in the time that is lost; for all else it
// does.
//
// The bugs that are planted to see that all this bites are Bugs.
package rebalancetest
