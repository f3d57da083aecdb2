package shard

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/meter"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// metrics is what a lane, the guard and the pool tell of themselves. All is bound to the shard beforehand, and
// measured once for a batch, so an operation's share is small.
type metrics struct {
	wait, load, commit meter.Durations
	size               meter.Sizes
	recorded           [ledger.StepRefund + 1][len(outcomes)]meter.Counter
	replays            meter.Counter
	failures           [fatePoisoned + 1]meter.Counter

	refusals  map[placement.Answer]meter.Counter
	strangers meter.Counter

	begun     meter.Counter
	completed meter.Durations
	refunded  meter.Durations
	refunds   [len(outcomes)]meter.Counter // by the reason that the payee's book gave

	connected atomic.Int64 // writers that are
}

// outcomes are the reasons that a step may be recorded with; one that is not among them is counted with the last.
var outcomes = [...]ledger.Reason{
	ledger.Applied, ledger.InsufficientFunds, ledger.UserNotFound, ledger.PayeeNotFound, ledger.SameAccount, ledger.BalanceLimit, "other",
}

func outcomeOf(reason ledger.Reason) int {
	for i, known := range outcomes {
		if known == reason {
			return i
		}
	}
	return len(outcomes) - 1
}

func newMetrics(id ledger.ShardID) *metrics {
	measured, shard := meter.Of("shard"), meter.Attr("shard", id)
	m := &metrics{
		wait: measured.Durations("saldo.lane.wait",
			"How long an operation waited in a lane's queue for a writer; of a large batch some stand for all.", meter.Soon).With(shard),
		load: measured.Durations("saldo.lane.load.duration",
			"First round trip of a batch: locks, the guard, accounts and known operations.", meter.Soon).With(shard),
		commit: measured.Durations("saldo.lane.commit.duration",
			"Second round trip of a batch: everything is stored and the commit is on disk.", meter.Soon).With(shard),
		size: measured.Sizes("saldo.lane.batch.size", "{operation}",
			"Operations that were committed by one transaction.").With(shard),
		replays: measured.Counter("saldo.lane.replays", "{operation}",
			"Operations that were answered from their record.").With(shard),
		begun: measured.Counter("saldo.saga.begun", "{saga}",
			"Transfers between shards whose debit was committed at this home.").With(shard),
	}
	recorded := measured.Counter("saldo.lane.operations", "{operation}",
		"Operations that were recorded, by step and outcome: applied, or the reason of the refusal.")
	for step := ledger.StepStart; step <= ledger.StepRefund; step++ {
		for i, reason := range outcomes {
			toPayee := reason == ledger.PayeeNotFound || reason == ledger.BalanceLimit || reason == "other"
			switch {
			case reason == ledger.Applied:
				reason = "applied"
			case step == ledger.StepRefund, step == ledger.StepCredit && !toPayee:
				continue // never: it stays without a series
			}
			m.recorded[step][i] = recorded.With(shard, meter.Attr("step", step.String()), meter.Attr("outcome", reason))
		}
	}
	failures := measured.Counter("saldo.lane.failures", "{attempt}",
		"Attempts at a batch that failed, by what that means; most are made again and nobody notices.")
	for fate, name := range [...]string{
		fateUnknown: "unknown", fateTwin: "twin", fateTransient: "transient",
		fateRefused: "refused", fateStranger: "stranger", fatePoisoned: "poisoned",
	} {
		m.failures[fate] = failures.With(shard, meter.Attr("fate", name))
	}
	refusals := measured.Counter("saldo.guard.refusals", "{refusal}",
		"Times that the shard refused to act for a slot, by kind; stranger: the database is not the adopted primary of the shard.")
	m.refusals = make(map[placement.Answer]meter.Counter)
	for _, answer := range []placement.Answer{placement.Moved, placement.Fenced, placement.EpochOld, placement.EpochAhead} {
		m.refusals[answer] = refusals.With(shard, meter.Attr("kind", answer))
	}
	m.strangers = refusals.With(shard, meter.Attr("kind", "stranger"))
	ended := measured.Durations("saldo.saga.duration",
		"From a transfer's debit to its end, by the clock of its home's Postgres.", meter.Long)
	m.completed = ended.With(shard, meter.Attr("state", "completed"))
	m.refunded = ended.With(shard, meter.Attr("state", "refunded"))
	refunds := measured.Counter("saldo.saga.refunds", "{saga}",
		"Transfers between shards that were refunded, by the reason of the payee's shard.")
	for _, reason := range []ledger.Reason{ledger.PayeeNotFound, ledger.BalanceLimit, "other"} {
		m.refunds[outcomeOf(reason)] = refunds.With(shard, meter.Attr("reason", reason))
	}
	return m
}

