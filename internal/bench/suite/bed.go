package suite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/baseline"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/shard"
)

// bed is what measurements are made on: a cluster with users and money, and the baselines' databases beside the shards'.
type bed struct {
	*run
	stand *stand.Stand
	users [][]ledger.UserID // by shard
	deep  ledger.UserID     // with a long history, "" if nobody asks
	made  int               // measurements, to tell their transfers apart

	books  []string // databases of function and 2pc, by shard
	rows   string   // database of insert and copy
	closes []func() // of what is open, in the order of its opening

	lane      *shard.Shard // of the first shard
	function  *baseline.Function
	twoPhase  *baseline.TwoPhase
	insert    *baseline.Insert
	read      *baseline.Read
	oneByOne  *stand.Stand // as seen through a router that reads each balance by a query of its own
	batch     int          // transfers in a commit of insert and copy: as many as the lane has under its most callers
	capacity  float64      // of the routers, in transfers per second
	functions int          // connections of function
	phases    int          // clients of twoPhase
}

// settings are those of all servers beyond stand's, for the baselines' sake and so that no checkpoint falls into a
// measurement. Each has its counterpart in a well-kept production server.
var settings = map[string]string{
	"max_connections":           "300",
	"max_prepared_transactions": "200",
	"max_wal_size":              "8GB",
	"checkpoint_timeout":        "30min",
}

const (
	shards = 3
	// purse is what each user has: enough for every payment of any run.
	purse = 1 << 40
)

