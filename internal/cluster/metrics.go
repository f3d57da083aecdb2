package cluster

import (
	"sync/atomic"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/meter"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// openPhases are those of moves that have not ended.
var openPhases = [...]placement.Phase{placement.PhasePlanned, placement.PhaseMark, placement.PhaseCopy, placement.PhaseCatchup,
	placement.PhaseFence, placement.PhaseSwitched, placement.PhaseClean, placement.PhaseAborting}

// observe shows the view and how well it follows etcd, until stop is called.
func (w *Watcher) observe() (stop func()) {
	measured := meter.Of("internal/cluster")
	var (
		revision = measured.Gauge("saldo.map.revision", "", "Revision of etcd that the process's map is of.")
		age      = measured.Gauge("saldo.map.age", "s",
			"How long ago etcd has confirmed the map; it does so once a second.")
		connected = measured.Gauge("saldo.map.connected", "", "1 if etcd has answered the last request, 0 if not.")
		problem   = measured.Gauge("saldo.map.problem", "",
			"1 if the map stands still because the keys in etcd make no sense, 0 if not.")
		slots  = measured.Gauge("saldo.map.slots", "{slot}", "Slots that a shard owns by the map.")
		weight = measured.Gauge("saldo.map.weight", "",
			"Weight of a shard, its share of the slots relative to the others'; by state.")
		moves  = measured.Gauge("saldo.move.open", "{move}", "Moves that are recorded and have not ended, by phase.")
		paused = measured.Gauge("saldo.move.paused", "{move}", "Moves that somebody has paused.")
	)
	return measured.Observe(func(observe meter.Observer) {
		view, status := w.Current(), w.Status()
		observe(revision, float64(view.Revision))
		observe(age, time.Since(status.Contact).Seconds())
		observe(connected, meter.Is(status.Connected))
		observe(problem, meter.Is(status.Problem != ""))
		owned := make(map[ledger.ShardID]int)
		for _, r := range view.Map.Ranges() {
			owned[r.Shard] += int(r.Last-r.First) + 1
		}
		for id, shard := range view.Shards {
			observe(slots, float64(owned[id]), meter.Attr("shard", id))
			observe(weight, float64(shard.Weight), meter.Attr("shard", id), meter.Attr("state", shard.State))
		}
		open, standing := make(map[placement.Phase]int), 0
		for _, move := range view.Moves {
			open[move.Phase]++
			if move.Paused && !move.Phase.Ended() {
				standing++
			}
		}
		for _, phase := range openPhases {
			observe(moves, float64(open[phase]), meter.Attr("phase", phase))
		}
		observe(paused, float64(standing))
	}, revision, age, connected, problem, slots, weight, moves, paused)
}

// observeLeading shows whether this process leads an election that it takes part in, until stop is called.
func observeLeading(election string) (leads *atomic.Bool, stop func()) {
	measured := meter.Of("internal/cluster")
	leading := measured.Level("saldo.cluster.leading", "",
		"1 if the process leads an election: rebalancer, founder, auditor, or sagas.<shard>; 0 if it stands by.")
	leads = new(atomic.Bool)
	return leads, measured.Observe(func(observe meter.Observer) {
		observe(leading, meter.Is(leads.Load()), meter.Attr("election", election))
	}, leading)
}
