// Package mend finds what is torn between shards after a shard has lost its latest commits, and drives it together again.
//
// That happens when a standby takes over that did not have everything its primary had acknowledged, or when a backup is
// restored. What was done within that shard alone is gone without a trace. Of what was done with another shard, that one
// still has its side:
//
//	credit lost    the payer's home has completed the saga, the payee's shard has no credit of it
//	start lost     the payee's shard has a credit, the payer's home has no start of it
//	refusal lost   the payer's home has refunded the saga, the payee's shard has no record of its refusal
//	start refused  the payee's shard has applied a credit, the payer's home has refused its start
//
// The first two are mended by the same steps, sent again: each has its key, so it does no harm to one that was not lost
// after all. Sagas whose end was lost are pending again, and need nothing.
//
// It counts slots that are not where the map says, too: what was lost may be the end of a move.
//
// It owns the rules of what may be sent again. It refuses to book anything that the rules of the ledger would refuse: an
// outcome that is recorded stands for ever, so what cannot be done now is left for a person, and for another try.
// What else may be wrong with the books, package audit finds.
package mend
