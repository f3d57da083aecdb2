package admin

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// The metrics that are read of routers, and their labels.
const (
	metricRequests  = "http_server_request_duration_seconds" // histogram, by http_route and http_response_status_code
	metricQueue     = "saldo_lane_queue"                     // gauge, by shard, as those that follow
	metricWait      = "saldo_lane_wait_seconds"              // histogram
	metricCommit    = "saldo_lane_commit_duration_seconds"   // histogram
	metricBatchSize = "saldo_lane_batch_size"                // histogram

	labelRoute  = "http_route"
	labelStatus = "http_response_status_code"
	labelShard  = "shard"
)

// scrapes is a look at all routers.
type scrapes struct {
	at      time.Time
	routers []scraped // sorted by name
	err     error     // which there are is not known
}

func (s scrapes) when() time.Time { return s.at }

// scraped is a look at one router.
type scraped struct {
	Process
	at       time.Time
	err      error
	requests histogram
	failed   float64
	lanes    map[ledger.ShardID]laneCounts
}

// laneCounts are those of one lane.
type laneCounts struct {
	queue              float64
	wait, commit, size histogram
}

func (f *Face) scrapeAll(ctx context.Context) scrapes {
	asking, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	routers, err := f.Registry.Routers(asking)
	if err != nil {
		return scrapes{at: time.Now(), err: err}
	}
	found := make([]scraped, len(routers))
	var scraping sync.WaitGroup
	for i, router := range routers {
		scraping.Go(func() {
			found[i] = f.scrape(ctx, router)
			found[i].Process = router
		})
	}
	scraping.Wait()
	return scrapes{at: time.Now(), routers: found}
}

const (
	scrapeTime = time.Second
	maxScrape  = 8 << 20
)

// scrape reads a router's metrics.
func (f *Face) scrape(ctx context.Context, router Process) scraped {
	ctx, cancel := context.WithTimeout(ctx, scrapeTime)
	defer cancel()
	families, err := f.readMetrics(ctx, router.Address)
	s := scraped{at: time.Now(), err: err, lanes: make(map[ledger.ShardID]laneCounts)}
	if err != nil {
		return s
	}
	for _, m := range families[metricRequests].GetMetric() {
		if route := label(m, labelRoute); route == "/livez" || route == "/readyz" || route == "/metrics" {
			continue // how the router is watched, not what it does
		}
		s.requests.add(m.GetHistogram())
		if strings.HasPrefix(label(m, labelStatus), "5") {
			s.failed += float64(m.GetHistogram().GetSampleCount())
		}
	}
	each := func(name string, note func(*laneCounts, *dto.Metric)) {
		for _, m := range families[name].GetMetric() {
			id := ledger.ShardID(label(m, labelShard))
			lane := s.lanes[id]
			note(&lane, m)
			s.lanes[id] = lane
		}
	}
	each(metricQueue, func(lane *laneCounts, m *dto.Metric) { lane.queue += m.GetGauge().GetValue() })
	each(metricWait, func(lane *laneCounts, m *dto.Metric) { lane.wait.add(m.GetHistogram()) })
	each(metricCommit, func(lane *laneCounts, m *dto.Metric) { lane.commit.add(m.GetHistogram()) })
	each(metricBatchSize, func(lane *laneCounts, m *dto.Metric) { lane.size.add(m.GetHistogram()) })
	return s
}

