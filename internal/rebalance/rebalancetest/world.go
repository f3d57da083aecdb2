package rebalancetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

const (
	source ledger.ShardID = "a"
	target ledger.ShardID = "b"
)

// moving are the slots that a story moves from source to target; the source keeps another one.
var moving = placement.NewSlotSet(1, 2)

const (
	slots        = 3
	usersPerSlot = 2
)

// World is a model of a cluster. Every transaction is one step under its lock.
type World struct {
	bug   Bug
	began time.Time

	mu       sync.Mutex // guards what follows, and all that hangs on it
	rand     *rand.Rand
	revision int64
	owners   map[ledger.Slot]placement.Owner
	current  *placement.Map // as placement made it last
	moves    map[placement.MoveID]placement.Move
	leader   int64                    // its token; it only grows
	changed  chan struct{}            // closed and made anew with every revision
	books    map[ledger.ShardID]*book // the primaries
	servers  map[server]*book         // deposed ones too
	records  map[ledger.ShardID]int64 // revisions of the shards' records
	acked    map[string]acked
	lossy    bool     // a primary has failed over: what it had acknowledged lately is lost
	told     []string // what happened, for people
	broken   []string // what must not be
	slowest  time.Duration
	sleepers int
	drains   bool // the target does
}

// server is where a shard was reached by its record of a revision.
type server struct {
	id       ledger.ShardID
	revision int64
}

// acked is a write that was acknowledged.
type acked struct {
	write
	by ledger.ShardID
	at time.Time
}

func newWorld(seed uint64, bug Bug) *World {
	w := &World{
		bug: bug, began: time.Now(), rand: rand.New(rand.NewPCG(seed, 0)), revision: 1,
		owners: make(map[ledger.Slot]placement.Owner), moves: make(map[placement.MoveID]placement.Move),
		changed: make(chan struct{}), books: make(map[ledger.ShardID]*book), acked: make(map[string]acked),
		servers: make(map[server]*book), records: make(map[ledger.ShardID]int64),
	}
	for _, id := range []ledger.ShardID{source, target} {
		w.books[id], w.records[id] = newBook(id), w.revision
		w.servers[server{id, w.revision}] = w.books[id]
	}
	for slot := range ledger.Slot(slots) {
		w.owners[slot] = placement.Owner{Shard: source, Epoch: 1}
		w.books[source].slots[slot] = slotRow{state: owned, epoch: 1, clean: true}
	}
	return w
}

