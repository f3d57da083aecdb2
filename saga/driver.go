package saga

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Home is one home shard's queue.
type Home interface {
	// PendingSagas returns the sagas behind a cursor that have not ended, at most limit, of slots that the shard owns.
	PendingSagas(ctx context.Context, after Cursor, limit int) (Page, error)
}

// Steps does a step on whichever shard its user lives on by the live map. Every method may be called again with the same
// arguments, whatever it returned.
type Steps interface {
	// Submit does a credit or a refund. A refusal is a Result, not an error.
	Submit(ctx context.Context, op ledger.Operation) (ledger.Result, error)
	// Complete ends a saga whose credit is applied. The state is returned with an error, too, if it is known.
	Complete(ctx context.Context, id ledger.Identity) (ledger.SagaState, error)
	// ShardOf says where a user lives, to back off from a shard that does not answer.
	ShardOf(user ledger.UserID) ledger.ShardID
}

// Config of a driver. Zero values mean the defaults.
type Config struct {
	Poll        time.Duration // look for new sagas even without a notice; default 500 ms
	Sweep       time.Duration // look at the whole queue again; default 30 s
	PageSize    int           // default 1000
	PerPayee    int           // sagas under way at once toward one shard; default 1024
	StepTimeout time.Duration // of one step; default 10 s
	OldAge      time.Duration // a saga older than this is told to a person; default 1 min
	MinPause    time.Duration // before a step without an answer is sent again; default 50 ms
	MaxPause    time.Duration // default 5 s
}

func (c *Config) setDefaults() {
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.Poll: 500 * time.Millisecond, &c.Sweep: 30 * time.Second, &c.StepTimeout: 10 * time.Second,
		&c.OldAge: time.Minute, &c.MinPause: 50 * time.Millisecond, &c.MaxPause: 5 * time.Second,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	if c.PageSize == 0 {
		c.PageSize = 1000
	}
	if c.PerPayee == 0 {
		c.PerPayee = 1024
	}
}

// Driver carries the sagas of one home shard to their ends. Several at once on one home are harmless.
type Driver struct {
	home   Home
	steps  Steps
	config Config
	log    *slog.Logger
	wake   chan struct{} // room for one

	underway sync.WaitGroup

	mu      sync.Mutex // guards what follows
	running map[ledger.Identity]struct{}
	alarmed map[ledger.Identity]struct{} // left alone until the next sweep
	payees  map[ledger.ShardID]*payee
}

// payee is what a driver knows about a shard that it sends credits to: in memory, since it is only about pace.
type payee struct {
	running  int
	failures int       // in a row
	until    time.Time // no credit before that
	missed   bool      // sagas were left in the queue because too many were running
}

// NewDriver returns a driver for one home. Nothing happens before Run.
func NewDriver(home Home, steps Steps, config Config, log *slog.Logger) *Driver {
	config.setDefaults()
	return &Driver{
		home: home, steps: steps, config: config, log: log, wake: make(chan struct{}, 1),
		running: make(map[ledger.Identity]struct{}), alarmed: make(map[ledger.Identity]struct{}),
		payees: make(map[ledger.ShardID]*payee),
	}
}

