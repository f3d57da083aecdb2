package wire

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/auditor"
	"github.com/saldo-ledger/saldo/internal/cluster"
)

// AuditorElection is the election of the coordinator that audits.
const AuditorElection = "auditor"

// auditDesk audits while this process is elected to, and knows what whoever else is elected has found. It is the admin.Auditor
// of a coordinator.
type auditDesk struct {
	config Coordinator
	log    *slog.Logger
	latest atomic.Pointer[admin.AuditStatus] // nil: not known yet
}

// Status implements admin.Auditor.
func (d *auditDesk) Status() admin.AuditStatus {
	if latest := d.latest.Load(); latest != nil {
		status := *latest
		if old := max(10*d.config.Audit, time.Minute); status.State == admin.AuditClean && (status.CompleteAt == nil || time.Since(*status.CompleteAt) > old) {
			status.State, status.Message = admin.AuditIncomplete, "what is new was not checked on every shard since then: does a coordinator audit?"
		}
		return status
	}
	return admin.AuditStatus{State: admin.AuditNotRun, Message: "no round of the audit has ended yet"}
}

// run audits while elected, and asks what others have found while not, until ctx ends.
func (d *auditDesk) run(ctx context.Context, c *cluster.Cluster, passwords Passwords) {
	if d.config.Audit == 0 {
		d.latest.Store(&admin.AuditStatus{State: admin.AuditNotRun, Message: "the audit is off (--audit=0): run saldo audit"})
		return
	}
	var elected atomic.Bool
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		d.listen(ctx, c, &elected)
	}()
	err := c.Lead(ctx, AuditorElection, d.config.Name, func(ctx context.Context, _ cluster.Leadership) error {
		elected.Store(true)
		defer elected.Store(false)
		d.audit(ctx, c, passwords)
		return nil
	})
	if ctx.Err() == nil {
		d.log.Error("no election for the auditor", "error", err)
	}
	<-listening
}

// audit audits until ctx ends, and leaves word after each round.
func (d *auditDesk) audit(ctx context.Context, c *cluster.Cluster, passwords Passwords) {
	world := assembly.NewWorld(c, assembly.Passwords(passwords))
	defer world.Close()
	always := auditor.New(world, auditor.Config{Interval: d.config.Audit, Share: d.config.AuditShare, Ended: func(s auditor.Status) {
		told := d.tell(s)
		d.latest.Store(&told)
		word, err := json.Marshal(told)
		if err == nil {
			err = c.NoteAudit(ctx, word)
		}
		if err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "other coordinators do not know what the audit has found", "error", err)
		}
	}}, d.log)
	defer always.Observe()()
	always.Run(ctx)
}

// heard is how often a coordinator that does not audit asks what was found.
const heard = 5 * time.Second

func (d *auditDesk) listen(ctx context.Context, c *cluster.Cluster, elected *atomic.Bool) {
	for ctx.Err() == nil {
		if !elected.Load() {
			asking, cancel := context.WithTimeout(ctx, heard)
			word, err := c.Audit(asking)
			cancel()
			var status admin.AuditStatus
			if err == nil && word != nil && json.Unmarshal(word, &status) == nil && !elected.Load() {
				d.latest.Store(&status)
			}
		}
		select {
		case <-time.After(heard):
		case <-ctx.Done():
		}
	}
}

// tell says how the audit stands in the words of operators.
func (d *auditDesk) tell(s auditor.Status) admin.AuditStatus {
	to := admin.AuditStatus{Coordinator: d.config.Name, Violations: []admin.AuditViolation{}, Gaps: s.Gaps, Covered: s.Covered, Swept: s.Swept, Sweeps: s.Sweeps}
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	to.EndedAt, to.CompleteAt, to.SweptAt = at(s.RoundAt), at(s.CompleteAt), at(s.SweptAt)
	switch s.Verdict() {
	case audit.Violations:
		to.State, to.Message = admin.AuditViolations, "the books are wrong: run saldo audit, and see the handbook"
	case audit.Clean:
		to.State, to.Message = admin.AuditClean, "what is new was checked on every shard"
	default:
		to.State, to.Message = admin.AuditIncomplete, "not everything that is new could be checked"
	}
	for _, f := range s.Findings {
		to.Violations = append(to.Violations, admin.AuditViolation{
			Check: string(f.Check), Shard: f.Shard, ID: f.ID, Problem: f.Problem, At: f.First,
		})
	}
	return to
}
