shard A: alice 10
shard B: bob (not yet created)
asked for: alice/t1, 5 to bob
asked for: alice/t2, 5 to bob
planted bug: coordinator-state-not-durable
  1. client: asks for alice/t1, 5 to bob; the router sends it to shard A as a saga
  2. home shard A: start alice/t1 → applied, PENDING; the client is told
  3. home shard A: crashes before it has written the saga's row of alice/t1
broken: conserved: @transit holds 5, sagas account for 0
