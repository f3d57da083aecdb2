package growth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Options says what is to grow, and how far. A series without sizes is left out.
type Options struct {
	Shards        []int   // numbers of shards
	Slice         float64 // of a core, for each Postgres of them
	ShardAccounts int     // on each
	ShardCallers  int     // for each

	Accounts []int // numbers of accounts, each with one entry

	Entries         []int64 // numbers of entries
	HistoryAccounts int     // that they are spread over

	Callers  int // of the measurements on one shard
	Warmup   time.Duration
	Duration time.Duration
	Seed     uint64
	Audited  int64             // the most entries of books that are audited afterwards
	Postgres map[string]string // settings beyond those of a stand
	Progress func(string)      // may be nil
}

// The works: what grows.
const (
	workShards   = "shards"
	workAccounts = "accounts"
	workHistory  = "history"
)

// What must be reached: throughput of the most shards against as many times that of the fewest, and processor time of a
// transfer at the largest size against that at the smallest. The latter is to be flat; a quarter more still counts as that.
const (
	linearFloor = 0.9
	flatCeiling = 1.25
)

// validate reports what cannot be measured.
func (o *Options) validate() error {
	if len(o.Shards) > 0 {
		if o.Slice < 0.01 || o.Slice > 1 {
			return fmt.Errorf("a slice of %g of a core is not one of 0.01 to 1", o.Slice)
		}
		if most := slices.Max(o.Shards); float64(most)*o.Slice >= float64(runtime.NumCPU()) {
			return fmt.Errorf("%d shards with %g of a core each leave nothing of %d cores to the load: "+
				"choose a smaller slice, or fewer shards", most, o.Slice, runtime.NumCPU())
		}
		if slices.Min(o.Shards) < 1 || o.ShardAccounts < 2 || o.ShardCallers < 1 {
			return errors.New("there must be at least one shard, with two accounts and one caller")
		}
	}
	for _, n := range append([]int{o.ShardAccounts, o.HistoryAccounts}, o.Accounts...) {
		if n < 0 || n%2 != 0 {
			return fmt.Errorf("%d accounts are not pairs", n)
		}
	}
	for _, n := range o.Entries {
		if o.HistoryAccounts == 0 || n < int64(o.HistoryAccounts) || n%int64(o.HistoryAccounts) != 0 {
			return fmt.Errorf("%d entries are not as many for each of %d accounts", n, o.HistoryAccounts)
		}
	}
	return nil
}

// Run measures. It needs root for Shards.
func Run(ctx context.Context, options Options) (*bench.Run, error) {
	if err := options.validate(); err != nil {
		return nil, err
	}
	if options.Progress == nil {
		options.Progress = func(string) {}
	}
	for _, sizes := range [][]int{options.Shards, options.Accounts} {
		slices.Sort(sizes)
	}
	slices.Sort(options.Entries)
	var h hierarchy
	if len(options.Shards) > 0 {
		var err error
		if h, err = findHierarchy("/proc"); err != nil {
			return nil, err
		}
		if err := h.try(options.Slice); err != nil { // now, not when all is ready
			return nil, err
		}
	}
	run := &bench.Run{Suite: "growth", At: time.Now().UTC().Truncate(time.Second), Seed: options.Seed}
	g := &growth{Options: options, hierarchy: h, run: run}
	for _, n := range options.Shards {
		if err := g.one(ctx, books{workShards, n, options.ShardAccounts, 1}); err != nil {
			return nil, err
		}
	}
	for _, n := range options.Accounts {
		if err := g.one(ctx, books{workAccounts, 1, n, 1}); err != nil {
			return nil, err
		}
	}
	for _, n := range options.Entries {
		if err := g.one(ctx, books{workHistory, 1, options.HistoryAccounts, n / int64(options.HistoryAccounts)}); err != nil {
			return nil, err
		}
	}
	g.judge()
	return g.run, nil
}

// growth is one run.
type growth struct {
	Options
	hierarchy hierarchy // where Shards are held
	run       *bench.Run
}

// books are what one measurement finds.
type books struct {
	work        string
	shards      int
	accounts    int   // on each
	entriesEach int64 // of each account
}

func (b books) entries() int64 { return int64(b.accounts) * b.entriesEach } // of a shard

