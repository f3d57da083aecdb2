package shard

import (
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// knownAccounts remembers accounts that were seen in the database, to save asking whether they must be made. Like a
// processor's cache it keeps the latest few of those that fall into each set. It may be wrong: an account may have moved
// away with its slot since. A batch finds that out.
type knownAccounts struct {
	sets [1 << 14][4]atomic.Uint64 // hashes of keys
}

func (k *knownAccounts) set(key accountKey) (hash uint64, set *[4]atomic.Uint64) {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(string(key.User))
	_, _ = d.WriteString(" ") // in no id
	_, _ = d.WriteString(string(key.Currency))
	hash = d.Sum64()
	return hash, &k.sets[hash%uint64(len(k.sets))]
}

func (k *knownAccounts) has(key accountKey) bool {
	hash, set := k.set(key)
	for i := range set {
		if set[i].Load() == hash {
			return true
		}
	}
	return false
}

func (k *knownAccounts) add(key accountKey) {
	hash, set := k.set(key)
	for i := len(set) - 1; i > 0; i-- {
		set[i].Store(set[i-1].Load())
	}
	set[0].Store(hash)
}

func (k *knownAccounts) forget(key accountKey) {
	hash, set := k.set(key)
	for i := range set {
		set[i].CompareAndSwap(hash, 0)
	}
}
