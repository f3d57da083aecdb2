package routing

import (
	"context"
	"errors"
	"time"

	"github.com/saldo-ledger/saldo/internal/meter"
)

// metrics is what a router tells of slots that move, of its map and of the sagas that it carries.
type metrics struct {
	opened, expired, crowded, gone meter.Durations
	refreshed, notRefreshed        meter.Counter
}

func newMetrics() metrics {
	measured := meter.Of("internal/routing")
	held := measured.Durations("saldo.move.hold.duration",
		"How long a call was held because its slot was moving, by how that ended: opened, expired, crowded (too many were held), gone.", meter.Soon)
	refreshes := measured.Counter("saldo.map.refreshes", "{refresh}",
		"Times that the map was found wrong and a newer one was asked for. Those who ask at once share a read.")
	outcome := func(name string) meter.Durations { return held.With(meter.Attr("outcome", name)) }
	return metrics{
		opened: outcome("opened"), expired: outcome("expired"), crowded: outcome("crowded"), gone: outcome("gone"),
		refreshed: refreshes.With(meter.Attr("outcome", "done")), notRefreshed: refreshes.With(meter.Attr("outcome", "failed")),
	}
}

// held notes how long a call waited at a fence, and what became of that.
func (m *metrics) held(ctx context.Context, since time.Time, err *error) {
	how := m.gone
	switch {
	case *err == nil:
		how = m.opened
	case errors.Is(*err, errStillMoving):
		how = m.expired
	case errors.Is(*err, errCrowded):
		how = m.crowded
	}
	how.Record(ctx, time.Since(since))
}

func (m *metrics) refresh(err error) {
	if err != nil {
		m.notRefreshed.Add(1)
		return
	}
	m.refreshed.Add(1)
}

// observe shows who waits and what is carried, until stop is called.
func (r *Router) observe() (stop func()) {
	measured := meter.Of("internal/routing")
	held := measured.Level("saldo.move.held", "{call}", "Calls that are held now because their slots are moving.")
	carried := measured.Level("saldo.saga.carried", "{saga}",
		"Transfers between shards that this process has begun and carries to their ends.")
	return measured.Observe(func(observe meter.Observer) {
		observe(held, float64(r.fences.held()))
		r.mu.Lock()
		carrying := r.carrying
		r.mu.Unlock()
		observe(carried, float64(carrying))
	}, held, carried)
}

func (f *fences) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}
