package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	traces "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/saldo-ledger/saldo/internal/telemetry/telemetrytest"
)

// What an operator sees of a transfer: one trace from the request to its end, whoever brought that about.
func TestTraces(t *testing.T) {
	t.Parallel()
	collector := telemetrytest.Start(t)
	c := newCluster(t, size{router: append(collector.Env(), "SALDO_WAIT=7s", "SALDO_TRACE_SLOW=30s"), coordinator: collector.Env()})
	a, _ := c.faces(t)
	anna, berta, ghost := c.user(0, "canary-anna"), c.user(1, "canary-berta"), c.user(1, "canary-ghost")
	a.newUser(anna, 100_000)
	a.newUser(berta, 100_000)
	const amount = 77_713 // unlike anything else that is a number

	t.Run("between shards", func(t *testing.T) {
		a := c.face(t, 0)
		id := traceID(1)
		a.transfer(anna, berta, 1, "t1", "Traceparent", traceparent(id, true)).want(201, "")
		trace := collector.Await(t, id, "the saga has ended", hasEnded("saga", "completed"))
		wantTree(t, trace, `
			? POST /transfers t1 applied
			  lane t1 start applied
			    batch
			      load
			      store
			  saga t1 completed
			    credit t1 credit applied
			      lane t1 credit applied
			        batch
			          load
			          store
			    complete t1 complete applied
			      lane t1 complete applied
			        batch
			          load
			          store`)
		for _, s := range trace {
			switch s.Name {
			case "POST /transfers":
				want(t, s, "http.request.method", "POST", "http.route", "/transfers", "http.response.status_code", "201", "url.scheme", "http")
				if s.Kind != traces.Span_SPAN_KIND_SERVER || fmt.Sprintf("%x", s.ParentSpanId) != "00f067aa0ba902b7" {
					t.Errorf("the request's span is of kind %v under %x", s.Kind, s.ParentSpanId)
				}
			case "lane":
				if s.Text("saldo.shard") == "" || s.Text("saldo.slot") == "" || s.Text("saldo.lane.wait") == "" {
					t.Errorf("a lane's span says only %v", s.Attributes)
				}
			case "batch":
				if len(s.Links) != 1 || s.Text("saldo.batch.size") == "" {
					t.Errorf("a batch's copy has %v and links to %v", s.Attributes, s.Links)
					continue
				}
				itself := collector.Await(t, fmt.Sprintf("%x", s.Links[0].TraceId), "the batch's own trace", func(trace []telemetrytest.Span) bool {
					return slices.ContainsFunc(trace, func(s telemetrytest.Span) bool { return s.Name == "store" })
				})
				i := slices.IndexFunc(itself, func(s telemetrytest.Span) bool { return s.Name == "batch" })
				if i < 0 || len(itself[i].Links) == 0 || fmt.Sprintf("%x", itself[i].Links[0].TraceId) != id || string(itself[i].SpanId) != string(s.Links[0].SpanId) {
					t.Errorf("a batch does not link to what it carries: %v", itself)
				}
			case "load", "store":
				want(t, s, "db.system.name", "postgresql", "db.namespace", "ledger", "server.address", "127.0.0.1")
				if s.Text("db.operation.batch.size") == "" || s.Kind != traces.Span_SPAN_KIND_CLIENT {
					t.Errorf("a round trip says only %v", s.Attributes)
				}
			}
		}
	})

	t.Run("refunded", func(t *testing.T) {
		a := c.face(t, 0)
		id := traceID(2)
		got := a.transfer(anna, ghost, amount, "t2", "Traceparent", traceparent(id, true)).want(422, "payee_not_found")
		got.says(`{"trace_id": "` + id + `"}`)
		trace := collector.Await(t, id, "the saga has ended", hasEnded("saga", "refunded"))
		wantTree(t, trace, `
			? POST /transfers t2 payee_not_found
			  lane t2 start applied
			    batch
			      load
			      store
			  saga t2 payee_not_found refunded
			    credit t2 credit payee_not_found
			      lane t2 credit payee_not_found
			        batch
			          load
			          store
			    refund t2 refund applied
			      lane t2 refund applied
			        batch
			          load
			          store`)
	})

	// The head is the client's: it has chosen none of these. The tail keeps what went wrong, and took long.
	t.Run("not chosen", func(t *testing.T) {
		a := c.face(t, 0)
		good, bad := traceID(3), traceID(4)
		a.transfer(anna, berta, 1, "t3", "Traceparent", traceparent(good, false)).want(201, "")
		a.transfer(anna, ghost, amount, "t4", "Traceparent", traceparent(bad, false)).want(422, "payee_not_found")
		trace := collector.Await(t, bad, "the saga has ended", hasEnded("POST /transfers", ""))
		// What a lane did quickly is left out; on a busy machine some of it is not.
		trace = slices.DeleteFunc(trace, func(s telemetrytest.Span) bool {
			return slices.Contains([]string{"lane", "batch", "load", "store"}, s.Name)
		})
		wantTree(t, trace, `
			? POST /transfers t4 payee_not_found
			  saga t4 payee_not_found refunded
			    credit t4 credit payee_not_found
			    refund t4 refund applied`)
		if trace := collector.Trace(good); len(trace) > 0 {
			t.Errorf("a trace that nobody chose and where all went well is kept:\n%s", telemetrytest.Tree(trace))
		}
	})

	t.Run("ended by a coordinator after the router's death", func(t *testing.T) {
		b := c.face(t, 1)
		c.stopShard(t, 1)
		chosen, not := traceID(5), traceID(6)
		b.transfer(anna, berta, 1, "t5", "Prefer", "respond-async", "Traceparent", traceparent(chosen, true)).want(202, "")
		b.transfer(anna, berta, 1, "t6", "Prefer", "respond-async", "Traceparent", traceparent(not, false)).want(202, "")
		tried := func(service string) func([]telemetrytest.Span) bool {
			return func(trace []telemetrytest.Span) bool {
				return slices.ContainsFunc(trace, func(s telemetrytest.Span) bool {
					return s.Name == "credit" && s.Service == service && failed(s)
				})
			}
		}
		collector.Await(t, chosen, "the router has tried in vain, and given up", func(trace []telemetrytest.Span) bool {
			return tried("saldo-router")(trace) && slices.ContainsFunc(trace, func(s telemetrytest.Span) bool { return s.Name == "saga" })
		})
		c.routers[1].kill()
		collector.Await(t, chosen, "a coordinator has tried in vain", tried("saldo-coordinator"))
		c.startShard(t, 1)
		trace := collector.Await(t, chosen, "a coordinator has ended it", hasEnded("saga", "completed"))

		request := trace[slices.IndexFunc(trace, func(s telemetrytest.Span) bool { return s.Name == "POST /transfers" })]
		known, tries := map[string]bool{string(request.ParentSpanId): true}, 0
		for _, s := range trace {
			known[string(s.SpanId)] = true
		}
		for _, s := range trace {
			if !known[string(s.ParentSpanId)] {
				t.Errorf("%s is under nothing", s.Name)
			}
			if s.Name == "saga" && string(s.ParentSpanId) != string(request.SpanId) {
				t.Error("a saga is not under its request")
			}
			if s.Name == "credit" && failed(s) {
				tries++
				if why := s.Text("error.type"); why != "unavailable" && why != "outcome_unknown" { // the latter if its time was over before
					t.Errorf("a try failed as %q", why)
				}
				if len(s.Events) != 1 || s.Events[0].Name != "exception" {
					t.Errorf("a try that failed has the events %v", s.Events)
				}
			}
			if s.Name == "saga" && s.Service == "saldo-coordinator" && s.Text("saldo.saga.age") == "" {
				t.Error("a coordinator's saga has no age")
			}
		}
		if tries < 2 {
			t.Errorf("%d tries failed, of a router and of a coordinator", tries)
		}
		kinds := telemetrytest.Tree(trace, "saldo.step", "saldo.outcome")
		for _, part := range []string{"complete complete applied", "credit credit applied", "lane complete applied", "connect !"} {
			if !strings.Contains(kinds, part) {
				t.Errorf("the trace has no %q:\n%s", part, kinds)
			}
		}
		// What is found in a queue has waited for long: it is kept too.
		collector.Await(t, not, "a coordinator has ended what nobody has chosen", hasEnded("saga", "completed"))
	})

	for _, s := range collector.Spans() {
		said := s.String()
		if strings.Contains(said, "canary") || strings.Contains(said, fmt.Sprint(amount)) {
			t.Errorf("a span says a name or an amount: %s", said)
		}
	}
	until(t, "every saga has ended", long, func() bool { return pending(t, c) == 0 })
	c.wantClean(t)
}