// Wake says that there may be new sagas. It never waits.
func (d *Driver) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run drives sagas until ctx ends and the steps under way have returned. What it leaves is found by the next runner.
//
// It looks from its horizon on for what is new, at each notice and poll. From time to time, and when there is room for what
// it had to leave, it sweeps through the whole queue, a page at a time, so that what is new does not wait for a long queue.
func (d *Driver) Run(ctx context.Context) {
	defer d.underway.Wait()
	poll := time.NewTicker(d.config.Poll)
	defer poll.Stop()
	var (
		horizon int64     // everything below it was seen, or is ahead of the sweep; 0 until the first page is read
		swept   time.Time // when the latest sweep for its own sake began
		sweep   *Cursor   // how far the sweep has come; nil if there is none
	)
	now := make(chan struct{})
	close(now)
	for ctx.Err() == nil {
		if sweep == nil && time.Since(swept) > d.config.Sweep {
			sweep, swept = new(Cursor), time.Now()
			d.forgetAlarms()
		} else if sweep == nil && d.takeMissed() {
			sweep = new(Cursor)
		}
		var (
			again chan struct{} // nil: when there is something new
			err   error
		)
		if horizon > 0 {
			horizon, err = d.look(ctx, horizon)
		}
		if err == nil && sweep != nil {
			var page Page
			if page, err = d.read(ctx, *sweep); err == nil {
				horizon, again, sweep = cmp.Or(horizon, page.Horizon), now, nil
				if page.More {
					sweep = &page.Sagas[len(page.Sagas)-1].Cursor
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Debug("cannot read pending sagas; looking again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
		case <-d.wake:
		case <-again:
		}
	}
}

// look starts every saga that was written by transaction horizon or later and is not under way, and returns the horizon
// for the next look.
func (d *Driver) look(ctx context.Context, horizon int64) (next int64, err error) {
	cursor := Cursor{Tx: horizon}
	for {
		page, err := d.read(ctx, cursor)
		if err != nil {
			return horizon, err
		}
		next = cmp.Or(next, page.Horizon) // the first page's
		if !page.More {
			return next, nil
		}
		cursor = page.Sagas[len(page.Sagas)-1].Cursor
	}
}

// read starts the sagas of one page that are not under way.
func (d *Driver) read(ctx context.Context, after Cursor) (Page, error) {
	reading, cancel := context.WithTimeout(ctx, d.config.StepTimeout)
	defer cancel()
	page, err := d.home.PendingSagas(reading, after, d.config.PageSize)
	if err != nil {
		return Page{}, err
	}
	for _, p := range page.Sagas {
		d.admit(ctx, p)
	}
	return page, nil
}

// admit starts a saga unless it is under way or its payee's shard has enough to do: a dead shard fills its own share, not
// the head of the queue.
func (d *Driver) admit(ctx context.Context, p Pending) {
	shard := d.steps.ShardOf(p.Payee)
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.running[p.Identity]; ok {
		return
	}
	if _, ok := d.alarmed[p.Identity]; ok {
		return
	}
	to := d.payees[shard]
	if to == nil {
		to = new(payee)
		d.payees[shard] = to
	}
	if to.running >= d.config.PerPayee {
		to.missed = true
		return
	}
	to.running++
	d.running[p.Identity] = struct{}{}
	d.underway.Go(func() {
		d.drive(ctx, p, to)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, p.Identity)
		if to.running--; to.missed && to.running <= d.config.PerPayee/2 {
			d.Wake()
		}
	})
}

// takeMissed tells whether sagas that were left in the queue can be admitted now.
func (d *Driver) takeMissed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	missed := false
	for _, to := range d.payees {
		if to.missed && to.running <= d.config.PerPayee/2 {
			to.missed, missed = false, true
		}
	}
	return missed
}

// alarm tells a person, and leaves the saga alone until the next sweep.
func (d *Driver) alarm(p Pending, state State) {
	d.log.Error("a saga's durable outcomes contradict each other", "initiator", p.Initiator, "tx_id", p.TxID, "state", state.Phase)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alarmed[p.Identity] = struct{}{}
}

func (d *Driver) forgetAlarms() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.alarmed)
}

// drive runs the machine over one saga until it ends or ctx does.
func (d *Driver) drive(ctx context.Context, p Pending, to *payee) {
	ctx, span := startSpan(ctx, p)
	defer span.End()
	state, action := Start(p.State, p.Cause)
	for tries, silent := 0, 0; action != Stop; {
		if action == Alarm {
			d.alarm(p, state)
			return
		}
		if action == SendCredit && !d.gate(ctx, to) {
			return
		}
		event, cause, err := d.perform(ctx, p, state, action)
		if action == SendCredit {
			d.answered(to, err)
		}
		if event == NoAnswer {
			span.AddEvent("no answer", trace.WithAttributes(attribute.String("action", action.String())))
			silent = d.complain(p, action, err, silent)
			if tries++; !d.pause(ctx, tries) {
				return
			}
		}
		state, action = Step(state, event, cause)
	}
	span.SetAttributes(attribute.String("saldo.saga.state", state.Phase.String()))
}

