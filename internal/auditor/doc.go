// Package auditor audits a cluster all the time: what is new, within seconds, and everything else again and again, a few
// slots at a time.
//
// It owns when what is read, how much of the time that may take, and what is known to be wrong. What is right is package
// audit's to say: a round is an audit of a part of the rows (audit.Part), with the same checks, the same two rounds of
// snapshots and the same patience with slots that change hands, so it gives no more false alarms than that one. It repairs
// nothing.
//
// # What is read
//
//	recent  every Interval: what each shard has committed since the mark of the round before, found by its transactions, with
//	        the accounts that it touched; and what it is to be joined with on other shards, by its key. A saga is followed
//	        from its start until it has ended.
//	sweep   after that, for what is left of the time: all rows of the next few slots, as many as take about a second, round
//	        and round. So a row that nobody may write is found too, some time: a balance that was changed by hand, a row
//	        that is gone.
//
// The rows of a slot that a shard has begun to answer for since its mark were brought by a move, in transactions of the
// mover's. recent leaves such slots out, and the sweep takes them next.
//
// A mark is a snapshot of a server. If that was promoted, restored or has lost its latest transactions in a crash, the mark
// is lost: the shard goes on from now, and what was between is left to the sweep. (A server that has crashed may give out
// again the numbers of transactions that came to nothing. Rows of such transactions look old to recent: the sweep reads them
// as well.) Marks are not handed on either: what was committed between the last round of one coordinator and the first one
// of the next is the sweep's, and so is a saga whose slot moves while it is pending.
//
// While a shard is away, what could not be joined with it is read again when it is back: the marks stay, for 30 rounds at
// most, which are five minutes or more. What has not been read by then is the sweep's.
//
// # What is left out
//
// No sums: of a part they mean nothing. That the books sum to zero follows from each operation being balanced and each
// account being the sum of its entries. The payee's entry of a local transfer is joined with its operation when it is new,
// not by the sweep; nor are rows in slots that no shard answers for. These are what `saldo audit`, which reads everything at
// once, checks beside.
//
// # What is known to be wrong
//
// A finding is kept as long as it is seen, and logged once, as an error; beyond Config.Shown of them, whenever it is seen.
// One about rows is forgotten when the sweep has gone round twice without it; one about ownership when a complete round has
// not seen it. One that only recent can see stays: when it was dealt with, have another coordinator audit. Nothing is kept
// beyond the process: whoever is elected next finds again what the sweep can see.
//
// # What it costs
//
// A round that took t, not counting what it waited for slots to settle, is followed by a pause of t × (1/Share - 1) at
// least. So the share is what it costs at rest, when it sweeps all the time; docs/decisions/0011 has figures under load.
//
// If more is written than can be read in this time, each round would have more to read than the one before, and be followed
// by a longer pause. So when the pause would be longer than Config.Behind, the marks are set anew Config.Interval before its
// end: recent reads that much, of what is new it sees a part, which Status tells, and the sweep has the rest. So it is
// when a round was given up.
package auditor
