package ledger

import (
	"strings"
)

// UserID names who owns money: 1 to MaxIDLength bytes of letters, digits and ". _ - : + ~ @", not starting with "@" or
// ".". Compared byte for byte. ParseUserID makes one from untrusted text.
type UserID string

// TxID is a client's transaction id. The same characters as a UserID. It is unique per initiator, not globally.
type TxID string

// ShardID names one Postgres that owns slots. The same characters as a UserID, never reused.
type ShardID string

// Slot is one of the parts of the user-id space, 0 to 4095. Package placement computes it.
type Slot uint16

// Epoch counts the ownership decisions about one slot. It only grows; the first owner has epoch 1.
type Epoch int64

// Amount is an integer number of a currency's minor units.
type Amount int64

const (
	// MaxAmount is the largest amount of one transfer and the largest balance a credit may lead to: 2^53-1, the largest
	// integer that every JSON reader keeps exact.
	MaxAmount Amount = 1<<53 - 1

	// MaxIDLength is the longest user, transaction or shard id, in bytes.
	MaxIDLength = 128
)

// ParseUserID checks untrusted text. The error is an *Error with code CodeInvalidUserID.
func ParseUserID(text string) (UserID, error) {
	if !validID(text) {
		return "", &Error{Code: CodeInvalidUserID, Message: "user id must be " + idRule}
	}
	return UserID(text), nil
}

// ParseTxID checks untrusted text. The error is an *Error with code CodeInvalidTxID.
func ParseTxID(text string) (TxID, error) {
	if !validID(text) {
		return "", &Error{Code: CodeInvalidTxID, Message: "valid transaction id required"}
	}
	return TxID(text), nil
}

// ParseShardID checks untrusted text. The error is an *Error with code CodeInvalidShardID.
func ParseShardID(text string) (ShardID, error) {
	if !validID(text) {
		return "", &Error{Code: CodeInvalidShardID, Message: "shard id must be " + idRule}
	}
	return ShardID(text), nil
}

const idRule = `1 to 128 letters, digits or any of . _ - : + ~ @, not starting with "@" or "."`

func validID(text string) bool {
	if text == "" || len(text) > MaxIDLength || text[0] == '@' || text[0] == '.' {
		return false
	}
	for i := range len(text) {
		c := text[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && strings.IndexByte("._-:+~@", c) < 0 {
			return false
		}
	}
	return true
}

// System accounts hold the other side of what a user's entry cannot balance within its shard. They are not rows: each
// operation carries its system side, and their balances are sums over operations.
type SystemAccount string

const (
	// World is money outside the ledger: adds come from it, withdrawals go to it.
	World SystemAccount = "@world"
	// Transit is money between shards: debited by a start, not yet credited or refunded.
	Transit SystemAccount = "@transit"
	// Moved is the money of slots that came to or went from a shard.
	Moved SystemAccount = "@moved"
)
