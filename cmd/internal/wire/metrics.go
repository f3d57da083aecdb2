package wire

import (
	"github.com/saldo-ledger/saldo/internal/admission"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/meter"
)

// observe shows how the limits of a shard stand, until stop is called.
func (l *limited) observe(id ledger.ShardID) (stop func()) {
	measured, shard := meter.Of("cmd/internal/wire"), meter.Attr("shard", id)
	var (
		limit = measured.Level("saldo.admission.limit", "{operation}",
			"Operations that a router lets in to a shard at a time: what it gets done in about the target.")
		under = measured.Level("saldo.admission.active", "{operation}",
			"Operations that were let in to a shard and are not done.")
		waiting = measured.Level("saldo.admission.waiting", "{call}", "Calls that wait to be let in to a shard.")
		letIn   = measured.Total("saldo.admission.accepted", "{call}", "Calls that were let in to a shard.")
		refused = measured.Total("saldo.admission.refused", "{call}",
			"Calls that were answered 503 since more came than the shard gets done.")
	)
	kinds := map[string]*admission.Limiter{"writes": l.writes, "batches": l.batches, "balances": l.balances, "queries": l.queries}
	return measured.Observe(func(observe meter.Observer) {
		for name, limiter := range kinds {
			kind, stats := meter.Attr("kind", name), limiter.Stats()
			observe(limit, float64(stats.Limit), shard, kind)
			observe(under, float64(stats.Under), shard, kind)
			observe(waiting, float64(stats.Waiting), shard, kind)
			observe(letIn, float64(stats.LetIn), shard, kind)
			observe(refused, float64(stats.Refused), shard, kind)
		}
	}, limit, under, waiting, letIn, refused)
}
