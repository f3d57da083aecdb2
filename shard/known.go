package shard

import (
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// revision names what table slots is like. Another revision, another table; the same, the very same table.
type revision [16]byte

// knownSlots remembers which slots were seen owned, and at which epoch, while the slots were at a revision. Whether that
// is still the revision, only the database can tell.
type knownSlots struct {
	mu       sync.Mutex
	revision revision
	epochs   [placement.Slots]ledger.Epoch // 0: not seen
}

// seen returns the revision at which all holds were seen, if there is one.
func (k *knownSlots) seen(holds []placement.Hold) (at revision, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, hold := range holds {
		if hold.Epoch == 0 || k.epochs[hold.Slot] != hold.Epoch {
			return revision{}, false
		}
	}
	return k.revision, k.revision != revision{}
}

// add notes that the holds were seen owned at a revision. What was seen at another one is forgotten.
func (k *knownSlots) add(at revision, holds []placement.Hold) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.revision != at {
		k.revision = at
		clear(k.epochs[:])
	}
	for _, hold := range holds {
		k.epochs[hold.Slot] = hold.Epoch
	}
}

// replays knows whether starts and credits should be looked up before they are recorded. Without that they meet their twins
// at the primary key, and the batch must be run again with the look-up: cheaper as long as there are next to none.
type replays struct {
	quiet atomic.Int32 // batches that were looked up since one met a replay, as far as quietBatches
}

// quietBatches without a replay let the next ones do without the look-up, until one of these fails. So replays make at most
// one batch in this many fail (or one of each writer), however they are timed.
const quietBatches = 128

func (r *replays) expected() bool { return r.quiet.Load() < quietBatches }

func (r *replays) met() { r.quiet.Store(0) }

func (r *replays) none() {
	if r.expected() {
		r.quiet.Add(1)
	}
}

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
