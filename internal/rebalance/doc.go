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
// Both write the new epochs to the record: they are what the shards are told, however late, when the map may have moved on.
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
//	catchup   Unfence, if that may be needed. CopyChunk, in case the target has lost some. Pass until one is small: what a
//	          saved snapshot of the source did not see, and that pass's snapshot with it. Verify: history is compared here, in
//	          pieces, since it grows
//	fence     Fence, at the source. Final: the last pass, and a comparison of just what it touched. Switch.
//	          Or back to catchup
//	switched  Activate: the target owns. Tombstone: the source has moved away. Each books what moved against @moved in its
//	          own transaction. Activate comes first, so that the pause is short
//	clean     after a retention time both shards are told again, and the source's copy is deleted, in small pieces, as long
//	          as the target owns the slots; a tombstone of each slot stays
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
// It tells the shards of an abort as soon as it sees one, since routers with the new map are refused until the source knows.
// A fence that it finds may also be that of a move which has ended: then the source has failed over, and is told again.
//
// # When something fails
//
// Everything is tried again, with back-off, from what the registry says; the errors are kept to be shown (Report). Four
// things cannot be mended by that and abort the move: a copy that differs from its source, which is kept for the retention
// time as evidence; a source that is not the server that the copy began with; a fence that can neither be finished nor
// lifted for as long as Config.Deadman; one that was lifted eight times, since clients have waited each time. Between two
// shards whose moves were aborted nothing is planned for a minute, for two after the next abort, and so on. While a decision has not reached both shards they take part in no other move.
//
// # When a shard fails over
//
// A promoted standby accepts nothing before the registry has its record: that comes first. Every phase that a leader writes,
// and Switch above all, compares that neither shard's record is newer than the view by which the mover has connected. So
// nothing is decided by what a deposed primary has said or was told; and Switch is refused once and for all, so that the
// fence can be taken back at the new one. A mover that hears of a new record hangs up and marks the move anew.
//
// If no standby is behind (synchronous replication) a failover costs time, and nothing else. If it is, what the old primary
// did last is lost, and these are made good:
//
//	the source, undecided   its transactions are others now: ErrStale, an abort. It knows of that even if it has lost the mark
//	the source, switched    it has lost the fence, or the tombstone: adoption fences what the map gives to others, and
//	                        Tombstone comes again, before anything is deleted, and by the dead-man after the end of the move
//	the target, undecided   what it lacks is copied again
//	the target, switched    Activate asks for a final pass that this very primary has stored. If that is lost, what the target
//	                        lacks is copied again from what the source has under its fence or behind its tombstone. The source
//	                        keeps that for the retention time
//	copies, after the end   that a copy was deleted, or discarded, is lost: a leader looks for such copies, and deletes them
//
// These are not. What clients were acknowledged by the primary that was lost, and its standby did not have: that is what
// asynchronous replication costs, with or without moves. Where such a write was a transfer of which one end had moved since,
// the other end stays: the audit shows it. What a target has lost after the source's copy was deleted: its standby would have
// to be behind by more than the retention time. What a source has lost together with the mark, after the end of a move: it
// stays fenced, serves nobody, and a person ends it. A failover of both shards at once.
//
// # Pace
//
// Copying, passes, comparing and deleting take Config.Share of a mover's time: after each piece it rests. Catching up ends
// when a pass is small, or does not get smaller and is short enough for the fence. If it does not get smaller and is too
// long, the mover does not rest for twenty passes, and if that does not help either it rests again and goes on, and says so
// from time to time, but does not fence: a transaction that does not end, anywhere on the source's server, is the usual cause.
//
// # What a refusal means while the registry is ahead of a shard
//
// Between Switch and Activate the target has the slots incoming, at the old epoch; between Abort and Restore the source has
// them owned or fenced, at the old epoch but under the move. Both are answered as fenced: wait a moment. Only a slot that
// is under no move and behind the map has lost a write. That is why an epoch may grow only once the source knows of the
// move, and what mark is for: were a move aborted before that, its source would look like one that has lost a write. While a
// source is away such an abort is only noted; the move keeps its slots until then, but not its target.
//
// # A registry that was restored
//
// Tokens are revisions of the registry. One that was restored from a backup counts from an older one, and the shards refuse
// its leaders' tokens. Restore it with a raised revision (etcdutl snapshot restore --bump-revision --mark-compacted). A
// leader that finds a larger token than its own, and still leads, leaves that move alone and says so.
//
// One that was restored to before a Switch says that the move is undecided. Mark asks the target before anything else is
// done, and waits for its answer; an Abort, and the Restore after it, ask and do not wait, since clients of the source do:
// it must not matter to them that a target is down. But a fence is recorded before it is made, and the record keeps that
// (Move.Fenced). So a source that is fenced under a move whose record never was in fence shows that the registry has
// another past: then Restore opens it only by the target's word. Two things cannot be told apart, since the switch is known
// to nobody but the registry and the target: a registry restored to between the first fence and the Switch, and one in
// which the target died inside the fence. If the target of the former is away, too, both shards own the slots until
// somebody rebuilds the registry. The price of the rule: a source that has failed over after an abort in copy or catchup,
// and was fenced by its adoption, waits too for a target that is away.
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
