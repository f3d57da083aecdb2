// Package operatortest is a cluster that stands in memory, and what every cluster that the operator uses must do. For tests
// only.
package operatortest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator"
)

const slots = 4096

// Fake is a small honest model of a cluster: its registry, and the databases of its shards. It is an operator.Ledger.
type Fake struct {
	mu sync.Mutex
	// Guarded by mu:
	away      bool // etcd
	created   bool
	lost      int // how often all was forgotten
	initial   int
	shards    map[ledger.ShardID]operator.Shard
	retired   map[ledger.ShardID]bool
	copies    map[ledger.ShardID]int    // slots that have gone, whose copy is still there
	databases map[string]ledger.ShardID // by address: whose they are; "" is nobody's
	down      map[ledger.ShardID]bool   // those whose database does not answer
	failed    map[ledger.ShardID]*operator.NotAdoptedError
	sagas     map[ledger.ShardID]int
}

var _ operator.Ledger = (*Fake)(nil)

// ErrAway is of whatever does not answer.
var ErrAway = errors.New("nobody answers")

// NewFake returns a registry that knows of no cluster.
func NewFake() *Fake {
	return &Fake{
		shards: make(map[ledger.ShardID]operator.Shard), retired: make(map[ledger.ShardID]bool),
		copies: make(map[ledger.ShardID]int), databases: make(map[string]ledger.ShardID), down: make(map[ledger.ShardID]bool),
		failed: make(map[ledger.ShardID]*operator.NotAdoptedError), sagas: make(map[ledger.ShardID]int),
	}
}

// Close implements operator.Ledger.
func (f *Fake) Close() error { return nil }

// locked runs what needs etcd.
func (f *Fake) locked(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return fmt.Errorf("etcd: %w", ErrAway)
	}
	return do()
}

// Look implements operator.Ledger.
func (f *Fake) Look(context.Context) (r *operator.Registry, err error) {
	err = f.locked(func() error {
		if !f.created {
			r = &operator.Registry{}
			return nil
		}
		r = &operator.Registry{
			Created: true, Cluster: fmt.Sprint("fake", f.lost), Initial: f.initial, Founded: f.founded(), Shards: maps.Clone(f.shards),
			Retired: slices.Sorted(maps.Keys(f.retired)), Left: f.left(),
		}
		for id := range f.copies {
			s := r.Shards[id]
			s.Moves++
			r.Shards[id] = s
		}
		return nil
	})
	return r, err
}

func (f *Fake) founded() bool {
	for _, s := range f.shards {
		if s.Slots > 0 {
			return true
		}
	}
	return false
}

// share is how many slots each shard should have.
func (f *Fake) share() map[ledger.ShardID]int {
	share, active := make(map[ledger.ShardID]int), f.active()
	for i, id := range active {
		share[id] = slots / len(active)
		if i < slots%len(active) {
			share[id]++
		}
	}
	return share
}

