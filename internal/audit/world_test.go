package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const clusterID = "11111111-2222-3333-4444-555555555555"

var shardIDs = []ledger.ShardID{"s1", "s2", "s3"}

func foundMap(t testing.TB) *placement.Map {
	m, err := placement.NewMap(7, placement.Found(shardIDs))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// templates are shards that story was told to; empty ones have the slots only.
var (
	templates = [3]*pgtest.Schema{template(0, true), template(1, true), template(2, true)}
	empty     = [3]*pgtest.Schema{template(0, false), template(1, false), template(2, false)}
)

// blank is s4, which has no slots.
var blank = pgtest.Template("audit_blank", func(dsn string) error {
	if _, err := shard.Migrate(context.Background(), dsn, ""); err != nil {
		return err
	}
	return shard.Enroll(context.Background(), dsn, "", clusterID, "s4")
})

func template(i int, told bool) *pgtest.Schema {
	name := fmt.Sprintf("audit_%d", i)
	if told {
		name += "_told"
	}
	return pgtest.Template(name, func(dsn string) error {
		ctx, id := context.Background(), shardIDs[i]
		if _, err := shard.Migrate(ctx, dsn, ""); err != nil {
			return err
		}
		if err := shard.Enroll(ctx, dsn, "", clusterID, id); err != nil {
			return err
		}
		m, err := placement.NewMap(7, placement.Found(shardIDs))
		if err != nil {
			return err
		}
		if err := shard.Found(ctx, dsn, "", clusterID, id, m); err != nil || !told {
			return err
		}
		s, err := shard.Open(shard.Config{Cluster: clusterID, ID: id, DSN: dsn}, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer s.Close()
		for _, part := range story {
			if m.OwnerOf(part.owner()).Shard == id {
				if err := part.tell(ctx, s, m); err != nil {
					return fmt.Errorf("%+v: %w", part, err)
				}
			}
		}
		return nil
	})
}

// part is one thing that happens on one shard: a user is born, an operation is done or a saga completed.
type part struct {
	user     ledger.UserID
	op       ledger.Operation
	complete bool // of op's saga
}

func (p part) owner() ledger.UserID {
	switch {
	case p.user != "":
		return p.user
	case p.complete:
		return p.op.Initiator
	}
	return p.op.Owner()
}

func (p part) tell(ctx context.Context, s *shard.Shard, m *placement.Map) error {
	_, hold := m.HoldOn(p.owner())
	switch {
	case p.user != "":
		_, _, err := s.CreateUser(ctx, ledger.User{ID: p.user, Name: string(p.user)}, hold)
		return err
	case p.complete:
		_, err := s.Complete(ctx, p.op.Identity, hold)
		return err
	}
	holds := []placement.Hold{hold}
	if p.op.Step == ledger.StepStart && p.op.Kind == ledger.KindTransfer && !p.op.Saga {
		_, hold := m.HoldOn(p.op.Payee)
		holds = append(holds, hold)
	}
	_, err := s.Submit(ctx, p.op, holds...)
	return err
}

func start(kind ledger.Kind, initiator ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	return ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: initiator, TxID: ledger.TxID(tx)}, Kind: kind, Payee: payee,
		Amount: amount, Currency: "USD",
	}}
}

func add(user ledger.UserID, tx string, amount ledger.Amount) ledger.Operation {
	return start(ledger.KindAdd, user, tx, "", amount)
}

func pay(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	return start(ledger.KindTransfer, payer, tx, payee, amount)
}

func debit(payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) ledger.Operation {
	op := pay(payer, tx, payee, amount)
	op.Saga = true
	return op
}

func credit(start ledger.Operation) ledger.Operation {
	start.Step, start.Saga = ledger.StepCredit, false
	return start
}

func refund(start ledger.Operation, cause ledger.Reason) ledger.Operation {
	start.Step, start.Saga, start.Cause = ledger.StepRefund, false, cause
	return start
}

func euros(op ledger.Operation) ledger.Operation {
	op.Currency = "EUR"
	return op
}

// The people of the story, named for where they live: a1 and a2 on s1, b1 and b2 on s2, c1 on s3; c9 does not exist.
var a1, a2, b1, b2, c1, c9 = userOn("s1", "a1"), userOn("s1", "a2"), userOn("s2", "b1"), userOn("s2", "b2"), userOn("s3", "c1"), userOn("s3", "c9")

func userOn(id ledger.ShardID, prefix string) ledger.UserID {
	owners := placement.Found(shardIDs)
	for i := 0; ; i++ {
		user := ledger.UserID(fmt.Sprintf("%s.%d", prefix, i))
		if owners[placement.SlotOf(user)].Shard == id {
			return user
		}
	}
}

