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
// The registry has a phase before it is acted on, except for the fence, which the source has first.
//
//	planned   nothing yet. Aborting only ends the record; no epoch changes
//	copy      Mark: the source's slots carry the move and the leader's token, the target has them incoming. CopyChunk until
//	          all rows that were there are copied. Rows and progress are one transaction at the target
//	catchup   Pass until one is small: what a saved snapshot of the source did not see, and that pass's snapshot with it.
//	          Verify: history is compared here, in pieces, since it grows
//	          Fence, at the source
//	fence     Final: the last pass, and a comparison of just what it touched. Switch
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
// that it needs, under this move and this leader's token: incoming for a copy, moved for a deletion. Whatever changes a
// slot's state takes that lock exclusively, so it waits for every transaction that has checked before. A new leader writes
// its own token first (Mark; tokens only grow), and from then on the old one's checks fail. A leader that sleeps before its
// Switch finds that its leadership, or the record, is not what it was.
//
// # The fence is short
//
// Clients wait from Fence to Activate. Nothing in between grows with history. If Final has not come through within
// Config.FenceBudget, and Switch has not been sent, the mover lifts the fence itself (Unfence: same epoch, same move) and
// catches up again: nobody else can have decided, since whoever took over would have written its own token first. Once
// Switch was sent only the registry knows, and it is asked until it answers.
//
// A slot that has been fenced for longer than Config.Deadman, because its mover died, is ended by any coordinator: it asks
// the registry, aborts the move if it was not switched, and does to the shards what the registry says then.
//
// # What a refusal means while the registry is ahead of a shard
//
// Between Switch and Activate the target has the slots incoming, at the old epoch; between Abort and Restore the source has
// them owned or fenced, at the old epoch but under the move. Both are answered as fenced: wait a moment. Only a slot that
// is under no move and behind the map has lost a write.
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
