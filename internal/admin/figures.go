package admin

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Figures is how much is going on: rates between the two latest looks. They are about a second apart for who asks all the
// time, and longer for who asks now and then.
type Figures struct {
	At      time.Time       `json:"at"`
	Seconds float64         `json:"seconds"` // between the two looks at the shards
	Shards  []ShardFigures  `json:"shards"`
	Routers []RouterFigures `json:"routers"`
	Problem string          `json:"problem,omitempty"` // why the routers are not known
}

// ShardFigures are a shard's: rates by its server's own counts, whoever caused them, a move among others.
type ShardFigures struct {
	ID      ledger.ShardID `json:"id"`
	Answers bool           `json:"answers"`
	Error   string         `json:"error,omitempty"`

	OperationsPerSecond float64 `json:"operations_per_second"`
	SagasPerSecond      float64 `json:"sagas_per_second"` // that were begun
	UsersPerSecond      float64 `json:"users_per_second"` // that were created
	PendingSagas        int64   `json:"pending_sagas"`
	MorePending         bool    `json:"more_pending"`           // than are counted
	OldestPending       float64 `json:"oldest_pending_seconds"` // 0: none is pending
	DatabaseBytes       int64   `json:"database_bytes"`
}

// RouterFigures are a router's, by its /metrics.
type RouterFigures struct {
	Process
	Answers bool   `json:"answers"`
	Error   string `json:"error,omitempty"`

	RequestsPerSecond float64       `json:"requests_per_second"`
	ErrorsPerSecond   float64       `json:"errors_per_second"` // answered 5xx
	P50               *float64      `json:"p50_seconds"`       // null: there were no requests
	P99               *float64      `json:"p99_seconds"`
	Lanes             []LaneFigures `json:"lanes"`
}

// LaneFigures are those of a router's lane to a shard.
type LaneFigures struct {
	Shard               ledger.ShardID `json:"shard"`
	Queue               int64          `json:"queue"` // operations that wait for a writer
	OperationsPerSecond float64        `json:"operations_per_second"`
	Batch               *float64       `json:"batch"`              // operations in a transaction, on average; null: none
	WaitP99             *float64       `json:"wait_p99_seconds"`   // in the queue
	CommitP99           *float64       `json:"commit_p99_seconds"` // of the round trip that commits
}

func (f *Face) figures(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	var (
		asking        sync.WaitGroup
		then, counted counts
		before, seen  scrapes
	)
	asking.Go(func() { then, counted = f.sampler.counts.pair(r) })
	asking.Go(func() { before, seen = f.sampler.scrapes.pair(r) })
	asking.Wait()
	figures := Figures{
		At: time.Now().UTC(), Seconds: counted.at.Sub(then.at).Seconds(), Shards: []ShardFigures{}, Routers: []RouterFigures{},
	}
	for _, s := range view.Shards {
		figures.Shards = append(figures.Shards, shardFigures(s.ID, then.of(s.ID), counted.of(s.ID)))
	}
	if seen.err != nil {
		figures.Problem = "the registry does not answer now: which routers run is not known"
	}
	for _, now := range seen.routers {
		same := func(s scraped) bool { return s.Name == now.Name && s.StartedAt.Equal(now.StartedAt) }
		var last scraped
		if i := slices.IndexFunc(before.routers, same); i >= 0 {
			last = before.routers[i]
		}
		figures.Routers = append(figures.Routers, routerFigures(last, now))
	}
	return figures, nil
}

func shardFigures(id ledger.ShardID, then, now counted) ShardFigures {
	figures := ShardFigures{ID: id, Answers: now.err == nil}
	if now.err != nil {
		figures.Error = said(now.err)
		return figures
	}
	figures.PendingSagas, figures.MorePending = min(now.Pending, ledger.MaxPending), now.Pending > ledger.MaxPending
	figures.DatabaseBytes = now.DatabaseBytes
	if !now.OldestPending.IsZero() {
		figures.OldestPending = max(time.Since(now.OldestPending).Seconds(), 0)
	}
	if seconds := now.at.Sub(then.at).Seconds(); then.err == nil && !then.at.IsZero() && seconds > 0 {
		rate := func(then, now int64) float64 { return max(float64(now-then), 0) / seconds } // a server may begin anew
		figures.OperationsPerSecond = rate(then.Operations, now.Operations)
		figures.SagasPerSecond = rate(then.Sagas, now.Sagas)
		figures.UsersPerSecond = rate(then.Users, now.Users)
	}
	return figures
}

// sampler looks at counters and routers, while somebody asks.
type sampler struct {
	counts  *sampled[counts]
	scrapes *sampled[scrapes]
}

func newSampler(f *Face) *sampler {
	return &sampler{
		counts:  &sampled[counts]{take: f.count, every: f.Sample},
		scrapes: &sampled[scrapes]{take: f.scrapeAll, every: f.Sample},
	}
}

// latest is the newest look at the shards' counters, at most a second old.
func (s *sampler) latest(ctx context.Context) counts {
	_, now := s.counts.latest(ctx)
	return now
}

// counts is a look at all shards.
type counts struct {
	at     time.Time
	shards map[ledger.ShardID]counted
}

// counted is a look at one shard.
type counted struct {
	ledger.ShardCounters
	at  time.Time
	err error
}

func (c counts) when() time.Time { return c.at }

// of is the look at a shard. One that joined after that is not open yet, as far as was seen.
func (c counts) of(id ledger.ShardID) counted {
	if one, ok := c.shards[id]; ok {
		return one
	}
	return counted{err: errNotOpen}
}

func (f *Face) count(ctx context.Context) counts {
	view := f.Registry.View()
	if view == nil {
		return counts{at: time.Now()}
	}
	found, _ := askAll(ctx, f, questionTime, shardIDs(view), func(ctx context.Context, s Shard) (counted, error) {
		c, err := s.Counters(ctx)
		return counted{ShardCounters: c, at: time.Now(), err: err}, nil
	})
	return counts{at: time.Now(), shards: found}
}

// sampled keeps the two latest looks at something. Whoever asks while one is being taken waits for that.
type sampled[T interface{ when() time.Time }] struct {
	take  func(context.Context) T
	every time.Duration

	mu     sync.Mutex    // guards what follows
	flight chan struct{} // closed when the look under way has been taken; nil if none is
	before T
	now    T
}

// stale is for how many intervals a look is of use as the earlier one of two.
const stale = 15

// latest returns the newest look, not older than an interval, and the one before it. The zero T, if ctx ends before.
func (s *sampled[T]) latest(ctx context.Context) (before, now T) {
	for ctx.Err() == nil {
		s.mu.Lock()
		flight := s.flight
		if at := s.now.when(); flight == nil && !at.IsZero() && time.Since(at) < s.every {
			before, now = s.before, s.now
			s.mu.Unlock()
			return before, now
		}
		if flight == nil {
			s.flight = make(chan struct{})
			s.mu.Unlock()
			s.look(ctx)
			continue
		}
		s.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
		}
	}
	return before, now
}

// look takes a look, for all who wait for it: also when the one who came first has gone.
func (s *sampled[T]) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*questionTime)
	defer cancel()
	taken := s.take(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.now = s.now, taken
	close(s.flight)
	s.flight = nil
}

// pair returns two looks that are an interval apart, or several, but less than stale. Who asks first in a while waits for an
// interval.
func (s *sampled[T]) pair(ctx context.Context) (before, now T) {
	before, now = s.latest(ctx)
	if !before.when().IsZero() && now.when().Sub(before.when()) < stale*s.every {
		return before, now
	}
	timer := time.NewTimer(s.every)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return s.latest(ctx)
}
