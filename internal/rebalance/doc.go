// Package rebalance spreads slots over shards while money moves: it plans which slots should go where, and takes each move
// through its phases so that it can be cut off anywhere and gone on with by somebody else.
//
// It owns the plan (pure: package plan), the order of a move's steps and what is done when one fails. It refuses to know
// Postgres (package shard copies, fences and activates: Pair) and etcd (package cluster decides: Registry).
//
// # Who decides
//
// The registry does, by one transaction per decision. A move's record and the ownership of its slots are written together:
//
//	Switch  if the leader, the move's record and its slots are as read: the target owns the slots, epoch + 1    commit point
//	Abort   if the move's record and its slots are as read: the source owns the slots, epoch + 1
//
// Both compare the same record, so exactly one of them wins, and either voids every process that still holds the old epoch.
// Abort needs no leader: whoever sees a slot fenced for too long may do it. Everything that is done to the shards follows
// what the registry says, is idempotent, and is repeated until it succeeded.
//
// # The phases
//
// The registry has a phase before it is acted on.
//
//	planned   nothing yet. Aborting only ends the record; no epoch changes
//	mark      Mark: the source's slots carry the move and the leader's token, the target has them incoming. An abort is only
//	          noted, and done in the next phase: see below
//	copy      CopyChunk until all rows that were there are copied. Rows and progress are one transaction at the target
//	catchup   Unfence, if that may be needed. Pass until one is small: what a saved snapshot of the source did not see, and
//	          that pass's snapshot with it. Verify: history is compared here, in pieces, since it grows
//	fence     Fence, at the source. Final: the last pass, and a comparison of just what it touched. Switch.
//	          Or back to catchup
//	switched  Activate: the target owns. Tombstone: the source has moved away. Each books what moved against @moved in its
//	          own transaction. Activate comes first, so that the pause is short
//	clean     after a retention time the source's copy is deleted, in small pieces; a tombstone of each slot stays
//	done
//
//	aborting  Restore: the source owns again, at the new epoch. Discard: the target's slots are no longer incoming; its copy
//	          is deleted
//	aborted
//
// # Why a sleeper does no harm
//
// Each transaction of a mover takes the shard's advisory lock, shared, and then checks that the slots are in the state
// that it needs, under this move: incoming, with this leader's token, for a copy; moved for a deletion. Whatever changes a
// slot's state takes that lock exclusively, so it waits for every transaction that has checked before. A new leader writes
// its own token first (Mark; tokens only grow), and from then on the old one's checks fail. A leader that sleeps before its
// Switch finds that its leadership, or the record, is not what it was. One that sleeps before its Mark finds newer epochs:
// Restore and Discard leave them at both shards, also where no Mark has come. And a change of slots holds the lock from its
// first read to its commit: one whose answer was lost cannot come after a later one of the same mover.
//
// # The fence is short
//
// Clients wait from Fence to Activate. Nothing in between grows with history. If Final has not come through within
// Config.FenceBudget, and Switch has not been sent, the mover lifts the fence itself (Unfence: same epoch, same move) and
// catches up again: nobody else can have switched, since whoever took over would have written its own token first. Once
// Switch was sent only the registry knows, and it is asked until it answers. Whoever does not know whether it was sent takes
// the record back to catchup first: that either fails, or no Switch can come through any more.
//
// # The dead-man
//
// A slot that has been fenced for longer than Config.Deadman, because its mover died, is ended by any coordinator: it asks
// the registry, aborts the move if it was not switched, and does to the shards what the registry says then. It does the same
// when a decision has stood in the registry for so long and the shards were not told, since clients wait then as well.
//
// # When something fails
//
// Everything is tried again, with back-off, from what the registry says; the errors are kept to be shown (Report). Three
// things cannot be mended by that and abort the move: a copy that differs from its source, which is kept for the retention
// time as evidence; a source that is not the server that the copy began with; a fence that can neither be finished nor
// lifted for as long as Config.Deadman. Between two shards whose moves were aborted nothing is planned for a minute, for two
// after the next abort, and so on. While a decision has not reached both shards they take part in no other move.
//
// # Pace
//
// Copying, passes, comparing and deleting take Config.Share of a mover's time: after each piece it rests. Catching up ends
// when a pass is small, or does not get smaller and is short enough for the fence. If it does not get smaller and is too
// long, the mover rests no more, and if that does not help either it goes on, and says so, but does not fence.
//
// # What a refusal means while the registry is ahead of a shard
//
// Between Switch and Activate the target has the slots incoming, at the old epoch; between Abort and Restore the source has
// them owned or fenced, at the old epoch but under the move. Both are answered as fenced: wait a moment. Only a slot that
// is under no move and behind the map has lost a write. That is why an epoch may grow only once the source knows of the
// move, and what mark is for: were a move aborted before that, its source would look like one that has lost a write.
//
// # Sagas
//
// They are not drained: they name users, and move with their home slot. While a slot is fenced or incoming, its sagas are
// hidden from whoever runs its home's queue, who reads it by transaction and would pass them by. So Activate, Restore and
// Unfence write the pending ones anew: they stand in the queue behind the transaction that made them visible.
//
// # What stays behind
//
// A shard with a copy that was not cleaned cannot take the slot again: Mark refuses, the planner does not plan it.
// Transfers between two users of one shard are one operation with two entries; when one of the users moves, the two lie on
// two shards. Nothing of the ledger reads across that, only the audit does. What a moved slot's rows do not sum to zero
// with, both shards book against @moved.
package rebalance
