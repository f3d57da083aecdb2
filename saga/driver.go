package saga

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Home is one home shard's queue.
type Home interface {
	ID() ledger.ShardID
	// PendingSagas returns the sagas behind a cursor that have not ended, written by transactions below before, at most
	// limit, of slots that the shard owns.
	PendingSagas(ctx context.Context, after Cursor, before int64, limit int) (Page, error)
}

// Config of a driver. Zero values mean the defaults.
type Config struct {
	Handover    time.Duration // for which a saga is left to whoever began it (see Carry); default 1 s; negative: not at all
	Poll        time.Duration // look for sagas that are old enough; default 500 ms
	Sweep       time.Duration // look at the whole queue again; default 30 s
	PageSize    int           // default 1000
	PerPayee    int           // sagas under way at once toward one shard; default 1024
	PerSlot     int           // sagas under way at once that wait for one slot; default 32
	StepTimeout time.Duration // of one step; default 10 s
	OldAge      time.Duration // a saga older than this is told to a person; default 1 min
	MinPause    time.Duration // before a step without an answer is sent again; default 50 ms
	MaxPause    time.Duration // default 5 s
}

func (c *Config) setDefaults() {
	for value, fallback := range map[*time.Duration]time.Duration{
		&c.Handover: time.Second, &c.Poll: 500 * time.Millisecond, &c.Sweep: 30 * time.Second, &c.StepTimeout: 10 * time.Second,
		&c.OldAge: time.Minute, &c.MinPause: 50 * time.Millisecond, &c.MaxPause: 5 * time.Second,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	for value, fallback := range map[*int]int{&c.PageSize: 1000, &c.PerPayee: 1024, &c.PerSlot: 32} {
		if *value == 0 {
			*value = fallback
		}
	}
}

// Driver carries the sagas of one home shard to their ends that nobody else did. Several at once on one home are harmless.
type Driver struct {
	home   Home
	steps  Steps
	config Config
	log    *slog.Logger
	tracer trace.Tracer  // nil if nothing is traced
	wake   chan struct{} // room for one: what had to be left in the queue may have room

	metrics metrics

	marks    []mark         // Run's, oldest first
	underway sync.WaitGroup // goroutines that send or pause

	mu      sync.Mutex // guards what follows, and all destinations and runs
	running map[ledger.Identity]*run
	alarmed map[ledger.Identity]struct{} // left alone until the next sweep
	toHome  *destination
	toShard map[ledger.ShardID]*destination // of payees
	toSlot  map[ledger.Slot]*destination    // slots that refused a step, until one of them answers again
	missed  bool                            // sagas of a slot that answers again were left in the queue
}

// mark is a Page's End, and a time by which it was read.
type mark struct {
	end int64
	at  time.Time
}

// NewDriver returns a driver for one home. Nothing happens before Run.
func NewDriver(home Home, steps Steps, config Config, log *slog.Logger) *Driver {
	config.setDefaults()
	return &Driver{
		home: home, steps: steps, config: config, log: log, metrics: newMetrics(home),
		tracer: tracing.Tracer("saga"), wake: make(chan struct{}, 1),
		running: make(map[ledger.Identity]*run), alarmed: make(map[ledger.Identity]struct{}),
		toHome: new(destination), toShard: make(map[ledger.ShardID]*destination), toSlot: make(map[ledger.Slot]*destination),
	}
}

// Run drives sagas until ctx ends and the steps under way have returned. What it leaves is found by the next runner.
//
// At each poll it looks from its horizon on for what has become old enough. From time to time, and when there is room for
// what it had to leave, it sweeps through the whole queue, a page at a time, so that what comes does not wait for a long
// queue.
func (d *Driver) Run(ctx context.Context) {
	defer d.abandon()
	defer d.observe()()
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
			again  chan struct{} // nil: at the next poll
			err    error
			before = d.oldEnough()
		)
		if horizon > 0 {
			horizon, err = d.look(ctx, horizon, before)
		}
		if err == nil && sweep != nil {
			var page Page
			if page, err = d.read(ctx, *sweep, before); err == nil && before > 0 {
				horizon, again, sweep = cmp.Or(horizon, min(page.Horizon, before)), now, nil
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

// abandon waits for the steps under way and leaves what has not ended to the next runner.
func (d *Driver) abandon() {
	d.underway.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, r := range d.running {
		r.stop()
		delete(d.running, id)
	}
}

// oldEnough returns the transaction below which sagas are no longer left to whoever began them; 0 if none is known yet.
//
// Age is counted by the transactions that were there at an earlier look, not by the time in a saga's row: no clock but
// this process's own has a part in it. And a transaction that stays open for long does not hold up the sagas behind it.
func (d *Driver) oldEnough() int64 {
	if d.config.Handover < 0 {
		return math.MaxInt64
	}
	before := int64(0)
	for len(d.marks) > 0 && time.Since(d.marks[0].at) >= d.config.Handover {
		before = d.marks[0].end
		if len(d.marks) == 1 || time.Since(d.marks[1].at) < d.config.Handover {
			break // it is needed until the next one is old enough
		}
		d.marks = d.marks[1:]
	}
	return before
}

// remember notes a page's end for oldEnough, not more often than is of use.
func (d *Driver) remember(end int64) {
	now, n := time.Now(), len(d.marks)
	if d.config.Handover > 0 && (n == 0 || now.Sub(d.marks[n-1].at) >= d.config.Handover/16) {
		d.marks = append(d.marks, mark{end, now})
	}
}

// look starts every saga that was written by transaction horizon or later, and before, and is not under way. It returns
// the horizon for the next look.
func (d *Driver) look(ctx context.Context, horizon, before int64) (next int64, err error) {
	cursor := Cursor{Tx: horizon}
	for {
		page, err := d.read(ctx, cursor, before)
		if err != nil {
			return horizon, err
		}
		next = cmp.Or(next, min(page.Horizon, before)) // the first page's
		if !page.More {
			return next, nil
		}
		cursor = page.Sagas[len(page.Sagas)-1].Cursor
	}
}

// read starts the sagas of one page that are not under way.
func (d *Driver) read(ctx context.Context, after Cursor, before int64) (Page, error) {
	reading, cancel := context.WithTimeout(ctx, d.config.StepTimeout)
	defer cancel()
	page, err := d.home.PendingSagas(reading, after, before, d.config.PageSize)
	if err != nil {
		return Page{}, err
	}
	d.remember(page.End)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range page.Sagas {
		d.admit(ctx, &page.Sagas[i])
	}
	return page, nil
}

// alarm tells a person, and leaves the saga alone until the next sweep. The caller holds d.mu.
func (d *Driver) alarm(r *run) {
	log := d.log.With("initiator", r.Initiator, "tx_id", r.TxID) // each is told, not one for all
	log.ErrorContext(r.traced(), "a saga's durable outcomes contradict each other", "state", r.state.Phase)
	d.metrics.contradictions.Add(1)
	d.alarmed[r.Identity] = struct{}{}
}

func (d *Driver) forgetAlarms() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.alarmed)
}
