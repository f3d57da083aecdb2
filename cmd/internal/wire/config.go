// Package wire puts the parts of a process together: what cmd/router, cmd/coordinator and `saldo dev` have in common. Beside
// internal/assembly it is the one place where adapters meet. It decides nothing about money.
//
//	config.go        flags and variables
//	main.go, process.go, runtime.go, health.go, announce.go   what every service does as a process
//	members.go       the newest map, and every shard open; limited.go bounds what a shard is given
//	router.go        a router
//	coordinator.go   a coordinator: sagas and the founding; rebalancer.go, auditor.go and positions.go what else it does
//	operators.go     its listener, with the admin API of admin.go
package wire

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/telemetry"
	"github.com/saldo-ledger/saldo/shard"
)

// Etcd says how to find the cluster.
type Etcd struct {
	Endpoints    []string `name:"etcd" env:"SALDO_ETCD" placeholder:"URL" help:"etcd's client URLs. Default: http://127.0.0.1:2379."`
	Prefix       string   `name:"etcd-prefix" env:"SALDO_ETCD_PREFIX" default:"/saldo/default/" help:"Of all keys of the cluster."`
	CA           string   `name:"etcd-ca" env:"SALDO_ETCD_CA" placeholder:"FILE" help:"Certificate authority of etcd, PEM."`
	Cert         string   `name:"etcd-cert" env:"SALDO_ETCD_CERT" placeholder:"FILE" help:"Client certificate, PEM."`
	Key          string   `name:"etcd-key" env:"SALDO_ETCD_KEY" placeholder:"FILE" help:"Key of the client certificate, PEM."`
	User         string   `name:"etcd-user" env:"SALDO_ETCD_USER" help:"User, where etcd asks for one."`
	PasswordFile string   `name:"etcd-password-file" env:"SALDO_ETCD_PASSWORD_FILE" placeholder:"FILE" help:"Holds the password of that user."`
}

// Config returns it in the words of package cluster.
func (e *Etcd) Config(log *slog.Logger) (cluster.Config, error) {
	if len(e.Endpoints) == 0 {
		e.Endpoints = []string{"http://127.0.0.1:2379"}
	}
	config := cluster.Config{
		Endpoints: e.Endpoints, Prefix: e.Prefix, CAFile: e.CA, CertFile: e.Cert, KeyFile: e.Key, Username: e.User, Log: log,
	}
	password, err := readSecret(e.PasswordFile)
	config.Password = password
	return config, err
}

// Postgres says how to use the shards that etcd names. Their addresses come from there, their secrets never do.
type Postgres struct {
	PasswordFile string `name:"postgres-password-file" env:"SALDO_POSTGRES_PASSWORD_FILE" placeholder:"FILE" help:"Holds the password of all shards. Without it PGPASSWORD and PGPASSFILE count, as for psql; a PGPASSFILE may name one for each shard."`
	Writers      int    `name:"lane-writers" env:"SALDO_LANE_WRITERS" default:"3" help:"Connections that write to one shard, 1 to 4."`
	MaxBatch     int    `name:"lane-batch" env:"SALDO_LANE_BATCH" default:"512" help:"Operations in one transaction, at most."`
	QueueSize    int    `name:"lane-queue" env:"SALDO_LANE_QUEUE" default:"8192" help:"Operations that wait for one shard. Beyond, requests are answered 503."`
	ReadConns    int    `name:"read-connections" env:"SALDO_READ_CONNECTIONS" default:"4" help:"Connections that read from one shard."`
	BalanceBatch int    `name:"balance-batch" env:"SALDO_BALANCE_BATCH" default:"1024" help:"Balances that one query reads, at most. 1: each by a query of its own, to see what that costs."`
}

// Validate is called by the flag parser.
func (p *Postgres) Validate() error {
	switch {
	case p.Writers < 1 || p.Writers > 4:
		return fmt.Errorf("--lane-writers is %d, not 1 to 4", p.Writers)
	case p.MaxBatch < 1 || p.MaxBatch > 10_000:
		return fmt.Errorf("--lane-batch is %d, not 1 to 10000", p.MaxBatch)
	case p.QueueSize < 1:
		return fmt.Errorf("--lane-queue is %d, not 1 or more", p.QueueSize)
	case p.ReadConns < 1:
		return fmt.Errorf("--read-connections is %d, not 1 or more", p.ReadConns)
	case p.BalanceBatch < 1:
		return fmt.Errorf("--balance-batch is %d, not 1 or more", p.BalanceBatch)
	}
	return nil
}

