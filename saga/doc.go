// Package saga carries a transfer from one shard to another, or back.
//
// It owns the state machine (Step, a pure function printed as one table in testdata/machine.golden) and the driver that
// performs its actions. It refuses to know what a shard is made of: the driver works through interfaces that it declares
// itself, and the simulator runs the same machine without a database.
//
// # The protocol
//
// The start, done by a router at the payer's home shard, debits the payer, leaves the money in @transit and writes the
// saga's row, in one commit. From then on the home shard is the queue. A runner reads pending rows and for each one
//
//	credit     at the payee's shard: applied, or refused with a reason, durable either way
//	complete   at the home, if the credit was applied: the row becomes COMPLETED
//	refund     at the home, if it was refused: the payer gets the money back, the row becomes REFUNDED
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
package saga
