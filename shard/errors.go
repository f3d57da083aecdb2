package shard

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// SQLSTATEs that the lanes tell apart. SD… are the guard's own.
const (
	stateWrongShard  = "SD001"
	stateNotAdopted  = "SD002"
	stateOldTables   = "SD003" // said by whoever connects: see mustBe
	stateNotOwned    = "SD010"
	stateTokenLost   = "SD011"
	stateUnique      = "23505"
	stateSerialize   = "40001"
	stateDeadlock    = "40P01"
	stateLockTimeout = "55P03"
	stateReadOnly    = "25006"
	stateRecovering  = "55000" // a standby has no position to write at, which is what the guard asks for
	stateIdleInTx    = "25P03"
)

// fate is what a failed attempt at a batch means for it.
type fate int

const (
	// fateUnknown: the transaction may have been committed.
	fateUnknown fate = iota
	// fateTwin: somebody else changed what it builds on (recorded one of its operations, say); run it again at once.
	fateTwin
	// fateTransient: nothing happened, and the same batch may succeed in a moment.
	fateTransient
	// fateRefused: nothing happened; the shard does not own the slots as held.
	fateRefused
	// fateStranger: nothing happened; the database is not the shard that was meant.
	fateStranger
	// fatePoisoned: nothing happened, and the same batch would fail again.
	fatePoisoned
)

// errAccountGone says that an account is not there that was. (The transaction that made it was rolled back, or its slot has
// moved away and been cleaned since.)
var errAccountGone = errors.New("an account that was known is gone")

// judge tells the fate of a batch that failed with err. committing is set once the statements with the commit behind them
// were sent; until then every failure means that nothing happened.
func judge(err error, committing bool) fate {
	if errors.Is(err, errAccountGone) {
		return fateTwin
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if committing {
			return fateUnknown
		}
		return fateTransient
	}
	if pg.Severity == "FATAL" || pg.Severity == "PANIC" {
		// The session ended. Its last words may have come after the commit.
		if committing {
			return fateUnknown
		}
		return fateTransient
	}
	switch pg.Code {
	case stateNotOwned:
		return fateRefused
	case stateWrongShard, stateNotAdopted, stateOldTables:
		return fateStranger
	case stateUnique:
		return fateTwin
	case stateSerialize, stateDeadlock, stateLockTimeout, stateReadOnly, stateRecovering, stateIdleInTx:
		return fateTransient
	}
	switch pg.Code[:2] {
	case "53", "57", "58", "08": // out of resources, operator intervention, system error, connection
		return fateTransient
	}
	return fatePoisoned
}

// ownership turns the guard's errors into those that callers know. Any other error is returned as it is.
func ownership(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case stateWrongShard, stateNotAdopted, stateOldTables:
		return &placement.StrangerError{Message: pg.Message}
	case stateNotOwned:
		var details []slotState
		if jsonErr := json.Unmarshal([]byte(pg.Detail), &details); jsonErr != nil || len(details) == 0 {
			return fmt.Errorf("read the guard's detail %q: %w", pg.Detail, err)
		}
		refused := new(placement.OwnershipError)
		for _, d := range details {
			refused.Refusals = append(refused.Refusals, d.refusal())
		}
		return refused
	}
	return err
}

// slotState is what a shard knows about a slot that is not owned as held.
type slotState struct {
	Slot    ledger.Slot     `json:"slot"`
	Held    ledger.Epoch    `json:"held"`  // by the caller; 0 for a read, which holds no epoch
	State   *string         `json:"state"` // nil: never here
	Epoch   *ledger.Epoch   `json:"epoch"`
	MovedTo *ledger.ShardID `json:"moved_to"`
	Move    string          `json:"move"` // under which it is, or was until it is cleaned
}

func (s slotState) refusal() placement.Refusal {
	refusal := placement.Refusal{Slot: s.Slot, Held: s.Held, Answer: s.answer()}
	if s.State != nil {
		refusal.Epoch = *s.Epoch
	}
	switch refusal.Answer {
	case placement.Moved:
		if s.MovedTo != nil {
			refusal.MovedTo = *s.MovedTo
		}
	case placement.Fenced:
		refusal.Move = placement.MoveID(s.Move)
	}
	return refusal
}

func (s slotState) answer() placement.Answer {
	switch {
	case s.State == nil, *s.State == slotMoved:
		return placement.Moved
	case *s.State == slotFenced, *s.State == slotIncoming:
		return placement.Fenced
	case s.Held > *s.Epoch && s.Move != "":
		return placement.Fenced // the move was aborted, and this shard is about to be told
	case s.Held > *s.Epoch:
		return placement.EpochAhead
	default:
		return placement.EpochOld
	}
}
