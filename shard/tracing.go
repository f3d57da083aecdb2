package shard

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// A lane does thousands of operations a second, and few of them are looked at. So it makes no spans while it works: it notes
// times, of those operations only whose callers have a span that records, and whoever has called makes spans of the notes
// when there is an answer. See package tracing for what they look like.

// tellLong is how long a lane must have taken for something, or a query, to have a span in a trace that was not chosen
// beforehand: those are kept because something has gone wrong or taken long, and what was quick is not why.
const tellLong = 100 * time.Millisecond

// maxLinks bounds the operations that a batch's own trace links to.
const maxLinks = 32

// note is what happens in a lane to the items of a call that are part of one trace.
type note struct {
	parent trace.Span
	begun  time.Time
	answer *answer // of one of the items, rather one that failed; the caller's

	mu       sync.Mutex // several writers may have items of one call
	attempts []*attempt // at their batches, in the order of their ends
}

// attempt is one at a batch.
type attempt struct {
	began, ended time.Time
	items        int
	err          error
	trips        []tripTaken
	span         trace.SpanContext // in the batch's own trace; none if nothing that it carries was chosen beforehand
}

// tripTaken is one round trip of an attempt.
type tripTaken struct {
	name         string
	statements   int
	server       []attribute.KeyValue
	began, ended time.Time
	err          error
}

// The round trips of an attempt. The first one is that of a writer without a connection, and in truth several.
const (
	tripConnect = "connect"
	tripLoad    = "load"
	tripStore   = "store"
)

// noteAll gives the items notes, if anybody looks: one each if each is part of another trace, otherwise one for all.
func (l *lane) noteAll(ctx context.Context, items []item) {
	if l.tracer == nil {
		return
	}
	if spans := tracing.Spans(ctx, len(items)); spans != nil {
		for i := range items {
			if spans[i].IsRecording() {
				items[i].note = &note{parent: spans[i], begun: time.Now()}
			}
		}
		return
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		all := &note{parent: span, begun: time.Now()}
		for i := range items {
			items[i].note = all
		}
	}
}

// tellNote makes spans of the note of an item whose caller has its answer, or waits no longer: once for all that share it.
func (l *lane) tellNote(items []item, i int, a *answer) {
	n := items[i].note
	if n == nil {
		return
	}
	if n.answer == nil || n.answer.err == nil {
		n.answer = a
	}
	switch {
	case i+1 < len(items) && items[i+1].note == n:
	case i > 0 && items[i-1].note == n:
		n.tell(l, items, n.answer)
	default:
		n.tell(l, items[i:i+1], n.answer)
	}
}

func (n *note) tell(l *lane, items []item, answer *answer) {
	ended := time.Now()
	failed := answer.err != nil && !refusedSlots(answer.err) && !clients(answer.err)
	if !n.parent.SpanContext().IsSampled() && !failed && ended.Sub(n.begun) < tellLong {
		return
	}
	attributes := []attribute.KeyValue{
		tracing.Shard.String(string(l.config.ID)), tracing.Operations.Int(len(items)), tracing.Outcome.String(answer.outcome()),
	}
	if len(items) == 1 {
		attributes = append(attributes, items[0].attributes()...)
	}
	n.mu.Lock()
	attempts := n.attempts
	n.mu.Unlock()
	if len(attempts) > 0 {
		attributes = append(attributes, tracing.Wait.Float64(attempts[0].began.Sub(n.begun).Seconds()))
	}
	ctx, span := l.tracer.Start(trace.ContextWithSpan(context.Background(), n.parent), "lane",
		trace.WithTimestamp(n.begun), trace.WithAttributes(attributes...))
	for i, a := range attempts {
		options := []trace.SpanStartOption{
			trace.WithTimestamp(a.began),
			trace.WithAttributes(tracing.Shard.String(string(l.config.ID)), tracing.BatchSize.Int(a.items), tracing.Try.Int(i+1)),
		}
		if a.span.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: a.span}))
		}
		ctx, batch := l.tracer.Start(ctx, "batch", options...)
		a.tellTrips(ctx, l.tracer)
		a.end(batch)
	}
	if failed {
		tracing.Fail(span, answer.err)
	}
	span.End(trace.WithTimestamp(ended))
}