// checkpointed is whether there is to be a checkpoint right before a measurement, for each of them.
func (b books) checkpointed() []bool {
	if b.work == workAccounts {
		return []bool{false, true}
	}
	return []bool{false}
}

func (b books) String() string {
	return fmt.Sprintf("%s with %s and %s each", count(float64(b.shards), "shard"), count(float64(b.accounts), "account"),
		count(float64(b.entries()), "entry"))
}

// one measures on a stand of its own.
func (g *growth) one(ctx context.Context, b books) (err error) {
	s, err := stand.Start(ctx, stand.Options{Shards: b.shards, Postgres: g.Postgres, Progress: g.Progress})
	if err != nil {
		return err
	}
	defer func() {
		g.Progress("stopping")
		err = errors.Join(err, s.Close())
	}()
	if len(g.run.Results) == 0 {
		if g.run.Machine, g.run.Settings, err = s.Describe(ctx); err != nil {
			return err
		}
	}
	if err := enoughDisk(s.Dir, b); err != nil {
		return err
	}
	g.Progress("making " + b.String())
	users, err := choose(s, b.accounts)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, shard := range s.Shards {
		group.Go(func() error { return fill(groupCtx, shard.DSN, users[i], b.entriesEach) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("make %v: %w", b, err)
	}
	settle()
	var results []bench.Result
	for _, checkpointed := range b.checkpointed() {
		result, err := g.measure(ctx, s, b, users, checkpointed)
		if err != nil {
			return fmt.Errorf("measure on %v: %w", b, err)
		}
		results = append(results, result)
	}
	if int64(b.shards)*b.entries() <= g.Audited {
		report, err := s.Audit(ctx)
		if err != nil {
			return err
		}
		clean := report.ExitCode() == 0
		for i := range results {
			results[i].Conserved = &clean
		}
	}
	g.run.Results = append(g.run.Results, results...)
	return nil
}

// measure does the transfers. Each shard has callers of its own, so that none waits for another.
func (g *growth) measure(
	ctx context.Context, s *stand.Stand, b books, users []members, checkpointed bool,
) (result bench.Result, err error) {
	params := map[string]float64{"accounts": float64(b.accounts), "entries": float64(b.entries())}
	name := "growth"
	if checkpointed {
		params["after_checkpoint"], name = 1, "again"
		for _, shard := range s.Shards {
			if err := checkpoint(ctx, shard.DSN); err != nil {
				return result, err
			}
		}
	}
	calls := make([]load.Call, len(s.Shards))
	for i, known := range s.Shards {
		lane, err := s.Open(known.ID, nil)
		if err != nil {
			return result, err
		}
		defer lane.Close()
		calls[i] = work.Lane(lane, s.Map(), transfers(g.Seed, name, users[i]))
	}
	callers := g.Callers
	var slices []*slice
	if b.work == workShards {
		callers = g.ShardCallers * len(s.Shards)
		if slices, err = g.hold(s); err != nil {
			return result, err
		}
		defer func() {
			for _, slice := range slices {
				err = errors.Join(err, slice.release())
			}
		}()
	}
	m, err := meter.New(ctx, s.Target())
	if err != nil {
		return result, err
	}
	defer m.Close()
	var before, after usage
	g.Progress(b.String() + ": warming up")
	result, err = load.Run(ctx, load.Plan{
		Callers: callers, Warmup: g.Warmup, Duration: g.Duration, Seed: g.Seed,
		Progress: func(done time.Duration, units int64) {
			g.Progress(fmt.Sprintf("%v: %v of %v, %.0f/s", b, done.Round(time.Second), g.Duration, float64(units)/done.Seconds()))
		},
		Begin: func() { before = usageOf(slices); m.Start() },
		End:   func() { m.Stop(); after = usageOf(slices) },
	}, func(ctx context.Context, caller int, n int64) (int, error) {
		return calls[caller%len(calls)](ctx, caller, n)
	})
	if err != nil {
		return result, err
	}
	result.Work, result.Target, result.Shards, result.Params = b.work, "lanes", len(s.Shards), params
	if len(slices) > 0 {
		if err := errors.Join(before.err, after.err); err != nil {
			return result, err
		}
		params["cpu_slice"] = g.Slice
		params["slice_used_up"] = float64(after.usedUp-before.usedUp) / float64(max(after.periods-before.periods, 1))
	}
	result.Cost, err = m.Cost(result.Units)
	return result, err
}

// hold holds each shard's Postgres to a slice of a core.
func (g *growth) hold(s *stand.Stand) (held []*slice, err error) {
	for _, shard := range s.Shards {
		one, err := g.hierarchy.hold(string(shard.ID), shard.PID, g.Slice)
		if err != nil {
			for _, slice := range held {
				err = errors.Join(err, slice.release())
			}
			return nil, err
		}
		held = append(held, one)
	}
	return held, nil
}

// usage is how much of their slices all shards have used.
type usage struct {
	periods, usedUp int64
	err             error
}

func usageOf(held []*slice) (sum usage) {
	for _, slice := range held {
		periods, usedUp, err := slice.periods()
		sum.periods, sum.usedUp, sum.err = sum.periods+periods, sum.usedUp+usedUp, errors.Join(sum.err, err)
	}
	return sum
}

// transfers is between any two of a shard's users, under a name that no other has.
func transfers(seed uint64, name string, users members) work.Transfers {
	return func(caller int, n int64) ledger.Transfer {
		random := rand.New(rand.NewPCG(seed, uint64(caller)<<40^uint64(n)))
		payer, payee := random.IntN(len(users)), random.IntN(len(users)-1)
		if payee >= payer {
			payee++
		}
		id := strconv.AppendInt(append(append(make([]byte, 0, 32), name...), '-'), int64(caller), 36)
		id = strconv.AppendInt(append(id, '-'), n, 36)
		return ledger.Transfer{
			Identity: ledger.Identity{Initiator: userID(users[payer]), TxID: ledger.TxID(id)},
			Kind:     ledger.KindTransfer, Payee: userID(users[payee]), Amount: 1, Currency: stand.Currency,
		}
	}
}

// judge sets the largest of each series against the smallest.
func (g *growth) judge() {
	for _, work := range []string{workShards, workAccounts, workHistory} {
		var of []bench.Result
		for _, result := range g.run.Results {
			if result.Work == work && result.Params["after_checkpoint"] == 0 {
				of = append(of, result)
			}
		}
		if len(of) < 2 {
			continue
		}
		small, large := of[0], of[len(of)-1]
		if work == workShards {
			ours, theirs := large.PerSecond, small.PerSecond/float64(small.Shards)*float64(large.Shards)
			g.run.Rows = append(g.run.Rows, bench.Row{
				Work:    "transfers/s of " + size(large),
				Against: fmt.Sprintf("%d times one", large.Shards), // as the smallest tells it
				Ours:    ours, Theirs: theirs, Ratio: ours / theirs, Floor: linearFloor,
				Met: ours/theirs >= linearFloor && waitedForShards(small) && waitedForShards(large),
			})
		}
		ours, theirs := processorTime(large), processorTime(small)
		g.run.Rows = append(g.run.Rows, bench.Row{
			Work:    "CPU µs of a transfer, " + size(large),
			Against: size(small),
			Ours:    ours, Theirs: theirs, Ratio: ours / theirs, Ceiling: flatCeiling, Met: ours/theirs <= flatCeiling,
		})
	}
}

// waitedForShards tells whether the slices were what the work waited for: else its rate says nothing of shards.
func waitedForShards(result bench.Result) bool { return result.Params["slice_used_up"] >= mostPeriods }

// mostPeriods is the share of periods that must have used their slice up.
const mostPeriods = 0.8

// processorTime of a transfer, by all processes, in µs.
func processorTime(result bench.Result) float64 {
	return 1000 * (result.Cost.CPU[meter.KindPostgres] + result.Cost.CPU[meter.KindLoad])
}

// size names what has grown in a result.
func size(result bench.Result) string {
	switch result.Work {
	case workShards:
		return count(float64(result.Shards), "shard")
	case workAccounts:
		return count(result.Params["accounts"], "account")
	default:
		return count(result.Params["entries"], "entry")
	}
}

func count(n float64, noun string) string {
	return humanize.Comma(int64(n)) + " " + english.PluralWord(int(n), noun, "")
}
