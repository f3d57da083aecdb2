// Package ledger is the vocabulary and the rules of money.
//
// It owns the words every other package speaks (user, account, transfer, operation, entry, saga) and the one
// implementation of the rules: a Book and Apply. It refuses to know about time, storage, shards' addresses or the
// network: it imports the standard library only, and nothing here takes a context.
//
// # The book
//
// A Book holds the part of one shard's ledger that a batch touches: accounts, known operations, sagas. Apply decides one
// operation and records what it changed; whoever owns the book stores those changes atomically or not at all. The
// simulator runs the protocol on whole books in memory, the shard on books loaded from Postgres: there is no second
// implementation of the rules.
//
// # Why each step is safe
//
//   - An operation is known by (initiator, tx_id, step). A known one is answered from its record and changes nothing, so
//     a step may be sent any number of times, by anyone, in any order.
//   - Refusals are recorded like successes, so the late twin of a refused step is refused too. This is what makes a
//     refund safe: it is only asked for after the payee's book has recorded a refusal of the credit, and from then on no
//     late credit can succeed.
//   - A refund is never refused by a rule. It asks that the saga is still pending in the same book, so it can neither
//     follow a completed saga nor happen twice.
//   - Every step is balanced: what its entries add, its system side takes away. See Operation.System.
//
// Order of the checks of a start: the initiator exists, payer and payee differ, the funds suffice, the payee exists, the
// payee's balance stays within MaxAmount. The last two are checked in the payee's book when the ends are apart; the order
// is the same in one book, so a transfer is refused for the same reason wherever its users live.
package ledger
