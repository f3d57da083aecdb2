shard A: alice 10
shard B: bob (not yet created)
asked for: alice/t1, 5 to bob
asked for: alice/t2, 5 to bob
planted bug: refund-without-guard-against-late-credit
  1. client: asks for alice/t1, 5 to bob; the router sends it to shard A as a saga
  2. home shard A: start alice/t1 → applied, PENDING; the client is told
  3. coordinator 1: reads the saga alice/t1, PENDING → sends the credit
  4. shard B: credit alice/t1 from coordinator 1 → refused: payee_not_found; the network will deliver it again
  5. coordinator 1: alice/t1: credit refused: payee_not_found → sends the refund
  6. home shard A: refund alice/t1 from coordinator 1 → applied
  7. shard B: user bob is created
  8. shard B: credit alice/t1 from coordinator 1 → applied
broken: exactly once: alice/t1 was both credited and refunded
