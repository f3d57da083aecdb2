package api_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestRoutesAreTheDocuments(t *testing.T) {
	t.Parallel()
	bank := newBank()
	handler := api.New(api.Config{Ledger: bank, Health: bank, Currency: "USD", Metrics: http.HandlerFunc(exposed)})
	var routed, gets, heads []string
	for _, route := range handler.(*gin.Engine).Routes() {
		parts := strings.Split(route.Path, "/")
		for i, part := range parts {
			if name, ok := strings.CutPrefix(part, ":"); ok {
				parts[i] = "{" + name + "}"
			}
		}
		path := strings.Join(parts, "/")
		switch route.Method {
		case http.MethodHead:
			heads = append(heads, path)
			continue
		case http.MethodGet:
			gets = append(gets, path)
		}
		routed = append(routed, route.Method+" "+path)
	}
	checker, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	documented := checker.Operations()
	for _, list := range [][]string{routed, documented, gets, heads} {
		slices.Sort(list)
	}
	if !slices.Equal(routed, documented) {
		t.Errorf("routes are\n%v\nopenapi.yaml has\n%v", routed, documented)
	}
	if !slices.Equal(gets, heads) {
		t.Errorf("HEAD is routed on\n%v\nGET on\n%v", heads, gets)
	}
}

// The validator has to be able to say no.
func TestValidatorRefuses(t *testing.T) {
	t.Parallel()
	checker, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	const good = `{"success":true,"message":"request successful!","status_code":200,"data":{"balance":1,"currency":"USD","version":1}}`
	for body, ok := range map[string]bool{
		good: true,
		strings.Replace(good, `"version":1`, `"version":1,"extra":1`, 1): false,
		strings.Replace(good, `,"version":1`, ``, 1):                     false,
		strings.Replace(good, `"data":`, `"extra":1,"data":`, 1):         false,
		strings.Replace(good, `"balance":1`, `"balance":"1"`, 1):         false,
		strings.Replace(good, `"balance":1`, `"balance":null`, 1):        false,
		strings.Replace(good, `"balance":1`, `"balance":-1`, 1):          false,
		strings.Replace(good, `true`, `false`, 1):                        false,
		strings.Replace(good, `successful`, `done`, 1):                   false,
		strings.Replace(good, `USD`, `usd`, 1):                           false,
		strings.Replace(good, `200`, `201`, 1):                           false,
		`{}`:                                                             false,
	} {
		recorder := httptest.NewRecorder()
		recorder.Header().Set("Content-Type", "application/json")
		recorder.WriteString(body)
		response := recorder.Result()
		response.Request = httptest.NewRequest("GET", "/users/alice/balance", nil)
		if err := checker.Check(response); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
		response.StatusCode = 418
		if checker.Check(response) == nil {
			t.Errorf("status 418 is allowed")
		}
	}
}

func TestOpenAPIIsServed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	got := e.get("/openapi.yaml", "Accept", "text/html, application/yaml")
	if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/yaml" || got.Text != string(api.OpenAPI()) {
		t.Errorf("openapi.yaml: %d %v, %d bytes", got.StatusCode, got.Header, len(got.Text))
	}
	e.get("/openapi.yaml", "Accept", "application/json").want(406, "not_acceptable")
}

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if got := e.get("/metrics"); got.StatusCode != 200 || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if got := e.do(method, "/metrics", "").want(405, "method_not_allowed"); got.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %v", method, got.Header)
		}
	}
	without := newEnv(t, func(c *api.Config) { c.Metrics = nil })
	without.get("/metrics").want(404, "not_found")
}

