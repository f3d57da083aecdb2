package shard

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Config says which shard to open and how. Zero values of the numbers mean their defaults.
type Config struct {
	Cluster  string         // the cluster's uid
	ID       ledger.ShardID // the shard that the address must turn out to be
	DSN      string         // may name several hosts; no secret needed
	Timeline int            // of the primary that was adopted last, as the registry knows it; 0: any that the database accepts
	Password string         // where DSN has none; else as libpq finds one
	Name     string         // of this process, shown in pg_stat_activity

	Writers      int           // of the lane, 1 to 4; default 3
	MaxBatch     int           // operations in one transaction; default 512
	WorthBatch   int           // operations that wait before a second writer begins a batch beside the first; default 32
	QueueSize    int           // operations that wait for a writer; default 8192
	RoundTrip    time.Duration // after which a server is taken for dead; default 5 s
	Patience     time.Duration // to go on trying a batch that was never attempted to commit; default 1 s
	LastPatience time.Duration // to go on asking for an unknown outcome; default 5 s
	ReadConns    int           // connections for reads; default 4
	BalanceBatch int           // balances read by one query, at most; default 1024
}

func (c *Config) setDefaults() {
	setDefault(&c.Name, "saldo")
	setDefault(&c.Writers, 3)
	setDefault(&c.MaxBatch, 512)
	setDefault(&c.WorthBatch, 32)
	setDefault(&c.QueueSize, 8192)
	setDefault(&c.RoundTrip, 5*time.Second)
	setDefault(&c.Patience, time.Second)
	setDefault(&c.LastPatience, 5*time.Second)
	setDefault(&c.ReadConns, 4)
	setDefault(&c.BalanceBatch, 1024)
}

func setDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// sightConns is how many connections read for people, where people ask.
const sightConns = 2

// Shard is one process's access to one shard. It is safe for concurrent use.
type Shard struct {
	config   Config
	log      *slog.Logger
	pool     *pgxpool.Pool // reads
	sights   *pgxpool.Pool // reads for people
	lane     *lane
	balances *balanceReader
	running  sync.WaitGroup
	stop     context.CancelFunc

	stopMetrics func()
}

// Open returns the shard without connecting: a shard that is down is opened like any other, and its calls fail with
// CodeUnavailable until it is up. Close ends it.
func Open(config Config, log *slog.Logger) (*Shard, error) {
	config.setDefaults()
	service, err := connConfig(config.DSN, config.Password, roleService, config.Name, lookups, expecting(config.Timeline))
	if err != nil {
		return nil, fmt.Errorf("open shard %s: %w", config.ID, err)
	}
	mustBe(service, config.Cluster, config.ID)
	pool, err := newPool(service, int32(config.ReadConns))
	if err != nil {
		return nil, fmt.Errorf("open shard %s: %w", config.ID, err)
	}
	sights, err := newPool(service, sightConns)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open shard %s: %w", config.ID, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Shard{config: config, log: log.With("shard", config.ID), pool: pool, sights: sights, stop: stop}
	s.lane = newLane(config, service, s.log)
	s.balances = newBalanceReader(s)
	s.lane.start(&s.running)
	s.balances.start(ctx, &s.running)
	s.stopMetrics = s.observe()
	return s, nil
}

// ID returns the shard's id.
func (s *Shard) ID() ledger.ShardID { return s.config.ID }

// Close answers what is queued, as far as the shard does, and ends every connection. Calls that come later fail with
// CodeUnavailable.
func (s *Shard) Close() {
	s.stopMetrics()
	s.lane.close()
	s.stop()
	s.running.Wait()
	s.pool.Close()
	s.sights.Close()
}

// Ping tells whether the shard answers.
func (s *Shard) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping shard %s: %w", s.config.ID, err)
	}
	return nil
}
