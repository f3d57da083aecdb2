package admin_test

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// router is the metrics of one that has answered n requests: half of them within 1 ms, the others within 10 ms.
func router(n *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/metrics" {
			http.Redirect(w, q, "/metrics", http.StatusFound)
			return
		}
		n := n.Load()
		var text strings.Builder
		histogram := func(name, labels string, n int64) {
			fmt.Fprintf(&text, "%s_bucket{%s,le=\"0.001\"} %d\n%s_bucket{%s,le=\"0.01\"} %d\n%s_bucket{%s,le=\"+Inf\"} %d\n%s_sum{%s} %f\n%s_count{%s} %d\n",
				name, labels, n/2, name, labels, n, name, labels, n, name, labels, float64(n)*4, name, labels, n)
		}
		text.WriteString("# TYPE http_server_request_duration_seconds histogram\n")
		histogram("http_server_request_duration_seconds", `http_route="/transfers",http_response_status_code="201"`, n)
		histogram("http_server_request_duration_seconds", `http_route="/transfers",http_response_status_code="503"`, n/10)
		histogram("http_server_request_duration_seconds", `http_route="/metrics",http_response_status_code="200"`, n*7)
		text.WriteString("# TYPE saldo_lane_queue gauge\nsaldo_lane_queue{shard=\"s1\"} 5\n")
		for _, name := range []string{"saldo_lane_wait_seconds", "saldo_lane_commit_duration_seconds", "saldo_lane_batch_size"} {
			fmt.Fprintf(&text, "# TYPE %s histogram\n", name)
			histogram(name, `shard="s1"`, n)
		}
		_, _ = w.Write([]byte(text.String()))
	})
}

func TestFigures(t *testing.T) {
	e := newEnv(t, func(c *admin.Config) { c.Sample = 200 * time.Millisecond })
	var requests atomic.Int64
	serving := httptest.NewServer(router(&requests))
	t.Cleanup(serving.Close)
	e.world.routers = []admin.Process{
		{Name: "dead", Address: "127.0.0.1:1", StartedAt: begun},
		{Name: "r1", Address: strings.TrimPrefix(serving.URL, "http://"), StartedAt: begun},
		{Name: "strange", Address: "no address", StartedAt: begun},
	}
	e.world.shards["s2"].setDown(ledger.Unavailable("it does not answer", nil))
	var stop atomic.Bool
	var working sync.WaitGroup
	working.Go(func() {
		for !stop.Load() { // 1000 a second, if the machine is fast enough
			requests.Add(10)
			b := e.world.shards["s1"]
			b.mu.Lock()
			b.counters.Operations += 20
			b.counters.Sagas += 5
			b.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	})
	done := func() (operations, answered float64) {
		b := e.world.shards["s1"]
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(b.counters.Operations), float64(requests.Load())
	}
	operations, answered := done()
	f := read[admin.Figures](e.get("/figures"))
	lately, answeredLately := done()
	if f.Seconds < 0.15 || len(f.Shards) != 2 || len(f.Routers) != 3 {
		t.Fatalf("%+v", f)
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > want/2 {
			t.Errorf("%s is %v, not about %v", what, got, want)
		}
	}
	// What was done between two looks is some of what was done while they were asked for.
	some := func(what string, got, most float64) {
		if got <= 0 || got*f.Seconds*0.9 > most {
			t.Errorf("%s are %v, %v in all", what, got, most)
		}
	}
	one, two := f.Shards[0], f.Shards[1]
	some("operations a second", one.OperationsPerSecond, lately-operations)
	near("sagas a second", one.SagasPerSecond, one.OperationsPerSecond/4)
	if two.Answers || two.Error != "it does not answer" {
		t.Errorf("s2: %+v", two)
	}
	if r := f.Routers[0]; r.Answers || !strings.Contains(r.Error, "cannot be reached at 127.0.0.1:1") {
		t.Errorf("dead: %+v", r)
	}
	if r := f.Routers[2]; r.Answers {
		t.Errorf("strange: %+v", r)
	}
	r := f.Routers[1]
	if !r.Answers || r.P50 == nil || r.P99 == nil || len(r.Lanes) != 1 {
		t.Fatalf("r1: %+v", r)
	}
	some("requests a second", r.RequestsPerSecond, 1.1*(answeredLately-answered))
	near("errors a second", r.ErrorsPerSecond, r.RequestsPerSecond/11)
	near("p50", *r.P50, 0.001)
	near("p99", *r.P99, 0.0098)
	if l := r.Lanes[0]; l.Queue != 5 || *l.Batch != 4 || l.Shard != "s1" {
		t.Errorf("lane: %+v", l)
	}
	// All who ask within a moment get the same, at once.
	began := time.Now()
	same := read[admin.Figures](e.get("/figures"))
	if same.Shards[0] != f.Shards[0] && time.Since(began) < 100*time.Millisecond {
		t.Errorf("%+v", same.Shards[0])
	}
	stop.Store(true)
	working.Wait()
	time.Sleep(450 * time.Millisecond)
	e.get("/figures")
	time.Sleep(250 * time.Millisecond)
	if idle := read[admin.Figures](e.get("/figures")); idle.Shards[0].OperationsPerSecond != 0 || idle.Routers[1].P50 != nil {
		t.Errorf("idle: %+v", idle)
	}
}

// A router may tell anything: what is no number is left out, and the rest is there.
func TestFiguresThatAreNoNumbers(t *testing.T) {
	e := newEnv(t)
	var n atomic.Int64
	serving := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n := n.Add(10)
		fmt.Fprint(w, "# TYPE http_server_request_duration_seconds histogram\n")
		fmt.Fprintf(w, "http_server_request_duration_seconds_bucket{le=\"NaN\"} %d\nhttp_server_request_duration_seconds_bucket{le=\"-Inf\"} %d\n", n, n)
		fmt.Fprintf(w, "http_server_request_duration_seconds_sum NaN\nhttp_server_request_duration_seconds_count %d\n", n)
		fmt.Fprint(w, "# TYPE saldo_lane_queue gauge\nsaldo_lane_queue{shard=\"s1\"} NaN\nsaldo_lane_queue{shard=\"s2\"} +Inf\n")
		fmt.Fprint(w, "# TYPE saldo_lane_batch_size histogram\n")
		for shard, sum := range map[string]string{"s1": "NaN", "s2": "-Inf", "s3": "1.7e308"} {
			fmt.Fprintf(w, "saldo_lane_batch_size_bucket{shard=%q,le=\"+Inf\"} %d\nsaldo_lane_batch_size_sum{shard=%q} %s\nsaldo_lane_batch_size_count{shard=%q} %d\n",
				shard, n, shard, sum, shard, n)
		}
	}))
	t.Cleanup(serving.Close)
	e.world.routers = []admin.Process{{Name: "r1", Address: strings.TrimPrefix(serving.URL, "http://"), StartedAt: begun}}
	f := read[admin.Figures](e.get("/figures"))
	if len(f.Routers) != 1 || !f.Routers[0].Answers || f.Routers[0].RequestsPerSecond <= 0 || f.Routers[0].P50 != nil || len(f.Routers[0].Lanes) != 3 {
		t.Fatalf("%+v", f.Routers)
	}
	if l := f.Routers[0].Lanes[0]; l.Queue != 0 || l.Batch != nil || l.OperationsPerSecond != 0 {
		t.Errorf("%+v", l)
	}
}