// tell adds to the story. The caller holds w.mu.
func (w *World) tell(format string, args ...any) {
	w.told = append(w.told, fmt.Sprintf("%9.3f  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// violate notes what must not be. The caller holds w.mu.
func (w *World) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(w.broken, text) {
		w.broken = append(w.broken, text)
		w.tell("BROKEN: %s", text)
	}
}

// touch is called when the registry has changed. The caller holds w.mu.
func (w *World) touch() int64 {
	w.revision++
	close(w.changed)
	w.changed = make(chan struct{})
	return w.revision
}

// placement returns the map of the moment. The caller holds w.mu.
func (w *World) placement() *placement.Map {
	if w.current == nil || w.current.Revision() != w.revision {
		m, err := placement.NewMap(w.revision, w.owners)
		if err != nil {
			panic(err)
		}
		w.current = m
	}
	return w.current
}

// check looks for what must hold at every step. The caller holds w.mu.
func (w *World) check() {
	for slot := range ledger.Slot(slots) {
		var owners []string
		for _, id := range slices.Sorted(maps.Keys(w.books)) {
			if w.books[id].slots[slot].state == owned {
				owners = append(owners, string(id))
			}
		}
		if len(owners) > 1 {
			w.violate("one owner: slot %d is owned by %s", slot, strings.Join(owners, " and "))
		}
	}
}

// failOver makes a standby the primary of a shard, at once and adopted. It lacks what the shard did lately. Who is connected
// to the deposed primary notices nothing. The caller holds w.mu.
func (w *World) failOver(id ledger.ShardID, lost time.Duration) {
	since := time.Now().Add(-lost)
	next := w.books[id].promoted(since)
	w.books[id], w.records[id], w.lossy = next, w.touch(), true
	w.servers[server{id, w.revision}] = next
	for slot, s := range next.slots {
		if owner := w.owners[slot]; s.state == owned && (owner.Shard != id || owner.Epoch > s.epoch) {
			s.state, s.fencedAt = fenced, time.Now()
			set(next, slotsOf, slot, s)
		}
	}
	for op, a := range w.acked {
		for _, leg := range a.legs {
			if a.by == id && !a.at.Before(since) && w.owners[leg.user.slot].Shard == id {
				delete(w.acked, op)
			}
		}
	}
	w.tell("shard %s has failed over", id)
	w.check()
}

// checkSums is the part of check that looks at every row. What was lost on one shard may be the other half of what is on
// another. The caller holds w.mu.
func (w *World) checkSums() {
	if w.lossy {
		return
	}
	for _, b := range w.books {
		if sum := b.sum(); sum != 0 {
			w.violate("conserved: shard %s is off by %d", b.id, sum)
		}
	}
}

// checkEnd looks for what must hold when nothing is left to do. The caller holds w.mu.
func (w *World) checkEnd() {
	for _, id := range slices.Sorted(maps.Keys(w.moves)) {
		if move := w.moves[id]; !move.Phase.Ended() {
			w.violate("always ends: the move of %s is in phase %s", move.Slots, move.Phase)
		}
	}
	for slot := range ledger.Slot(slots) {
		owner := w.owners[slot]
		for _, id := range slices.Sorted(maps.Keys(w.books)) {
			row, ok := w.books[id].slots[slot]
			switch {
			case id == owner.Shard && (row.state != owned || row.epoch != owner.Epoch || row.move != ""):
				w.violate("one owner: slot %d is %s's at epoch %d, and there it is %s at epoch %d, under move %q",
					slot, id, owner.Epoch, row.state, row.epoch, row.move)
			case id != owner.Shard && ok && (row.state != moved || !row.clean):
				w.violate("nothing is left: slot %d is not %s's, and there it is %s, clean: %v", slot, id, row.state, row.clean)
			}
		}
	}
	total := int64(0)
	for _, b := range w.books {
		for _, amount := range b.moved {
			total += amount
		}
		for _, r := range b.rows {
			if w.owners[r.slot].Shard != b.id {
				w.violate("nothing is left: shard %s has rows of slot %d", b.id, r.slot)
			}
		}
	}
	if total != 0 && !w.lossy {
		w.violate("conserved: what moved sums to %d", total)
	}
	w.checkSums()
	w.checkAccounts()
	type effect struct {
		op   string
		user user
	}
	found := make(map[effect]int)
	for _, b := range w.books {
		for _, r := range b.rows {
			if r.kind == entryRow && w.owners[r.slot].Shard == b.id {
				found[effect{r.op, r.user}]++
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.acked)) {
		for _, leg := range w.acked[id].legs {
			if n := found[effect{id, leg.user}]; n != 1 {
				w.violate("acknowledged: a write that was acknowledged is there %d times", n)
			}
		}
	}
}

// checkAccounts makes sure that each account is what its entries say.
func (w *World) checkAccounts() {
	for _, b := range w.books {
		entries := make(map[user][]row)
		for _, r := range b.rows {
			if r.kind == entryRow {
				entries[r.user] = append(entries[r.user], r)
			}
		}
		for _, r := range b.rows {
			if r.kind != accountRow {
				continue
			}
			history := entries[r.user]
			slices.SortFunc(history, func(a, b row) int { return cmp.Compare(a.version, b.version) })
			balance := int64(0)
			for i, e := range history {
				balance += e.amount
				if e.version != int64(i+1) || e.balance != balance {
					w.violate("conserved: entry %d of user %v is %+v", i+1, r.user, e)
				}
			}
			if r.version != int64(len(history)) || r.balance != balance {
				w.violate("conserved: the account of user %v is %+v after %d entries", r.user, r, len(history))
			}
		}
	}
}

var (
	errDead = errors.New("this process has crashed")
	errLost = errors.New("the connection broke")
	errDown = errors.New("the shard is away")
)
