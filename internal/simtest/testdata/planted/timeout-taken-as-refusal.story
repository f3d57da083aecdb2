shard A: alice 10
shard B: bob (not yet created)
asked for: alice/t1, 5 to bob
asked for: alice/t2, 5 to bob
planted bug: timeout-taken-as-refusal
  1. client: asks for alice/t1, 5 to bob; the router sends it to shard A as a saga
  2. home shard A: start alice/t1 → applied, PENDING; the client is told
  3. coordinator 1: reads the saga alice/t1, PENDING → sends the credit
  4. shard B: user bob is created
  5. shard B: credit alice/t1 from coordinator 1 → applied
  6. coordinator 1: alice/t1: no answer in time, though it is still on its way → sends the refund
  7. home shard A: refund alice/t1 from coordinator 1 → applied
broken: exactly once: alice/t1 was both credited and refunded