func traceID(n int) string { return fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", n) }

func traceparent(id string, sampled bool) string {
	if sampled {
		return "00-" + id + "-00f067aa0ba902b7-01"
	}
	return "00-" + id + "-00f067aa0ba902b7-00"
}

// hasEnded tells whether a trace has a span of that name, in that state of a saga, and nothing is missing under it.
func hasEnded(name, state string) func([]telemetrytest.Span) bool {
	return func(trace []telemetrytest.Span) bool {
		ended := func(s telemetrytest.Span) bool { return s.Name == name && s.Text("saldo.saga.state") == state }
		request := func(s telemetrytest.Span) bool {
			return s.Name == "POST /transfers" || s.Service == "saldo-coordinator"
		}
		return slices.ContainsFunc(trace, ended) && slices.ContainsFunc(trace, request)
	}
}

func failed(s telemetrytest.Span) bool { return s.Status.GetCode() == traces.Status_STATUS_CODE_ERROR }

// wantTree compares what a trace looks like, but for the connections that a lane had to make first.
func wantTree(t *testing.T, trace []telemetrytest.Span, want string) {
	t.Helper()
	trace = slices.DeleteFunc(slices.Clone(trace), func(s telemetrytest.Span) bool { return s.Name == "connect" })
	got := telemetrytest.Tree(trace, "saldo.tx_id", "saldo.step", "saldo.outcome", "saldo.saga.state")
	if want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "") + "\n"; got != want {
		t.Errorf("the trace is\n%s\nnot\n%s", got, want)
	}
}

