package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Codes of this package; the others are the ledger's codes and reasons. They never change.
const (
	codeMalformed     ledger.Code = "malformed_request"
	codeAmount        ledger.Code = "invalid_amount"
	codeName          ledger.Code = "invalid_name"
	codeEmail         ledger.Code = "invalid_email"
	codeDescription   ledger.Code = "invalid_description"
	codePageSize      ledger.Code = "invalid_page_size"
	codeCursor        ledger.Code = "invalid_cursor"
	codeNoRoute       ledger.Code = "not_found"
	codeNoMethod      ledger.Code = "method_not_allowed"
	codeNotAcceptable ledger.Code = "not_acceptable"
	codeTimeout       ledger.Code = "request_timeout"
	codeTooLarge      ledger.Code = "payload_too_large"
	codeMediaType     ledger.Code = "unsupported_media_type"
	codeProcessed     ledger.Code = "already_processed"
	codeInternal      ledger.Code = "internal"
	codeNotReady      ledger.Code = "not_ready"
)

// meanings is the table of what a code means to a client. A message here goes before the error's own.
var meanings = map[ledger.Code]struct {
	status  int
	message string
}{
	codeMalformed:              {400, ""},
	codeAmount:                 {400, ""},
	codeName:                   {400, ""},
	codeEmail:                  {400, ""},
	codeDescription:            {400, ""},
	codePageSize:               {400, "page size should be a valid integer"},
	codeCursor:                 {400, "invalid pagination cursor"},
	ledger.CodeInvalidUserID:   {400, ""},
	ledger.CodeInvalidTxID:     {400, ""},
	ledger.CodeInvalidCurrency: {400, ""},

	codeNoRoute:                 {404, "no such resource"},
	ledger.CodeUserNotFound:     {404, "user not found"}, // and the reason of that name
	ledger.CodeTransferNotFound: {404, "transfer not found"},
	codeNoMethod:                {405, "method not allowed here"},
	codeNotAcceptable:           {406, ""},
	codeTimeout:                 {408, "the request came too slowly"},
	ledger.CodeConflict:         {409, ""},
	ledger.CodeUserConflict:     {409, ""},
	ledger.CodeAmbiguous:        {409, ""},
	codeTooLarge:                {413, ""},
	codeMediaType:               {415, ""},

	codeProcessed:                         {422, "transaction was already processed"},
	ledger.Code(ledger.PayeeNotFound):     {422, "payee not found"},
	ledger.Code(ledger.SameAccount):       {422, "source and destination are the same user"},
	ledger.Code(ledger.InsufficientFunds): {422, "insufficient funds"},
	ledger.Code(ledger.BalanceLimit):      {422, "the balance would exceed its limit"},

	codeInternal:           {500, "internal error"},
	codeNotReady:           {503, "not ready"},
	ledger.CodeUnavailable: {503, ""},
	ledger.CodeOverloaded:  {503, ""},
	ledger.CodeUnknown:     {504, "the outcome is not known yet: repeat the same request with the id in data to learn it"},
}

func malformed(message string) error {
	return &ledger.Error{Code: codeMalformed, Message: message}
}

// refusal is the answer to a transfer that the ledger's rules refused or refunded. It is an error of this package only:
// the outcome itself is a record.
type refusal struct {
	reason ledger.Reason
	data   data // may be nil
}

func (e *refusal) Error() string { return "refused: " + string(e.reason) }

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// failure says what an error means, and logs it if it is internal.
func (f *face) failure(r *request, rt route, err error) reply {
	var refused *refusal
	if errors.As(err, &refused) {
		return errorReply(&ledger.Error{Code: ledger.Code(refused.reason)}, refused.data)
	}
	e := r.explain(err)
	if e.Code == codeInternal {
		f.log(r, rt, err)
	}
	out := errorReply(e, nil)
	if out.status >= http.StatusInternalServerError { // a client's errors may quote what is private
		span := trace.SpanFromContext(r)
		if panicked := new(panicError); errors.As(err, &panicked) {
			tracing.Crashed(span, err, string(panicked.stack))
		} else {
			tracing.Fail(span, err)
		}
	}
	if out.status == http.StatusInternalServerError || out.status == http.StatusGatewayTimeout {
		out.data = r.identity
	}
	return out
}

// explain turns whatever went wrong into an error that has a meaning.
func (r *request) explain(err error) *ledger.Error {
	var e *ledger.Error
	known := errors.As(err, &e)
	if !known && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		e, known = r.unanswered(err), true
	}
	if known {
		_, known = meanings[e.Code]
	}
	if !known {
		e = &ledger.Error{Code: codeInternal, Cause: err}
	}
	return e
}

// unanswered says what it means that the Ledger did not answer in time.
func (r *request) unanswered(err error) *ledger.Error {
	var e *ledger.Error
	if r.identity != nil {
		errors.As(ledger.Unknown(err), &e)
	} else {
		errors.As(ledger.Unavailable("no answer in time", err), &e)
	}
	return e
}

func errorReply(e *ledger.Error, data data) reply {
	meaning, known := meanings[e.Code]
	if !known { // the reason of a refusal, by a newer version
		meaning.status, meaning.message = http.StatusUnprocessableEntity, "refused by the ledger's rules"
	}
	out := reply{status: meaning.status, message: meaning.message, code: e.Code, data: data}
	if out.message == "" {
		out.message = e.Message
	}
	if out.status == http.StatusServiceUnavailable {
		out.retryAfter = max(e.RetryAfter, time.Second)
	}
	return out
}

func (f *face) log(r *request, rt route, err error) {
	args := []any{"method", knownMethod(r.gin.Request.Method), "route", rt.path, "trace_id", traceID(r), "error", err}
	var panicked *panicError
	if errors.As(err, &panicked) {
		args = append(args, "stack", string(panicked.stack))
	}
	f.Log.ErrorContext(r, "request failed", args...)
}
