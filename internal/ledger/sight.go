package ledger

import "time"

// What follows is what one shard has of something, whoever owns the slot by now: for people, who look at all shards. A slot
// that is coming or has left has copies.

// SlotSight is a slot as one shard has it.
type SlotSight struct {
	Slot    Slot
	State   string // owned, fenced, incoming, moved; "": the shard never had it
	Epoch   Epoch
	MovedTo ShardID // of a slot that has moved
}

// Ours tells whether the shard answers for the slot's money.
func (s SlotSight) Ours() bool { return s.State == "owned" || s.State == "fenced" }

// UserSight is a user as one shard has them.
type UserSight struct {
	Slot SlotSight
	User *User // nil: the shard has no such user
}

// StepSight is a step of a transfer as one shard has recorded it.
type StepSight struct {
	Recorded
	Slot      Slot
	CreatedAt time.Time
}

// SagaSight is a saga as one shard has it.
type SagaSight struct {
	Saga
	CreatedAt time.Time
	EndedAt   time.Time // zero while it is pending
}

// TransferSight is what one shard has of a transfer.
type TransferSight struct {
	Slots []SlotSight // those that were asked for and the shard has
	Steps []StepSight // in their order
	Saga  *SagaSight  // nil: there is none
}

// SagaQuery asks for sagas of one state: pending ones from the oldest on, ended ones from the latest back, by the time they
// were started, then by their identity.
type SagaQuery struct {
	State     SagaState
	OlderThan time.Duration // since they were started; by the shard's clock
	After     *SagaSight    // the one before the first; only CreatedAt and Identity count; nil: from the beginning
	Limit     int
}

// ShardCounters are what one shard's server counts. All but the last three only grow, until the server is reset.
type ShardCounters struct {
	Operations int64 // that were inserted, by moves too
	Sagas      int64
	Users      int64

	DatabaseBytes int64
	Pending       int64     // sagas of the shard's own slots, counted up to MaxPending
	OldestPending time.Time // zero if none is
}

// MaxPending is how far pending sagas are counted.
const MaxPending = 10_000
