package stand

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/bench/meter"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
)

// Options of a stand. Zero values mean the defaults.
type Options struct {
	Shards       int               // default 3
	Routers      int               // processes; 0: none
	Coordinators int               // processes; 0: none
	Dir          string            // of the data, which is kept; default: a new temporary folder, which Close removes
	Postgres     map[string]string // settings beyond the defaults of package local
	Services     map[string]string // environment of routers and coordinators beyond the defaults
	InitCache    string            // for tests: see local.PostgresOptions
	Progress     func(string)      // may be nil; told what is being done, by one goroutine at a time
}

// Start starts a stand and waits until its routers are ready and its coordinators are elected. ctx bounds the start only.
// After an error nothing runs.
func Start(ctx context.Context, options Options) (*Stand, error) {
	options.Shards = cmp.Or(options.Shards, 3)
	s := &Stand{own: &servers{Options: options}}
	s.progress = s.own.say
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster to measure on: %w", err), s.Close())
	}
	return s, nil
}

// servers are what a stand of its own consists of.
type servers struct {
	Options
	telling sync.Mutex // serializes Progress

	folder   string
	lock     *local.DirLock
	etcd     *local.Etcd
	postgres []*local.Postgres // by shard, s1 first
	services []*process        // routers and coordinators

	environment []string // of the services
}

func (o *servers) say(text string) {
	if o.Progress == nil {
		return
	}
	o.telling.Lock()
	defer o.telling.Unlock()
	o.Progress(text)
}

func (s *Stand) start(ctx context.Context) (err error) {
	programs := make(map[string]string)
	for name, n := range map[string]int{"router": s.own.Routers, "coordinator": s.own.Coordinators} {
		if n > 0 {
			if programs[name], err = findProgram(name); err != nil {
				return err
			}
		}
	}
	if err := s.own.prepare(); err != nil {
		return err
	}
	s.Dir = s.own.folder
	if s.machine, err = meter.Machine(s.Dir); err != nil {
		return err
	}
	if err := s.own.startServers(ctx); err != nil {
		return err
	}
	if err := s.form(ctx); err != nil {
		return err
	}
	return s.startServices(ctx, programs)
}

// prepare takes the folder.
func (o *servers) prepare() (err error) {
	if o.folder = o.Dir; o.folder == "" {
		if o.folder, err = makeTemporary(); err != nil {
			return err
		}
		sweep(filepath.Dir(o.folder))
	} else if o.folder, err = filepath.Abs(o.folder); err != nil {
		return err
	}
	if err := local.PrepareDir(o.folder); err != nil {
		return err
	}
	if o.lock, err = local.LockDir(o.folder); err != nil {
		return err
	}
	kept, err := o.kept()
	if kept > 0 && kept != o.Shards {
		return fmt.Errorf("%s holds a cluster of %d shards, not %d: choose another folder", o.folder, kept, o.Shards)
	}
	return err
}

// kept is how many shards the folder holds.
func (o *servers) kept() (n int, err error) {
	for {
		exists, err := local.Exists(o.shardDir(n))
		if err != nil || !exists {
			return n, err
		}
		n++
	}
}

// shardDir is the folder of the i-th shard, from 0.
func (o *servers) shardDir(i int) string { return filepath.Join(o.folder, string(shardID(i))) }

func shardID(i int) ledger.ShardID { return ledger.ShardID(fmt.Sprintf("s%d", i+1)) }

const temporary = "saldo-bench-*"

