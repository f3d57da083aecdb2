// Package audit proves, from the outside, that a running cluster keeps its promises: it reads every row of every shard and
// reports what should not be there, with its id.
//
// It owns the checks that join shards, the order in which shards are read, and the report. It refuses to repair anything,
// to write anything, and to trust anything but the rows: sums are taken from entries and operations, never from what a
// shard says about itself. What can be said about one shard from its own rows is asked of it as set-based statements
// (Book, which package shard implements); what joins shards is streamed and looked up in chunks, so memory stays bounded
// however long the history is.
//
// # What is balanced
//
// An operation is balanced if its entries and its system side sum to zero. This is proved in two halves: the system side is
// the one that the operation's kind, step and saga call for, and the entries are exactly the ones it calls for, no more
// and no fewer. Both are fixed by the contents, and sum to zero by construction (ledger.Operation.System). A refused
// operation has neither. Likewise an account's latest entry carries its balance if each entry's balance is the one
// before plus its amount (the chain, from nothing) and the account's balance is the sum of its amounts.
//
// # Without false alarms, while the system runs
//
// A shard is read in one REPEATABLE READ snapshot, so what is said about one shard is exact. Between shards, cause is what
// orders snapshots. There are two rounds: all shards in round 1, then, when each snapshot of it has been taken, all
// shards once more. Steps are append-only and a saga's end never changes. So
//
//	a credit of round 1      has its start in round 2: the start was committed before the credit was sent
//	an ended saga of round 1 has its credit in round 2: the credit was answered before the end was sent
//	debits and refunds of round 2, less credits of round 1, are never negative: every credit counted has its debit counted
//	and no refund, since a credit is either applied or refused, for ever
//
// The last of these is also the money in transit as the report tells it, an upper bound while transfers run and exact
// when none does.
//
// Ownership may change under the audit. Whatever does not fit is therefore only a suspect: it is read again by its id,
// with a fresh map and fresh snapshots in the same order of rounds, and reported if it is still there while the map and
// the shards agree on who owns its slots and did not change their mind since it was read before. Suspects about ownership
// itself are read again until they vanish or Options.Patience is over, which is longer than a slot may stay fenced.
// A suspect that does not settle makes the check incomplete, never clean.
//
// A shard answers for the slots that it owns or has fenced: a fenced slot's money is still all here. Rows of slots that
// are incoming or moved are copies and count nowhere.
//
// # What moves will add
//
// Operations booked against @moved when a slot comes or goes, so that a shard's books stay at zero: they are system sides
// like the others, and the books check sums whatever system sides there are; over all shards @moved must sum to zero. The
// two entries of a local transfer whose ends have since parted lie on two shards: such lines are counted as parted and
// make the operations check incomplete until they are joined over shards. They can be, in constant memory: the parted
// lines that operations call for and those that entries show must have the same count and the same sum of hashes for
// each payee's slot.
//
// # What it costs
//
// Two connections a shard, idle most of the time, and some sequential scans, Options.Parallel shards at a time, with no
// parallel workers. Operations and entries are compared by sums of hashes, so the whole history is never sorted; only the
// chains of entries are, which may take temporary files. On the 2-core machine, with the shards on it too, 200,000
// operations on 3 shards take 4 to 6 s while others use the machine: about 17 µs for an operation, and 15 µs more for a
// credit. The snapshots hold back vacuum (not writers) until the audit ends.
package audit
