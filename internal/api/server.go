package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Ledger is what the face needs from the rest of Saldo. Errors that a client may see are *ledger.Error; every other
// error is internal, except that a context's end is answered 504 where something may have been recorded and 503 where
// not.
type Ledger interface {
	// CreateUser stores a user of whom the caller sets ID, Name and Email. created is false if exactly this user was
	// there, who is returned with all accounts. CodeUserConflict: the id is taken with other contents.
	CreateUser(ctx context.Context, user ledger.User) (stored ledger.User, created bool, err error)

	// User returns a user and all accounts. CodeUserNotFound.
	User(ctx context.Context, id ledger.UserID) (ledger.User, error)

	// Balance returns one account, zero if the user has none in that currency. CodeUserNotFound.
	Balance(ctx context.Context, id ledger.UserID, currency ledger.Currency) (ledger.Account, error)

	// History returns up to limit entries with a version below before (0: from the newest), newest first.
	// CodeUserNotFound.
	History(
		ctx context.Context, id ledger.UserID, currency ledger.Currency, before int64, limit int,
	) (ledger.HistoryPage, error)

	// Transfer does a start and, if that opens a saga, waits for its end up to wait. It decides whether the start opens
	// one: start.Saga is not set. A refusal is a record, not an error. replayed: the identity was known with the same
	// contents, and nothing was done. CodeConflict, CodeUnavailable, CodeOverloaded, CodeUnknown.
	Transfer(
		ctx context.Context, start ledger.Operation, wait time.Duration,
	) (record ledger.TransferRecord, replayed bool, err error)

	// TransferAll does several starts of transfers, each as Transfer does it, and returns an answer for each. It waits once
	// for all. Of starts with one identity the first counts.
	TransferAll(ctx context.Context, starts []ledger.Operation, wait time.Duration) []ledger.Answer

	// Find returns one transfer. CodeTransferNotFound.
	Find(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error)

	// FindByTxID asks all shards. CodeTransferNotFound only if all of them answered, CodeUnavailable if not all did,
	// CodeAmbiguous if several initiators used the id.
	FindByTxID(ctx context.Context, id ledger.TxID) (ledger.TransferRecord, error)
}

// Config is what the face is made of. Ledger, Health and Currency are required.
type Config struct {
	Ledger   Ledger
	Health   Health
	Currency ledger.Currency // of requests that name none

	// Wait is how long a transfer's request waits for the end of a saga before it is answered PENDING.
	Wait time.Duration
	// Timeout bounds the context of every call to the Ledger; it should end well before the server's WriteTimeout. 0 is
	// no bound.
	Timeout time.Duration
	// MaxRequests bounds the requests in progress, reads and writes each; more are answered 503. 0 is no bound.
	MaxRequests int

	Metrics http.Handler // of /metrics, for Prometheus; nil: there is no such route

	Log    *slog.Logger         // slog.Default() if nil
	Tracer trace.TracerProvider // otel's global one if nil; with a noop.TracerProvider only the callers' traces go on
}

// New returns the handler of all routes. It panics if a required part is missing.
func New(config Config) http.Handler {
	if config.Ledger == nil || config.Health == nil || config.Currency == "" {
		panic("api: New without ledger, health or currency")
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Tracer == nil {
		config.Tracer = otel.GetTracerProvider()
	}
	f := &face{Config: config, metrics: newMetrics(), reads: newGate(config.MaxRequests), writes: newGate(config.MaxRequests)}
	if _, off := config.Tracer.(noop.TracerProvider); !off {
		f.tracer = config.Tracer.Tracer("github.com/saldo-ledger/saldo/internal/api")
	}

	f.observe()
	gin.SetMode(gin.ReleaseMode) // otherwise it prints each route
	engine := gin.New()
	// SetTrustedProxies(nil) cannot fail. No header says who the client is.
	_ = engine.SetTrustedProxies(nil)
	engine.ForwardedByClientIP = false
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	engine.RedirectFixedPath = false
	// Routes are matched against the path as it was sent, so an encoded slash cannot make another route. request.param
	// decodes the values: gin would decode them as a query and turn "+", which ids may hold, into a space.
	engine.UseEscapedPath = true
	engine.UnescapePathValues = false

	for _, r := range f.routes() {
		serve := f.serve(r)
		engine.Handle(r.method, r.path, serve)
		if r.method == http.MethodGet {
			engine.HEAD(r.path, serve)
		}
	}
	if config.Metrics != nil {
		engine.GET("/metrics", gin.WrapH(config.Metrics))
		engine.HEAD("/metrics", gin.WrapH(config.Metrics))
	}
	engine.NoRoute(f.serve(route{handle: f.noRoute}))
	engine.NoMethod(f.serve(route{handle: f.noMethod}))
	return engine
}

// NewServer returns a server for the handler with the limits that a public port needs. The caller sets the address and
// the listener. It speaks HTTP/1 only: a connection has one request at a time.
func NewServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    32 << 10,
		ConnContext:       withAlarm,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// Otherwise net/http answers "OPTIONS *" itself, without the envelope.
		DisableGeneralOptionsHandler: true,
	}
}

// face is the HTTP face.
type face struct {
	Config
	tracer        trace.Tracer // nil: no spans are made
	metrics       metrics
	reads, writes *gate
	batches       room
}

