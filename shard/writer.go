package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// writer commits batches, one at a time, on a connection of its own.
type writer struct {
	lane *lane
	conn *pgx.Conn // nil until it is needed, and after it broke
	trip trip
}

// maxTwins bounds how often a batch is run again because somebody else recorded one of its operations meanwhile.
const maxTwins = 16

func (w *writer) run() {
	defer w.disconnect()
	for {
		items := w.lane.queue.take(w.lane.config.MaxBatch)
		if items == nil {
			return
		}
		w.lane.metrics.taken(items)
		w.settle(items)
		w.lane.queue.done(items)
	}
}

// settle answers every item.
func (w *writer) settle(items []*item) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 5*time.Millisecond, 250*time.Millisecond
	begun, lost, twins := time.Now(), false, 0
	lookUp := w.lane.replays.expected()
	for len(items) > 0 {
		err, committing := w.attempt(items, lookUp)
		if err == nil {
			return
		}
		verdict := judge(err, committing)
		w.lane.metrics.failed(verdict)
		if verdict == fateTwin {
			if committing && !lookUp { // what a look-up would have found, and will
				lookUp = true
				continue
			}
			if twins++; twins > maxTwins {
				verdict = fatePoisoned
			}
		}
		switch verdict {
		case fateTwin:
			continue
		case fateRefused:
			rest := w.refuse(items, ownership(err))
			if len(rest) == len(items) { // it refused slots that nobody asked for
				failAll(items, fmt.Errorf("shard %s: %w", w.lane.config.ID, err))
				return
			}
			items = rest
			continue
		case fateStranger:
			err := ownership(err)
			w.lane.metrics.stranger(err)
			failAll(items, err)
			return
		case fatePoisoned:
			w.split(items, err)
			return
		case fateUnknown:
			lost = true
		case fateTransient:
		}
		patience := w.lane.config.Patience
		if lost {
			patience = w.lane.config.LastPatience
		}
		if time.Since(begun) > patience {
			w.giveUp(items, err)
			return
		}
		time.Sleep(pause.NextBackOff())
	}
}

// refuse answers the items whose slots the shard does not own as they hold them, and returns the others.
func (w *writer) refuse(items []*item, err error) []*item {
	var refused *placement.OwnershipError
	if !errors.As(err, &refused) {
		return items
	}
	answers := make(map[placement.Hold]placement.Refusal, len(refused.Refusals))
	for _, r := range refused.Refusals {
		answers[placement.Hold{Slot: r.Slot, Epoch: r.Held}] = r
	}
	rest := items[:0:0]
	for _, it := range items {
		var own placement.OwnershipError
		for _, hold := range it.holds {
			if r, ok := answers[hold]; ok {
				own.Refusals = append(own.Refusals, r)
			}
		}
		w.lane.metrics.refused(own.Refusals...)
		switch {
		case len(own.Refusals) == 0:
			rest = append(rest, it)
		case len(it.lost) > 0:
			// An earlier attempt may have been recorded before the slot moved away.
			it.fail(ledger.Unknown(&own))
		default:
			it.fail(&own)
		}
	}
	return rest
}

// split finds the operation that makes a batch fail: it stands alone in the end, and only it fails.
func (w *writer) split(items []*item, err error) {
	if len(items) > 1 {
		half := len(items) / 2
		w.settle(items[:half])
		w.settle(items[half:])
		return
	}
	w.lane.log.With(items[0].name()...).Error("an operation cannot be stored", "error", err) // each is told, not one for all
	failAll(items, fmt.Errorf("shard %s: %w", w.lane.config.ID, err))
}

func (w *writer) giveUp(items []*item, err error) {
	w.lane.log.Warn("gave up on a batch", "operations", len(items), "error", err)
	for _, it := range items {
		if len(it.lost) > 0 {
			it.fail(ledger.Unknown(err))
		} else {
			it.fail(ledger.Unavailable("the shard is down: nothing was recorded, try again", err))
		}
	}
}

// failAll answers items with an error that says that nothing was recorded, unless an earlier attempt may have been.
func failAll(items []*item, err error) {
	for _, it := range items {
		if len(it.lost) > 0 {
			it.fail(ledger.Unknown(err))
		} else {
			it.fail(err)
		}
	}
}

