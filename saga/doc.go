// Package saga carries a transfer from one shard to another, or back.
//
// It owns the state machine (Step, a pure function printed as one table in testdata/machine.golden) and the two that
// perform its actions: Carry and the Driver. It refuses to know what a shard is made of: they work through interfaces that
// it declares itself, and the simulator runs the same machine without a database.
//
// # The protocol
//
// The start, done by a router at the payer's home shard, debits the payer, leaves the money in @transit and writes the
// saga's row, in one commit. From then on the home shard is the queue. Whoever carries the saga does
//
//	credit     at the payee's shard: applied, or refused with a reason, durable either way
//	complete   at the home, if the credit was applied: the row becomes COMPLETED
//	refund     at the home, if it was refused: the payer gets the money back, the row becomes REFUNDED
//
// # Who carries a saga
//
// Whoever has begun it knows of it first and goes on at once: Carry tries each step once. That is the usual way, and costs
// nothing but the steps: no queue is read, nobody is told.
//
// What does not end so, because a shard did not answer in time or whoever began it is gone, is found in the queue of its
// home by a Driver, which tries again until it ends. It leaves a saga alone until it is Config.Handover old, so that the two
// do not do the same work. Nothing else depends on that: both at once are harmless, as are several Drivers.
//
// # Why each transition is safe
//
//   - Every step is an operation known by (initiator, tx_id, step): doing it again answers what it did the first time.
//     So two runners at once, a runner that wakes from a long sleep, and a message that comes twice are harmless.
//   - Unknown is not failed. Without an answer the same step is sent again; the runner never guesses a refusal.
//   - Only a recorded refusal leads to a refund. Because it is recorded, a late twin of the credit is refused as well.
//   - The end is a compare-and-set at the home, which refuses a refund of a completed saga and the reverse.
//   - Nothing a runner knows must survive it. Recovery is the same loop: Start reads the row, the credit is sent again,
//     and its recorded outcome says where the saga stands.
//
// # Pace
//
// A Driver sends what is due for one shard together, and backs off from a shard that does not answer. Each payee's shard has
// its own share of the sagas under way, and so has each slot that refuses a step: what cannot be done delays only its own
// sagas. What finds no place stays in the queue, and is looked for when there is room.
//
// # When slots move
//
// A saga names users, so its steps go wherever these live by then, also those of a Driver whose home it has left. It moves
// with its home's slot, and whoever makes it visible at its new home, or visible again at its old one, writes it anew:
// there it stands behind every horizon. A Driver that has trouble with a saga that has left lets it go.
package saga
