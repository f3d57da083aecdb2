// Package operator has the shards of a cluster in Kubernetes be what a LedgerCluster says: it makes what runs their
// Postgres, has them join, empties those that are to leave, and ends what ran them when they have left.
//
// It owns the objects that run shards: a StatefulSet and its Service for each, or a Cluster of CloudNativePG. It refuses to
// decide who owns a slot (the registry in etcd does, by its transactions, and coordinators move slots), to store what it
// decides by, to run etcd, routers and coordinators, and ever to delete a pod or a claim.
//
//	reconciler.go      a pass: what is read, in which order, and what is in the way
//	connection.go      the Secrets, and how etcd and the shards are reached
//	plan.go            which shards stay, leave and come
//	begin.go, grow.go, leave.go, answers.go   the steps
//	engine.go          what runs a Postgres: statefulset.go, or cnpg.go for CloudNativePG
//	ledger.go          the cluster as the operator needs it; package live is the real one
//	status.go          what people are told
//
// # What is true
//
// Each pass begins with nothing and reads: the LedgerCluster, what runs shards, the claims (all from the API server itself,
// no cache), and the registry (linearizably). From that a pure function, makePlan, says which shards stay, leave and come.
// Then every step that can be taken now is taken, once. The status is for people: losing it changes nothing.
//
// A shard of ordinal N has the id sN. Ids are never used twice: a new one is larger than any that is registered or retired,
// that something runs, or that has left a claim behind. The lowest ordinals stay, the highest leave.
//
// # The steps
//
//	finalizer    on the LedgerCluster, before anything is made
//	create       the cluster in the registry, before anything that runs a shard. So if something is there and the registry
//	             knows of no cluster, it was lost (or another prefix is named), and nothing is founded in its place
//	make         what runs a shard: Service, then StatefulSet, with a finalizer and without an owner reference
//	join         migrate, enroll, register: package assembly's, as `saldo shard add` does it
//	activate     a shard that drains and is to stay
//	drain        a shard that is to leave; not the last one that may have slots
//	remove       when the registry shows no slot and no move, and the shard's own database no slot, no copy, no transfer
//	             that has not ended; one transaction forgets the shard and retires its id
//	retire       an id that never was registered and is not wanted any more: one transaction, which Register's excludes
//	end          what runs a shard whose id is retired. Its claim is marked, and stays
//
// Each is idempotent, or decided by a transaction of the registry, and none depends on what an earlier pass remembers. To be
// killed after any of them is the same as to begin a pass.
//
// # What may go
//
// What runs a shard is ended only if its id stands among the retired ones, as read from etcd in this very pass. That never
// stops being true: a tombstone is for ever, and no shard can be registered under its id. So it does not matter how old the
// rest of what was read is, who else acts, or how late the deletion comes: what is deleted by then can own nothing. The
// deletion names the object's uid and version. Whatever else is thought of, the registry's transactions refuse it:
//
//   - etcd is away: nothing is known, so nothing is made or ended; the condition Blocked says so. Shards serve on.
//   - The count is raised in the middle of a drain: activate. If the shard was removed a moment earlier, it has left, and a
//     new one is made, under a new id. RemoveShard compares the shard's record, so not both can happen.
//   - The count is lowered while a shard is being made: its id is retired, unless Register was first, and then it drains.
//   - The count is lowered before the founding: the founding waits for the number that the cluster was created with, so that
//     many are made, and the others leave after it.
//   - Two operators at once, as when a lease is lost: they make objects of the same names, and decide by the same
//     transactions. One that has not heard of a new count may drain or retire what the other one wants; the next pass takes
//     the drain back, or makes a shard under a new id.
//   - The registry is another cluster's, made after etcd was lost or named by mistake: what runs shards, and their claims,
//     say of which cluster they are, and nothing is done by another one's word.
//   - A LedgerCluster made again under the same name and prefix finds its shards by their labels, and goes on. Nothing that
//     runs a shard has an owner reference, so nothing goes with a LedgerCluster, however it was deleted.
//   - A LedgerCluster that is deleted stays (finalizer) while a shard of it is registered, until somebody says that its
//     shards are to go on without it. They do, then.
//   - A StatefulSet that is deleted stays (finalizer) and runs on. If somebody says so, it goes and is made anew on its
//     claim. One that is gone altogether is made anew, if its claim is there; an empty database never stands in for one with
//     money.
//   - A claim that is deleted stays (finalizer). Without that it would go when its pod next stops, and, by most storage
//     classes, the volume with it.
//   - A database that cannot be the shard (another cluster's, another shard's, not empty) is refused by join and left as it
//     is.
//   - A pod that is away for long: its shard owns what it owns. Ready is False, and nothing else happens. It cannot leave,
//     since nobody can know that it is empty.
//   - A namespace that is deleted takes the pods along, which nobody here can prevent. The claims stay.
//
// # Failovers
//
// A StatefulSet's pod has a name of its own, so its address stays. With CloudNativePG the address is the Service that
// follows the primary, and a new primary accepts nothing until it is adopted. The operator adopts only if nothing that was
// acknowledged can be missing there: the Cluster asks that every commit waits for a standby (dataDurability required) and
// that a standby is promoted by a quorum only (failoverQuorum), its failover is over, the new primary's log is known to go
// beyond the last position that coordinators have noted. Then the old primary, should it live, can have acknowledged nothing
// since. If any of that is not so, Blocked names it and the command: it is a person who must know what was lost before money
// is moved by what is left.
//
// # Who has left
//
// A StatefulSet's claim outlives it, labelled as retired, for a person to delete. CloudNativePG deletes a Cluster's claims
// with it, so that is hibernated instead: its pods end, its claims stay, and deleting it is left to a person.
package operator