// attempt runs the items as one transaction and answers them all if it commits. committing tells whether an error came
// after the commit was sent.
func (w *writer) attempt(items []*item, lookUp bool) (err error, committing bool) {
	told := w.beginAttempt(items)
	defer func() { told.finish(w, items, err) }()
	if err := w.connect(told); err != nil {
		return err, false
	}
	b := newBatch(w.lane, items, lookUp)
	w.trip.begin(w.conn.PgConn())
	b.load(&w.trip)
	began := time.Now()
	told.trip(tripLoad, w)
	_, err = w.trip.send(w.lane.config.RoundTrip)
	told.back(err)
	if err != nil {
		w.rollback(err)
		return fmt.Errorf("load a batch: %w", err), false
	}
	if b.missing() {
		w.rollback(nil)
		return errAccountGone, false
	}
	if len(b.txOf) > 0 {
		w.lane.replays.met()
	} else if len(b.operations) > 0 {
		w.lane.replays.none()
	}
	loaded := time.Now()
	b.decide()
	if b.empty() && !b.awaited {
		w.rollback(nil)
		told.finish(w, items, nil)
		b.answer()
		return nil, false
	}
	w.trip.begin(w.conn.PgConn())
	b.store(&w.trip)
	stored := time.Now()
	told.trip(tripStore, w)
	tag, err := w.trip.send(w.lane.config.RoundTrip)
	if err == nil && tag != "COMMIT" {
		err = fmt.Errorf("commit was answered %q", tag)
	}
	if err == nil && w.trip.warning != "" {
		err = fmt.Errorf("commit was answered with a warning: %s", w.trip.warning)
	}
	told.back(err)
	if err != nil {
		if judge(err, true) == fateUnknown {
			w.disconnect()
			b.markLost()
		} else {
			w.rollback(err)
		}
		return fmt.Errorf("store a batch: %w", err), true
	}
	w.lane.metrics.committed(b, loaded.Sub(began), time.Since(stored))
	b.remember()
	told.finish(w, items, nil)
	b.answer()
	return nil, true
}

// inTime bounds one exchange. When the time is up the socket is closed; nothing is cancelled on the server.
func (w *writer) inTime(work func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.lane.config.RoundTrip)
	defer cancel()
	return work(ctx)
}

func (w *writer) connect(told *attempt) (err error) {
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	told.trip(tripConnect, w)
	defer func() { told.back(err) }()
	w.disconnect()
	return w.inTime(func(ctx context.Context) (err error) {
		if w.conn, err = connectWithoutCancel(ctx, w.lane.session); err != nil {
			return err
		}
		w.lane.metrics.connected.Add(1)
		if _, err = w.conn.Exec(ctx, durableStatement); err == nil {
			err = prepareAll(ctx, w.conn.PgConn())
		}
		if err != nil {
			w.disconnect()
		}
		return err
	})
}

// laneStatements are all that a writer uses.
var laneStatements = []statement{
	beginStatement, awaitStatement, commitStatement, rollbackStatement, lockSharedStatement, guardLaneStatement, clockStatement,
	insertUsersStatement, selectUsersStatement, insertAccountsStatement, lockAccountsStatement, updateAccountsStatement,
	selectOperationsStatement, copyOperationsStatement, copyEntriesStatement,
	lockSagasStatement, updateSagasStatement, copySagasStatement,
}

func prepareAll(ctx context.Context, conn *pgconn.PgConn) error {
	pipeline := conn.StartPipeline(ctx)
	for _, s := range laneStatements {
		pipeline.SendPrepare(s.name, s.sql, nil)
	}
	if err := pipeline.Sync(); err != nil {
		return err
	}
	return pipeline.Close()
}

// rollback ends a transaction that failed with err, or that has nothing to commit.
func (w *writer) rollback(err error) {
	var pg *pgconn.PgError
	if err != nil && !errors.As(err, &pg) || w.conn.IsClosed() { // nobody knows where in the protocol it stands
		w.disconnect()
		return
	}
	if w.conn.PgConn().TxStatus() == 'I' {
		return
	}
	w.trip.begin(w.conn.PgConn())
	w.trip.run(rollbackStatement, nil)
	if _, err := w.trip.send(w.lane.config.RoundTrip); err != nil {
		w.disconnect()
	}
}

func (w *writer) disconnect() {
	if w.conn != nil {
		_ = w.inTime(w.conn.Close) // it is broken or no longer needed
		w.lane.metrics.connected.Add(-1)
		w.conn = nil
	}
}
