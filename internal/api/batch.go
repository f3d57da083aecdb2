package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

const (
	batchPath = "/transfers/batch"

	maxBatch = 1000 // transfers

	// maxBatchBody holds maxBatch transfers of the largest size, in whatever way they are escaped: 5.8 KB each if every
	// character is.
	maxBatchBody = 8 << 20

	// maxRoom bounds what all batches under way hold: their bodies and roomOfTransfer for each transfer.
	maxRoom        = 64 << 20
	roomOfTransfer = 1 << 10
)

// batch answers POST /transfers/batch.
func (f *face) batch(r *request) (reply, error) {
	if len(r.header("Idempotency-Key")) > 0 {
		return reply{}, malformed("header Idempotency-Key names one transfer: give each transfer of a batch its transaction_id")
	}
	held := share{of: &f.batches}
	defer held.release()
	body, err := r.longBody(&held)
	if err != nil {
		return reply{}, err
	}
	starts, err := f.starts(body)
	if err != nil {
		return reply{}, err
	}
	if err := held.take(len(starts) * roomOfTransfer); err != nil {
		return reply{}, err
	}
	traceparent := r.traceparent()
	for i := range starts {
		starts[i].Trace = traceparent
		if starts[i].TxID != "" {
			continue
		}
		if starts[i].TxID, err = newID[ledger.TxID](); err != nil {
			return reply{}, err
		}
	}

	r.identity = transactionIDs(starts)
	if span := trace.SpanFromContext(r); span.IsRecording() {
		span.SetAttributes(tracing.Operations.Int(len(starts)))
	}
	answers := f.Ledger.TransferAll(r, starts, f.wait(r))
	f.explainAll(r, answers)
	f.metrics.batch(answers)
	return reply{status: http.StatusOK, data: batchResults{starts: starts, answers: answers}}, nil
}

// longBody reads the body of a batch.
func (r *request) longBody(held *share) (string, error) {
	if err := r.checkBody(maxBatchBody); err != nil {
		return "", err
	}
	into := heldText{held: held}
	into.Grow(int(min(max(r.gin.Request.ContentLength, 0), 256<<10))) // a client may promise what never comes
	piece := pieces.Get().(*[]byte)
	defer pieces.Put(piece)
	_, err := io.CopyBuffer(&into, http.MaxBytesReader(r.gin.Writer, r.gin.Request.Body, maxBatchBody), *piece)
	if err == nil {
		return into.String(), nil
	}
	broken := r.broken(err) // which also tells the client to stop
	var full *ledger.Error
	if errors.As(err, &full) {
		return "", full
	}
	return "", broken
}

// pieces holds buffers that a body is read through.
var pieces = sync.Pool{New: func() any { return new(make([]byte, 32<<10)) }}

// starts reads the transfers of a batch's body. Those without a transaction id have none yet.
func (f *face) starts(body string) ([]ledger.Operation, error) {
	var t newTransfer
	transferFields := t.fields()
	starts := make([]ledger.Operation, 0, min(strings.Count(body, "{"), maxBatch))
	take := func() error {
		start, err := t.operation(f, transferFields[currencyField].given)
		if err != nil {
			return err
		}
		if transferFields[txIDField].given {
			if start.TxID, err = ledger.ParseTxID(t.txID); err != nil {
				return about("transaction_id", err)
			}
		}
		starts = append(starts, start)
		return nil
	}
	fields := [...]field{
		{name: "transfers", objects: &objects{fields: transferFields[:], most: maxBatch, take: take}, required: true},
	}
	err := decodeText(body, fields[:])
	return starts, err
}

// explainAll turns the errors among the answers into what they mean, and logs those that are internal, in one line.
func (f *face) explainAll(r *request, answers []ledger.Answer) {
	var faults []error
	for i := range answers {
		err := answers[i].Err
		if err == nil {
			continue
		}
		e := r.explain(err)
		answers[i].Err = e
		if e.Code == codeInternal {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		err := fmt.Errorf("%d transfers of a batch of %d, the first: %w", len(faults), len(answers), faults[0])
		tracing.Fail(trace.SpanFromContext(r), err)
		f.log(r, route{path: batchPath}, err)
	}
}

// transactionIDs is what a client needs to learn the outcomes of a batch.
type transactionIDs []ledger.Operation

func (d transactionIDs) appendTo(o object) object {
	o = append(o.name("transaction_ids"), '[')
	for i := range d {
		if i > 0 {
			o = append(o, ',')
		}
		o = appendText(o, string(d[i].TxID))
	}
	return append(o, ']')
}

// batchResults is what became of each transfer of a batch, in their order. The errors are *ledger.Error.
type batchResults struct {
	starts  []ledger.Operation
	answers []ledger.Answer
}

func (d batchResults) appendTo(o object) object {
	o = append(o.name("results"), '[')
	for i := range d.answers {
		if i > 0 {
			o = append(o, ',')
		}
		o = appendResult(o.open(), &d.starts[i], &d.answers[i]).close()
	}
	return append(o, ']')
}

// appendResult writes what the transfer alone would have been answered: its status, code and message, and its data.
func appendResult(o object, start *ledger.Operation, answer *ledger.Answer) object {
	if answer.Err != nil {
		o = appendError(o, answer.Err.(*ledger.Error))
		return transactionID(start.TxID).appendTo(o)
	}
	result := &answer.Result
	record := ledger.TransferRecord{Recorded: result.Recorded, State: result.State, Cause: result.Cause}
	switch reason := record.WhyNot(); {
	case reason != ledger.Applied:
		o = appendError(o, &ledger.Error{Code: ledger.Code(reason)})
		o = refusedTransfer(record).appendTo(o)
	case record.Status() == ledger.StatusPending:
		o = o.integer("status_code", http.StatusAccepted)
		o = transferResult(record).appendTo(o).text("location", location(record.Identity))
	default:
		o = o.integer("status_code", http.StatusCreated)
		o = transferResult(record).appendTo(o)
	}
	if result.Replayed {
		o = o.bool("replayed", true)
	}
	return o
}

func appendError(o object, e *ledger.Error) object {
	out := errorReply(e, nil)
	return o.integer("status_code", int64(out.status)).text("code", string(out.code)).text("message", out.message)
}

// room is how much the batches under way hold, in bytes.
type room struct{ taken atomic.Int64 }

// share is what one batch holds of the room.
type share struct {
	of   *room
	held int64
}

func (s *share) take(bytes int) error {
	s.held += int64(bytes)
	if s.of.taken.Add(int64(bytes)) > maxRoom {
		return ledger.Overloaded("too many batches are under way: nothing was recorded, try again")
	}
	return nil
}

func (s *share) release() { s.of.taken.Add(-s.held) }

// heldText is text that is paid for while it is written.
type heldText struct {
	strings.Builder
	held *share
}

func (t *heldText) Write(p []byte) (int, error) {
	if err := t.held.take(len(p)); err != nil {
		return 0, err
	}
	return t.Builder.Write(p)
}
