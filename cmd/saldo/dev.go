package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/assembly"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/telemetry"
)

type devCommand struct {
	Run      devRunCommand      `cmd:"" default:"withargs" help:"Run the cluster. This is what saldo dev alone does."`
	AddShard devAddShardCommand `cmd:"" help:"Add a shard to the cluster that saldo dev runs, and see its share of the slots move to it."`
	Drain    devDrainCommand    `cmd:"" help:"Take a shard out of the cluster that saldo dev runs: its slots move away, its Postgres stops, its data is put aside."`
}

// Help says where the flags are.
func (c *devCommand) Help() string { return "`saldo dev run --help` shows the flags of saldo dev." }

type devRunCommand struct {
	HTTP           string      `name:"http" env:"SALDO_HTTP" default:"127.0.0.1:8080" help:"Address to serve on."`
	AdminHTTP      string      `name:"admin-http" env:"SALDO_ADMIN_HTTP" default:"127.0.0.1:8081" help:"Address to serve operators on."`
	AdminTokenFile string      `name:"admin-token-file" env:"SALDO_ADMIN_TOKEN_FILE" placeholder:"FILE" help:"Holds the operator's token, which the admin API then asks for. It must, if operators are served anywhere but on loopback."`
	Data           string      `name:"data" env:"SALDO_DATA" default:"${data}" help:"Data directory, kept from run to run. cluster.json in it tells where the parts are."`
	Shards         int         `name:"shards" env:"SALDO_SHARDS" default:"3" help:"Postgres servers that a new cluster begins with."`
	Currency       string      `name:"currency" env:"SALDO_CURRENCY" default:"USD" help:"Of requests that name none; ISO 4217."`
	Observe        bool        `help:"Say how Prometheus, Grafana and a viewer of traces see it, and write what they need to the data directory."`
	Log            wire.Log    `embed:""`
	Traces         wire.Traces `embed:""`
}

// Validate is called by the flag parser.
func (c *devRunCommand) Validate() error {
	if c.Shards < 1 || c.Shards > 64 {
		return fmt.Errorf("--shards is %d, not 1 to 64", c.Shards)
	}
	_, err := ledger.ParseCurrency(c.Currency)
	return err
}

// stopTime is for the servers to shut down.
const stopTime = 20 * time.Second

func (c *devRunCommand) Run(ctx context.Context, to streams) (err error) {
	d := &dev{devRunCommand: *c, to: to, changed: make(chan struct{}, 1), postgres: make(map[ledger.ShardID]*local.Postgres)}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.prepare(); err != nil {
		return err
	}
	if d.telemetry, err = wire.Telemetry(ctx, "saldo-dev", d.Traces, d.console); err != nil {
		return err
	}
	defer func() { _ = d.telemetry.Shutdown(context.WithoutCancel(ctx)) }()
	if err := d.startServers(ctx); err != nil {
		return err
	}
	if err := d.formCluster(ctx); err != nil {
		return err
	}
	return d.serve(ctx)
}

// dev is a cluster on this machine.
type dev struct {
	devRunCommand
	to        streams
	log       *slog.Logger // of the services: to the log file
	console   *slog.Logger // of the servers: to the log file and, what a person should see, to standard error
	logFile   *os.File
	lock      *local.DirLock
	telemetry *telemetry.Telemetry
	listener  net.Listener // of the router
	admin     net.Listener // of the coordinator
	control   *control

	binaries local.Binaries
	etcd     *local.Etcd
	cluster  *cluster.Cluster
	config   cluster.ClusterConfig
	changed  chan struct{} // room for one: a server came, went or moved

	changing sync.Mutex // held while a shard is added or put aside

	mu       sync.Mutex // guards postgres and the writing of cluster.json
	postgres map[ledger.ShardID]*local.Postgres
}

func (d *dev) say(format string, args ...any) { fmt.Fprintf(d.to.err, format+"\n", args...) }