// want compares attributes: name, value, name, value.
func want(t *testing.T, s telemetrytest.Span, attributes ...string) {
	t.Helper()
	for i := 0; i < len(attributes); i += 2 {
		if got := s.Text(attributes[i]); got != attributes[i+1] {
			t.Errorf("%s of %s is %q, not %q", attributes[i], s.Name, got, attributes[i+1])
		}
	}
}

// A collector that hangs, fails or is gone costs spans and nothing else.
func TestTracesNobodyTakes(t *testing.T) {
	t.Parallel()
	started, collector := time.Now(), telemetrytest.Start(t)
	env := append(collector.Env(), "SALDO_WAIT=7s", "OTEL_BSP_MAX_QUEUE_SIZE=64", "OTEL_EXPORTER_OTLP_TIMEOUT=500")
	c := newCluster(t, size{router: env})
	a, _ := c.faces(t)
	anna, berta := c.user(0, "anna"), c.user(1, "berta")
	a.newUser(anna, 100_000)
	a.newUser(berta, 1)
	n := 0
	load := func() (median time.Duration) {
		took := make([]time.Duration, 100)
		for i := range took {
			begun := time.Now()
			n++
			a.transfer(anna, berta, 1, fmt.Sprint("n", n)).want(201, "")
			took[i] = time.Since(begun)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	var well, ill time.Duration
	for _, mood := range []telemetrytest.Mood{telemetrytest.Hangs, telemetrytest.Fails} {
		until(t, "a transfer takes no longer", 2*long, func() bool { // than in peace, at a time when the machine is as busy
			collector.Set(telemetrytest.Well)
			well = load()
			collector.Set(mood)
			ill = load()
			t.Logf("with a collector in mood %d a transfer takes %v, in peace %v", mood, ill, well)
			return ill <= 3*well+20*time.Millisecond
		})
	}
	dropped := 0.0
	until(t, "lost spans are counted", long, func() bool {
		dropped = 0
		response, err := c.client.Get("http://" + c.addresses[0] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		metrics, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(metrics)) {
			var lost float64
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "saldo_telemetry_spans_dropped") {
				if _, err := fmt.Sscan(value, &lost); err == nil {
					dropped += lost
				}
			}
		}
		return dropped > 0
	})
	t.Logf("%v spans lost", dropped)
	if said := strings.Count(c.routers[0].output(), "telemetry is lost"); said > 2+int(time.Since(started).Minutes()) {
		t.Errorf("it is said %d times within %v that telemetry is lost", said, time.Since(started))
	}
	begun := time.Now()
	c.routers[0].stop(t)
	if took := time.Since(begun); took > long {
		t.Errorf("a router takes %v to stop while nobody takes its spans", took)
	}
}
