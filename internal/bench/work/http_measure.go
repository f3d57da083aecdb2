package work

import (
	"context"
	"errors"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
)

// MeasureHTTP puts a load on a stand's routers and returns all that is known of it. The plan's callers and seed are the
// options' too; its rate is in units per second.
func MeasureHTTP(
	ctx context.Context, s *stand.Stand, work HTTPWork, options HTTPOptions, plan load.Plan,
) (bench.Result, error) {
	options.URLs, options.Callers, options.Seed = s.URLs(), plan.Callers, plan.Seed
	h, err := NewHTTP(work, options)
	if err != nil {
		return bench.Result{}, err
	}
	defer h.Close()
	m, err := meter.New(ctx, s.Target())
	if err != nil {
		return bench.Result{}, err
	}
	defer m.Close()
	rate := plan.Rate
	if work.Name == "batch" {
		plan.Rate /= float64(h.Batch)
	}
	plan.Begin = func() { m.Start(); h.Begin() }
	plan.End = m.Stop
	result, err := load.Run(ctx, plan, h.Call)
	if err != nil {
		return result, err
	}
	result.Work, result.Target, result.Shards, result.Rate = work.Name, "http", len(s.Shards), rate
	result.Params = h.params(work)
	var costErr error
	result.Cost, costErr = m.Cost(result.Units)
	return result, errors.Join(costErr, h.Settle(ctx, &result))
}

// params tell this measurement from others of the same work.
func (h *HTTP) params(work HTTPWork) map[string]float64 {
	params := make(map[string]float64)
	if work.Deep {
		params["depth"], params["page_size"] = float64(h.Depth), float64(h.PageSize)
		return params
	}
	for _, users := range h.Users {
		params["users"] += float64(len(users))
	}
	if work.Cross {
		params["cross"] = h.Cross
	}
	switch work.Name {
	case "batch":
		params["batch"] = float64(h.Batch)
	case "zipf":
		params["zipf"] = h.Zipf
	}
	return params
}
