package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// maxBody is the longest request body, in bytes.
const maxBody = 64 << 10

// request is one HTTP request on its way through a handler. Its context carries the span.
type request struct {
	context.Context
	gin      *gin.Context
	query    url.Values
	deadline time.Time // zero: none

	// identity is set before something may be recorded: what the client must know to repeat the request safely. A reply
	// that cannot say whether something was recorded carries it.
	identity data

	traceID string // a random one, where there is no trace
}

// header returns the values of a header; the name is in canonical form.
func (r *request) header(name string) []string { return r.gin.Request.Header[name] }

// param returns a part of the path, decoded.
func (r *request) param(name string) string {
	raw := r.gin.Param(name)
	text, err := url.PathUnescape(raw)
	if err != nil { // not after url.EscapedPath
		return raw // "%" is in no id
	}
	return text
}

func (r *request) user(param string) (ledger.UserID, error) {
	return ledger.ParseUserID(r.param(param))
}

// checkQuery allows the named parameters, each at most once.
func (r *request) checkQuery(allowed []string) error {
	raw := r.gin.Request.URL.RawQuery
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return malformed("query is malformed")
	}
	for name, values := range query {
		if !slices.Contains(allowed, name) {
			return malformed("unknown query parameter " + quote(name))
		}
		if len(values) > 1 {
			return malformed("query parameter " + name + " is given twice")
		}
	}
	r.query = query
	return nil
}

// checkAccept refuses a client that does not want the media type that it would get.
func (r *request) checkAccept(offered string) error {
	accept := r.header("Accept")
	if len(accept) == 0 || len(accept) == 1 && accept[0] == "*/*" {
		return nil
	}
	// The most specific range decides, whatever stands before it.
	const unknown, any, application, exact = 0, 1, 2, 3
	specific, accepted := unknown, false
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		mediaType, params, _ := strings.Cut(part, ";")
		level := unknown
		switch strings.ToLower(strings.TrimSpace(mediaType)) {
		case "*/*":
			level = any
		case "application/*":
			level = application
		case offered:
			level = exact
		case "": // an empty list element
			continue
		}
		if level > unknown && level >= specific {
			specific, accepted = level, !weightZero(params)
		}
	}
	if accepted || strings.Trim(strings.Join(accept, ""), ", \t") == "" {
		return nil
	}
	return &ledger.Error{Code: codeNotAcceptable, Message: "only " + offered + " can be answered"}
}

// weightZero tells whether the parameters of a media range say q=0.
func weightZero(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(value, 64)
			return err == nil && q == 0
		}
	}
	return false
}

// checkNoBody refuses a body where none belongs: whoever sends one expects it to be read.
func (r *request) checkNoBody() error {
	if r.gin.Request.ContentLength == 0 {
		return nil
	}
	if n, _ := r.gin.Request.Body.Read(make([]byte, 1)); n > 0 {
		return malformed("this request has no body: everything is in its path")
	}
	return nil
}

// checkBody refuses a body that is not plain JSON or says that it is longer than limit.
func (r *request) checkBody(limit int64) error {
	contentType := r.header("Content-Type")
	if len(contentType) != 1 || contentType[0] != "application/json" && !isJSON(contentType[0]) {
		return &ledger.Error{Code: codeMediaType, Message: "content type must be application/json"}
	}
	if len(r.header("Content-Encoding")) > 0 {
		return &ledger.Error{Code: codeMediaType, Message: "body must not be compressed"}
	}
	if r.gin.Request.ContentLength > limit {
		return r.broken(&http.MaxBytesError{Limit: limit})
	}
	return nil
}

// body decodes the JSON body into the fields.
func (r *request) body(fields []field) error {
	if err := r.checkBody(maxBody); err != nil {
		return err
	}
	buffer := buffers.Get().(*[]byte)
	defer keep(buffer)
	body := r.gin.Request.Body // net/http reads no more than the length that was said
	if r.gin.Request.ContentLength < 0 {
		body = http.MaxBytesReader(r.gin.Writer, body, maxBody)
	}
	var err error
	*buffer, err = appendAll((*buffer)[:0], body)
	if err != nil {
		return r.broken(err)
	}
	return decode(*buffer, fields)
}

// isJSON allows application/json in any case and a charset that says UTF-8.
func isJSON(contentType string) bool {
	mediaType, params, err := mime.ParseMediaType(contentType)
	charset, given := params["charset"]
	return err == nil && mediaType == "application/json" &&
		(len(params) == 0 || len(params) == 1 && given && strings.EqualFold(charset, "utf-8"))
}

// buffers holds buffers for bodies, of requests and replies.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 1024)) }}

// keep gives a buffer back, unless it has grown beyond what is usual.
func keep(buffer *[]byte) {
	if cap(*buffer) <= 2*maxBody {
		buffers.Put(buffer)
	}
}

func appendAll(b []byte, from io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = slices.Grow(b, cap(b))
		}
		n, err := from.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// broken says why a body could not be read. What is left of it is not waited for.
func (r *request) broken(err error) error {
	r.gin.Header("Connection", "close")
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &ledger.Error{
			Code: codeTooLarge, Message: "body must not be longer than " + strconv.FormatInt(tooLarge.Limit>>10, 10) + " KiB", Cause: err,
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ledger.Error{Code: codeTimeout, Cause: err}
	}
	return &ledger.Error{Code: codeMalformed, Message: "body cannot be read", Cause: err}
}

// txID returns the transaction id from the body's field or from the header Idempotency-Key, which must agree. byHeader
// tells whether the header named it. The id is empty if neither does.
func (r *request) txID(body field) (id ledger.TxID, byHeader bool, err error) {
	keys := r.header("Idempotency-Key")
	if len(keys) > 1 {
		return "", false, &ledger.Error{Code: ledger.CodeInvalidTxID, Message: "header Idempotency-Key is given twice"}
	}
	if body.given {
		if id, err = ledger.ParseTxID(*body.text); err != nil {
			return "", false, err
		}
	}
	if len(keys) == 0 {
		return id, false, nil
	}
	key, err := ledger.ParseTxID(unquoted(keys[0]))
	if err != nil {
		return "", false, err
	}
	if body.given && id != key {
		return "", false, &ledger.Error{
			Code: ledger.CodeInvalidTxID, Message: "transaction_id and header Idempotency-Key must be equal",
		}
	}
	return key, true, nil
}

// unquoted takes the quotes off a structured header string, which is how the IETF's draft writes an Idempotency-Key. No
// id holds a character that would be escaped in one.
func unquoted(key string) string {
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		return key[1 : len(key)-1]
	}
	return key
}

// respondAsync tells whether the client prefers not to wait (RFC 7240).
func (r *request) respondAsync() bool {
	for _, line := range r.header("Prefer") {
		for preference := range strings.SplitSeq(line, ",") {
			token, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(token), "respond-async") {
				return true
			}
		}
	}
	return false
}

// traceparent is the request's span in W3C form, or empty if nobody traces.
func (r *request) traceparent() string {
	span := trace.SpanContextFromContext(r)
	if !span.IsValid() {
		return ""
	}
	return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String()
}
