package api

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// reply is an answer before it is bytes.
type reply struct {
	status     int
	message    string      // requestDone if empty
	code       ledger.Code // of an error; empty means success
	data       data        // may be nil
	bare       bool        // the data alone, without the envelope
	yaml       []byte      // the whole body, of type yamlType, instead of all that
	retryAfter time.Duration
}

const (
	requestDone     = "request successful!"
	transactionDone = "transaction successful!"
)

// data is what stands in the envelope's data.
type data interface {
	appendTo(object) object
}

// encode appends the body of a reply, unless it is there already.
func encode(to []byte, r *request, out reply) []byte {
	if out.yaml != nil {
		return to
	}
	o := object(to).open()
	if out.bare {
		return out.data.appendTo(o).close()
	}
	message := out.message
	if message == "" {
		message = requestDone
	}
	o = o.bool("success", out.code == "").text("message", message).integer("status_code", int64(out.status))
	if out.code != "" {
		o = o.text("code", string(out.code)).text("trace_id", traceID(r))
	}
	if out.data != nil {
		o = out.data.appendTo(o.name("data").open()).close()
	}
	return o.close()
}

const (
	jsonType = "application/json"
	yamlType = "application/yaml"
)

// Header values that every reply shares; nothing changes them.
var (
	ofJSON  = []string{jsonType}
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}
)

// write is the one place where a reply goes out. It does not fail in a way that anyone could be told of.
func write(w http.ResponseWriter, out reply, body []byte) {
	header := w.Header()
	header["X-Content-Type-Options"] = noSniff
	if out.yaml != nil {
		header.Set("Content-Type", yamlType)
		body = out.yaml
	} else {
		header["Content-Type"] = ofJSON
		header["Cache-Control"] = noStore
	}
	if out.retryAfter > 0 {
		seconds := int64((out.retryAfter + time.Second - 1) / time.Second)
		header.Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	if len(body) > 2000 { // net/http counts shorter ones itself
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(body)
}

// traceID names the request in traces and logs. Without a trace it is random, so that a person can still quote it.
func traceID(r *request) string {
	if span := trace.SpanContextFromContext(r); span.HasTraceID() {
		return span.TraceID().String()
	}
	if r.traceID == "" {
		var id [16]byte
		rand.Read(id[:])
		r.traceID = hex.EncodeToString(id[:])
	}
	return r.traceID
}

// object is a JSON object being written, by appending. Names are plain ASCII.
type object []byte

func (o object) open() object  { return append(o, '{') }
func (o object) close() object { return append(o, '}') }

func (o object) name(name string) object {
	if o[len(o)-1] != '{' {
		o = append(o, ',')
	}
	o = append(o, '"')
	o = append(o, name...)
	return append(o, '"', ':')
}

func (o object) text(name, value string) object { return appendText(o.name(name), value) }

func (o object) integer(name string, value int64) object {
	return strconv.AppendInt(o.name(name), value, 10)
}

func (o object) bool(name string, value bool) object { return strconv.AppendBool(o.name(name), value) }

func (o object) time(name string, value time.Time) object {
	o = append(o.name(name), '"')
	o = value.UTC().AppendFormat(o, time.RFC3339Nano)
	return append(o, '"')
}

// list writes a list of objects.
func list[T data](o object, name string, values []T) object {
	o = append(o.name(name), '[')
	for i, value := range values {
		if i > 0 {
			o = append(o, ',')
		}
		o = value.appendTo(o.open()).close()
	}
	return append(o, ']')
}

// appendText writes a string. What is not UTF-8 becomes U+FFFD, as in encoding/json.
func appendText(b []byte, text string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(text[i:])
			b = utf8.AppendRune(b, r)
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}
