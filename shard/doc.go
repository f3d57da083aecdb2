// Package shard is one shard's Postgres: every SQL statement of Saldo, the migrations, the lanes and the ownership guard.
//
// It owns the tables and the order in which they are locked. It refuses to decide anything about money (package ledger
// does, on a Book loaded from here), to know which shard a user lives on (its callers hold slots, it checks) and to talk
// to any other shard.
//
// # A batch
//
// Writers send operations to the shard's Lane, a bounded queue with a few writers. A writer takes what is queued and
// commits it as one transaction in two network round trips. Each statement stands on its own, in READ COMMITTED, so each
// sees everything that was committed before it began:
//
//	1  begin
//	   the shard-wide advisory lock, shared             a fence takes it exclusively and so waits for this commit
//	   the guard                                        this is the shard, and it owns every slot as held
//	   insert absent accounts of existing users         in key order; a row that is not there cannot be locked
//	   lock and read the accounts                       in key order; from here on every ordinary twin waits
//	   lock and read the sagas that are to end          in key order
//	   the clock, the transaction's id
//	   read the operations that are known already       exact, since the account locks have serialized twins; see Replays
//	   then, in Go: Book.Apply each
//	2  copy operations and entries in, update accounts, update sagas, copy new sagas in
//	   commit
//
// The lane remembers accounts that are there (knownAccounts) and leaves the first insert out for those. If one of them is
// not there after all, nothing has been decided yet, and the batch is run again with the insert.
//
// Rows come in by COPY in the same pipeline, and what was locked is updated by its ctid, which stays as long as the lock:
// see trip for why.
//
// # The slots' revision
//
// To look at a few hundred slots in every batch is work for nothing: they hardly ever change. So each change of slots gives
// them another revision (a trigger does, in the same transaction), and the lane remembers what the guard has told it: which
// slots are owned, at which epoch, at which revision (knownSlots). If it knows all slots of a batch, it passes the
// revision, and the guard compares that one value; otherwise, or if it differs, the guard looks at each slot, and returns
// the revision of the moment. The slots are always sent, so a change costs no round trip.
//
// This is as safe as looking. The guard reads the revision after the shared advisory lock, with a snapshot of its own, and
// a slot is taken away (fenced, moved, given another epoch) only under the exclusive lock: until the commit, slots can come
// but none can go. The same revision means the very same slots, in a database that was restored or promoted too: it is
// random, made by the transaction that changed them, and never comes again for others. Which database it is and its
// timeline are compared every time. And a trigger changes it, not a program, so nobody can forget to.
//
// # Replays
//
// An operation that is recorded already is answered from its record. To look for that costs a descent of the largest index
// for each operation, and nearly always finds nothing. After quietBatches in which no replay was met, the lane does
// without: starts and credits are taken for new, and each of them, applied or refused, is inserted. If one was known, that
// meets a unique violation; nothing of the batch is committed or answered, and the same batch is run again with the
// look-up, as all are from then on, until there were so many quiet ones again. A refund is always looked up: once its saga
// has ended the book finds it impossible, and nothing would be inserted. So is what an attempt may have recorded whose
// answer was lost.
//
// What replays can waste is bounded, whoever sends them: one batch in quietBatches, or one of each writer, is done twice,
// and leaves the rows of its operations dead, for vacuum.
//
// # One user, one writer
//
// No two writers of a lane work for the same user at once (queue). The second would only hold a connection and wait for
// the first one's locks, with all the other work of its batch waiting too: two batches of a few hundred accounts out of ten
// thousand nearly always meet. It also means that one user's items are done in the order in which they came.
//
// If a twin slips in where there was no account to lock (an unknown user), or was not looked for, the insert of its
// operation meets a unique violation, which skips the commit behind it in the pipeline; the batch is run again and finds
// the twin's record.
//
// # Lock order
//
// Every transaction: advisory lock, users, accounts, sagas that end, operations, entries, new sagas; within each table
// sorted by the key, in byte order (entries and updates lock nothing that is not locked already). Accounts are inserted
// before any is locked, and an inserted row is only ever waited for by an insert; so there is no cycle. Whoever changes
// ownership: advisory lock, slots, the row of shard_meta (by the trigger), which is held until the commit.
//
// # What an error means
//
// A batch that failed before its second round trip was sent, or that Postgres answered with an error, did not happen. If
// the connection broke after that, the outcome is unknown, and the same batch is run again: what was recorded is found by
// its key. An operation that the lane itself recorded in such a lost attempt is recognized by its transaction id and
// answered as new, not as a repeat.
//
// COMMIT is never cancelled. A cancel that reaches a COMMIT waiting for a synchronous standby makes the transaction visible
// although no standby has it, and pgx sends one whenever it gives up a connection. The lanes' connections therefore cannot
// dial a second time (see conn.go), and a writer that has waited long enough closes the socket and calls the outcome
// unknown. No session sets statement_timeout, since it covers COMMIT too.
//
// A person can cancel it, and end the session, and a restart ends all: then everybody sees a transaction that no standby
// has. The writer hears of the first by a warning, of the others by silence, and takes the outcome for unknown in each case.
// And where there are standbys to wait for, what is only looked up is not answered either until they have it: a batch that
// has nothing to record commits a message in the log for that, and so does who reads the queue of sagas, to act on other
// shards. Other reads do not wait.
//
// # Which server
//
// The guard compares the timeline that the server writes on, which changes at the instant of a promotion, with two others:
// the one that its own tables say was adopted, and the one that the session expects, by the registry (the setting
// saldo.timeline; a process whose view changes opens the shard anew). The first refuses a promoted standby, which has all
// the tables of the shard; the second refuses an old primary that comes back, whose tables know nothing of a failover. Each
// new connection asks the guard once, with no slots, so that of several hosts the right one is used, and reads, which pass no
// guard, are not made elsewhere. A timeline cannot change under a connection that was let in: the server that it is to has
// no other one until it is started again.
//
// # Reads
//
// A read checks that its slots are owned, in its own statement. Reads of balances coalesce: a read joins only a query that
// has not been sent yet, so it sees every write that was answered before it began. (Comparing the revision there instead of
// joining the slots saves 1 µs of the 50 that a read over HTTP takes, and needs a second statement for when it differs.)
package shard