// route is one row of the table of routes.
type route struct {
	method string
	path   string
	body   bool     // the request has one, which the handler reads
	query  []string // the parameters that may be given, each once
	offers string   // the media type of the answer; jsonType if empty
	always bool     // let in, however many requests are in progress
	handle func(*request) (reply, error)
}

func (f *face) routes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{method: post, path: "/users", body: true, handle: f.createUser},
		{method: get, path: "/users/:uid", handle: f.user},
		{method: post, path: "/users/:uid/add", body: true, handle: f.add},
		{method: post, path: "/users/:uid/withdraw", body: true, handle: f.withdraw},
		{method: get, path: "/users/:uid/balance", query: []string{"currency"}, handle: f.balance},
		{method: get, path: "/users/:uid/history", query: []string{"page_size", "page", "currency"}, handle: f.history},
		{method: get, path: "/users/:uid/transfers/:tx_id", handle: f.userTransfer},

		{method: post, path: "/transfers", body: true, handle: f.transfer},
		{method: post, path: batchPath, body: true, handle: f.batch},
		{method: get, path: batchPath, handle: f.transferNamedBatch},
		{method: get, path: "/transfers/:tx_id", handle: f.anyTransfer},

		{method: post, path: "/app/create_user/:name/:email", handle: f.appCreateUser},
		{method: get, path: "/app/get_user/:name", handle: f.appGetUser},
		{method: post, path: "/app/transfer/:src/:dst/:amount", handle: f.appTransfer},

		{method: get, path: "/livez", always: true, handle: f.livez},
		{method: get, path: "/readyz", always: true, handle: f.readyz},
		{method: get, path: "/openapi.yaml", offers: yamlType, always: true, handle: f.openapi},
	}
}

// serve is the way of every request on a route.
func (f *face) serve(rt route) gin.HandlerFunc {
	name := "HTTP" // a span's name must not hold what a client made up
	if rt.path != "" {
		name = rt.method + " " + rt.path
	}
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindServer),
		// The path itself names users: it stays out of traces.
		trace.WithAttributes(semconv.HTTPRoute(rt.path), semconv.URLScheme("http")),
	}
	traced := f.tracer != nil && !rt.always // nobody looks at probes
	measured := f.metrics.of(rt)
	return func(c *gin.Context) {
		begun := time.Now()
		r := &request{Context: c.Request.Context(), gin: c}
		if len(r.header("Traceparent")) > 0 {
			r.Context = propagation.TraceContext{}.Extract(r.Context, propagation.HeaderCarrier(c.Request.Header))
		}
		if traced {
			var span trace.Span
			r.Context, span = f.tracer.Start(r.Context, name, options...)
			defer span.End()
		}
		alarm := r.setAlarm(f.Timeout)
		body := buffers.Get().(*[]byte)
		defer keep(body)
		out := f.answer(r, rt, body)
		if !alarm.stop() {
			c.Header("Connection", "close") // its context has ended
		}
		if traced {
			describe(trace.SpanFromContext(r), c.Request, out)
		}
		write(c.Writer, out, *body)
		measured.answered(r, c.Request, out, time.Since(begun))
	}
}

// describe says in a span what was answered.
func describe(span trace.Span, r *http.Request, out reply) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		semconv.HTTPRequestMethodKey.String(knownMethod(r.Method)),
		semconv.HTTPResponseStatusCode(out.status))
	if out.code != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(string(out.code)))
	}
	if out.status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, string(out.code))
	}
}

// answer turns whatever the handler does into a reply, and writes its body to a buffer.
func (f *face) answer(r *request, rt route, body *[]byte) (out reply) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			out = f.failure(r, rt, &panicError{value: v, stack: debug.Stack()})
			*body = encode((*body)[:0], r, out)
		}
	}()
	out, err := f.try(r, rt)
	if err != nil {
		out = f.failure(r, rt, err)
	}
	*body = encode((*body)[:0], r, out)
	return out
}

func (f *face) try(r *request, rt route) (reply, error) {
	if strings.Contains(r.gin.Request.URL.EscapedPath(), "//") {
		// gin takes this for a parameter that is empty: it would find a route for it, or an Allow.
		r.gin.Writer.Header().Del("Allow")
		return f.noRoute(r)
	}
	gate := f.gateOf(rt)
	if !gate.enter() {
		return reply{}, ledger.Overloaded("too many requests are in progress: nothing was recorded, try again")
	}
	defer gate.leave()
	if rt.path != "" {
		if err := r.checkQuery(rt.query); err != nil {
			return reply{}, err
		}
		if err := r.checkAccept(cmp.Or(rt.offers, jsonType)); err != nil {
			return reply{}, err
		}
		if rt.method == http.MethodPost && !rt.body {
			if err := r.checkNoBody(); err != nil {
				return reply{}, err
			}
		}
	}
	return rt.handle(r)
}

func (f *face) noRoute(r *request) (reply, error) {
	if r.gin.Request.Method == http.MethodConnect { // it has no path that a route could match
		r.gin.Header("Allow", "GET, HEAD, POST")
		return f.noMethod(r)
	}
	return reply{}, &ledger.Error{Code: codeNoRoute}
}

func (f *face) noMethod(*request) (reply, error) {
	return reply{}, &ledger.Error{Code: codeNoMethod} // gin has set Allow
}

// knownMethod bounds the values of an attribute.
func knownMethod(method string) string {
	known := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
	if slices.Contains(known, method) {
		return method
	}
	return "_OTHER"
}