func (f *Face) readMetrics(ctx context.Context, address string) (map[string]*dto.MetricFamily, error) {
	host, port, err := net.SplitHostPort(address)
	url := "http://" + net.JoinHostPort(host, port) + "/metrics"
	request, requestErr := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil || requestErr != nil || request.URL.Host != address {
		return nil, fmt.Errorf("it has announced no address that can be asked: %q", address)
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	response, err := f.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("its /metrics cannot be reached at %s", address)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("its /metrics at %s answers %d", address, response.StatusCode)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(io.LimitReader(response.Body, maxScrape))
	if err != nil {
		return nil, fmt.Errorf("its /metrics at %s cannot be read", address)
	}
	return families, nil
}

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

// histogram is the sum of some.
type histogram struct {
	count, sum float64
	bounds     []float64 // ascending
	counts     []float64 // up to each bound, so never falling
}

func (h *histogram) add(more *dto.Histogram) {
	h.count += float64(more.GetSampleCount())
	h.sum += more.GetSampleSum()
	for _, bucket := range more.GetBucket() {
		i, known := slices.BinarySearch(h.bounds, bucket.GetUpperBound())
		if !known {
			h.bounds = slices.Insert(h.bounds, i, bucket.GetUpperBound())
			h.counts = slices.Insert(h.counts, i, 0)
		}
		h.counts[i] += float64(bucket.GetCumulativeCount())
	}
}

// since returns what came after an earlier look at the same histogram; all of it, if that began anew.
func (h histogram) since(before histogram) histogram {
	if before.count == 0 || before.count > h.count {
		return h
	}
	d := histogram{count: h.count - before.count, sum: h.sum - before.sum, bounds: h.bounds, counts: slices.Clone(h.counts)}
	for i, bound := range before.bounds {
		if at, known := slices.BinarySearch(d.bounds, bound); known {
			d.counts[at] -= before.counts[i]
		}
	}
	return d
}

// quantile estimates one as Prometheus does: evenly within a bucket. Above the last bound it says that bound. nil: no
// sample.
func (h histogram) quantile(q float64) *float64 {
	if h.count <= 0 || len(h.bounds) == 0 {
		return nil
	}
	rank := q * h.count
	i := slices.IndexFunc(h.counts, func(count float64) bool { return count >= rank })
	if i < 0 || math.IsInf(h.bounds[i], 1) {
		last := h.bounds[len(h.bounds)-1]
		if math.IsInf(last, 1) && len(h.bounds) > 1 {
			last = h.bounds[len(h.bounds)-2]
		}
		if math.IsInf(last, 1) {
			return nil
		}
		return finite(last)
	}
	lower, below := 0.0, 0.0
	if i > 0 {
		lower, below = h.bounds[i-1], h.counts[i-1]
	}
	value := h.bounds[i]
	if in := h.counts[i] - below; in > 0 {
		value = lower + (h.bounds[i]-lower)*(rank-below)/in
	}
	return finite(value)
}

// mean is nil if there is no sample.
func (h histogram) mean() *float64 {
	if h.count <= 0 {
		return nil
	}
	return finite(h.sum / h.count)
}

// finite is nil for what JSON has no number for: a router may have told anything.
func finite(value float64) *float64 {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return nil
	}
	return &value
}

// orZero is nothing for what is not known.
func orZero(value *float64) float64 {
	if value == nil {
		return 0
	}
	return *value
}

// routerFigures is what happened between two looks at a router. Without an earlier one there are no rates.
func routerFigures(then, now scraped) RouterFigures {
	figures := RouterFigures{Process: now.Process, Answers: now.err == nil, Lanes: []LaneFigures{}}
	if now.err != nil {
		figures.Error = now.err.Error()
		return figures
	}
	seconds := now.at.Sub(then.at).Seconds()
	known := then.err == nil && !then.at.IsZero() && seconds > 0
	if known {
		requests := now.requests.since(then.requests)
		figures.RequestsPerSecond = requests.count / seconds
		figures.ErrorsPerSecond = max(now.failed-then.failed, 0) / seconds
		figures.P50, figures.P99 = requests.quantile(0.5), requests.quantile(0.99)
	}
	for id, lane := range now.lanes {
		l := LaneFigures{Shard: id, Queue: int64(orZero(finite(lane.queue)))}
		if before := then.lanes[id]; known {
			size := lane.size.since(before.size)
			l.OperationsPerSecond, l.Batch = orZero(finite(size.sum/seconds)), size.mean()
			l.WaitP99 = lane.wait.since(before.wait).quantile(0.99)
			l.CommitP99 = lane.commit.since(before.commit).quantile(0.99)
		}
		figures.Lanes = append(figures.Lanes, l)
	}
	slices.SortFunc(figures.Lanes, func(a, b LaneFigures) int { return cmp.Compare(a.Shard, b.Shard) })
	return figures
}
