// Package cluster keeps what the processes of one cluster know in common: its fixed settings, its shards, who owns which
// slot, which slots are moving, who leads, who is alive. It is the only package that knows etcd.
//
// It refuses to know Postgres (a shard's own slot table is written by whoever RunFounder calls, and by movers), to plan
// where slots should live, and to store a secret. It is never on the way of a transfer: a process works from the View it
// has, and each shard enforces ownership in its own transactions. A wrong or an old view costs a retry, never money.
//
// # Keys
//
// All keys of a cluster stand under one prefix, "/saldo/default/" unless configured.
//
//	config               {"uid","slots","hash","initial_shards","created_at"}        created once, never changed
//	shards/<id>          {"id","state","dsn","weight","registered_at","timeline","adoption"}  dsn without any secret
//	retired/<id>         {"id","retired_at"}                                         tombstone: the id is never used again
//	slots/<00..3f>       [{"first","last","shard","epoch"}, …]                       64 slots each, as runs in slot order
//	moves/<id>           a placement.Move                                            until it has ended and is forgotten
//	positions/<id>       [{"timeline","lsn","at"}, …]                                how far a shard's log was durable: a hint only
//	audit                an admin.AuditStatus                                        what the audit that is always on has found: a hint only
//	leaders/<name>/<lease>   the candidate's value                                   leased
//	live/<kind>/<id>     the announced value: of routers and coordinators a Process  leased, a hint only
//
// Ownership is packed into 64 keys, by the top 6 bits of the slot, because etcd takes at most 128 compares and 128 puts in
// one Txn (each counted for itself): one decision over any set of slots compares and writes at most 64 keys, which leaves
// room for the leader's key and the move's. The price is that decisions about different slots of one chunk exclude each
// other: a Txn that fails because a chunk's ModRevision has moved on must read again and decide again; that alone says
// nothing about its own slots.
// (In bytes: 4096 runs with the longest shard ids are below 0.8 MB, etcd's limit is 1.5 MB.)
//
// Where etcd asks who comes, a role that may read and write the prefix is enough.
//
// Names that people choose contain no "/", so no election and no kind lies inside another's directory.
//
// # Why each write is safe
//
// Every write is one Txn, except for live keys. None is repeated blindly: an answer that was lost is learned by asking
// again, and each is idempotent or decided by a compare.
//
//   - Init creates config if it has CreateRevision 0. Of two at once, one creates, and both return what it created.
//   - Register compares config's whole value (it holds the uid: a store that was wiped and initialised again between the
//     migration of the shard and its registration is another cluster), the absence of a tombstone and the absence of the
//     record. If the record is there, the same dsn is a repeat and another one is an error; nothing is overwritten.
//   - Readdress, DrainShard, SetWeight and Adopt compare config's value and the record's ModRevision, and change what they
//     are about alone. Of several servers that are adopted at once, each with a mark of its own, the first one is; of
//     several who adopt one server, with its one mark, the first one decides and the others repeat that.
//   - Found compares: config's value; that no slots key exists; that no shards key and no retired key is newer than the view
//     that it decided from. These are compares over a range of keys, so there are four of them whatever the number of
//     shards, and a shard that registers in between makes the Txn fail, like one that changes. (A removal must therefore
//     write the tombstone in the Txn that deletes the record.) The limit on founding shards is the number of slots.
//     It needs no leader: it makes something out of nothing, exactly once. All 64 chunks are written by one revision, so
//     no reader sees half of a founding.
//   - PlanMove creates the record of a move, and compares config's value, that no shards, retired, slots or moves key is
//     newer than the view that it decided from, and that the id is new. So two that plan at once exclude each other,
//     whoever they are, and it needs no leader: nothing happens to a slot because of a planned move. A record that was
//     forgotten meanwhile (deletions are not seen by these compares) had ended, and forbade nothing.
//   - AdvanceMove and SwitchMove compare the leader's key (Leadership) and the record's ModRevision; AbortMove and PauseMove
//     the record's ModRevision alone. Any two of them exclude each other. What is written is the record as stored, with a
//     change, so a caller cannot alter a journey. A leader whose key has gone changes nothing, however late its Txn comes.
//   - AdvanceMove and SwitchMove also compare that the records of the move's two shards are no newer than the view by which
//     the mover has connected to them. Adopt writes such a record before the new primary accepts anything; so nothing is
//     written by what a deposed primary has said, and a switch that was refused for that cannot come through later.
//   - SwitchMove and AbortMove decide: with the record they write who owns its slots, and raise the epoch of each by one,
//     which voids every process that still holds the old one. They compare the ModRevision of each chunk that they write. If
//     only that has moved on, another move has been decided in the same chunk: they read and decide again. Exactly one of
//     them can be the first to change the record, and after it the other one's phase is wrong for good. A planned move that
//     is aborted has touched no shard: its record alone is written. Ownership keys have no lease.
//   - After an answer was lost, the record tells. SwitchMove of a move that is switched, and AbortMove of one that is
//     aborted, say so without an error, also to a leader that is none any more; so does PlanMove of a journey that is there
//     under its id. An advance that was done has left its phase.
//   - ForgetMoves compares the ModRevision of each record that it deletes. They have ended, and nobody writes them again.
//   - RemoveShard compares config's value, that the shard's record is there and, like all slots and moves keys, no newer
//     than the view, in which the shard drains, owns nothing, and no move of its has anything left to do. It deletes the
//     record, and the shard's positions, and writes the tombstone in one Txn. A move to it that is planned at the same time
//     makes it fail, or fails because of the tombstone. So what the caller has seen in the shard's own tables since that
//     view stays true until the end.
//   - Rebuild writes owners, shards, tombstones and moves by what the shards' own tables say, after the registry was lost or set
//     back. Into an empty prefix it compares that there is no config and no key of these kinds, else config's value and that no
//     such key is newer than the view that was compared with the shards. It is one Txn, and its result must make a view.
//     Here alone a decision is written that was made elsewhere: the caller takes the highest epoch of each slot, and guesses nothing.
//   - Retire writes the tombstone of an id that is not registered: it compares config's value and the absence of the record, and
//     Register the absence of the tombstone. So of the two only one succeeds.
//   - A candidate's key is created once with its lease. Leading is established by one Txn that sees, at one revision, that
//     the own key is still the one created and that no older candidate is there. (clientv3's Election.Campaign reports
//     success to a candidate whose own key went with its lease while it waited.)
//
// # Founding
//
// A new cluster has no slots keys. If config's initial_shards is N > 0, founding is due when N shards are active: whoever
// registers the Nth calls FoundIfDue; should it die in between, the leading coordinator does (RunFounder). If it is 0,
// founding is due when the set of active shards has not changed for a settle time, as the leading coordinator sees it.
// Slots go to the active shards evenly by placement.Found, epoch 1; weights are for the planner.
// RunFounder then has the shards' own slot tables written, again and again until that succeeds, at each start of a leader.
// So activation must be idempotent in this sense: it inserts absent rows, for slots at epoch 1, and changes none. Slots that
// ever moved are written by their mover alone.
//
// # Following
//
// A Watcher lists the prefix, keeps the revision, and watches from the next one with WithRequireLeader. One goroutine owns
// the copy of the keys and applies listings and events in order of revision: an event at or below the revision it has is
// skipped, a listing replaces all. Whatever ends the watch (compaction, no leader, cancellation), the next step is the
// same: list again, compare, watch from there.
//
// Once a second a probe asks, linearizably, for keys changed since our revision, and for their number. It answers the
// question whether etcd is there (Status.Connected), and finds a watch that has gone deaf: if the probe sees what the watch
// did not bring, the prefix is listed.
//
// A view is built from all keys or not at all. If the keys make no sense (not JSON, a run outside its chunk, two runs that
// overlap, a slot without owner, an unknown shard, an epoch that went back, an owner that changed without a new epoch, a
// config that changed, a move of slots that its phase says are another shard's, two moves of one slot), the last good view
// stays, Status.Problem says why, and it is logged once. A cluster with a problem goes on serving, and its map stands still
// until a person has looked.
//
// Records of moves are judged only as far as somebody would act on them here. One that has ended, or that cannot be read,
// or whose phase is unknown because a newer program wrote it, says nothing about who owns a slot: the view has it as it is,
// and the map goes on. But as long as one is there that this program does not understand, it plans no move, removes no
// shard, and changes nothing about that move: it cannot know which slots and shards are busy.
//
// # Time
//
// Leases count seconds at two clocks. The context of led work ends when no keepalive that was *sent* within the last four
// fifths of the lease's time has been answered, so before etcd can give the lease away; also as soon as the leader's key is
// seen to be gone. A process that is frozen as a whole notices late, and work may be slow to return: two works can then
// overlap. Leadership is for efficiency; what must happen once is decided by a compare.
package cluster
