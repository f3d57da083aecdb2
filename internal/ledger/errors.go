package ledger

import (
	"errors"
	"time"
)

// Code is a stable, machine-readable name of an error. Reasons are used as codes too when a refusal is shown.
type Code string

const (
	CodeInvalidUserID   Code = "invalid_user_id"
	CodeInvalidTxID     Code = "invalid_transaction_id"
	CodeInvalidShardID  Code = "invalid_shard_id"
	CodeInvalidCurrency Code = "invalid_currency"

	// CodeConflict: the identity is known with other contents. Nothing was changed or recorded.
	CodeConflict Code = "transaction_id_conflict"
	// CodeUserConflict: the user id is taken by a user with other contents.
	CodeUserConflict Code = "user_id_conflict"
	// CodeAmbiguous: several initiators have used this tx_id.
	CodeAmbiguous Code = "ambiguous_transaction_id"
	// CodeUserNotFound and CodeTransferNotFound: a read found nothing.
	CodeUserNotFound     Code = "user_not_found"
	CodeTransferNotFound Code = "transfer_not_found"
	// CodeUnavailable: certainly nothing was recorded; the same request may be sent again.
	CodeUnavailable Code = "unavailable"
	// CodeOverloaded: as CodeUnavailable, because a queue is full.
	CodeOverloaded Code = "overloaded"
	// CodeUnknown: the commit's answer was lost. The request must be repeated with the same identity to learn it.
	CodeUnknown Code = "outcome_unknown"
)

// Error is an error that a client may see: a stable code and a message that is safe to show. Every other error is
// internal.
type Error struct {
	Code       Code
	Message    string
	RetryAfter time.Duration // of CodeUnavailable and CodeOverloaded
	Cause      error         // internal, logged, never shown
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.Cause.Error()
	}
	return string(e.Code) + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Cause }

// Conflict says that an identity is known with other contents.
func Conflict() error {
	return &Error{Code: CodeConflict, Message: "transaction id was already used with other contents"}
}

// Unavailable says that certainly nothing was recorded.
func Unavailable(message string, cause error) error {
	return &Error{Code: CodeUnavailable, Message: message, RetryAfter: time.Second, Cause: cause}
}

// Overloaded says that a queue is full and certainly nothing was recorded.
func Overloaded(message string) error {
	return &Error{Code: CodeOverloaded, Message: message, RetryAfter: time.Second}
}

// Unknown says that an operation may or may not have been recorded.
func Unknown(cause error) error {
	return &Error{
		Code:    CodeUnknown,
		Message: "the outcome is not known yet: repeat the request with the same transaction id to learn it",
		Cause:   cause,
	}
}

// CodeOf returns the code of the first *Error in err's tree, or "" if there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
