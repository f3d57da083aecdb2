package rebalancetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

type slotState string

const (
	owned    slotState = "owned"
	fenced   slotState = "fenced"
	incoming slotState = "incoming"
	moved    slotState = "moved"
)

// slotRow is what a shard knows of a slot.
type slotRow struct {
	state    slotState
	epoch    ledger.Epoch
	move     placement.MoveID
	token    int64
	movedTo  ledger.ShardID
	fencedAt time.Time
	clean    bool
}

// user is one with one account.
type user struct {
	slot ledger.Slot
	n    int
}

// leg is what a write does to one user.
type leg struct {
	user   user
	amount int64
}

// write is one operation: its first leg is the initiator's. One leg is an add; two are a transfer within a shard.
type write struct {
	id   string
	legs []leg
}

type rowKind string

const (
	accountRow   rowKind = "account"
	entryRow     rowKind = "entry"
	operationRow rowKind = "operation"
)

// row is one of any table.
type row struct {
	kind rowKind
	slot ledger.Slot
	tx   int64 // that wrote it here

	user             user
	version, balance int64  // of accounts and entries
	amount           int64  // of entries; of operations, the system side
	op               string // of entries and operations
}

func (r row) key() string {
	switch r.kind {
	case accountRow:
		return fmt.Sprintf("%d/account/%v", r.slot, r.user)
	case entryRow:
		return fmt.Sprintf("%d/entry/%v/%06d", r.slot, r.user, r.version)
	}
	return fmt.Sprintf("%d/operation/%s", r.slot, r.op)
}

// same tells whether two rows say the same, each on its own shard.
func (r row) same(other row) bool {
	r.tx = other.tx
	return r == other
}

// progress is how far the copy of a move has come, at its target.
type progress struct {
	snapshot int64
	begun    bool
	timeline int // of the source
	after    string
	final    int // the target's timeline when the last pass was a final one; 0: it was not
	rows     int64
}

// book is a server of a shard. The world's lock guards it.
type book struct {
	id       ledger.ShardID
	down     bool
	timeline int
	undo     []undo // of what was done, oldest first; kept if the story needs it
	keeps    bool
	tx       int64
	slots    map[ledger.Slot]slotRow
	rows     map[string]row
	moved    map[placement.MoveID]int64
	progress map[placement.MoveID]progress
}

// undo takes something back that was done at a time.
type undo struct {
	at   time.Time
	back func(*book)
}

func newBook(id ledger.ShardID) *book {
	return &book{
		id: id, timeline: 1, slots: make(map[ledger.Slot]slotRow), rows: make(map[string]row),
		moved: make(map[placement.MoveID]int64), progress: make(map[placement.MoveID]progress),
	}
}

// set writes to one of a book's tables; the table is found again in a book that is like this one.
func set[K comparable, V any](b *book, table func(*book) map[K]V, key K, value V) {
	keep(b, table, key)
	table(b)[key] = value
}

func drop[K comparable, V any](b *book, table func(*book) map[K]V, key K) {
	keep(b, table, key)
	delete(table(b), key)
}

func keep[K comparable, V any](b *book, table func(*book) map[K]V, key K) {
	if !b.keeps {
		return
	}
	before, there := table(b)[key]
	b.undo = append(b.undo, undo{time.Now(), func(b *book) {
		if delete(table(b), key); there {
			table(b)[key] = before
		}
	}})
}

func rowsOf(b *book) map[string]row                    { return b.rows }
func slotsOf(b *book) map[ledger.Slot]slotRow          { return b.slots }
func movedOf(b *book) map[placement.MoveID]int64       { return b.moved }
func progressOf(b *book) map[placement.MoveID]progress { return b.progress }

