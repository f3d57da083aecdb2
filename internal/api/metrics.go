package api

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/meter"
)

// metrics is what the face tells of its requests, by OpenTelemetry's conventions for HTTP servers.
type metrics struct {
	duration  meter.Durations
	transfers map[ledger.Code]meter.Counter // of batches, by what each alone would have been answered; "" is success
}

func newMetrics() metrics {
	measured := meter.Of("internal/api")
	m := metrics{
		duration: measured.Durations("http.server.request.duration",
			"Duration of requests, by route and answer; error.type is the code of the error.", meter.Soon),
		transfers: make(map[ledger.Code]meter.Counter),
	}
	transfers := measured.Counter("saldo.http.batch.transfers", "{transfer}",
		"Transfers that came in batches, by the code that each was answered with; empty: no error.")
	m.transfers[""] = transfers.With(meter.Attr("code", ""))
	for code := range meanings {
		m.transfers[code] = transfers.With(meter.Attr("code", code))
	}
	return m
}

// observe shows how many requests are in progress, for as long as the process lives.
func (f *face) observe() {
	measured := meter.Of("internal/api")
	active := measured.Level("saldo.http.active", "{request}", "Requests in progress, reads and writes.")
	limit := measured.Gauge("saldo.http.limit", "{request}",
		"Requests that may be in progress, reads and writes each; beyond, they are answered 503.")
	measured.Observe(func(observe meter.Observer) {
		for kind, gate := range map[string]*gate{"reads": f.reads, "writes": f.writes} {
			if gate != nil {
				observe(active, float64(gate.inside.Load()), meter.Attr("kind", kind))
				observe(limit, float64(gate.most), meter.Attr("kind", kind))
			}
		}
	}, active, limit)
}

// routeMetrics is the durations of one route, by answer. What a client made up is in none of the attributes.
type routeMetrics struct {
	route    string
	duration meter.Durations
	known    atomic.Pointer[map[answer]meter.Durations] // copied when there is a new one
}

type answer struct {
	method string
	status int
	code   ledger.Code
}

func (m *metrics) of(rt route) *routeMetrics {
	r := &routeMetrics{route: rt.path, duration: m.duration}
	r.known.Store(new(map[answer]meter.Durations))
	return r
}

// answered notes what a request was answered, and how long that took.
func (m *routeMetrics) answered(ctx context.Context, r *http.Request, out reply, took time.Duration) {
	a := answer{method: knownMethod(r.Method), status: out.status, code: out.code}
	known := m.known.Load()
	duration, ok := (*known)[a]
	if !ok {
		attributes := []attribute.KeyValue{
			attribute.String("http.request.method", a.method), attribute.Int("http.response.status_code", a.status),
		}
		if m.route != "" {
			attributes = append(attributes, attribute.String("http.route", m.route))
		}
		if a.code != "" {
			attributes = append(attributes, meter.Attr("error.type", a.code))
		}
		duration = m.duration.With(attributes...)
		more := maps.Clone(*known)
		if more == nil {
			more = make(map[answer]meter.Durations)
		}
		more[a] = duration
		m.known.CompareAndSwap(known, &more) // or the next request does it
	}
	duration.Record(ctx, took)
}

// batch counts what became of the transfers of a batch.
func (m *metrics) batch(answers []ledger.Answer) {
	done := 0
	for i := range answers {
		result := &answers[i].Result
		switch reason := cmp.Or(result.Reason, result.Cause); {
		case answers[i].Err != nil:
			m.transfers[ledger.CodeOf(answers[i].Err)].Add(1)
		case reason != ledger.Applied:
			m.transfers[ledger.Code(reason)].Add(1)
		default:
			done++
		}
	}
	m.transfers[""].Add(done)
}
