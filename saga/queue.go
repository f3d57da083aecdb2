package saga

import (
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Cursor is a place in a home shard's queue of pending sagas, which is in the order of the transactions that wrote them.
// The zero Cursor is its beginning.
type Cursor struct {
	Tx   int64
	Slot ledger.Slot
	ledger.Identity
}

// Pending is a saga that has not ended.
type Pending struct {
	ledger.Saga
	Cursor    Cursor // its own
	CreatedAt time.Time
}

// Page is a run of a home shard's queue.
type Page struct {
	Sagas []Pending
	More  bool // there may be more behind the last one
	// Horizon is a transaction id: every saga written by a transaction below it was visible to this page. A reader that
	// has seen a whole queue needs to look only from the horizon on to find what is new.
	Horizon int64
	// End is a transaction id above that of every saga that was being written or had been when the page was read. So it
	// tells later which sagas are at least as old as the page.
	End int64
}