// prepare takes the data directory and the address: whatever can fail early does.
func (d *dev) prepare() (err error) {
	if d.Data, err = filepath.Abs(d.Data); err != nil {
		return err
	}
	if err := local.PrepareDir(d.Data); err != nil {
		return fmt.Errorf("%w (choose another data directory with --data or SALDO_DATA)", err)
	}
	if d.lock, err = local.LockDir(d.Data); err != nil {
		return fmt.Errorf("%w (is `saldo dev` running there? choose another data directory with --data or SALDO_DATA)", err)
	}
	if d.listener, err = net.Listen("tcp", d.HTTP); err != nil {
		return fmt.Errorf("serve on %s (choose another address with --http or SALDO_HTTP): %w", d.HTTP, err)
	}
	if d.admin, err = net.Listen("tcp", d.AdminHTTP); err != nil {
		return fmt.Errorf("serve operators on %s (choose another address with --admin-http or SALDO_ADMIN_HTTP): %w",
			d.AdminHTTP, err)
	}
	if d.control, err = newControl(d); err != nil {
		return err
	}
	d.logFile, err = os.OpenFile(filepath.Join(d.Data, "saldo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if d.log, err = telemetry.NewLogger(d.logFile, d.Log.Format, d.Log.Level); err != nil {
		return err
	}
	warnings, err := telemetry.NewLogger(d.to.err, "text", "warn")
	if err != nil {
		return err
	}
	d.console = slog.New(slog.NewMultiHandler(d.log.Handler(), warnings.Handler()))
	return nil
}

// startServers starts etcd, which knows the shards, and then every Postgres, side by side.
func (d *dev) startServers(ctx context.Context) (err error) {
	begun := time.Now()
	if d.binaries, err = local.FindPostgres(os.Getenv); err != nil {
		return err
	}
	d.etcd = local.NewEtcd(local.EtcdOptions{Dir: filepath.Join(d.Data, "etcd"), Log: d.log})
	if err := d.etcd.Start(ctx); err != nil {
		return err
	}
	d.cluster, err = cluster.Connect(ctx, cluster.Config{Endpoints: d.etcd.Endpoints(), Log: d.log})
	if err != nil {
		return err
	}
	ids, err := d.shardIDs(ctx)
	if err != nil {
		return err
	}
	d.say("starting %d Postgres %s servers beside etcd in %s", len(ids), d.binaries.Version, d.Data)
	if len(ids) < d.Shards {
		d.say("  (the cluster that is kept here has no more: saldo dev add-shard adds one)")
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, id := range ids {
		group.Go(func() error {
			server, err := d.startPostgres(groupCtx, id)
			if err == nil {
				d.say("  %s: Postgres on port %d", id, server.Port())
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	d.say("  servers are up after %v", time.Since(begun).Round(10*time.Millisecond))
	return nil
}

func (d *dev) startPostgres(ctx context.Context, id ledger.ShardID) (*local.Postgres, error) {
	server := local.NewPostgres(local.PostgresOptions{
		Binaries: d.binaries, Dir: d.shardDir(id), Name: string(id), Log: d.console,
		OnEvent: func(local.Event) {
			select {
			case d.changed <- struct{}{}:
			default:
			}
		},
	})
	if err := server.Start(ctx); err != nil {
		return nil, fmt.Errorf("start the Postgres of shard %s: %w", id, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.postgres[id] = server
	return server, nil
}

// server returns the Postgres of a shard, if it was started.
func (d *dev) server(id ledger.ShardID) (*local.Postgres, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	server, ok := d.postgres[id]
	return server, ok
}

// formCluster migrates, enrolls and registers what is new.
func (d *dev) formCluster(ctx context.Context) (err error) {
	view, err := assembly.Form(ctx, d.cluster, d.databases(), func(line string) { d.log.Info(line) })
	if err != nil {
		return err
	}
	d.config = view.Config
	return d.writeFile()
}

// databases are the servers as the cluster knows them, where they are now.
func (d *dev) databases() []assembly.Database {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []assembly.Database
	for id, server := range d.postgres {
		all = append(all, d.database(id, server))
	}
	return all
}

func (d *dev) database(id ledger.ShardID, server *local.Postgres) assembly.Database {
	return assembly.Database{ID: id, DSN: server.DSNWithoutPassword(), OwnerDSN: server.DSN(), Password: server.Password()}
}

func (d *dev) password(id ledger.ShardID) string {
	if server, ok := d.server(id); ok {
		return server.Password()
	}
	return ""
}

func (d *dev) writeFile() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	file := clusterFile{
		HTTP: "http://" + d.listener.Addr().String(), Admin: "http://" + d.admin.Addr().String(),
		Etcd: d.etcd.Endpoints(), Prefix: "/saldo/default/",
		PID: os.Getpid(), Log: d.logFile.Name(), Control: d.control.part(),
	}
	for _, id := range sortedIDs(d.postgres) {
		file.Shards = append(file.Shards, d.part(id, d.postgres[id]))
	}
	return file.write(d.Data)
}

func (d *dev) part(id ledger.ShardID, server *local.Postgres) shardPart {
	return shardPart{ID: id, DSN: server.DSN(), PID: server.PID(), Data: server.Data(), Log: server.LogFile()}
}

func sortedIDs[V any](m map[ledger.ShardID]V) []ledger.ShardID { return slices.Sorted(maps.Keys(m)) }

// serve runs router and coordinator until ctx ends or one fails.
func (d *dev) serve(ctx context.Context) error {
	etcd := wire.Etcd{Endpoints: d.etcd.Endpoints()}
	postgres := wire.Postgres{Writers: 3, MaxBatch: 512, QueueSize: 8192, ReadConns: 4, BalanceBatch: 1024}
	process := wire.Process{Passwords: d.password, Log: d.log, Metrics: d.telemetry.Metrics}
	group, ctx := errgroup.WithContext(ctx)

	// The coordinator outlives the router: requests that are waiting get their ends.
	coordinatorCtx, stopCoordinator := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		return wire.RunCoordinator(coordinatorCtx, wire.Coordinator{
			Settle: 3 * time.Second, Handover: time.Second, Poll: 500 * time.Millisecond,
			Rebalance: "auto", Retention: 5 * time.Second, MoveSlots: 512, MoveShare: 0.5, Audit: 10 * time.Second, AuditShare: 0.02,
			AdminTokenFile: d.AdminTokenFile, Etcd: etcd, Postgres: postgres,
		}, process, d.admin)
	})
	group.Go(func() error {
		defer stopCoordinator()
		return wire.RunRouter(ctx, wire.Router{
			HTTP: d.HTTP, Currency: d.Currency, Wait: time.Second, Handover: time.Second, Timeout: 8 * time.Second, Grace: 10 * time.Second,
			Target: 25 * time.Millisecond, MaxRequests: 4096,
			Etcd: etcd, Postgres: postgres,
		}, process, d.listener)
	})
	group.Go(func() error { return d.keepCurrent(ctx) })
	group.Go(func() error { return d.control.serve(ctx) })
	group.Go(func() error {
		if err := d.makeDemoUser(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		d.banner()
		if d.Observe {
			return d.observe()
		}
		return nil
	})
	err := group.Wait()
	d.say("stopping")
	return err
}

// keepCurrent follows the servers: their addresses in etcd, their pids in cluster.json.
func (d *dev) keepCurrent(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
		}
		if err := d.writeFile(); err != nil {
			d.console.Warn("cluster.json is not current", "error", err)
		}
		if err := assembly.Readdress(ctx, d.cluster, d.config, d.databases()); err != nil && ctx.Err() == nil {
			d.console.Warn("a server's new address is not registered", "error", err)
		}
	}
}

const (
	demoUser = "6d7750a1-c3f2-4765-bf8f-33bc80f3f809"
	demoAdd  = "demo-opening-balance"
)

// makeDemoUser makes the user that the examples use, with 100. The fixed ids make that happen once.
func (d *dev) makeDemoUser(ctx context.Context) error {
	user := map[string]any{"id": demoUser, "name": "Test"}
	if err := d.post(ctx, "/users", user, http.StatusCreated, http.StatusOK); err != nil {
		return fmt.Errorf("make the demo user: %w", err)
	}
	add := map[string]any{"amount": 100, "transaction_id": demoAdd}
	if err := d.post(ctx, "/users/"+demoUser+"/add", add, http.StatusAccepted, http.StatusUnprocessableEntity); err != nil {
		return fmt.Errorf("give the demo user money: %w", err)
	}
	return nil
}

// post sends a request to the router until it is ready to answer it.
func (d *dev) post(ctx context.Context, path string, body any, want ...int) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.listener.Addr().String()+path, bytes.NewReader(content))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			answer, _ := io.ReadAll(io.LimitReader(response.Body, 1000))
			response.Body.Close()
			if slices.Contains(want, response.StatusCode) {
				return nil
			}
			err = fmt.Errorf("%s: %s", response.Status, answer)
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (d *dev) banner() {
	url, data := "http://"+d.listener.Addr().String(), ""
	if d.Data != defaultData() {
		data = " --data " + d.Data
	}
	d.say(`
Saldo serves on %[1]s (shards: %[2]d). Try:

  curl %[1]s/users/%[3]s/balance
  curl %[1]s/users -H 'Content-Type: application/json' -d '{"id":"alice","name":"Alice"}'
  curl %[1]s/transfers -H 'Content-Type: application/json' -d '{"source":"%[3]s","destination":"alice","amount":25}'

  saldo top%[5]s                to watch it (operators are served on http://%[6]s)
  saldo dev add-shard%[5]s      to see a share of the users move to one more shard, while they pay

Logs and data: %[4]s (where the parts are: cluster.json). The interface: %[1]s/openapi.yaml. Stop with Ctrl-C.
`, url, len(d.databases()), demoUser, d.Data, data, d.admin.Addr())
}

// stop ends what was started, last first.
func (d *dev) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var errs []error
	if d.cluster != nil {
		errs = append(errs, d.cluster.Close())
	}
	var stopping sync.WaitGroup
	failed := make(chan error, len(d.postgres))
	for _, server := range d.postgres {
		stopping.Go(func() { failed <- server.Stop(ctx) })
	}
	stopping.Wait()
	close(failed)
	for err := range failed {
		errs = append(errs, err)
	}
	if d.etcd != nil {
		d.etcd.Stop()
	}
	if d.listener != nil {
		_ = d.listener.Close() // the router has closed it, if it came so far
	}
	if d.admin != nil {
		_ = d.admin.Close()
	}
	if d.control != nil {
		_ = d.control.listener.Close() // as has the door
	}
	if d.lock != nil && d.etcd != nil {
		_ = os.Remove(clusterFileIn(d.Data)) // nothing is there any more
	}
	if d.logFile != nil {
		errs = append(errs, d.logFile.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Unlock())
	}
	return errors.Join(errs...)
}
