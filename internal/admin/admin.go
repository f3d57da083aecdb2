package admin

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// Prefix is where every path begins.
const Prefix = "/admin/v1"

// Registry is what the processes of a cluster know in common. Its methods with a context ask the registry itself.
type Registry interface {
	// View is the newest state that this process knows; nil as long as it has not reached its cluster.
	View() *View
	// Changed returns a channel that is closed when View returns another one than when Changed was called. So call it first.
	Changed() <-chan struct{}
	// Leaders returns who leads, by election.
	Leaders(ctx context.Context) (map[string]string, error)
	// Routers and Coordinators return who has announced itself: hints.
	Routers(ctx context.Context) ([]Process, error)
	Coordinators(ctx context.Context) ([]Process, error)
	// PauseMove and AbortMove change a move, and return it as it is then. An error that is no *ledger.Error says in words that
	// a person may read why that cannot be. CodeUnknown, and a context's end, leave open whether it was done.
	PauseMove(ctx context.Context, id placement.MoveID, paused bool) (placement.Move, error)
	AbortMove(ctx context.Context, id placement.MoveID, why string) (placement.Move, error)
}

// View is the cluster at one revision of the registry.
type View struct {
	UID           string
	CreatedAt     time.Time
	InitialShards int
	Revision      int64
	Map           *placement.Map
	Shards        []RegisteredShard // sorted by id
	Moves         []placement.Move  // sorted by id

	Connected bool      // the registry answers
	Contact   time.Time // of its last answer
	Problem   string    // why the view stands still; "" if it does not
}

// RegisteredShard is a shard as the registry has it.
type RegisteredShard struct {
	ID           ledger.ShardID
	Draining     bool
	DSN          string // without secrets
	Weight       int
	RegisteredAt time.Time
	Timeline     int
}

// Shard is one shard, asked for people: what it has, whoever owns it. Errors are *ledger.Error, whose message says what the
// server has said.
type Shard interface {
	SeeUser(ctx context.Context, id ledger.UserID) (ledger.UserSight, error)
	SeeTransfer(ctx context.Context, id ledger.Identity, slots ...ledger.Slot) (ledger.TransferSight, error)
	SeeStarts(ctx context.Context, id ledger.TxID) ([]ledger.StepSight, error)
	SeeSagas(ctx context.Context, q ledger.SagaQuery) ([]ledger.SagaSight, error)
	UsersLike(ctx context.Context, prefix string, limit int) ([]string, error)
	TransfersLike(ctx context.Context, prefix string, limit int) ([]string, error)
	// SeeHistory reads the latest entries of an account of a user who lives there.
	SeeHistory(
		ctx context.Context, user ledger.UserID, currency ledger.Currency, before int64, limit int,
	) (ledger.HistoryPage, error)
	Counters(ctx context.Context) (ledger.ShardCounters, error)
	// MoveProgress is that of a move to this shard.
	MoveProgress(ctx context.Context, id placement.MoveID) (rebalance.Progress, error)
}

// Shards opens shards.
type Shards interface {
	// Shard returns a shard, or false if it is not open in this process.
	Shard(id ledger.ShardID) (Shard, bool)
	// Standing connects to a shard's server and tells what that is.
	Standing(ctx context.Context, id ledger.ShardID) (Standing, error)
}

// Sagas drives sagas.
type Sagas interface {
	// Retry tries the next steps of a pending saga at once, each one time. It returns the saga as it is known then, pending
	// with the error for which the last step had no answer. What has ended meanwhile stays as it ended.
	Retry(ctx context.Context, saga ledger.Saga) (ledger.Saga, error)
}

// Auditor audits the cluster all the time.
type Auditor interface {
	// Status returns at once.
	Status() AuditStatus
}

// Config is what the face is made of. Registry, Shards and Sagas are required.
type Config struct {
	Registry Registry
	Shards   Shards
	Sagas    Sagas
	Auditor  Auditor // nil: nobody audits

	// Token returns the operator's token as it is now; nil: there is none.
	Token func() (string, error)
	// Loopback says that the listener can be reached from this machine alone.
	Loopback bool

	Name    string // of this coordinator
	Version string
	Client  *http.Client // to ask routers for their metrics; nil: one of its own
	Log     *slog.Logger // discards if nil

	// For tests; zero values mean what is said.
	Heartbeat time.Duration // of a stream on which nothing happens; default 15 s
	Sample    time.Duration // between two looks at counters; default 1 s
	Look      time.Duration // for what nobody tells of: sagas, processes, the audit; default 5 s
	OldSaga   time.Duration // from which on a saga is told as stuck; default 1 min
}

