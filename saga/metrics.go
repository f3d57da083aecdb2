package saga

import (
	"github.com/saldo-ledger/saldo/internal/meter"
)

// metrics is what a driver tells of the sagas of its home. (What becomes of sagas is counted where that is recorded, by the
// home's lane.)
type metrics struct {
	retries        map[Action]meter.Counter
	contradictions meter.Counter
}

func newMetrics(home Home) metrics {
	measured, shard := meter.Of("saga"), meter.Attr("shard", home.ID())
	retries := measured.Counter("saldo.saga.retries", "{step}",
		"Steps of transfers between shards that had no answer and are sent again, by their home.")
	m := metrics{
		retries: make(map[Action]meter.Counter),
		contradictions: measured.Counter("saldo.saga.contradictions", "{saga}",
			"Transfers whose durable outcomes contradict each other: they do not end, and a person must look.").With(shard),
	}
	for _, action := range []Action{SendCredit, SendComplete, SendRefund} {
		m.retries[action] = retries.With(shard, meter.Attr("action", action.String()))
	}
	return m
}

// observe shows what is under way, until stop is called.
func (d *Driver) observe() (stop func()) {
	measured, shard := meter.Of("saga"), meter.Attr("shard", d.home.ID())
	running := measured.Level("saldo.saga.running", "{saga}",
		"Transfers between shards that the elected coordinator carries to their ends, by phase.")
	return measured.Observe(func(observe meter.Observer) {
		var phases [Refunded + 1]int
		d.mu.Lock()
		for _, r := range d.running {
			phases[r.state.Phase]++
		}
		d.mu.Unlock()
		for phase := Crediting; phase <= Refunding; phase++ {
			observe(running, float64(phases[phase]), shard, meter.Attr("phase", phase.String()))
		}
	}, running)
}