// perform does an action and says what was learned.
func (d *Driver) perform(ctx context.Context, p Pending, state State, action Action) (Event, ledger.Reason, error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.StepTimeout)
	defer cancel()
	op := ledger.Operation{Transfer: p.Transfer}
	switch action {
	case SendCredit:
		op.Step = ledger.StepCredit
		result, err := d.steps.Submit(ctx, op)
		switch {
		case err != nil:
			return NoAnswer, "", err
		case result.Reason != ledger.Applied:
			return CreditRefused, result.Reason, nil
		}
		return CreditApplied, "", nil
	case SendRefund:
		op.Step, op.Cause = ledger.StepRefund, state.Cause
		result, err := d.steps.Submit(ctx, op)
		if err != nil && result.State == ledger.SagaCompleted {
			return HomeCompleted, "", err
		}
		if err != nil {
			return NoAnswer, "", err
		}
		return HomeRefunded, state.Cause, nil
	default:
		ended, err := d.steps.Complete(ctx, p.Identity)
		switch {
		case ended == ledger.SagaRefunded:
			return HomeRefunded, "", err
		case err != nil:
			return NoAnswer, "", err
		}
		return HomeCompleted, "", nil
	}
}

// gate waits until a payee's shard may be asked again. It returns false when ctx ends.
func (d *Driver) gate(ctx context.Context, to *payee) bool {
	for {
		d.mu.Lock()
		wait := time.Until(to.until)
		d.mu.Unlock()
		if wait <= 0 {
			return ctx.Err() == nil
		}
		// Not before that, and not all of them at once.
		if !sleep(ctx, wait+rand.N(wait/4+time.Millisecond)) {
			return false
		}
	}
}

// answered sets the pace toward a payee's shard: it backs off as long as nothing answers.
func (d *Driver) answered(to *payee, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil || strange(err) {
		to.failures = 0
		return
	}
	if now := time.Now(); now.After(to.until) { // the first of those that ran together
		to.failures++
		to.until = now.Add(jitter(d.backoff(to.failures)))
	}
}

func (d *Driver) pause(ctx context.Context, tries int) bool {
	return sleep(ctx, jitter(d.backoff(tries)))
}

func (d *Driver) backoff(tries int) time.Duration {
	return min(d.config.MinPause<<min(tries-1, 16), d.config.MaxPause)
}

// strange tells whether an error is about the saga, not the shard, and no waiting mends it.
func strange(err error) bool {
	return errors.Is(err, ledger.ErrImpossible) || ledger.CodeOf(err) == ledger.CodeConflict
}

// complain logs what a person should know: a strange error at once, a saga that has grown old then; and each again after
// another 32 tries. silent is what it returned before: the tries until it may speak again.
func (d *Driver) complain(p Pending, action Action, err error, silent int) int {
	age := time.Since(p.CreatedAt)
	if !strange(err) && age <= d.config.OldAge || silent > 0 {
		return max(silent-1, 0)
	}
	d.log.Error("a saga does not end", "initiator", p.Initiator, "tx_id", p.TxID, "age", age.Round(time.Second),
		"action", action.String(), "error", err)
	return 31
}

func sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter spreads a wait over its second half, so that those who wait together do not come back together.
func jitter(wait time.Duration) time.Duration {
	return wait/2 + rand.N(wait/2+1)
}

// startSpan continues the trace of the request that started the saga.
func startSpan(ctx context.Context, p Pending) (context.Context, trace.Span) {
	if p.Trace != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": p.Trace})
	}
	return otel.Tracer("github.com/saldo-ledger/saldo/saga").Start(ctx, "saga", trace.WithAttributes(
		attribute.String("saldo.tx_id", string(p.TxID)),
	))
}
