// Package placement says where a user's money lives: user -> slot -> shard.
//
// It owns the hash, the number of slots and the immutable Map. It is pure: it refuses to know where a map comes from
// (package cluster) and what happens when it is wrong (package shard refuses, package routing tries again).
//
// A slot is the top 12 bits of the 64-bit xxHash (seed 0) of the user id's bytes. Both are fixed when a cluster is
// created and pinned by test vectors: another hash or number would send users to shards that do not have their money.
package placement