// taken notes how long the items of a batch have waited for a writer; of a large batch only some, evenly, which say as much.
func (m *metrics) taken(items []*item) {
	const some = 8
	now, each := time.Now(), max(1, len(items)/some)
	for i := 0; i < len(items); i += each {
		m.wait.Record(context.Background(), now.Sub(items[i].queued))
	}
}

// failed notes what a failed attempt at a batch means.
func (m *metrics) failed(verdict fate) { m.failures[verdict].Add(1) }

// committed notes what a transaction has recorded that is on disk now.
func (m *metrics) committed(b *batch, load, commit time.Duration) {
	m.load.Record(context.Background(), load)
	m.commit.Record(context.Background(), commit)
	m.size.Record(len(b.items))
	var recorded [len(m.recorded)][len(outcomes)]int
	for i := range b.changes.Operations {
		op := &b.changes.Operations[i]
		recorded[op.Step][outcomeOf(op.Reason)]++
	}
	for step := range recorded {
		for outcome, n := range recorded[step] {
			if n > 0 {
				m.recorded[step][outcome].Add(n)
			}
		}
	}
	if n := len(b.changes.Opened); n > 0 {
		m.begun.Add(n)
	}
	for i := range b.changes.Ended {
		saga := &b.changes.Ended[i]
		took := b.ending[saga.Identity].age(b.now)
		if saga.State == ledger.SagaCompleted {
			m.completed.Record(context.Background(), took)
			continue
		}
		m.refunded.Record(context.Background(), took)
		reason := outcomeOf(saga.Cause)
		if saga.Cause != ledger.PayeeNotFound && saga.Cause != ledger.BalanceLimit {
			reason = outcomeOf("other")
		}
		m.refunds[reason].Add(1)
	}
}

// answered notes how many of a batch's operations were known before.
func (m *metrics) answered(b *batch) {
	replays := 0
	for i := range b.answers {
		if b.answers[i].result.Replayed {
			replays++
		}
	}
	if replays > 0 {
		m.replays.Add(replays)
	}
}

// refused notes that the shard did not act for slots.
func (m *metrics) refused(refusals ...placement.Refusal) {
	for _, refusal := range refusals {
		m.refusals[refusal.Answer].Add(1)
	}
}

// stranger notes that a database turned out not to be the shard, if that is what err says.
func (m *metrics) stranger(err error) {
	var stranger *placement.StrangerError
	if errors.As(err, &stranger) {
		m.strangers.Add(1)
	}
}

// observe shows what waits and which connections there are, until stop is called.
func (s *Shard) observe() (stop func()) {
	measured, shard, m := meter.Of("shard"), meter.Attr("shard", s.config.ID), s.lane.metrics
	var (
		waiting = measured.Level("saldo.lane.queue", "{operation}", "Operations that wait in a lane for a writer.")
		limit   = measured.Gauge("saldo.lane.limit", "{operation}",
			"Operations that may wait in a lane; beyond, requests are answered 503.")
		open = measured.Level("saldo.pool.connections", "{connection}",
			"Connections to a shard, by what they are for and whether they are in use.")
		most   = measured.Level("saldo.pool.limit", "{connection}", "Connections to a shard that may be open.")
		waits  = measured.Total("saldo.pool.waits", "{wait}", "Reads that had to wait for a connection.")
		waited = measured.Total("saldo.pool.wait.time", "s", "How long reads have waited for connections, in all.")
	)
	reads, sights, writers := meter.Attr("pool", "reads"), meter.Attr("pool", "sights"), meter.Attr("pool", "writers")
	used, idle := meter.Attr("state", "used"), meter.Attr("state", "idle")
	return measured.Observe(func(observe meter.Observer) {
		observe(waiting, float64(s.lane.queue.length()), shard)
		observe(limit, float64(s.config.QueueSize), shard)
		pool, seeing, connected := s.pool.Stat(), s.sights.Stat(), m.connected.Load()
		observe(open, float64(pool.AcquiredConns()), shard, reads, used)
		observe(open, float64(pool.IdleConns()), shard, reads, idle)
		observe(open, float64(seeing.AcquiredConns()), shard, sights, used)
		observe(open, float64(seeing.IdleConns()), shard, sights, idle)
		observe(open, float64(connected), shard, writers, used)
		observe(most, float64(pool.MaxConns()), shard, reads)
		observe(most, float64(seeing.MaxConns()), shard, sights)
		observe(most, float64(s.config.Writers), shard, writers)
		observe(waits, float64(pool.EmptyAcquireCount()), shard)
		observe(waited, pool.EmptyAcquireWaitTime().Seconds(), shard)
	}, waiting, limit, open, most, waits, waited)
}

// length is how many items wait.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.fresh) + len(q.passed)
}

// sagaRow is the locked row of a saga that is to end.
type sagaRow struct {
	at    place
	begun instant
}

// age is how long ago the saga began; nothing if the clock has gone back since.
func (r sagaRow) age(now instant) time.Duration {
	return time.Duration(max(0, now-r.begun)) * time.Microsecond
}
