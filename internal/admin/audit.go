package admin

import (
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// AuditStatus is what the continuous audit has found.
type AuditStatus struct {
	State       AuditState       `json:"state"`
	Message     string           `json:"message"`     // for people
	Coordinator string           `json:"coordinator"` // that audits; "": nobody, or it is not known
	EndedAt     *time.Time       `json:"ended_at"`    // when what is new was looked at last; null: not yet
	CompleteAt  *time.Time       `json:"complete_at"` // and when it was, on every shard
	Swept       float64          `json:"swept"`       // of everything, since the sweep began anew
	SweptAt     *time.Time       `json:"swept_at"`    // when everything had been looked at
	Sweeps      int64            `json:"sweeps"`      // through everything
	Covered     int64            `json:"covered"`     // rows that were judged
	Gaps        []string         `json:"gaps"`        // why the latest look was not complete
	Violations  []AuditViolation `json:"violations"`  // what is known to be wrong
}

// AuditState is what an audit comes to.
type AuditState string

const (
	AuditNotRun     AuditState = "not_run"    // nobody audits, or no round has ended yet
	AuditClean      AuditState = "clean"      // every check was made on every shard
	AuditViolations AuditState = "violations" // something must not be
	AuditIncomplete AuditState = "incomplete" // what was checked is clean, but not everything could be
)

// AuditViolation is something that must not be.
type AuditViolation struct {
	Check   string         `json:"check"`
	Shard   ledger.ShardID `json:"shard,omitempty"`
	ID      string         `json:"id"`
	Problem string         `json:"problem"`
	At      time.Time      `json:"at"` // when it was found
}

func (f *Face) auditStatus() AuditStatus {
	status := AuditStatus{State: AuditNotRun, Message: "nobody audits all the time: `saldo audit` reads everything once"}
	if f.Auditor != nil {
		status = f.Auditor.Status()
	}
	if status.Gaps == nil {
		status.Gaps = []string{}
	}
	if status.Violations == nil {
		status.Violations = []AuditViolation{}
	}
	return status
}

func (f *Face) audit(*request) (any, error) { return f.auditStatus(), nil }
