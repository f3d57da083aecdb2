// Package routing is what routers and coordinators do with a ledger that is spread over shards: find the shard a user
// lives on, do an operation there, and do it elsewhere when the user has moved.
//
// It owns the use cases (create a user, read, transfer, carry a saga and wait for its end) and what to do about a map that
// is wrong.
// It refuses to know what a shard or a registry is made of: both are interfaces declared here.
//
// # When the map is wrong
//
// Every call carries what the map says (holds); the shard checks that in its own transaction. A refusal means that nothing
// was changed, so the call is made again, with a new map:
//
//	moved, epoch old   get a newer map (one refresh for all who wait) and go where it says
//	fenced             the slot is moving: wait for the new owner, up to Config.FenceWait in all
//	epoch ahead        the shard has lost a write: nothing is tried again, a person must look
//	stranger           another database behind the shard's address, or a primary that is not adopted: nothing is tried again
//
// So a router whose watch is deaf goes on, a refusal at a time, as long as the registry can be read. When it cannot be, those
// whose slots have moved are told to come again, and nobody else notices.
//
// Where a slot has moved to, a shard tells only people: the next owner may have passed it on, and the registry knows.
//
// # Waiting for a move
//
// Who waits for a fenced slot asks nobody. One loop in the router asks the slots' owners, with one query for each, as soon as
// the map changes and in short steps from then on, since the new owner is told right after that (Shard.Check). While it lasts,
// further calls for such a slot wait at once: no lane gets them, so none spends a second attempt at a batch on refusals.
//
// Who waits holds no place in front of a shard, only the request's own in the process. Config.FenceWaiters bounds them, so
// that they leave room for others; beyond, a call is told to come again. When a slot is open they go on through a gate, a
// limited number to each shard at a time: they would be more than a shard lets in, which would refuse them and others.
//
// # Local or saga
//
// A start says by the map of the moment whether its payee lives on the same shard. If that is wrong the shard refuses
// (the payee's slot is not there), and the start is built again by the newer map. If the map says "apart" and both live
// together, the saga runs on one shard: slower, and right. A repeat is answered from the recorded start whichever way it
// is sent, so it does not matter what the map says by then.
//
// # Steps of sagas
//
// A router carries the sagas that it begins: package saga decides, and the steps go through the lanes of this process like
// everything else. Coordinators use the same steps for what routers have left. A step is tried once by the map of the
// moment; who sent it sends it again, and may ask when that is of use (Await).
//
// Whoever waits for the end of a saga that somebody else carries is told by whatever shard is its home by then.
//
// # Many at once
//
// A batch of starts goes to each home shard in one call. Those that a shard refuses for a wrong map are followed together
// and sent again, those for a fence last; the others are not held up by that, but all are answered together.
//
// A question to all shards is asked again of those that refused it. Each slot is answered for by one shard, that owned it at
// that moment, so nothing is overlooked or found twice while slots move.
package routing
