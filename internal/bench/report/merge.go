package report

import (
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// merge makes one of the results that differ in nothing but what came out, in the order of the first ones.
func merge(results []bench.Result) []bench.Result {
	var (
		keys []string
		same = make(map[string][]bench.Result)
	)
	for _, r := range results {
		key := fmt.Sprintf("%s|%s|%d|%g|%d|%v", r.Work, r.Target, r.Callers, r.Rate, r.Shards, r.Params) // %v sorts the keys
		if _, ok := same[key]; !ok {
			keys = append(keys, key)
		}
		same[key] = append(same[key], r)
	}
	merged := make([]bench.Result, len(keys))
	for i, key := range keys {
		merged[i] = median(same[key])
	}
	return merged
}

// median is the median of each figure, but the largest maximum and all errors.
func median(results []bench.Result) bench.Result {
	m := results[0]
	of := func(figure func(bench.Result) float64) float64 {
		figures := make([]float64, len(results))
		for i, r := range results {
			figures[i] = figure(r)
		}
		slices.Sort(figures)
		return (figures[(len(figures)-1)/2] + figures[len(figures)/2]) / 2
	}
	ofEach := func(figures func(bench.Result) map[string]float64) map[string]float64 {
		medians := make(map[string]float64)
		for kind := range figures(m) {
			medians[kind] = of(func(r bench.Result) float64 { return figures(r)[kind] })
		}
		return medians
	}
	m.PerSecond = of(func(r bench.Result) float64 { return r.PerSecond })
	m.Latency = bench.Latency{
		P50:  of(func(r bench.Result) float64 { return r.Latency.P50 }),
		P99:  of(func(r bench.Result) float64 { return r.Latency.P99 }),
		P999: of(func(r bench.Result) float64 { return r.Latency.P999 }),
	}
	m.Cost = bench.Cost{
		CPU:        ofEach(func(r bench.Result) map[string]float64 { return r.Cost.CPU }),
		RSSBytes:   ofEach(func(r bench.Result) map[string]float64 { return r.Cost.RSSBytes }),
		Commits:    of(func(r bench.Result) float64 { return r.Cost.Commits }),
		BatchSize:  of(func(r bench.Result) float64 { return r.Cost.BatchSize }),
		WALBytes:   of(func(r bench.Result) float64 { return r.Cost.WALBytes }),
		TableBytes: of(func(r bench.Result) float64 { return r.Cost.TableBytes }),
	}
	m.Errors, m.Missed = nil, 0
	for _, r := range results {
		m.Latency.Max = max(m.Latency.Max, r.Latency.Max)
		m.Missed += r.Missed
		for code, n := range r.Errors {
			if m.Errors == nil {
				m.Errors = make(map[string]int64)
			}
			m.Errors[code] += n
		}
	}
	return m
}