func (it *item) attributes() []attribute.KeyValue {
	switch {
	case it.op != nil:
		return []attribute.KeyValue{
			tracing.TxID.String(string(it.op.TxID)), tracing.Step.String(it.op.Step.String()),
			tracing.Slot.Int(int(placement.SlotOf(it.op.Owner()))),
		}
	case it.end != nil:
		return []attribute.KeyValue{
			tracing.TxID.String(string(it.end.TxID)), tracing.Step.String("complete"),
			tracing.Slot.Int(int(placement.SlotOf(it.end.Initiator))),
		}
	default:
		return []attribute.KeyValue{tracing.Step.String("create_user"), tracing.Slot.Int(int(placement.SlotOf(it.user.ID)))}
	}
}

// outcome is what a span says about an answer.
func (a *answer) outcome() string {
	switch {
	case refusedSlots(a.err):
		return "not_owned"
	case a.err != nil:
		return tracing.Kind(a.err)
	case a.result.Reason != ledger.Applied:
		return string(a.result.Reason)
	}
	return "applied"
}

// refusedSlots tells whether an error is no more than that slots are elsewhere, or on their way: the caller follows them.
func refusedSlots(err error) bool {
	var refused *placement.OwnershipError
	return err != nil && errors.As(err, &refused) && !refused.Ahead() && ledger.CodeOf(err) == ""
}

// clients tells whether an error is the client's own.
func clients(err error) bool {
	code := ledger.CodeOf(err)
	return code == ledger.CodeConflict || code == ledger.CodeUserConflict || code == ledger.CodeUserNotFound
}

// beginAttempt returns nil if nobody looks at any of the items.
func (w *writer) beginAttempt(items []*item) *attempt {
	if w.lane.tracer == nil {
		return nil
	}
	for _, it := range items {
		if it.note != nil {
			return &attempt{began: time.Now(), items: len(items)}
		}
	}
	return nil
}

// trip notes that a round trip begins, with the statements that the writer's trip has.
func (a *attempt) trip(name string, w *writer) {
	if a == nil {
		return
	}
	a.trips = append(a.trips, tripTaken{name: name, began: time.Now(), server: serverOf(w.lane.session, w.conn)})
	if name != tripConnect {
		a.trips[len(a.trips)-1].statements = len(w.trip.reads)
	}
}

// back notes that the round trip has ended.
func (a *attempt) back(err error) {
	if a == nil {
		return
	}
	t := &a.trips[len(a.trips)-1]
	t.ended, t.err = time.Now(), err
}

// finish notes how an attempt has ended, before its items are answered: then their callers go.
func (a *attempt) finish(w *writer, items []*item, err error) {
	if a == nil || !a.ended.IsZero() {
		return
	}
	a.ended, a.err = time.Now(), err
	a.tellItself(w.lane, items)
	var last *note
	for _, it := range items {
		if n := it.note; n != nil && n != last {
			n.mu.Lock()
			if k := len(n.attempts); k == 0 || n.attempts[k-1] != a {
				n.attempts = append(n.attempts, a)
			}
			n.mu.Unlock()
			last = n
		}
	}
}

// tellItself makes the batch's own trace, if it carries something that was chosen beforehand.
func (a *attempt) tellItself(l *lane, items []*item) {
	var (
		links []trace.Link
		last  *note
	)
	for _, it := range items {
		if n := it.note; n != nil && n != last && n.parent.SpanContext().IsSampled() && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: n.parent.SpanContext()})
			last = n
		}
	}
	if len(links) == 0 {
		return
	}
	ctx, span := l.tracer.Start(context.Background(), "batch", trace.WithNewRoot(), trace.WithTimestamp(a.began), trace.WithLinks(links...),
		trace.WithAttributes(tracing.Shard.String(string(l.config.ID)), tracing.BatchSize.Int(a.items)))
	a.span = span.SpanContext()
	a.tellTrips(ctx, l.tracer)
	a.end(span)
}

