package auditor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Books is the cluster, to be audited in parts.
type Books interface {
	// View reads, linearizably, who the cluster is and who owns what.
	View(ctx context.Context) (audit.View, error)
	// SnapshotOf opens a snapshot of a part of a shard, taken before it returns. audit.ErrMarkLost: the part's mark means
	// nothing to the shard any more.
	SnapshotOf(ctx context.Context, id ledger.ShardID, part audit.Part) (audit.Marked, error)
}

// Config says how to audit. Zero values mean the defaults.
type Config struct {
	Interval time.Duration // between the beginnings of two rounds, at least; default 10 s
	Share    float64       // of the time, which rounds may take; default 0.02
	Behind   time.Duration // that what is new may be left unread, so that the share is kept; default 6 × Interval
	Limit    time.Duration // of a round; default 15 min
	Step     time.Duration // that a step of the sweep should take; default 1 s
	Audit    audit.Options // of each round
	Shown    int           // findings that are kept; default 100

	Ended func(Status) // is told after each round; may be nil
}

func (c *Config) setDefaults() {
	c.Interval = cmp.Or(c.Interval, 10*time.Second)
	c.Share = cmp.Or(c.Share, 0.02)
	c.Behind = cmp.Or(c.Behind, 6*c.Interval)
	c.Limit = cmp.Or(c.Limit, 15*time.Minute)
	c.Step = cmp.Or(c.Step, time.Second)
	c.Shown = cmp.Or(c.Shown, 100)
}

// Auditor audits a cluster while Run runs.
type Auditor struct {
	books  Books
	config Config
	log    *slog.Logger

	// Used by Run alone.
	marks   map[ledger.ShardID]audit.Mark
	held    int           // rounds for which the marks have stayed where they are
	skipped string        // why there is more before the marks that was not read, until it is told
	reading time.Duration // that the latest look at what is new took
	waited  time.Duration // in the round, for what was in doubt
	sweep   sweep

	mu       sync.Mutex // guards what follows
	findings findings
	status   Status
}

// New returns an auditor. It does nothing before Run.
func New(books Books, config Config, log *slog.Logger) *Auditor {
	config.setDefaults()
	return &Auditor{
		books: books, config: config, log: log,
		marks: make(map[ledger.ShardID]audit.Mark), sweep: sweep{size: 2}, findings: findings{shown: config.Shown},
	}
}

// Run audits until ctx ends.
func (a *Auditor) Run(ctx context.Context) {
	a.update(func(s *Status) { s.Running = true })
	defer a.update(func(s *Status) { s.Running = false })
	for ctx.Err() == nil {
		begun := time.Now()
		a.Round(ctx)
		took := time.Since(begun) - a.waited
		rest := max(a.config.Interval-took, a.rest(took))
		if a.rest(a.reading) <= a.config.Behind || a.held > 0 {
			sleep(ctx, rest)
			continue
		}
		// After this rest there would be more to read than now, and then a longer rest, and so on. What comes in it is the
		// sweep's, but for the end of it.
		sleep(ctx, rest-a.config.Interval)
		a.skip("more is written than can be read in the audit's share of the time")
		a.remember(ctx)
		sleep(ctx, a.config.Interval)
	}
}

// rest is how long to do nothing after some reading, so that it takes its share of the time and no more.
func (a *Auditor) rest(read time.Duration) time.Duration {
	return time.Duration(float64(read) * (1/a.config.Share - 1))
}

func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}

// skip leaves what was committed until now to the sweep.
func (a *Auditor) skip(why string) {
	clear(a.marks)
	a.held, a.skipped = 0, "some of what was committed lately is left to the sweep: "+why
}

// remember sets the marks where there are none.
func (a *Auditor) remember(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, a.config.Limit)
	defer cancel()
	a.recent(ctx)
}

// Round audits what is new and a few slots.
func (a *Auditor) Round(ctx context.Context) {
	begun := time.Now()
	a.waited = 0
	limited, cancel := context.WithTimeout(ctx, a.config.Limit) // a shard may hang, and its connection stay
	defer cancel()
	read := a.recent(limited)
	a.reading = time.Since(begun) - a.waited
	if read {
		a.sweepOn(limited)
	}
	if ctx.Err() != nil {
		return
	}
	if limited.Err() != nil {
		if !read { // there would only be more to read the next time
			a.skip("a round that was to read it was given up")
		}
		a.fail(fmt.Errorf("the round was given up after %v: a shard hangs, or there is more than can be read in that time",
			a.config.Limit))
	}
	a.update(func(s *Status) { s.Took = time.Since(begun) })
	if a.config.Ended != nil {
		a.config.Ended(a.Status())
	}
}

