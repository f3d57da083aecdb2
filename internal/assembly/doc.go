// Package assembly treats a cluster as a whole, from outside: it makes databases the shards of one, has them told what
// they own, and shows all shards to the audit. `saldo dev`, `saldo shard`, `saldo audit` and the stands of package bench
// share it.
//
// Beside cmd/internal/wire it is the one place where the adapters shard and cluster meet. It decides nothing: who owns a
// slot is decided in package cluster, what a shard accepts in package shard. Where the registry was lost, Rebuild concludes from what
// all shards say what had been decided, and refuses to guess.
package assembly