func (f *Fake) active() (ids []ledger.ShardID) {
	for id, s := range f.shards {
		if !s.Draining {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (f *Fake) left() (left int) {
	if !f.founded() {
		return 0
	}
	for id, share := range f.share() {
		if lacks := share - f.shards[id].Slots; lacks > 1 {
			left += lacks
		}
	}
	for _, s := range f.shards {
		if s.Draining {
			left = max(left, s.Slots)
		}
	}
	return left
}

// Create implements operator.Ledger.
func (f *Fake) Create(_ context.Context, shards int) error {
	return f.locked(func() error {
		if !f.created {
			f.created, f.initial = true, shards
		}
		return nil
	})
}

// Join implements operator.Ledger.
func (f *Fake) Join(_ context.Context, id ledger.ShardID, dsn string) error {
	return f.locked(func() error {
		known, registered := f.shards[id]
		switch {
		case !f.created:
			return errors.New("no cluster")
		case f.retired[id]:
			return &operator.Refusal{Err: fmt.Errorf("shard %s: the id was used before", id)}
		case f.down[id]:
			return fmt.Errorf("shard %s: %w", id, ErrAway)
		case f.databases[dsn] != "" && f.databases[dsn] != id:
			return &operator.Refusal{Err: fmt.Errorf("the database is shard %s", f.databases[dsn])}
		case registered && (known.Address != dsn || f.databases[dsn] == ""):
			return &operator.Refusal{Err: fmt.Errorf("shard %s is registered with another database", id)}
		case registered:
			return nil
		}
		f.databases[dsn] = id
		f.shards[id] = operator.Shard{Address: dsn}
		if !f.founded() && f.initial > 0 && len(f.active()) >= f.initial {
			for id, share := range f.share() {
				s := f.shards[id]
				s.Slots = share
				f.shards[id] = s
			}
		}
		return nil
	})
}

// Retire implements operator.Ledger.
func (f *Fake) Retire(_ context.Context, id ledger.ShardID) error {
	return f.locked(func() error {
		if _, registered := f.shards[id]; registered {
			return fmt.Errorf("shard %s is registered", id)
		}
		f.retired[id] = true
		return nil
	})
}

// Drain implements operator.Ledger.
func (f *Fake) Drain(_ context.Context, id ledger.ShardID) error {
	return f.locked(func() error {
		active := f.active()
		switch {
		case !f.founded():
			return errors.New("the slots are not spread yet")
		case len(active) == 1 && active[0] == id:
			return fmt.Errorf("shard %s is the only one that may have slots", id)
		}
		return f.set(id, true)
	})
}

// Activate implements operator.Ledger.
func (f *Fake) Activate(_ context.Context, id ledger.ShardID) error {
	return f.locked(func() error { return f.set(id, false) })
}

func (f *Fake) set(id ledger.ShardID, draining bool) error {
	s, ok := f.shards[id]
	if !ok {
		return fmt.Errorf("shard %s is not registered", id)
	}
	s.Draining = draining
	f.shards[id] = s
	return nil
}

// Remove implements operator.Ledger.
func (f *Fake) Remove(_ context.Context, id ledger.ShardID) error {
	return f.locked(func() error {
		s, ok := f.shards[id]
		switch {
		case !ok:
			return fmt.Errorf("shard %s is not registered", id)
		case !s.Draining:
			return fmt.Errorf("shard %s may get slots", id)
		case s.Slots > 0 || f.copies[id] > 0 || f.sagas[id] > 0:
			return fmt.Errorf("shard %s is not empty", id)
		case f.down[id]:
			return fmt.Errorf("shard %s cannot be asked: %w", id, ErrAway)
		}
		delete(f.shards, id)
		f.retired[id] = true
		return nil
	})
}

// Ask implements operator.Ledger.
func (f *Fake) Ask(_ context.Context, id ledger.ShardID) (a operator.Answer, err error) {
	err = f.locked(func() error {
		s, ok := f.shards[id]
		switch {
		case !ok:
			return fmt.Errorf("shard %s is not registered", id)
		case f.down[id]:
			return fmt.Errorf("shard %s: %w", id, ErrAway)
		case f.databases[s.Address] != id:
			return fmt.Errorf("another database is behind the address of shard %s", id)
		case f.failed[id] != nil:
			return f.failed[id]
		}
		a = operator.Answer{Slots: s.Slots, Uncleaned: f.copies[id], Sagas: f.sagas[id]}
		return nil
	})
	return a, err
}

// Adopt implements operator.Ledger.
func (f *Fake) Adopt(_ context.Context, id ledger.ShardID) error {
	return f.locked(func() error {
		delete(f.failed, id)
		return nil
	})
}

// Move moves up to so many slots to where they should be, as coordinators do. Copies that earlier calls left are deleted.
func (f *Fake) Move(most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copies = make(map[ledger.ShardID]int)
	if f.away || !f.founded() {
		return
	}
	share := f.share()
	for from, s := range f.shards {
		for _, to := range f.active() {
			n := min(most, s.Slots-share[from], share[to]-f.shards[to].Slots)
			if to == from || n <= 0 || f.down[from] || f.down[to] {
				continue
			}
			t := f.shards[to]
			s.Slots, t.Slots, most = s.Slots-n, t.Slots+n, most-n
			f.shards[from], f.shards[to] = s, t
			f.copies[from] += n
		}
	}
}

// Etcd has the registry answer or not.
func (f *Fake) Etcd(answers bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = !answers
}

// Down has a shard's database answer or not.
func (f *Fake) Down(id ledger.ShardID, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[id] = down
}

// DownAt is Down for the registered shard at an address.
func (f *Fake) DownAt(dsn string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, s := range f.shards {
		if s.Address == dsn {
			f.down[id] = true
		}
	}
}

// Empty replaces the database at a shard's address by an empty one.
func (f *Fake) Empty(dsn string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.databases[dsn] = ""
}

// Sagas has a shard hold transfers that have not ended.
func (f *Fake) Sagas(id ledger.ShardID, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sagas[id] = n
}

// FailOver has another server be the shard's primary.
func (f *Fake) FailOver(id ledger.ShardID, lost ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed[id] = &operator.NotAdoptedError{Timeline: 2, Lost: lost}
}

// Lose has the registry forget everything.
func (f *Fake) Lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created, f.initial = false, 0
	f.lost++
	clear(f.shards)
	clear(f.retired)
}

// Holds tells what keeps a shard's rows from going: it is registered, or was never heard of. "" if nothing does: its id is
// retired.
func (f *Fake) Holds(id ledger.ShardID) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, registered := f.shards[id]
	switch {
	case registered:
		return fmt.Sprintf("shard %s is registered, and owns %d slots", id, s.Slots)
	case !f.retired[id]:
		return fmt.Sprintf("the id of shard %s is not retired", id)
	case f.away:
		return "etcd does not answer, so nobody can know"
	}
	return ""
}

// Owners returns how many slots each registered shard has, sorted by id, for messages and comparisons.
func (f *Fake) Owners() (owners []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(f.shards), func(a, b ledger.ShardID) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	for _, id := range ids {
		state := ""
		if f.shards[id].Draining {
			state = " draining"
		}
		owners = append(owners, fmt.Sprintf("%s:%d%s", id, f.shards[id].Slots, state))
	}
	return owners
}
