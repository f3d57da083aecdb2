package admin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// The codes of errors. They never change.
const (
	codeMalformed       = "malformed_request"
	codeUnauthenticated = "unauthenticated"
	codeTokenNeeded     = "token_needed"
	codeForeignHost     = "foreign_host"
	codeCrossSite       = "cross_site"
	codeNoRoute         = "not_found"
	codeShardNotFound   = "shard_not_found"
	codeMoveNotFound    = "move_not_found"
	codeSagaNotFound    = "saga_not_found"
	codeUserNotFound    = string(ledger.CodeUserNotFound)
	codeTxNotFound      = string(ledger.CodeTransferNotFound)
	codeNoMethod        = "method_not_allowed"
	codeMoveRefused     = "move_refused"
	codeTooLarge        = "payload_too_large"
	codeMediaType       = "unsupported_media_type"
	codeInternal        = "internal"
	codeUnavailable     = string(ledger.CodeUnavailable)
	codeTooManyStreams  = "too_many_streams"
	codeUnknown         = string(ledger.CodeUnknown)
)

var statuses = map[string]int{
	codeMalformed: 400, codeUnauthenticated: 401, codeTokenNeeded: 403, codeForeignHost: 403, codeCrossSite: 403,
	codeNoRoute: 404, codeShardNotFound: 404, codeMoveNotFound: 404, codeSagaNotFound: 404, codeUserNotFound: 404,
	codeTxNotFound: 404,
	codeNoMethod:   405, codeMoveRefused: 409, codeTooLarge: 413, codeMediaType: 415,
	codeInternal: 500, codeUnavailable: 503, codeTooManyStreams: 503, codeUnknown: 504,
}

// Error is what is answered instead of what was asked for, in the same form as the ledger's own API answers an error.
type Error struct {
	Success    bool     `json:"success"` // false
	Message    string   `json:"message"`
	StatusCode int      `json:"status_code"`
	Code       string   `json:"code"`
	TraceID    string   `json:"trace_id"`
	Similar    []string `json:"similar,omitempty"` // ids that are there, of one that is not
}

func (e *Error) Error() string { return e.Message }

// refusal is an error of a code that says something.
func refusal(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func malformed(format string, args ...any) error { return refusal(codeMalformed, format, args...) }

const (
	jsonType = "application/json"
	maxBody  = 16 << 10
)

// request is one request as handlers see it.
type request struct {
	context.Context
	http *http.Request
	w    http.ResponseWriter // of streams only
}

func (r *request) path(name string) string  { return r.http.PathValue(name) }
func (r *request) query(name string) string { return r.http.URL.Query().Get(name) }

// body reads the JSON body of a request that changes something.
func (r *request) body(into any) error {
	content, err := io.ReadAll(http.MaxBytesReader(r.w, r.http.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &Error{Code: codeTooLarge, Message: fmt.Sprintf("the body is longer than %d bytes", maxBody)}
	case err != nil:
		return malformed("the body cannot be read")
	case len(bytes.TrimSpace(content)) == 0:
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return malformed("the body is not the JSON object that is wanted: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return malformed("something comes after the body's object")
	}
	return nil
}

// checkQuery refuses what no handler would look at.
func (r *request) checkQuery(known []string) error {
	for name, values := range r.http.URL.Query() {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return malformed("there is no parameter %q here", name)
		case !slices.Contains(known, name):
			return malformed("there is no parameter %q here, but %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return malformed("parameter %q is given twice", name)
		}
	}
	return nil
}

// answerTime is for a question to all shards, and to be written.
const answerTime = 20 * time.Second

// serve is the way of every request.
func (f *Face) serve(w http.ResponseWriter, q *http.Request, rt route) {
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	r := &request{Context: q.Context(), http: q, w: w}
	if !rt.stream {
		var cancel context.CancelFunc
		r.Context, cancel = context.WithTimeout(r.Context, answerTime)
		defer cancel()
	}
	answer, err := f.try(r, rt)
	switch {
	case err != nil:
		f.fail(r, err)
	case answer != nil:
		writeJSON(w, http.StatusOK, answer)
	}
}

func (f *Face) try(r *request, rt route) (answer any, err error) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if err := f.admit(r.http); err != nil {
		return nil, err
	}
	if rt.path != "" {
		if err := r.checkQuery(rt.query); err != nil {
			return nil, err
		}
	}
	return rt.handle(r)
}

// noRoute answers what no route does.
func (f *Face) noRoute(r *request) (any, error) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		probe := r.http.Clone(r)
		probe.Method = method
		if _, pattern := f.mux.Handler(probe); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		r.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return nil, &Error{Code: codeNoMethod, Message: "not by " + r.http.Method + ", but by " + strings.Join(allowed, ", ")}
	}
	return nil, &Error{Code: codeNoRoute, Message: "there is no such resource: see " + Prefix + "/openapi.yaml"}
}

// fail answers an error. What is not meant to be told is logged.
func (f *Face) fail(r *request, err error) {
	var (
		told    *Error
		refused *ledger.Error
	)
	answer := Error{Code: codeInternal, Message: "internal error: the coordinator's log has more by this trace_id"}
	switch {
	case errors.As(err, &told):
		answer = *told
	case errors.As(err, &refused) && statuses[string(refused.Code)] != 0:
		answer = Error{Code: string(refused.Code), Message: refused.Message}
	case errors.As(err, &refused) && strings.HasPrefix(string(refused.Code), "invalid_"):
		answer = Error{Code: codeMalformed, Message: refused.Message}
	case errors.As(err, &refused):
		answer = Error{Code: codeUnavailable, Message: refused.Message}
	case errors.Is(err, context.DeadlineExceeded):
		answer = Error{Code: codeUnavailable, Message: "no answer in time: try again"}
	}
	answer.StatusCode, answer.TraceID = cmp.Or(statuses[answer.Code], http.StatusInternalServerError), traceID(r)
	header := r.w.Header()
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Bearer realm="saldo operators"`)
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", "1")
	case http.StatusInternalServerError:
		f.Log.ErrorContext(r, "an operator's request failed",
			"method", r.http.Method, "path", r.http.URL.Path, "answer_trace_id", answer.TraceID, "error", err)
	}
	writeJSON(r.w, answer.StatusCode, answer)
}

func traceID(ctx context.Context) string {
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		return span.TraceID().String()
	}
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		status = http.StatusInternalServerError
		content = []byte(`{"success":false,"code":"internal","message":"internal error","status_code":500,"trace_id":""}`)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	_, _ = w.Write(append(content, '\n')) // whoever asked may have gone
}

//go:embed openapi.yaml
var document []byte

// OpenAPI returns the document that describes the routes, as it is served.
func OpenAPI() []byte { return slices.Clone(document) }

func (f *Face) openAPI(r *request) (any, error) {
	r.w.Header().Set("Content-Type", "application/yaml")
	_, _ = r.w.Write(document)
	return nil, nil
}
