package ledger

import "fmt"

// SagaState is the durable state of a saga. The numbers are stored; they never change.
type SagaState uint8

const (
	SagaPending   SagaState = 1 // debited; the end is not known
	SagaCompleted SagaState = 2 // credited
	SagaRefunded  SagaState = 3 // refused by the payee's book, and given back
)

// Status is what a client is told.
func (s SagaState) Status() Status {
	switch s {
	case SagaPending:
		return StatusPending
	case SagaCompleted:
		return StatusCompleted
	case SagaRefunded:
		return StatusRefunded
	}
	return ""
}

func (s SagaState) String() string {
	if status := s.Status(); status != "" {
		return string(status)
	}
	return fmt.Sprintf("saga(%d)", uint8(s))
}

// Saga is a transfer between books, on its way or ended. It lives in the initiator's book and names users, never shards.
type Saga struct {
	Transfer
	State SagaState
	Cause Reason // why the credit was refused, of a refunded saga
	Trace string // W3C traceparent of the request that started it, or empty
}
