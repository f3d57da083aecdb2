package audit

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Options says how to audit. Zero values mean the defaults.
type Options struct {
	Parallel int           // shards that are scanned at the same time; default 2
	Chunk    int           // steps that are looked up at once; default 1000
	Lines    int           // of local transfers that are compared one by one at once, or one slot's; default 100,000
	Shown    int           // violations that a check lists; default 20
	Patience time.Duration // to read suspects again while ownership changes; default 10 s
	Pause    time.Duration // between such readings; default 200 ms

	// Part says that the world's snapshots show a part of the rows. Then nothing is summed over shards.
	Part bool
	// Judged is given the first round's snapshot of each shard that was judged to the end, before it is closed.
	Judged func(id ledger.ShardID, snapshot Snapshot)

	// Progress is told what is being done, a short text each time, from one goroutine at a time.
	Progress func(text string)
}

func (o *Options) setDefaults() {
	o.Parallel = cmp.Or(o.Parallel, 2)
	o.Chunk = cmp.Or(o.Chunk, 1000)
	o.Lines = cmp.Or(o.Lines, 100_000)
	o.Shown = cmp.Or(o.Shown, 20)
	o.Patience = cmp.Or(o.Patience, 10*time.Second)
	o.Pause = cmp.Or(o.Pause, 200*time.Millisecond)
	if o.Judged == nil {
		o.Judged = func(ledger.ShardID, Snapshot) {}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
}

// Run makes every check on every shard. A shard that cannot be read does not stop it: the report says so. The error is
// ctx's, or that of the registry if the cluster cannot be read at all.
func Run(ctx context.Context, world World, options Options) (*Report, error) {
	options.setDefaults()
	begun := time.Now()
	view, err := world.View(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the cluster: %w", err)
	}
	r := newRun(world, options)
	defer r.close()

	// The order of the rounds is what the checks between shards rest on: see the package's doc.
	first, doubts := r.take(ctx, view, nil, nil)
	r.begin(first)
	view, err = world.View(ctx)
	if err != nil {
		view = first.view // the newest there is; if it is too old, round 2 says so
	}
	second, later := r.take(ctx, view, first, doubts)
	r.goOn(second)
	r.checkShards(ctx)
	if !options.Part {
		r.checkTransit(len(first.unsettled) == 0 && len(second.unsettled) == 0)
	}
	r.checkMoves()
	checkLines(ctx, r)
	checkCredits(ctx, r)
	checkEnds(ctx, r)
	r.checkStanding(append(doubts, later...))
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, n := range r.nodes {
		if n.first != nil && !r.failed(n) {
			options.Judged(n.id, n.first)
		}
	}
	r.total()
	r.report.StartedAt, r.report.Seconds = begun.UTC(), time.Since(begun).Seconds()
	r.report.judge()
	return r.report, nil
}

// run is one audit.
type run struct {
	world         World
	options       Options
	first, second *round
	nodes         []*node // by id

	mu     sync.Mutex // guards report, and err of the nodes
	report *Report
}

// node is one shard under audit. Each of its snapshots is used by one goroutine at a time. A shard that joined or left the
// cluster between the rounds has a snapshot of only one of them, and had nothing in the other.
type node struct {
	id            ledger.ShardID
	err           error    // why nothing more is asked of it
	first, second Snapshot // of the rounds
	totals        *Totals  // of round 1; nil until they are read
	later         *Totals  // of round 2
}

func newRun(world World, options Options) *run {
	r := &run{world: world, options: options, report: &Report{Checks: newChecks()}}
	for i := range r.report.Checks {
		r.report.Checks[i].Violations, r.report.Checks[i].Gaps = []Violation{}, []string{}
	}
	return r
}

// begin notes round 1.
func (r *run) begin(taken *round) {
	r.first = taken
	r.report.Cluster, r.report.Revision = taken.view.Cluster, taken.view.Map.Revision()
	for _, n := range r.nodes {
		n.first = taken.snapshots[n.id]
	}
}

// goOn notes round 2.
func (r *run) goOn(taken *round) {
	r.second = taken
	for _, n := range r.nodes {
		n.second = taken.snapshots[n.id]
		if r.failed(n) {
			continue
		}
		if n.first == nil {
			n.totals = &Totals{}
		}
		if n.second == nil {
			n.later = &Totals{}
		}
	}
}

func (r *run) close() {
	r.first.close()
	r.second.close()
}

// checkShards makes the checks of one shard alone.
func (r *run) checkShards(ctx context.Context) {
	var scans errgroup.Group
	scans.SetLimit(r.options.Parallel)
	for _, n := range r.nodes {
		scans.Go(func() error {
			r.checkShard(ctx, n)
			return nil
		})
	}
	_ = scans.Wait()
}

func (r *run) checkShard(ctx context.Context, n *node) {
	report := func(check Name, id, problem string) {
		r.violation(check, Violation{Shard: n.id, ID: id, Problem: problem})
	}
	type scan struct {
		what   string
		checks []Name
		scan   func() error
	}
	scans := []scan{
		{"sums", []Name{CheckBooks, CheckTransit, CheckMoves}, func() (err error) {
			n.totals, err = totals(ctx, n.first)
			if err == nil {
				r.checkBooks(n, report)
			}
			return err
		}},
		{"operations", []Name{CheckOperations}, func() error {
			err := n.first.Operations(ctx, report)
			if err == nil {
				r.cover(CheckOperations, n.totals.Operations)
			}
			return err
		}},
		{"accounts", []Name{CheckAccounts, CheckOverdraft}, func() error {
			err := n.first.Accounts(ctx, report)
			if err == nil {
				r.cover(CheckAccounts, n.totals.Accounts)
				r.cover(CheckOverdraft, n.totals.Entries)
			}
			return err
		}},
		{"sagas", []Name{CheckSagas}, func() error {
			err := n.first.Sagas(ctx, report)
			if err == nil {
				r.cover(CheckSagas, n.totals.Sagas)
			}
			return err
		}},
		{"rows", []Name{CheckRows}, func() error {
			err := n.first.Rows(ctx, report)
			if err == nil {
				r.cover(CheckRows, n.totals.Users+n.totals.Operations)
			}
			return err
		}},
	}
	if n.totals != nil {
		scans = nil // it joined after round 1
	}
	if n.later == nil && !r.options.Part {
		scans = append(scans, scan{"sums once more", []Name{CheckTransit}, func() (err error) {
			n.later, err = totals(ctx, n.second)
			return err
		}})
	}
	for _, s := range scans {
		if !r.failed(n) {
			r.progress("shard %s: %s", n.id, s.what)
			if err := s.scan(); err != nil {
				r.fail(n, fmt.Errorf("read %s: %w", s.what, err))
			}
		}
		if r.failed(n) {
			for _, check := range s.checks {
				r.unread(check, n)
			}
		}
	}
}

func totals(ctx context.Context, book Book) (*Totals, error) {
	t, err := book.Totals(ctx)
	if err != nil {
		return nil, err // not zeros: who has none was not read
	}
	return &t, nil
}

// checkBooks judges a shard's sums.
func (r *run) checkBooks(n *node, report Reporter) {
	for _, currency := range sortedKeys(n.totals.Money) {
		m := n.totals.Money[currency]
		r.cover(CheckBooks, 1)
		sum := new(big.Int).Add(m.Entries, m.System)
		if sum.Add(sum, m.Moved); sum.Sign() != 0 {
			report(CheckBooks, string(currency), fmt.Sprintf(
				"entries sum to %v, system sides to %v, @moved to %v: together %v", m.Entries, m.System, m.Moved, sum))
		}
		steps := new(big.Int).Sub(m.Debited, m.Credited)
		if steps.Sub(steps, m.Refunded); steps.Cmp(m.Transit) != 0 {
			report(CheckTransit, string(currency), fmt.Sprintf(
				"@transit sums to %v, but debits %v less credits %v less refunds %v are %v", m.Transit, m.Debited, m.Credited, m.Refunded, steps))
		}
	}
}

// checkTransit judges the money in transit over all shards, and reports it. settled tells whether ownership was clear in
// both rounds: while slots change hands, a step may be seen on two shards or on none.
func (r *run) checkTransit(settled bool) {
	inTransit := make(map[ledger.Currency]*big.Int)
	of := func(currency ledger.Currency) *big.Int {
		if inTransit[currency] == nil {
			inTransit[currency] = new(big.Int)
		}
		return inTransit[currency]
	}
	for _, n := range r.nodes {
		if n.totals == nil || n.later == nil {
			r.report.Partial = true
			continue
		}
		for currency, m := range n.totals.Money {
			of(currency).Sub(of(currency), m.Credited)
		}
		for currency, m := range n.later.Money {
			of(currency).Add(of(currency), m.Debited)
			of(currency).Sub(of(currency), m.Refunded)
		}
	}
	for _, currency := range sortedKeys(inTransit) {
		sum := inTransit[currency]
		switch {
		case r.report.Partial:
			sum = nil // nothing can be said, and total tells what is there
		case sum.Sign() >= 0:
			r.cover(CheckTransit, 1)
		case settled:
			r.cover(CheckTransit, 1)
			r.violation(CheckTransit, Violation{ID: string(currency), Problem: fmt.Sprintf("money in transit is %v", sum)})
		default:
			r.gap(CheckTransit, "slots were moving: the money in transit could not be judged")
		}
		total := newTotal(currency)
		total.InTransit = sum
		r.report.Totals = append(r.report.Totals, total)
	}
}

// total fills in the report's sums and its shards.
func (r *run) total() {
	all := r.report.Totals
	r.report.Unsettled = len(r.first.unsettled) > 0 || len(r.second.unsettled) > 0
	underWay := r.first.view.underWay()
	for _, id := range sortedKeys(underWay) {
		r.report.Moves = append(r.report.Moves, underWay[id])
	}
	for _, n := range r.nodes {
		s := ShardReport{ID: n.id, Totals: []MoneyTotal{}}
		if n.err != nil {
			s.Error = n.err.Error()
		}
		if n.first != nil {
			for _, slot := range n.first.Slots() {
				if slot.Answered() {
					s.Slots++
				}
				if slot.Copy {
					s.Copies++
				}
			}
		}
		if n.totals != nil {
			s.Counts = n.totals.Counts
			r.report.Pending += s.Pending
			if at := n.totals.OldestPending; !at.IsZero() && (r.report.OldestPending == nil || at.Before(*r.report.OldestPending)) {
				r.report.OldestPending = &at
			}
			for _, currency := range sortedKeys(n.totals.Money) {
				m := n.totals.Money[currency]
				s.Totals = append(s.Totals, MoneyTotal{
					Currency: currency, Users: m.Entries, World: m.World, Transit: m.Transit, Moved: m.Moved,
				})
				i := slices.IndexFunc(all, func(t MoneyTotal) bool { return t.Currency == currency })
				if i < 0 { // its shard failed between the rounds
					all = append(all, newTotal(currency))
					i = len(all) - 1
				}
				all[i].Users.Add(all[i].Users, m.Entries)
				all[i].World.Add(all[i].World, m.World)
				all[i].Transit.Add(all[i].Transit, m.Transit)
				all[i].Moved.Add(all[i].Moved, m.Moved)
			}
		}
		r.report.Shards = append(r.report.Shards, s)
	}
	for i := range all {
		if all[i].InTransit == nil {
			all[i].InTransit = all[i].Transit
		}
	}
	slices.SortFunc(all, func(x, y MoneyTotal) int { return cmp.Compare(x.Currency, y.Currency) })
	r.report.Totals = append([]MoneyTotal{}, all...)
}

// fail notes why nothing more is asked of a shard.
func (r *run) fail(n *node, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.err == nil {
		n.err = err
		r.options.Progress(fmt.Sprintf("shard %s: %v", n.id, err))
	}
}

func (r *run) failed(n *node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return n.err != nil
}

func (r *run) progress(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.options.Progress(fmt.Sprintf(format, args...))
}

func (r *run) violation(check Name, v Violation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.report.Check(check)
	if c.Found++; len(c.Violations) < r.options.Shown {
		c.Violations = append(c.Violations, v)
	}
}

func (r *run) cover(check Name, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Check(check).Covered += n
}

// gap says once what a check could not judge.
func (r *run) gap(check Name, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.report.Check(check); !slices.Contains(c.Gaps, text) {
		c.Gaps = append(c.Gaps, text)
		slices.Sort(c.Gaps)
	}
}

// unread is the gap that a failed shard leaves.
func (r *run) unread(check Name, n *node) {
	r.gap(check, fmt.Sprintf("shard %s could not be read", n.id))
}

// ensure returns the node of a shard.
func (r *run) ensure(id ledger.ShardID) *node {
	i, ok := slices.BinarySearchFunc(r.nodes, id, func(n *node, id ledger.ShardID) int { return cmp.Compare(n.id, id) })
	if !ok {
		r.nodes = slices.Insert(r.nodes, i, &node{id: id})
	}
	return r.nodes[i]
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