// recent audits what was committed since the marks, and sets them anew. It tells whether the cluster could be read.
func (a *Auditor) recent(ctx context.Context) bool {
	var (
		mu     sync.Mutex // guards what follows: snapshots are taken side by side
		latest = make(map[ledger.ShardID]audit.Mark)
		gaps   []string
	)
	world := part{a.books, func(id ledger.ShardID) audit.Part {
		mark := a.marks[id]
		return audit.Part{Since: &mark}
	}, func(ctx context.Context, id ledger.ShardID, lost error) (audit.Marked, error) {
		mu.Lock()
		gaps = append(gaps, fmt.Sprintf("what shard %s has committed lately is left to the sweep: %v", id, lost))
		mu.Unlock()
		return a.books.SnapshotOf(ctx, id, audit.Part{Since: new(audit.Mark)})
	}}
	options := a.config.Audit
	options.Part = true
	options.Judged = func(id ledger.ShardID, snapshot audit.Snapshot) {
		latest[id] = snapshot.(audit.Marked).Mark()
	}
	report, err := audit.Run(ctx, world, options)
	if err != nil {
		if ctx.Err() == nil {
			a.fail(err)
		}
		return false
	}
	a.waited += report.Waited
	began := len(a.marks) > 0
	// What could not be joined, since a shard was away, is read again; but not for ever.
	hold := !joined(report) && a.held < maxHeld
	if a.held++; !hold {
		a.held = 0
	}
	for id, mark := range latest {
		before, ok := a.marks[id]
		if ok && hold {
			continue
		}
		if ok {
			for slot, epoch := range mark.Slots {
				if before.Slots[slot] != epoch {
					a.sweep.first(slot)
				}
			}
		}
		a.marks[id] = mark
	}
	for id := range a.marks {
		if _, ok := latest[id]; !ok && !registered(report, id) {
			delete(a.marks, id)
		}
	}
	if !began {
		gaps = append(gaps, "the first round only remembers where each shard is")
	} else if a.skipped != "" {
		gaps, a.skipped = append(gaps, a.skipped), ""
	}
	a.learn(report, true, gaps)
	return true
}

// maxHeld bounds for how many rounds what is new is read again because it could not be joined. After that the sweep has it.
const maxHeld = 30

// joined tells whether what is new could be joined over the shards.
func joined(report *audit.Report) bool {
	for _, name := range []audit.Name{audit.CheckCredits, audit.CheckEnds, audit.CheckOperations} {
		if len(report.Check(name).Gaps) > 0 {
			return false
		}
	}
	return true
}

func registered(report *audit.Report, id ledger.ShardID) bool {
	for _, shard := range report.Shards {
		if shard.ID == id {
			return true
		}
	}
	return false
}

// sweepOn audits the next slots.
func (a *Auditor) sweepOn(ctx context.Context) {
	slots := a.sweep.next()
	world := part{a.books, func(ledger.ShardID) audit.Part { return audit.Part{Slots: slots} }, nil}
	options := a.config.Audit
	options.Part = true
	begun := time.Now()
	report, err := audit.Run(ctx, world, options)
	if err != nil {
		if ctx.Err() == nil {
			a.fail(err)
		}
		return
	}
	a.waited += report.Waited
	a.learn(report, false, nil)
	if a.sweep.done(complete(report), time.Since(begun)-report.Waited, a.config.Step) {
		a.update(func(s *Status) {
			a.findings.turn()
			s.Sweeps++
			s.SweptAt = time.Now().UTC()
		})
	}
	a.update(func(s *Status) { s.Swept = float64(a.sweep.at) / placement.Slots })
}

// learn takes in what a round has found.
func (a *Auditor) learn(report *audit.Report, recent bool, gaps []string) {
	now := time.Now().UTC()
	for _, check := range report.Checks {
		for _, gap := range check.Gaps {
			gaps = append(gaps, string(check.Name)+": "+gap)
		}
	}
	a.mu.Lock()
	fresh := a.findings.see(report, recent, now)
	s := &a.status
	s.Rounds++
	for _, check := range report.Checks {
		s.Covered += check.Covered
	}
	if recent {
		s.Gaps, s.RoundAt = gaps, now
		if len(gaps) == 0 {
			s.CompleteAt = now
		}
	}
	a.mu.Unlock()
	for _, f := range fresh {
		a.log.Error("the books are wrong", "check", f.Check, "shard", f.Shard, "id", f.ID, "problem", f.Problem)
	}
}

// fail notes that the cluster could not be read.
func (a *Auditor) fail(err error) {
	a.update(func(s *Status) { s.Gaps = []string{err.Error()} })
}

func (a *Auditor) update(change func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
}

// part is an audit.World of which snapshots show a part.
type part struct {
	Books
	of   func(ledger.ShardID) audit.Part
	lost func(ctx context.Context, id ledger.ShardID, err error) (audit.Marked, error) // instead, if its mark is lost
}

// Snapshot implements audit.World.
func (p part) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	snapshot, err := p.SnapshotOf(ctx, id, p.of(id))
	if errors.Is(err, audit.ErrMarkLost) && p.lost != nil {
		snapshot, err = p.lost(ctx, id, err)
	}
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}