// Passwords returns the password of a shard; "" leaves it to the environment.
type Passwords func(id ledger.ShardID) string

// Passwords reads the password file once.
func (p *Postgres) Passwords() (Passwords, error) {
	password, err := readSecret(p.PasswordFile)
	return func(ledger.ShardID) string { return password }, err
}

func (p *Postgres) shardConfig(uid string, s cluster.Shard, password, process string) shard.Config {
	return shard.Config{
		Cluster: uid, ID: s.ID, DSN: s.DSN, Timeline: s.Timeline, Password: password, Name: "saldo " + process,
		Writers: p.Writers, MaxBatch: p.MaxBatch, QueueSize: p.QueueSize, ReadConns: p.ReadConns, BalanceBatch: p.BalanceBatch,
	}
}

// Log says what a process writes about itself.
type Log struct {
	Level  string `name:"log-level" env:"SALDO_LOG_LEVEL" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
	Format string `name:"log-format" env:"SALDO_LOG_FORMAT" default:"text" enum:"text,json" help:"text or json."`
}

// Logger returns a logger on standard error. An error tracker is hooked in here, and so are the programs' errors: see
// telemetry.OnError.
func (l *Log) Logger() (*slog.Logger, error) {
	return telemetry.NewLogger(os.Stderr, l.Format, l.Level)
}

// Traces says which traces of a process are kept.
type Traces struct {
	Slow time.Duration `name:"trace-slow" env:"SALDO_TRACE_SLOW" default:"1s" help:"Where traces are exported: those of requests that take longer are kept, as those that end in an error or a refund, whatever OTEL_TRACES_SAMPLER says. 0: neither."`
}

// Router is the configuration of a router.
type Router struct {
	HTTP        string        `name:"http" env:"SALDO_HTTP" default:"127.0.0.1:8080" help:"Address to serve on."`
	Advertise   string        `name:"advertise" env:"SALDO_ADVERTISE" placeholder:"HOST:PORT" help:"At which coordinators reach that address, to read /metrics for operators. Default: the address itself; if that is every address, this machine's first one."`
	Currency    string        `name:"currency" env:"SALDO_CURRENCY" default:"USD" help:"Of requests that name none; ISO 4217."`
	Wait        time.Duration `name:"wait" env:"SALDO_WAIT" default:"1s" help:"How long a request waits for the end of a transfer between shards before it is answered 202 PENDING."`
	Handover    time.Duration `name:"handover" env:"SALDO_HANDOVER" default:"1s" help:"How long a router itself carries a transfer between shards that it has begun. From then on a coordinator does. The same for routers and coordinators; 0: coordinators do from the beginning."`
	Timeout     time.Duration `name:"timeout" env:"SALDO_TIMEOUT" default:"8s" help:"Of a request, from its arrival to its answer."`
	Grace       time.Duration `name:"grace" env:"SALDO_GRACE" default:"10s" help:"For requests under way when the process is told to stop."`
	Target      time.Duration `name:"target" env:"SALDO_TARGET" default:"25ms" help:"In which a shard should have done what it is given, at least; ten times what one call takes there alone, if that is longer. What comes beyond waits, and is answered 503 if too much waits already. 0: no limit."`
	MaxRequests int           `name:"max-requests" env:"SALDO_MAX_REQUESTS" default:"4096" help:"In progress, reads and writes each. Beyond, requests are answered 503. 0: no limit."`
	DebugHTTP   string        `name:"debug-http" env:"SALDO_DEBUG_HTTP" placeholder:"ADDRESS" help:"Loopback address to serve Go's profiler on. Default: none."`
	Etcd        `embed:""`
	Postgres    `embed:""`
}

// Validate is called by the flag parser.
func (r *Router) Validate() error {
	if _, err := ledger.ParseCurrency(r.Currency); err != nil {
		return fmt.Errorf("--currency %q: %w", r.Currency, err)
	}
	switch {
	case r.Handover < 0:
		return fmt.Errorf("--handover is %v, not 0 or more", r.Handover)
	case r.Target < 0:
		return fmt.Errorf("--target is %v, not 0 or more", r.Target)
	case r.MaxRequests < 0:
		return fmt.Errorf("--max-requests is %d, not 0 or more", r.MaxRequests)
	}
	return r.Postgres.Validate()
}

// Coordinator is the configuration of a coordinator.
type Coordinator struct {
	Name           string        `name:"name" env:"SALDO_NAME" help:"Of this process among coordinators. Default: host and process id."`
	AdminHTTP      string        `name:"admin-http" env:"SALDO_ADMIN_HTTP" default:"127.0.0.1:8081" help:"Address to serve operators on: /livez, /readyz, /metrics, and the admin API under /admin/v1."`
	AdminTokenFile string        `name:"admin-token-file" env:"SALDO_ADMIN_TOKEN_FILE" placeholder:"FILE" help:"Holds the operator's token, at least 16 characters, which the admin API then asks for. It is read again when it changes. Without one the API answers on loopback only."`
	Advertise      string        `name:"advertise" env:"SALDO_ADVERTISE" placeholder:"HOST:PORT" help:"At which others reach the operators' address. Default: the address itself; if that is every address, this machine's first one."`
	Settle         time.Duration `name:"settle" env:"SALDO_SETTLE" default:"3s" help:"A new cluster's slots are spread when no shard has joined for so long (unless the cluster was created with a number of shards to wait for)."`
	Handover       time.Duration `name:"handover" env:"SALDO_HANDOVER" default:"1s" help:"How long a transfer between shards is left to the router that has begun it. The same for routers and coordinators."`
	Poll           time.Duration `name:"poll" env:"SALDO_POLL" default:"500ms" help:"Look for transfers that have not ended."`
	Rebalance      string        `name:"rebalance" env:"SALDO_REBALANCE" default:"manual" enum:"auto,manual" help:"auto: slots move whenever the shards do not have what their weights say, as when one has joined. manual: when you say saldo rebalance. A draining shard is emptied in any case. The same for all coordinators."`
	Retention      time.Duration `name:"retention" env:"SALDO_RETENTION" default:"10m" help:"How long a shard keeps the copy of slots that have moved away, before it is deleted."`
	MoveSlots      int           `name:"move-slots" env:"SALDO_MOVE_SLOTS" default:"128" help:"Slots that move together, at most. More is faster where slots have few rows, and has more users wait at a time."`
	MoveShare      float64       `name:"move-share" env:"SALDO_MOVE_SHARE" default:"0.25" help:"Of the time, which a move may spend on copying and deleting rows. More is faster, and slows those who pay meanwhile."`
	Audit          time.Duration `name:"audit" env:"SALDO_AUDIT" default:"10s" help:"How often the elected coordinator audits what is new, and a part of what is old. 0: never."`
	AuditShare     float64       `name:"audit-share" env:"SALDO_AUDIT_SHARE" default:"0.02" help:"Of the time, which the audit may take."`
	DebugHTTP      string        `name:"debug-http" env:"SALDO_DEBUG_HTTP" placeholder:"ADDRESS" help:"Loopback address to serve Go's profiler on. Default: none."`
	Etcd           `embed:""`
	Postgres       `embed:""`
}

// Validate is called by the flag parser.
func (c *Coordinator) Validate() error {
	if c.Handover < 0 {
		return fmt.Errorf("--handover is %v, not 0 or more", c.Handover)
	}
	switch {
	case c.Retention < 0:
		return fmt.Errorf("--retention is %v, not 0 or more", c.Retention)
	case c.MoveSlots < 1 || c.MoveSlots > placement.Slots:
		return fmt.Errorf("--move-slots is %d, not 1 to %d", c.MoveSlots, placement.Slots)
	case c.MoveShare <= 0 || c.MoveShare > 1:
		return fmt.Errorf("--move-share is %v, not above 0 and at most 1", c.MoveShare)
	case c.Audit < 0:
		return fmt.Errorf("--audit is %v, not 0 or more", c.Audit)
	case c.AuditShare < 0 || c.AuditShare > 1 || c.AuditShare == 0 && c.Audit > 0:
		return fmt.Errorf("--audit-share is %v, not above 0 and at most 1", c.AuditShare)
	}
	return c.Postgres.Validate()
}

// orNever says a duration as packages want to hear it whose zero is a default.
func orNever(flag time.Duration) time.Duration {
	if flag == 0 {
		return -1
	}
	return flag
}

func readSecret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}