func (a *attempt) tellTrips(ctx context.Context, tracer trace.Tracer) {
	for i := range a.trips {
		t := &a.trips[i]
		_, span := tracer.Start(ctx, t.name, trace.WithTimestamp(t.began), trace.WithSpanKind(trace.SpanKindClient),
			trace.WithAttributes(t.server...))
		span.SetAttributes(semconv.DBSystemNamePostgreSQL, semconv.DBQuerySummary(t.name))
		if t.statements > 1 {
			span.SetAttributes(semconv.DBOperationBatchSize(t.statements))
		}
		endQuery(span, t.ended, t.err)
	}
}

func (a *attempt) end(batch trace.Span) {
	if a.err != nil && !expected(a.err) {
		tracing.Fail(batch, a.err)
	}
	batch.End(trace.WithTimestamp(a.ended))
}

// endQuery ends the span of something that Postgres was asked.
func endQuery(span trace.Span, at time.Time, err error) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		span.SetAttributes(semconv.DBResponseStatusCode(pg.Code))
	}
	if err != nil && !expected(err) {
		tracing.Fail(span, err)
	}
	span.End(trace.WithTimestamp(at))
}

// expected tells whether an error is part of the protocol: a twin is looked up and slots that moved are followed.
func expected(err error) bool {
	fate := judge(err, false)
	return fate == fateTwin || fate == fateRefused && !ahead(err)
}

func ahead(err error) bool {
	var refused *placement.OwnershipError
	return errors.As(ownership(err), &refused) && refused.Ahead()
}

// tellQuery makes the span of a query for a caller that has one.
func (s *Shard) tellQuery(ctx context.Context, query string, began time.Time, err error) {
	parent := trace.SpanFromContext(ctx)
	if s.lane.tracer == nil || !parent.IsRecording() {
		return
	}
	ended := time.Now()
	if !parent.SpanContext().IsSampled() && err == nil && ended.Sub(began) < tellLong {
		return
	}
	_, span := s.lane.tracer.Start(ctx, queryNames[query], trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(serverOf(s.lane.session, nil)...), trace.WithAttributes(
			semconv.DBSystemNamePostgreSQL, semconv.DBQuerySummary(queryNames[query]), tracing.Shard.String(string(s.config.ID))))
	endQuery(span, ended, err)
}

// queryNames is what spans call the queries of readEach.
var queryNames = map[string]string{
	balancesStatement: "read balances", historyStatement: "read history", userStatement: "read user",
	transferStatement: "read transfer", transfersByTxIDStatement: "find transfer", endedSagasStatement: "read ends of sagas",
}

// tellBalance makes the span of a balance that was read together with others, from the call to the answer.
func (r *balanceReader) tellBalance(ctx context.Context, read *balanceRead, began time.Time, err error) {
	parent := trace.SpanFromContext(ctx)
	if r.shard.lane.tracer == nil || !parent.IsRecording() {
		return
	}
	ended := time.Now()
	failed := err != nil && !refusedSlots(err) && !clients(err)
	if !parent.SpanContext().IsSampled() && !failed && ended.Sub(began) < tellLong {
		return
	}
	_, span := r.shard.lane.tracer.Start(ctx, "read balances", trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(serverOf(r.shard.lane.session, nil)...), trace.WithAttributes(
			semconv.DBSystemNamePostgreSQL, semconv.DBQuerySummary("read balances"), tracing.Shard.String(string(r.shard.config.ID)),
			tracing.Slot.Int(int(placement.SlotOf(read.key.User)))))
	if failed {
		tracing.Fail(span, err)
	}
	span.End(trace.WithTimestamp(ended))
}

// serverOf names the database, and the server, if it is known which of several: the one that conn leads to.
func serverOf(config *pgx.ConnConfig, conn *pgx.Conn) []attribute.KeyValue {
	attributes := []attribute.KeyValue{semconv.DBNamespace(config.Database)}
	host, port := config.Host, int(config.Port)
	if len(config.Fallbacks) > 0 {
		if conn == nil || conn.IsClosed() {
			return attributes
		}
		address, ok := conn.PgConn().Conn().RemoteAddr().(*net.TCPAddr)
		if !ok {
			return attributes
		}
		host, port = address.IP.String(), address.Port
	}
	return append(attributes, semconv.ServerAddress(host), semconv.ServerPort(port))
}
