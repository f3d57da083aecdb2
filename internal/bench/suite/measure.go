package suite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/bench/work"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// measure measures one side once.
func (b *bed) measure(ctx context.Context, s side) (bench.Result, error) {
	plan := load.Plan{Callers: s.callers, Warmup: b.pace.warmup, Duration: b.pace.duration, Seed: b.Seed}
	if s.load != 0 {
		if b.capacity == 0 {
			result, err := b.measure(ctx, capacity)
			if err != nil {
				return result, fmt.Errorf("%s: %w", capacity, err)
			}
			b.capacity = result.PerSecond
		}
		plan.Rate, plan.Drop = s.load*b.capacity, true // a wait for a free connection is not the router's
	}
	b.made++
	runtime.GC() // nobody pays for what others left
	switch s.target {
	case "http":
		return b.overHTTP(ctx, b.stand, s, plan)
	case oneByOne:
		through, err := b.openOneByOne(ctx)
		if err != nil {
			return bench.Result{}, err
		}
		return b.overHTTP(ctx, through, s, plan)
	default:
		return b.inProcess(ctx, s, plan)
	}
}

// capacity is measured to know what twice of it is.
var capacity = side{target: "http", work: "same", callers: 256}

func (b *bed) overHTTP(ctx context.Context, on *stand.Stand, s side, plan load.Plan) (bench.Result, error) {
	kind, err := work.HTTPWorkNamed(s.work)
	if err != nil {
		return bench.Result{}, err
	}
	options := work.HTTPOptions{Users: b.users, Deep: b.deep, Depth: b.pace.depth}
	if s.work == "cross" {
		options.Cross = 1
	}
	if s.load <= 1 {
		result, err := work.MeasureHTTP(ctx, on, kind, options, plan)
		result.Target = s.target
		return result, err
	}
	refusals := b.watchRefusals(ctx)
	result, err := work.MeasureHTTP(ctx, on, kind, options, plan)
	if without := refusals(); without > 0 {
		errors := map[string]int64{"503_without_retry_after": without}
		maps.Copy(errors, result.Errors)
		result.Errors = errors
	}
	return result, err
}

func (b *bed) inProcess(ctx context.Context, s side, plan load.Plan) (bench.Result, error) {
	call, databases, err := b.open(ctx, s)
	if err != nil {
		return bench.Result{}, err
	}
	target := b.stand.Target()
	for i, dsn := range databases { // whose tables are to be measured
		target.Postgres[i].DSN = dsn
	}
	m, err := meter.New(ctx, target)
	if err != nil {
		return bench.Result{}, err
	}
	defer m.Close()
	plan.Begin, plan.End = m.Start, m.Stop
	result, err := load.Run(ctx, plan, call)
	if err != nil {
		return result, err
	}
	result.Work, result.Target, result.Shards = s.work, s.target, 1
	result.Params = map[string]float64{"users": float64(b.pace.users)}
	switch s.target {
	case "2pc", "2pc-unlogged", "read":
		result.Shards = len(b.stand.Shards)
		result.Params["users"] *= float64(result.Shards)
	case "insert", "copy":
		result.Params["batch"] = float64(b.batch)
	}
	result.Cost, err = m.Cost(result.Units)
	return result, err
}

// open returns the calls of a side, and in which databases they work if these are not the shards' own.
func (b *bed) open(ctx context.Context, s side) (load.Call, []string, error) {
	users, name := b.users[0], fmt.Sprintf("m%d", b.made)
	transfers := work.Uniform(b.Seed, name, users)
	switch s.work {
	case "hot-payee":
		transfers = work.ToOne(b.Seed, name, users[1:], users[0])
	case "hot-payer":
		transfers = work.FromOne(b.Seed, name, users[0], users[1:])
	case "cross":
		transfers = work.Across(b.Seed, name, b.users)
	}
	switch s.target {
	case "lanes":
		lane, err := b.openLane()
		return work.Lane(lane, b.stand.Map(), transfers), nil, err
	case "function":
		f, err := b.openFunction(ctx, s.callers)
		if err != nil {
			return nil, nil, err
		}
		return f.Call(transfers), b.books[:1], nil
	case "2pc":
		p, err := b.openTwoPhase(ctx, s.callers)
		if err != nil {
			return nil, nil, err
		}
		return p.Call(transfers), b.books, nil
	case "2pc-unlogged":
		p, err := b.openTwoPhase(ctx, s.callers)
		if err != nil {
			return nil, nil, err
		}
		return p.Unlogged().Call(transfers), b.books, nil
	case "insert", "copy":
		i, err := b.openInsert(ctx)
		if err != nil {
			return nil, nil, err
		}
		if s.target == "copy" {
			i = i.Copy()
		}
		return i.Call(b.batch, transfers), []string{b.rows}, nil
	case "read":
		r, err := b.openRead(ctx)
		if err != nil {
			return nil, nil, err
		}
		readers := work.Within(b.Seed, name, b.users)
		return r.Call(func(caller int, n int64) ledger.UserID { return readers(caller, n).Initiator }), nil, nil
	}
	return nil, nil, errors.New("there is no such target")
}
