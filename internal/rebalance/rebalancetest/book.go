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
	after    string
	final    bool
	rows     int64
}

// book is one shard. The world's lock guards it.
type book struct {
	id       ledger.ShardID
	down     bool
	tx       int64
	slots    map[ledger.Slot]slotRow
	rows     map[string]row
	moved    map[placement.MoveID]int64
	progress map[placement.MoveID]progress
}

func newBook(id ledger.ShardID) *book {
	return &book{
		id: id, slots: make(map[ledger.Slot]slotRow), rows: make(map[string]row),
		moved: make(map[placement.MoveID]int64), progress: make(map[placement.MoveID]progress),
	}
}

// guard is what a shard says to one who holds a slot at an epoch.
func (b *book) guard(slot ledger.Slot, held ledger.Epoch) (placement.Answer, bool) {
	s, ok := b.slots[slot]
	switch {
	case !ok || s.state == moved:
		return placement.Moved, false
	case s.state == incoming:
		return placement.Fenced, false
	case s.epoch < held && s.move != "":
		return placement.Fenced, false
	case s.epoch < held:
		return placement.EpochAhead, false
	case s.state == fenced:
		return placement.Fenced, false
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
		b.rows[account.key()] = account
		entry := account
		entry.kind, entry.amount, entry.op = entryRow, leg.amount, op.id
		b.rows[entry.key()] = entry
		record.amount -= leg.amount
	}
	b.rows[record.key()] = record
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
			b.rows[key] = r
			return
		}
	}
}
