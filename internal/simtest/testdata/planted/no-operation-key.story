shard A: alice 10
shard B: bob (not yet created)
asked for: alice/t1, 5 to bob
asked for: alice/t2, 5 to bob
planted bug: no-operation-key
  1. client: asks for alice/t1, 5 to bob; the router sends it to shard A as a saga
  2. home shard A: start alice/t1 → applied, PENDING; the client is told; the network will deliver it again
  3. home shard A: start alice/t1 → applied, PENDING; the client is told
broken: exactly once: the start of alice/t1 took effect 2 times
