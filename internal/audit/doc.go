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
// The payee's line of a local transfer is told by an operation in the payer's slot and shown by an entry in the payee's, and
// either slot may have moved away from the other since. These lines are joined over all shards, in constant memory: for each
// payer's shard and payee's slot, those that operations call for and those that entries show must have the same count and
// the same sum of hashes. Only where they have not are the lines themselves read.
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
// # While slots move
//
// A shard answers for the slots that it owns or has fenced: a fenced slot's money is still all here. Rows of slots that
// are incoming or moved are copies and count nowhere, cleaned or not; a shard that has rows of any other slot is wrong.
//
// A move is two commits on two shards: the target begins to own, then the source tells that the slots have left. In between
// both answer; and snapshots taken around them may show both or neither. So a round is taken again until it has settled:
// one shard answers for each slot, and no other has the slot at a newer epoch. Then each slot is seen as it was at some
// instant between the beginning and the end of the round, for if it began to be owned elsewhere after that other shard's
// snapshot was taken, nothing was written to it where it is seen since then, and if before, two would answer or the other
// one would have the newer epoch. So what the order of rounds proves of shards that stay as they are it proves of slots that
// do not. What is far is looked up at the shard that answers for it in round 2, whatever a map says.
//
// Each shard's entries, system sides and bookings against @moved sum to zero at every commit, in every phase. What two
// shards have booked for a move sums to zero too in a settled round, since each books in the transaction that changes its
// slots. A shard that was drained and removed has taken its bookings with it. They summed to zero, as it had no slots left,
// and so do those of the others against all such shards together: each booking has its reverse, and what removed shards
// booked against each other is zero by itself. So removing a shard leaves nothing to be stored but the name of the other
// shard in each booking.
//
// Before the founding, when neither the map nor a shard gives a slot to anybody, there is nothing to be wrong about slots: the
// audit is incomplete.
//
// Ownership may change under the audit. Whatever does not fit is therefore only a suspect: it is read again by its id,
// with a fresh map and fresh snapshots in the same order of rounds, and reported if it is still there while the map and
// the shards agree on who owns its slots and did not change their mind since it was read before. A suspect that does not
// settle makes the check incomplete, never clean. Doubts about ownership itself are what a round is taken again for, until
// they vanish or Options.Patience is over, which is longer than a slot may stay fenced. Those that were there each time are
// reported: as a move's (CheckMoves) if it explains them, as a slot that was fenced and forgotten, or is owned already by
// one shard and not yet left by the other; as wrong (CheckSlots) if nothing does.
//
// # What it costs
//
// Two connections a shard, idle most of the time, and some sequential scans, Options.Parallel shards at a time, with no
// parallel workers. Operations and entries are compared by sums of hashes, so the whole history is never sorted; only the
// chains of entries are, which may take temporary files. On the 2-core machine, with the shards on it too, 200,000
// operations on 3 shards take 4 to 6 s while others use the machine: about 17 µs for an operation, of which 3 µs are for
// the payee's line of a local transfer, and 15 µs more for a credit. The snapshots hold back vacuum (not writers) until the
// audit ends.
package audit