func TestAccept(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, accept := range []string{
		"", "*/*", "application/json", "Application/JSON", "application/*", "text/html,application/xml;q=0.9,*/*;q=0.8",
		"application/xml, application/json;q=0.1", "*/*;q=0, application/json", "application/json; charset=utf-8", "text/html, , */*",
	} {
		e.get("/users/alice/balance", "Accept", accept).want(200, "")
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, path := range []string{"/users/alice", "/users/alice/balance", "/users/alice/history?page_size=1", "/livez", "/readyz", "/metrics", "/openapi.yaml", "/users/nobody"} {
		got, head := e.get(path), e.do("HEAD", path, "")
		if head.StatusCode != got.StatusCode || head.Text != "" || head.ContentLength != got.ContentLength {
			t.Errorf("HEAD %s answers %d with %d bytes, GET %d with %d", path, head.StatusCode, head.ContentLength, got.StatusCode, got.ContentLength)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.get("/livez").want(200, "")
	e.get("/readyz").want(200, "").says(`{"success": true, "data": {"ready": true, "parts": {"etcd": "connected"}}}`)
	e.bank.ready.Parts = []api.Part{{Name: "etcd", State: "away, serving from the map of revision 17"}, {Name: "map", State: "4096 slots"}}
	e.get("/readyz").want(200, "").says(`{"data": {"ready": true, "parts": {"etcd": "away, serving from the map of revision 17", "map": "4096 slots"}}}`)
	e.bank.ready.Ready = false
	got := e.get("/readyz").want(503, "not_ready").says(`{"success": false, "data": {"ready": false, "parts": {"map": "4096 slots"}}}`)
	if got.Header.Get("Retry-After") != "1" {
		t.Errorf("headers are %v", got.Header)
	}
	e.get("/livez").want(200, "")
}

func TestPanic(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.bank.after = func() { panic("secret \n of the ledger") }
	got := e.post("/transfers", `{"source":"alice","destination":"bob","amount":1}`).want(500, "internal")
	id := got.str("data", "transaction_id")
	if id == "" || strings.Contains(got.Text, "secret") {
		t.Errorf("a panic answers %s", got.Text)
	}
	log := e.log.String()
	if strings.Count(log, "\n") != 1 || !strings.Contains(log, `secret \\n of`) && !strings.Contains(log, `secret \n of`) ||
		!strings.Contains(log, "bank_test.go") || !strings.Contains(log, got.str("trace_id")) {
		t.Errorf("log is %s", log)
	}
	e.bank.after = nil
	e.get("/users/alice/transfers/"+id).want(200, "")
}

func TestTrace(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	e := newEnv(t, func(c *api.Config) { c.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)) })
	var start ledger.Operation
	e.bank.seen = func(ctx context.Context, op ledger.Operation, _ time.Duration) {
		start = op
		if !traceOf(ctx).IsValid() {
			t.Error("the ledger's context has no span")
		}
	}
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	last := func() sdktrace.ReadOnlySpan {
		// A span ends after its answer is sent.
		n := len(spans.Started())
		for range 1000 {
			if len(spans.Ended()) == n {
				break
			}
			time.Sleep(time.Millisecond)
		}
		ended := spans.Ended()
		return ended[len(ended)-1]
	}
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "t1"), "traceparent", parent).want(201, "")
	span := last()
	if span.Name() != "POST /transfers" || span.Parent().SpanID().String() != "00f067aa0ba902b7" {
		t.Errorf("span %q has parent %v", span.Name(), span.Parent().SpanID())
	}
	if want := "00-4bf92f3577b34da6a3ce929d0e0e4736-" + span.SpanContext().SpanID().String(); !strings.HasPrefix(start.Trace, want) || len(start.Trace) != 55 {
		t.Errorf("the start carries %q, want %s…", start.Trace, want)
	}

	got := e.get("/users/nobody/balance", "traceparent", parent).want(404, "user_not_found")
	if got.str("trace_id") != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("trace_id is %s", got.str("trace_id"))
	}
	if span := last(); span.Name() != "GET /users/:uid/balance" || strings.Contains(fmt.Sprint(span.Attributes(), span.Events()), "nobody") {
		t.Errorf("span %q has %v", span.Name(), span.Attributes())
	}
	e.bank.after = func() { panic("bug") }
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "t2")).want(500, "internal")
	if span := last(); span.Status().Code != codes.Error || len(span.Events()) == 0 {
		t.Errorf("span of a panic is %v with %v", span.Status(), span.Events())
	}
	e.get("/nowhere/alice").want(404, "not_found")
	if span := last(); span.Name() != "HTTP" {
		t.Errorf("span is %q", span.Name())
	}
}

func TestWithoutTracing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.bank.seen = func(_ context.Context, op ledger.Operation, _ time.Duration) {
		if op.Trace != "" {
			t.Errorf("start carries %q", op.Trace)
		}
	}
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "t1"), "traceparent", "garbage").want(201, "")
	one, two := e.get("/users/nobody").str("trace_id"), e.get("/users/nobody").str("trace_id")
	if one == two || len(one) != 32 {
		t.Errorf("trace ids are %q and %q", one, two)
	}
}

// A caller's trace goes on though this process makes no spans.
func TestTraceOfTheCaller(t *testing.T) {
	t.Parallel()
	e := newEnv(t, func(c *api.Config) { c.Tracer = noop.NewTracerProvider() })
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var start ledger.Operation
	e.bank.seen = func(_ context.Context, op ledger.Operation, _ time.Duration) { start = op }
	e.post("/transfers", fmt.Sprintf(transfer, "bob", 1, "t1"), "traceparent", parent).want(201, "")
	if start.Trace != parent {
		t.Errorf("the start carries %q, want %s", start.Trace, parent)
	}
	if got := e.get("/users/nobody", "traceparent", parent).str("trace_id"); got != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("trace_id is %s", got)
	}
}

func TestServerLimits(t *testing.T) {
	t.Parallel()
	server := api.NewServer(http.NotFoundHandler(), slog.Default())
	if server.ReadHeaderTimeout != 5*time.Second || server.ReadTimeout != 10*time.Second || server.WriteTimeout != 30*time.Second ||
		server.IdleTimeout != time.Minute || server.MaxHeaderBytes != 32<<10 {
		t.Errorf("limits are %+v", server)
	}
}

// Row 18 of the bad inputs: a body that does not come.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	bank := newBank()
	server := httptest.NewUnstartedServer(nil)
	server.Config = api.NewServer(api.New(api.Config{Ledger: bank, Health: bank, Currency: "USD"}), slog.Default())
	server.Config.ReadTimeout = 200 * time.Millisecond
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /transfers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 408 || !response.Close {
		t.Errorf("answer is %d %v", response.StatusCode, response.Header)
	}
}

func TestHeadersOfEveryReply(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, path := range []string{"/users/alice", "/nowhere", "/users/nobody"} {
		got := e.get(path, "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil.example")
		if got.Header.Get("X-Content-Type-Options") != "nosniff" || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: headers are %v", path, got.Header)
		}
	}
	got := e.do("POST", "/users", `{"name":"x"}`, "Content-Type", "application/json", "Host", "evil.example", "X-Forwarded-Host", "evil.example")
	if !strings.HasPrefix(got.Header.Get("Location"), "/users/") {
		t.Errorf("Location is %s", got.Header.Get("Location"))
	}
}

func TestCodesAreTheDocuments(t *testing.T) {
	t.Parallel()
	checker, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	codes, documented := api.Codes(), checker.Codes()
	slices.Sort(codes)
	slices.Sort(documented)
	if !slices.Equal(codes, documented) {
		t.Errorf("codes are\n%v\nopenapi.yaml has\n%v", codes, documented)
	}
}
