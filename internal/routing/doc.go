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
//	fenced             the slot is moving: wait up to Config.FenceWait for the new owner
//	epoch ahead        the shard has lost a write: nothing is tried again, a person must look
//	stranger           another database behind the shard's address, or a primary that is not adopted: nothing is tried again
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
// moment; who sent it sends it again.
//
// # Many at once
//
// A batch of starts goes to each home shard in one call. Those that a shard refuses for a wrong map are followed together
// and sent again; the others are not held up by that, but all are answered together.
package routing
