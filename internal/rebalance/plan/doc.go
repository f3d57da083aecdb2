// Package plan decides which slots should go from which shard to which, so that the shards have what their weights say.
//
// It is pure: a plan is a function of what is given, the same for the same. It refuses to know how slots move (package
// rebalance) and how busy they are: balance is counted in slots.
//
// # What balance is
//
// A shard's share is the number of slots times its weight, divided by the weights of all shards that are not draining. A
// draining shard's share is zero. The cluster is in balance when no draining shard has a slot and each other has its share,
// give or take one slot: nothing is moved for rounding, nor to undo a single slot that somebody moved by hand.
//
// Otherwise every shard gets its share rounded down or up. Who gets the odd slots is decided in favour of those that have
// them already, then by the largest remainder, so that as few slots move as possible. Each slot that moves brings the sum of
// the distances from the shares down: a rebalance may be stopped anywhere, and planned anew.
//
// # A hot slot, set apart
//
// Weights count slots, not load. To have one busy slot alone on a shard, give that shard a weight whose share is one slot
// (1, with the others' in the thousands), and move the slot there by hand. What a person has moved by hand is Fixed: balance
// is found with other slots, for as long as the record of the move is kept. A draining shard loses its fixed slots as well.
package plan
