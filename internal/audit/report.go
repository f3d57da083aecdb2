package audit

import (
	"fmt"
	"math/big"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Report is what an audit found. It is written as JSON as it stands; WriteTable writes it for people.
type Report struct {
	Verdict   Verdict       `json:"verdict"`
	Cluster   string        `json:"cluster"`
	Revision  int64         `json:"map_revision"`
	StartedAt time.Time     `json:"started_at"`
	Seconds   float64       `json:"seconds"` // that it took
	Checks    []Check       `json:"checks"`
	Shards    []ShardReport `json:"shards"`
	Waited    time.Duration `json:"-"` // of these, for what was in doubt
	// Partial is set if the sums of a shard are missing: Totals and Pending are of the others, and InTransit is what their
	// @transit sides sum to, which may be negative.
	Partial bool `json:"partial"`
	// Unsettled is set if some slots were answered for by several shards or by none for as long as was waited: their money is
	// in Totals as often.
	Unsettled bool         `json:"unsettled"`
	Totals    []MoneyTotal `json:"totals"`
	Pending   int64        `json:"pending_sagas"`
	// OldestPending is when the oldest pending saga was started; nil if there is none.
	OldestPending *time.Time `json:"oldest_pending,omitempty"`
	// Moves are those that had not ended when round 1 was taken.
	Moves []placement.Move `json:"moves,omitempty"`
}

// Verdict is what an audit comes to.
type Verdict string

const (
	Clean      Verdict = "clean"      // every check was made on every shard, and found nothing
	Violations Verdict = "violations" // at least one check found something
	Incomplete Verdict = "incomplete" // what was checked is clean, but not everything could be
)

// Check is one check and what it found.
type Check struct {
	Name     Name   `json:"name"`
	Promises []int  `json:"promises"` // by their numbers in docs/ARCHITECTURE.md
	Says     string `json:"says"`
	Covered  int64  `json:"covered"` // how many were judged
	Unit     string `json:"unit"`    // of Covered
	// Violations lists the first ones, Found counts them all.
	Violations []Violation `json:"violations"`
	Found      int64       `json:"found"`
	// Gaps says what the check could not judge.
	Gaps []string `json:"gaps"`
}

// Violation is something that must not be.
type Violation struct {
	Shard ledger.ShardID `json:"shard,omitempty"`
	// ID names what is wrong:
	//	an operation   "alice/t1 start"    initiator/tx_id step
	//	an entry       "alice USD 3"       user currency number
	//	an account     "alice USD"
	//	a saga         "alice/t1"
	//	a user         "alice"
	//	a slot         "slot 17"
	//	a move         "move 2026-…"
	//	a shard        "shard s1"
	//	a sum          "USD"
	ID      string `json:"id"`
	Problem string `json:"problem"`
	Line    bool   `json:"-"` // it is of a local transfer's payee: see Lines
}

// ShardReport is one shard's counts and sums.
type ShardReport struct {
	ID    ledger.ShardID `json:"id"`
	Error string         `json:"error,omitempty"` // why it could not be read to the end; what follows is then partial or zero
	Slots int            `json:"slots"`           // that it answers for
	// Copies is how many slots it has a copy of that is not its own: they are coming, or have left and are not deleted yet.
	Copies int `json:"copies"`
	Counts
	Totals []MoneyTotal `json:"totals"`
}

// MoneyTotal is one currency's sums, of one shard or of all. All but InTransit are of round 1.
type MoneyTotal struct {
	Currency ledger.Currency `json:"currency"`
	Users    *big.Int        `json:"users"` // the users' money: the sum of all entries
	World    *big.Int        `json:"world"`
	Transit  *big.Int        `json:"transit"`
	Moved    *big.Int        `json:"moved"`
	// InTransit is the money between shards: debits and refunds of round 2 less credits of round 1. Of all shards only;
	// nil for one shard, whose @transit alone means little.
	InTransit *big.Int `json:"in_transit,omitempty"`
}

func newTotal(currency ledger.Currency) MoneyTotal {
	return MoneyTotal{Currency: currency, Users: new(big.Int), World: new(big.Int), Transit: new(big.Int), Moved: new(big.Int)}
}

// ExitCode is what a program should exit with: 0 if clean, 1 on any violation, 2 if the audit could not be completed.
func (r *Report) ExitCode() int {
	switch r.Verdict {
	case Clean:
		return 0
	case Violations:
		return 1
	}
	return 2
}

// Check returns a check by its name.
func (r *Report) Check(name Name) *Check {
	for i := range r.Checks {
		if r.Checks[i].Name == name {
			return &r.Checks[i]
		}
	}
	panic(fmt.Sprintf("audit: no check %q", name))
}

// Failed returns the names of the checks that found something.
func (r *Report) Failed() []Name {
	var names []Name
	for _, check := range r.Checks {
		if check.Found > 0 {
			names = append(names, check.Name)
		}
	}
	return names
}

// judge sets the verdict.
func (r *Report) judge() {
	r.Verdict = Clean
	for _, check := range r.Checks {
		switch {
		case check.Found > 0:
			r.Verdict = Violations
			return
		case len(check.Gaps) > 0:
			r.Verdict = Incomplete
		}
	}
	for _, shard := range r.Shards {
		if shard.Error != "" {
			r.Verdict = Incomplete
		}
	}
}