// promoted returns a standby of the shard that is its primary from now on: it lacks what was done since a time.
func (b *book) promoted(since time.Time) *book {
	next := *b
	next.timeline, next.tx = b.timeline+1, b.tx+1000
	next.rows, next.slots = maps.Clone(b.rows), maps.Clone(b.slots)
	next.moved, next.progress = maps.Clone(b.moved), maps.Clone(b.progress)
	next.undo = slices.Clone(b.undo)
	for n := len(next.undo) - 1; n >= 0 && !next.undo[n].at.Before(since); n-- {
		next.undo[n].back(&next)
		next.undo = next.undo[:n]
	}
	return &next
}

// guard is what a shard says to one who holds a slot at an epoch.
func (b *book) guard(slot ledger.Slot, held ledger.Epoch) (placement.Answer, bool) {
	s, ok := b.slots[slot]
	switch {
	case !ok || s.state == moved:
		return placement.Moved, false
	case s.state == incoming, s.state == fenced:
		return placement.Fenced, false
	case s.epoch < held && s.move != "":
		return placement.Fenced, false
	case s.epoch < held:
		return placement.EpochAhead, false
	case s.epoch > held:
		return placement.EpochOld, false
	}
	return "", true
}

// do commits a write, if the shard owns its slots as held.
func (b *book) do(op write, m *placement.Map) (placement.Answer, bool) {
	initiator := op.legs[0].user.slot
	if answer, ok := b.guard(initiator, m.Owner(initiator).Epoch); !ok {
		return answer, false
	}
	record := row{kind: operationRow, slot: initiator, op: op.id}
	if _, known := b.rows[record.key()]; known {
		return "", true
	}
	for _, leg := range op.legs {
		if answer, ok := b.guard(leg.user.slot, m.Owner(leg.user.slot).Epoch); !ok {
			return answer, false
		}
	}
	b.tx++
	record.tx = b.tx
	for _, leg := range op.legs {
		account := row{kind: accountRow, slot: leg.user.slot, user: leg.user}
		if known, ok := b.rows[account.key()]; ok {
			account = known
		}
		account.tx, account.version, account.balance = b.tx, account.version+1, account.balance+leg.amount
		set(b, rowsOf, account.key(), account)
		entry := account
		entry.kind, entry.amount, entry.op = entryRow, leg.amount, op.id
		set(b, rowsOf, entry.key(), entry)
		record.amount -= leg.amount
	}
	set(b, rowsOf, record.key(), record)
	return "", true
}

// answersFor tells whether the slot's rows are the shard's own.
func (b *book) answersFor(slot ledger.Slot) bool {
	s := b.slots[slot].state
	return s == owned || s == fenced
}

// sum is zero: entries and system sides of the slots that the shard answers for, and what it has booked against @moved.
func (b *book) sum() (sum int64) {
	for _, r := range b.rows {
		if r.kind != accountRow && b.answersFor(r.slot) {
			sum += r.amount
		}
	}
	for _, amount := range b.moved {
		sum += amount
	}
	return sum
}

// sumOf is what the rows of some slots do not sum to zero with.
func (b *book) sumOf(slots placement.SlotSet) (sum int64) {
	for _, r := range b.rows {
		if r.kind != accountRow && slots.Contains(r.slot) {
			sum += r.amount
		}
	}
	return sum
}

// since returns the rows of some slots that were written after a snapshot, in key order.
func (b *book) since(slots placement.SlotSet, snapshot int64) []row {
	var rows []row
	for _, key := range slices.Sorted(maps.Keys(b.rows)) {
		if r := b.rows[key]; r.tx > snapshot && slots.Contains(r.slot) {
			rows = append(rows, r)
		}
	}
	return rows
}

// corrupt changes an entry of a copy that is not the shard's own.
func (b *book) corrupt() {
	for _, key := range slices.Sorted(maps.Keys(b.rows)) {
		if r := b.rows[key]; r.kind == entryRow && b.slots[r.slot].state == incoming {
			r.amount++
			set(b, rowsOf, key, r)
			return
		}
	}
}