// makeTemporary makes a folder that Postgres's user can reach: where TMPDIR says, else where a disk is rather than memory,
// on which a flush would cost nothing.
func makeTemporary() (string, error) {
	var errs []error
	for _, base := range []string{os.Getenv("TMPDIR"), "/var/tmp", os.TempDir()} {
		if base == "" {
			continue
		}
		dir, err := os.MkdirTemp(base, temporary)
		if err == nil {
			if err = local.PrepareDir(dir); err == nil {
				return dir, nil
			}
			_ = os.Remove(dir)
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("make a temporary folder: %w", errors.Join(errs...))
}

// sweep removes the folders that killed processes left. Errors do not matter: the next one sweeps again.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, temporary))
	for _, dir := range dirs {
		// A young one may belong to a process that is about to lock it.
		if about, err := os.Stat(dir); err != nil || time.Since(about.ModTime()) < time.Minute {
			continue
		}
		lock, err := local.LockDir(dir)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		shards, _ := filepath.Glob(filepath.Join(dir, "s*", "lock"))
		for _, shard := range shards {
			err = errors.Join(err, local.Discard(ctx, filepath.Dir(shard)))
		}
		cancel()
		if err == nil {
			_ = os.RemoveAll(dir)
		}
		_ = lock.Unlock()
	}
}

func (o *servers) startServers(ctx context.Context) error {
	binaries, err := local.FindPostgres(os.Getenv)
	if err != nil {
		return err
	}
	o.say(fmt.Sprintf("starting etcd and Postgres %s for %d shards in %s", binaries.Version, o.Shards, o.folder))
	o.etcd = local.NewEtcd(local.EtcdOptions{Dir: filepath.Join(o.folder, "etcd")})
	for i := range o.Shards {
		options := local.PostgresOptions{
			Binaries: binaries, Dir: o.shardDir(i), Settings: o.Postgres, InitCache: o.InitCache, LastWish: syscall.SIGINT,
		}
		if o.Dir == "" { // nobody will read these data: what is made once may be copied, and what is killed needs no checkpoint
			options.InitCache = cmp.Or(o.InitCache, filepath.Join(o.folder, "initdb"))
			options.LastWish = syscall.SIGQUIT
		}
		o.postgres = append(o.postgres, local.NewPostgres(options))
	}
	if err := o.postgres[0].Start(ctx); err != nil { // alone, to fill the cache
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return o.etcd.Start(ctx) })
	for _, server := range o.postgres[1:] {
		group.Go(func() error { return server.Start(ctx) })
	}
	return group.Wait()
}

// form makes the servers a cluster.
func (s *Stand) form(ctx context.Context) error {
	s.own.say("forming the cluster")
	var databases []assembly.Database
	passwords := make(map[ledger.ShardID]string)
	for i, server := range s.own.postgres {
		id := shardID(i)
		databases = append(databases, assembly.Database{
			ID: id, DSN: server.DSNWithoutPassword(), OwnerDSN: server.DSN(), Password: server.Password(),
		})
		passwords[id] = server.Password()
		s.Shards = append(s.Shards, Shard{ID: id, DSN: server.DSN(), PID: server.PID()})
	}
	slices.SortFunc(s.Shards, func(a, b Shard) int { return cmp.Compare(a.ID, b.ID) })
	s.password = func(id ledger.ShardID) string { return passwords[id] }
	if err := s.connect(ctx, cluster.Config{Endpoints: s.own.etcd.Endpoints(), Prefix: "/saldo/default/"}); err != nil {
		return err
	}
	view, err := assembly.Form(ctx, s.cluster, databases, func(string) {})
	if err != nil {
		return err
	}
	// There may be no coordinator that would do it.
	if err := assembly.Activate(ctx, view, s.password); err != nil {
		return err
	}
	return s.read(ctx)
}

