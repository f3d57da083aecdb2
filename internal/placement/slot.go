package placement

import (
	"github.com/cespare/xxhash/v2"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

const (
	// Slots is the number of slots of every cluster.
	Slots = 4096
	// HashID names the hash function and how a slot is cut from it. A cluster and each of its shards store it.
	HashID = "xxhash64-seed0-top12"
)

// SlotOf returns the slot of a user.
func SlotOf(user ledger.UserID) ledger.Slot {
	return ledger.Slot(xxhash.Sum64String(string(user)) >> (64 - 12))
}