func newBed(ctx context.Context, r *run, groups []group) (b *bed, err error) {
	b = &bed{run: r}
	options := stand.Options{Shards: shards, Postgres: settings, Progress: r.Progress}
	if uses(groups, "http", oneByOne) {
		options.Routers, options.Coordinators = 1, 1
	}
	if b.stand, err = stand.Start(ctx, options); err != nil {
		return nil, err
	}
	if err := b.prepare(ctx, groups); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// uses tells whether a measurement has one of the targets.
func uses(groups []group, targets ...string) bool {
	for _, g := range groups {
		for _, s := range slices.Concat(g.sides(), g.also) {
			if slices.Contains(targets, s.target) {
				return true
			}
		}
	}
	return false
}

func (b *bed) prepare(ctx context.Context, groups []group) (err error) {
	// A few more than are needed, since they do not spread quite evenly.
	if b.users, err = b.stand.Seed(ctx, shards*(b.pace.users+b.pace.users/20+100), purse); err != nil {
		return err
	}
	for i, of := range b.users {
		if len(of) < b.pace.users {
			return fmt.Errorf("shard %d has %d users, not %d", i+1, len(of), b.pace.users)
		}
		b.users[i] = of[:b.pace.users]
	}
	if slices.ContainsFunc(groups, func(g group) bool { return slices.ContainsFunc(g.sides(), side.deep) }) {
		if b.deep, err = b.stand.Deepen(ctx, b.pace.depth); err != nil {
			return err
		}
	}
	b.Progress("making the baselines' databases")
	if uses(groups, "function", "2pc") {
		for i, s := range b.stand.Shards {
			dsn, err := baseline.Create(ctx, s.DSN, "baseline")
			if err != nil {
				return err
			}
			if err := baseline.Fund(ctx, dsn, purse, b.users[i]); err != nil {
				return err
			}
			b.books = append(b.books, dsn)
		}
	}
	if uses(groups, "insert", "copy") {
		if b.rows, err = baseline.Create(ctx, b.stand.Shards[0].DSN, "baseline_insert"); err != nil {
			return err
		}
	}
	return b.checkpoint(ctx)
}

func (s side) deep() bool { return strings.HasPrefix(s.work, "history") }

// checkpoint lets every server write one, so that the next is not due soon.
func (b *bed) checkpoint(ctx context.Context) error {
	for _, s := range b.stand.Shards {
		conn, err := pgx.Connect(ctx, s.DSN)
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "checkpoint")
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// errWrong is wrapped by the error that says what is wrong with the books.
var errWrong = errors.New("the books are wrong")

// check says of each result whether the books that it wrote to are right. It is an error if they are not.
func (b *bed) check(ctx context.Context, results []bench.Result) error {
	report, err := b.stand.Audit(ctx)
	if err != nil {
		return err
	}
	ours := report.ExitCode() == 0
	theirs := true
	var wrong error
	if len(b.books) > 0 {
		left, err := baseline.Clean(ctx, b.books...)
		if err != nil {
			return err
		}
		if left > 0 {
			b.Log(fmt.Sprintf("%d prepared transactions were left, and ended", left))
		}
		if err := baseline.Check(ctx, b.books...); err != nil {
			theirs = false
			wrong = fmt.Errorf("%w: %w", errWrong, err)
		}
	}
	for i := range results {
		switch results[i].Target {
		case "http", oneByOne, "lanes":
			results[i].Conserved = &ours
		case "function", "2pc", "2pc-unlogged":
			results[i].Conserved = &theirs
		}
	}
	if !ours {
		var text strings.Builder
		if err := report.WriteTable(&text); err != nil {
			return err
		}
		wrong = errors.Join(wrong, fmt.Errorf("%w:\n%s", errWrong, &text))
	}
	return wrong
}

// close ends all that is open, the last first, and the cluster.
func (b *bed) close() error {
	for _, closeOne := range slices.Backward(b.closes) {
		closeOne()
	}
	return b.stand.Close()
}

// What follows opens a target when it is first needed, and keeps it open: a round is too short to connect in.

func (b *bed) openLane() (*shard.Shard, error) {
	if b.lane == nil {
		lane, err := b.stand.Open(b.stand.Shards[0].ID, nil)
		if err != nil {
			return nil, err
		}
		b.lane, b.closes = lane, append(b.closes, lane.Close)
	}
	return b.lane, nil
}

func (b *bed) openFunction(ctx context.Context, callers int) (*baseline.Function, error) {
	if b.functions < callers {
		f, err := baseline.OpenFunction(ctx, b.books[0], callers)
		if err != nil {
			return nil, err
		}
		b.function, b.functions, b.closes = f, callers, append(b.closes, f.Close)
	}
	return b.function, nil
}

func (b *bed) openTwoPhase(ctx context.Context, callers int) (*baseline.TwoPhase, error) {
	if b.phases < callers {
		p, err := baseline.OpenTwoPhase(ctx, b.books, callers, b.stand.ShardOf)
		if err != nil {
			return nil, err
		}
		b.twoPhase, b.phases, b.closes = p, callers, append(b.closes, p.Close)
	}
	return b.twoPhase, nil
}

func (b *bed) openInsert(ctx context.Context) (*baseline.Insert, error) {
	if b.batch == 0 {
		result, err := b.measure(ctx, lanes1024)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", lanes1024, err)
		}
		b.batch = max(int(math.Round(result.Cost.BatchSize)), 1)
	}
	if b.insert == nil {
		i, err := baseline.OpenInsert(ctx, b.rows, slices.Max(counts["insert"].try))
		if err != nil {
			return nil, err
		}
		b.insert, b.closes = i, append(b.closes, i.Close)
	}
	return b.insert, nil
}

func (b *bed) openOneByOne(ctx context.Context) (_ *stand.Stand, err error) {
	if b.oneByOne == nil {
		b.oneByOne, err = b.stand.AddRouter(ctx, "--balance-batch=1")
	}
	return b.oneByOne, err
}

func (b *bed) openRead(ctx context.Context) (*baseline.Read, error) {
	if b.read == nil {
		var dsns []string
		for _, s := range b.stand.Shards {
			dsns = append(dsns, s.DSN)
		}
		read, err := baseline.OpenRead(ctx, dsns, readConns, b.stand.ShardOf)
		if err != nil {
			return nil, err
		}
		b.read, b.closes = read, append(b.closes, read.Close)
	}
	return b.read, nil
}

// readConns is what shard.Config.ReadConns is by default.
const readConns = 4