// story has every kind of operation, and every state of a saga.
var story = func() []part {
	var parts []part
	for _, user := range []ledger.UserID{a1, a2, b1, b2, c1} {
		parts = append(parts, part{user: user}, part{op: add(user, "open", 1000)}, part{op: euros(add(user, "open-eur", 50))})
	}
	completed, refunded := debit(a1, "completed", b1, 100), debit(a1, "refunded", c9, 30)
	credited, begun, back := debit(b1, "credited", c1, 20), debit(c1, "begun", a2, 10), debit(c1, "back", a1, 5)
	for _, op := range []ledger.Operation{
		pay(a1, "local", a2, 200),
		start(ledger.KindWithdraw, b2, "withdraw", "", 40),
		start(ledger.KindWithdraw, b2, "too-much", "", 5000),
		pay(b1, "local", b2, 1),
		add(c9, "nobody", 1),
		completed, credit(completed),
		refunded, credit(refunded), refund(refunded, ledger.PayeeNotFound),
		credited, credit(credited),
		begun,
		back, credit(back),
	} {
		parts = append(parts, part{op: op})
	}
	return append(parts, part{op: completed, complete: true}, part{op: back, complete: true})
}()

// world is three shards of the shared Postgres.
type world struct {
	t    testing.TB
	m    *placement.Map
	view audit.View
	dsn  map[ledger.ShardID]string
	by   map[ledger.ShardID]*shard.Shard

	// before is called at each View, and each Snapshot with the shard.
	before func(id ledger.ShardID)

	mu    sync.Mutex // guards pools
	pools map[ledger.ShardID]*pgxpool.Pool
}

func newWorld(t testing.TB, from [3]*pgtest.Schema) *world {
	t.Helper()
	w := blankWorld(t)
	for i, id := range shardIDs {
		w.open(id, pgtest.Database(t, from[i]))
	}
	return w
}

func blankWorld(t testing.TB) *world {
	w := &world{
		t: t, m: foundMap(t),
		dsn: make(map[ledger.ShardID]string), by: make(map[ledger.ShardID]*shard.Shard), pools: make(map[ledger.ShardID]*pgxpool.Pool),
	}
	w.view = audit.View{Cluster: clusterID, Shards: shardIDs, Map: w.m}
	return w
}

// with returns a world of the story in which a test has some shards for itself. The others, which it only reads, are w's.
func (w *world) with(t testing.TB, own ...ledger.ShardID) *world {
	t.Helper()
	alone := blankWorld(t)
	for i, id := range shardIDs {
		if slices.Contains(own, id) {
			alone.open(id, pgtest.Database(t, templates[i]))
		} else {
			alone.dsn[id], alone.by[id] = w.dsn[id], w.by[id]
		}
	}
	return alone
}

func (w *world) open(id ledger.ShardID, dsn string) {
	w.t.Helper()
	s, err := shard.Open(shard.Config{Cluster: clusterID, ID: id, DSN: dsn}, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	w.dsn[id], w.by[id] = dsn, s
}

func (w *world) View(context.Context) (audit.View, error) {
	if w.before != nil {
		w.before("")
	}
	return w.view, nil
}

func (w *world) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	if w.before != nil {
		w.before(id)
	}
	return w.by[id].Snapshot(ctx)
}

func (w *world) SnapshotOf(ctx context.Context, id ledger.ShardID, part audit.Part) (audit.Marked, error) {
	if w.before != nil {
		w.before(id)
	}
	return w.by[id].SnapshotOf(ctx, part)
}

// tell lets an operation happen where it belongs.
func (w *world) tell(parts ...part) error {
	for _, p := range parts {
		if err := p.tell(context.Background(), w.by[w.m.OwnerOf(p.owner()).Shard], w.m); err != nil {
			return fmt.Errorf("%+v: %w", p, err)
		}
	}
	return nil
}

func (w *world) must(parts ...part) {
	w.t.Helper()
	if err := w.tell(parts...); err != nil {
		w.t.Fatal(err)
	}
}

// sql does what no service may do: it runs as superuser.
func (w *world) sql(id ledger.ShardID, statement string, args ...any) {
	w.t.Helper()
	if _, err := w.superuser(id).Exec(context.Background(), statement, args...); err != nil {
		w.t.Fatalf("%s: %v", statement, err)
	}
}

func (w *world) superuser(id ledger.ShardID) *pgxpool.Pool {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pools[id] == nil {
		config, err := pgxpool.ParseConfig(w.dsn[id])
		if err != nil {
			w.t.Fatal(err)
		}
		config.ConnConfig.RuntimeParams["search_path"] = "saldo"
		pool, err := pgxpool.NewWithConfig(context.Background(), config)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(pool.Close)
		w.pools[id] = pool
	}
	return w.pools[id]
}

func (w *world) audit(options audit.Options) *audit.Report {
	w.t.Helper()
	if options.Patience == 0 {
		options.Patience = 30 * time.Millisecond
	}
	if options.Pause == 0 {
		options.Pause = 20 * time.Millisecond
	}
	report, err := audit.Run(context.Background(), w, options)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}