// Face answers operators. Run it as long as it serves.
type Face struct {
	Config
	mux       *http.ServeMux
	journal   *journal
	sampler   *sampler
	searching sync.Mutex // held while ended sagas are looked for
}

// New returns the face. It panics if a required part is missing.
func New(config Config) *Face {
	if config.Registry == nil || config.Shards == nil || config.Sagas == nil {
		panic("admin: New without registry, shards or sagas")
	}
	if config.Client == nil {
		config.Client = &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}, // no proxy
			// An address that was announced is asked, and no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	for value, fallback := range map[*time.Duration]time.Duration{
		&config.Heartbeat: 15 * time.Second, &config.Sample: time.Second,
		&config.Look: 5 * time.Second, &config.OldSaga: time.Minute,
	} {
		if *value == 0 {
			*value = fallback
		}
	}
	f := &Face{Config: config, mux: http.NewServeMux(), journal: newJournal()}
	f.sampler = newSampler(f)
	for _, r := range f.routes() {
		f.mux.HandleFunc(r.method+" "+Prefix+r.path, func(w http.ResponseWriter, q *http.Request) { f.serve(w, q, r) })
	}
	f.mux.HandleFunc("/", func(w http.ResponseWriter, q *http.Request) { f.serve(w, q, route{handle: f.noRoute}) })
	return f
}

// route is one row of the table of routes.
type route struct {
	method, path string
	query        []string // the parameters that may be given, each once
	stream       bool     // handle writes the answer itself
	handle       func(*request) (any, error)
}

func (f *Face) routes() []route {
	const get, post = http.MethodGet, http.MethodPost
	return []route{
		{method: get, path: "/cluster", handle: f.cluster},
		{method: get, path: "/shards", handle: f.listShards},
		{method: get, path: "/shards/{id}", handle: f.shard},
		{method: get, path: "/slots", query: []string{"shard", "user", "slot"}, handle: f.slots},
		{method: get, path: "/moves", query: []string{"all"}, handle: f.listMoves},
		{method: get, path: "/moves/{id}", handle: f.move},
		{method: post, path: "/moves/{id}/pause", handle: f.pauseMove},
		{method: post, path: "/moves/{id}/resume", handle: f.resumeMove},
		{method: post, path: "/moves/{id}/abort", handle: f.abortMove},
		{method: get, path: "/sagas", query: []string{"state", "older_than", "shard", "limit", "after"}, handle: f.listSagas},
		{method: get, path: "/sagas/{initiator}/{tx_id}", handle: f.saga},
		{method: post, path: "/sagas/{initiator}/{tx_id}/retry", handle: f.retrySaga},
		{method: get, path: "/users/{id}", handle: f.user},
		{method: get, path: "/users/{id}/transfers/{tx_id}", handle: f.userTransfer},
		{method: get, path: "/transfers/{tx_id}", handle: f.transfers},
		{method: get, path: "/audit", handle: f.audit},
		{method: get, path: "/figures", handle: f.figures},
		{method: get, path: "/events", stream: true, handle: f.events},
		{method: get, path: "/openapi.yaml", stream: true, handle: f.openAPI},
	}
}

// ServeHTTP implements http.Handler, for every path under Prefix.
func (f *Face) ServeHTTP(w http.ResponseWriter, q *http.Request) { f.mux.ServeHTTP(w, q) }

// Run keeps the journal of changes until ctx ends. Streams end with it.
func (f *Face) Run(ctx context.Context) {
	defer f.Client.CloseIdleConnections()
	defer f.journal.close()
	f.follow(ctx)
}

const (
	questionTime = 2 * time.Second  // for a question to a shard or the registry
	searchTime   = 10 * time.Second // for one that has to look at all there is
	retryTime    = 8 * time.Second  // for the steps of a saga: a lane has its own patience
)
