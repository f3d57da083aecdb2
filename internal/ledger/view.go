package ledger

import "time"

// User is who owns money.
type User struct {
	ID        UserID
	Name      string // 1 to MaxNameLength bytes
	Email     string // may be empty
	CreatedAt time.Time
	UpdatedAt time.Time // of the user or of the latest entry of any account, whichever is later
	Holdings  []Holding // by currency; only accounts that have an entry
}

const (
	MaxNameLength  = 200 // bytes
	MaxEmailLength = 254 // bytes
)

// Holding is one of a user's accounts.
type Holding struct {
	Currency Currency
	Account
}

// HistoryLine is an entry with its time.
type HistoryLine struct {
	Entry
	CreatedAt time.Time
}

// HistoryPage is a run of an account's entries, newest first.
type HistoryPage struct {
	Total int64 // entries of the account when the page was read
	Lines []HistoryLine
}

// TransferRecord is what a shard knows about a transfer at its home: the start and, if it opened a saga, how that goes.
type TransferRecord struct {
	Recorded            // the start
	State     SagaState // of the saga; 0 if there is none
	Cause     Reason    // of a refunded saga: why the payee's shard refused
	CreatedAt time.Time
	EndedAt   time.Time // when the saga ended; CreatedAt where there is none; zero while pending
}

// Status is what a client is told.
func (r *TransferRecord) Status() Status {
	result := Result{Recorded: r.Recorded, State: r.State}
	return result.Status()
}

// WhyNot is why a refused or refunded transfer did not happen; Applied for any other.
func (r *TransferRecord) WhyNot() Reason {
	if r.Reason != Applied {
		return r.Reason
	}
	return r.Cause
}