// startServices starts routers and coordinators and waits for them.
func (s *Stand) startServices(ctx context.Context, programs map[string]string) (err error) {
	if s.own.environment, err = s.environment(); err != nil {
		return err
	}
	if s.own.Routers+s.own.Coordinators == 0 {
		return nil
	}
	s.own.say(fmt.Sprintf("starting %d routers and %d coordinators", s.own.Routers, s.own.Coordinators))
	var routers, coordinators []*process
	for i := range s.own.Routers {
		p, err := s.own.startRouter(programs["router"], fmt.Sprintf("router-%d", i+1))
		if err != nil {
			return err
		}
		routers = append(routers, p)
	}
	for i := range s.own.Coordinators {
		name := fmt.Sprintf("coordinator-%d", i+1)
		// It serves operators on a port of its own: a saldo dev may be running beside this.
		p, err := s.own.startService(name, programs["coordinator"], []string{"--name", name, "--admin-http", "127.0.0.1:0"})
		if err != nil {
			return err
		}
		coordinators = append(coordinators, p)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, p := range routers {
		address, err := p.ready(ctx)
		if err != nil {
			return err
		}
		s.Routers = append(s.Routers, Process{PID: p.pid(), HTTP: "http://" + address})
	}
	for _, p := range coordinators {
		s.Coordinators = append(s.Coordinators, Process{PID: p.pid()})
	}
	if len(coordinators) == 0 {
		return nil
	}
	for _, shard := range s.Shards {
		elected := func() (bool, error) {
			_, ok, err := s.cluster.Leader(ctx, "sagas."+string(shard.ID))
			return ok, err
		}
		if err := await(ctx, coordinators, "a coordinator is elected for shard "+string(shard.ID), elected); err != nil {
			return err
		}
	}
	return nil
}

// startRouter starts a router with flags beyond those that all have.
func (o *servers) startRouter(path, name string, more ...string) (*process, error) {
	args := slices.Concat([]string{"--http", "127.0.0.1:0", "--log-format", "json"}, more)
	return o.startService(name, path, args)
}

func (o *servers) startService(name, path string, args []string) (*process, error) {
	p, err := startProcess(name, filepath.Join(o.folder, name+".log"), o.environment, path, args...)
	if err != nil {
		return nil, err
	}
	o.services = append(o.services, p)
	return p, nil
}

// AddRouter starts one more router on a stand of its own, with flags beyond the others', and returns the stand as it is seen
// through that one alone: URLs and Target are its own, all else is the stand's, whose Close stops it. The stand itself stays
// as it was, so whoever measures there neither uses nor counts it.
func (s *Stand) AddRouter(ctx context.Context, args ...string) (*Stand, error) {
	if s.own == nil {
		return nil, errors.New("a router can be added to a cluster that saldo bench has started only")
	}
	path, err := findProgram("router")
	if err != nil {
		return nil, err
	}
	p, err := s.own.startRouter(path, fmt.Sprintf("router-added-%d", len(s.own.services)+1), args...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	address, err := p.ready(ctx)
	if err != nil {
		return nil, err
	}
	through := *s
	through.Routers = []Process{{PID: p.pid(), HTTP: "http://" + address}}
	return &through, nil
}

// environment is this process's without what configures Saldo, Postgres clients or tracing, and with what leads to the
// stand's servers and Options.Services.
func (s *Stand) environment() ([]string, error) {
	var environment []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "SALDO_") && !strings.HasPrefix(setting, "PG") && !strings.HasPrefix(setting, "OTEL_") {
			environment = append(environment, setting)
		}
	}
	var passwords strings.Builder
	for _, server := range s.own.postgres {
		fmt.Fprintf(&passwords, "127.0.0.1:%d:*:*:%s\n", server.Port(), server.Password())
	}
	file := filepath.Join(s.own.folder, "pgpass")
	if err := os.WriteFile(file, []byte(passwords.String()), 0o600); err != nil {
		return nil, err
	}
	for name, value := range s.own.Services {
		environment = append(environment, name+"="+value)
	}
	return append(environment, "SALDO_ETCD="+strings.Join(s.Etcd, ","), "SALDO_ETCD_PREFIX="+s.Prefix, "PGPASSFILE="+file), nil
}

// stopServices stops routers and coordinators.
func (o *servers) stopServices() error {
	var errs []error
	for _, p := range o.services {
		errs = append(errs, p.stop())
	}
	o.services = nil
	return errors.Join(errs...)
}

// stop stops the servers and removes what is temporary.
func (o *servers) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if o.Dir == "" {
		cancel() // nobody reads these data again: no checkpoint
	}
	errs := make([]error, len(o.postgres))
	var stopping sync.WaitGroup
	for i, server := range o.postgres {
		stopping.Go(func() { errs[i] = server.Stop(ctx) })
	}
	stopping.Wait()
	if o.etcd != nil {
		o.etcd.Stop()
	}
	if o.Dir == "" && o.folder != "" {
		errs = append(errs, os.RemoveAll(o.folder))
	}
	if o.lock != nil {
		errs = append(errs, o.lock.Unlock())
	}
	return errors.Join(errs...)
}
