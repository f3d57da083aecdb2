shard A: alice 10
shard B: bob (not yet created)
asked for: alice/t1, 5 to bob
planted bug: coordinator-gives-up
  1. client: asks for alice/t1, 5 to bob; the router sends it to shard A as a saga
  2. home shard A: start alice/t1 → applied, PENDING; the client is told
  3. coordinator 1: reads the saga alice/t1, PENDING → sends the credit
  4. shard B: credit alice/t1 from coordinator 1 → refused: payee_not_found
  5. shard B: user bob is created
  6. coordinator 1: alice/t1: no answer in time, though it is still on its way → has done with it
  7. coordinator 1: alice/t1: credit refused: payee_not_found → nothing new
  8. coordinator 2: reads the saga alice/t1, PENDING → sends the credit
  9. network: shard B: credit alice/t1 from coordinator 2 is lost
 10. coordinator 2: alice/t1: no answer → has done with it
broken: always ends: nothing more will happen, and alice/t1 is PENDING
