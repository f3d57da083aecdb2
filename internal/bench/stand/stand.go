// Package stand is a cluster to measure on: one of its own ([Start]), with Postgres servers and etcd by package local and
// routers and coordinators as processes of their own, so that each one's processor time can be told; or one that runs
// already ([Attach]), where only measuring is added.
//
// A stand of its own is what `saldo dev` would be, durable settings included, and leaves nothing behind: not after Close,
// and where the kernel can see to it (Linux) no process after a kill of this one either. The folder that a killed one
// leaves is removed by the next.
package stand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/version"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// Shard is one shard of a stand.
type Shard struct {
	ID  ledger.ShardID
	DSN string // with the password; of a superuser, on a stand of its own
	PID int    // of the postmaster; 0 if unknown
}

// Process is a router or a coordinator.
type Process struct {
	PID  int    // 0 if unknown
	HTTP string // of a router: http://host:port
}

// Stand is a running cluster.
type Stand struct {
	Dir          string // of the data; "" if it is not known
	Etcd         []string
	Prefix       string
	Shards       []Shard // by id
	Routers      []Process
	Coordinators []Process

	cluster  *cluster.Cluster
	view     *cluster.View
	password assembly.Passwords
	world    *assembly.World
	others   map[string][]int // pids by kind of process, beside routers, coordinators and Postgres
	machine  bench.Machine
	progress func(string)
	own      *servers // nil if the cluster is not ours
}

// connect fills in what a stand needs of a founded cluster.
func (s *Stand) connect(ctx context.Context, config cluster.Config) (err error) {
	s.Etcd, s.Prefix = config.Endpoints, config.Prefix
	if s.cluster, err = cluster.Connect(ctx, config); err != nil {
		return err
	}
	s.world = assembly.NewWorld(s.cluster, s.password)
	return nil
}

func (s *Stand) read(ctx context.Context) (err error) {
	if s.view, err = s.cluster.Read(ctx); err != nil {
		return err
	}
	if !s.view.Founded() {
		return errors.New("the cluster's slots are not spread yet: " + assembly.Founding(s.view))
	}
	return nil
}

// Close stops everything that Start started, and leaves nothing running.
func (s *Stand) Close() error {
	var errs []error
	if s.own != nil {
		errs = append(errs, s.own.stopServices())
	}
	if s.world != nil {
		s.world.Close()
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Close())
	}
	if s.own != nil {
		errs = append(errs, s.own.stop())
	}
	return errors.Join(errs...)
}

// Map tells where users live. It is the one of the start: a stand's slots do not move.
func (s *Stand) Map() *placement.Map { return s.view.Map }

// ShardOf is the index in Shards of the shard on which a user lives.
func (s *Stand) ShardOf(user ledger.UserID) int {
	id := s.view.Map.OwnerOf(user).Shard
	return slices.IndexFunc(s.Shards, func(shard Shard) bool { return shard.ID == id })
}

// URLs are those of the routers.
func (s *Stand) URLs() []string {
	var urls []string
	for _, r := range s.Routers {
		urls = append(urls, r.HTTP)
	}
	return urls
}

// Open opens a shard as a router would; tweak, if not nil, changes its settings. Holds are to be had from Map. Close it
// before the stand.
func (s *Stand) Open(id ledger.ShardID, tweak func(*shard.Config)) (*shard.Shard, error) {
	known, ok := s.view.Shards[id]
	if !ok {
		return nil, fmt.Errorf("shard %s is not registered", id)
	}
	config := shard.Config{
		Cluster: s.view.Config.UID, ID: id, DSN: known.DSN, Password: s.password(id), Name: "saldo bench",
	}
	if tweak != nil {
		tweak(&config)
	}
	return shard.Open(config, slog.New(slog.DiscardHandler))
}

// Audit reads all shards and says whether every cent is where it should be, as `saldo audit` does.
func (s *Stand) Audit(ctx context.Context) (*audit.Report, error) {
	return audit.Run(ctx, s.world, audit.Options{Progress: func(text string) { s.progress("audit: " + text) }})
}

// Target is what the meter looks at: this process, which makes the load, and all of the stand's that are known. etcd runs in
// this process on a stand of its own, so what it uses (next to nothing while no slot moves) counts as the load's.
func (s *Stand) Target() meter.Target {
	t := meter.Target{Processes: maps.Clone(s.others), Dir: s.Dir}
	for _, p := range s.Routers {
		t.Add("router", p.PID)
	}
	for _, p := range s.Coordinators {
		t.Add("coordinator", p.PID)
	}
	for _, shard := range s.Shards {
		t.Postgres = append(t.Postgres, meter.Postgres{DSN: shard.DSN, PID: shard.PID})
	}
	return t
}

// Describe returns what must be known to read figures: the machine, as it was before the stand was started, what the first
// shard's Postgres says of its settings, and Options.Services.
func (s *Stand) Describe(ctx context.Context) (bench.Machine, map[string]string, error) {
	machine := s.machine
	settings, postgres, err := meter.Settings(ctx, s.Shards[0].DSN)
	if err != nil {
		return machine, nil, err
	}
	machine.Postgres = postgres
	if s.own != nil {
		machine.Etcd = version.Version
		maps.Copy(settings, s.own.Services)
	}
	return machine, settings, nil
}

// Running says where a running cluster is.
type Running struct {
	Etcd        cluster.Config
	Passwords   func(ledger.ShardID) string
	URLs        []string               // of its routers
	Postmasters map[ledger.ShardID]int // pids, as far as they are known
	Processes   map[string][]int       // pids of its other processes by their kind, as far as they are known
	Dir         string                 // of its data, if that is on this machine
	Progress    func(string)           // may be nil
}

// Attach returns a running cluster as a stand. Close leaves it running.
func Attach(ctx context.Context, running Running) (*Stand, error) {
	s := &Stand{password: running.Passwords, others: running.Processes, Dir: running.Dir, progress: running.Progress}
	if s.progress == nil {
		s.progress = func(string) {}
	}
	if err := s.attach(ctx, running); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stand) attach(ctx context.Context, running Running) (err error) {
	if s.machine, err = meter.Machine(s.Dir); err != nil {
		return err
	}
	if err := s.connect(ctx, running.Etcd); err != nil {
		return err
	}
	if err := s.read(ctx); err != nil {
		return err
	}
	for _, id := range s.view.Map.Shards() {
		s.Shards = append(s.Shards, Shard{
			ID: id, DSN: withPassword(s.view.Shards[id].DSN, s.password(id)), PID: running.Postmasters[id],
		})
	}
	for _, u := range running.URLs {
		s.Routers = append(s.Routers, Process{HTTP: strings.TrimSuffix(u, "/")})
	}
	return nil
}

// withPassword puts a password into a DSN that has none: a URL, or keywords and values.
func withPassword(dsn, password string) string {
	if password == "" {
		return dsn
	}
	if u, err := url.Parse(dsn); err == nil && u.Scheme != "" {
		u.User = url.UserPassword(u.User.Username(), password)
		return u.String()
	}
	return fmt.Sprintf("%s password='%s'", dsn, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password))
}
