package routing_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/routing"
	"github.com/saldo-ledger/saldo/saga"
	"github.com/saldo-ledger/saldo/shard"
)

// process is a process of the cluster: its own connections to the shards, its own map, its own router.
type process struct {
	*system
	router *routing.Router
	shards map[ledger.ShardID]*shard.Shard
}

// another is another process of the same cluster.
func (s *system) another(change ...func(*routing.Config)) *process {
	s.t.Helper()
	other := &system{
		t: s.t, ctx: s.ctx, dsns: s.dsns, seen: s.seen, truth: s.truth, open: map[ledger.ShardID]routing.Shard{},
		spies: map[ledger.ShardID]*spy{}, told: make(chan struct{}),
	}
	p := &process{system: other, shards: map[ledger.ShardID]*shard.Shard{}}
	for id, dsn := range s.dsns {
		p.shards[id] = other.openAt(id, dsn)
	}
	p.router = other.router(change...)
	return p
}

// runs makes the process a coordinator for all homes until the test is over.
func (p *process) runs(ctx context.Context, group *sync.WaitGroup, handover time.Duration) {
	p.runsWith(ctx, group, saga.Config{Handover: handover, Poll: 20 * time.Millisecond, Sweep: 2 * time.Second})
}

func (p *process) runsWith(ctx context.Context, group *sync.WaitGroup, config saga.Config) {
	for _, s := range p.shards {
		driver := saga.NewDriver(s, p.router, config, slog.New(slog.NewTextHandler(&p.log, nil)))
		group.Go(func() { driver.Run(ctx) })
	}
}

// Two routers and two coordinators on three shards, without HTTP and etcd: what clients do in a few seconds, with repeats,
// at both routers.
func TestWholeSmallSystem(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 3)
	ctx, stop := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	routers := []*process{s.another(handover(time.Second)), s.another(handover(30 * time.Millisecond))}
	coordinators := []*process{s.another(), s.another()}
	for _, p := range coordinators {
		p.runs(ctx, &running, 50*time.Millisecond) // before the first router gives up: both work on some sagas
	}

	var users []ledger.UserID
	for _, id := range []ledger.ShardID{"s1", "s2", "s3"} {
		users = append(users, s.usersOn(id, 5)...)
	}
	s.create(routers[0].router, 200, users...)
	strangers := []ledger.UserID{s.usersOn("s1", 6)[5], s.usersOn("s2", 6)[5], s.usersOn("s3", 6)[5]}

	// told is what a client was answered last: a status that is final never changes.
	var (
		mu       sync.Mutex
		told     = map[ledger.Identity]ledger.TransferRecord{}
		wanted   = map[ledger.Identity]ledger.Operation{}
		statuses = map[ledger.Status]int{}
		replays  int
	)
	hear := func(record ledger.TransferRecord, replayed bool, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		before, known := told[record.Identity]
		if replayed {
			replays++
		}
		if known && (before.Outcome != record.Outcome ||
			before.Status() != ledger.StatusPending && record.Status() != ledger.StatusPending && before.Status() != record.Status()) {
			t.Errorf("%v was told %s %+v and then %s %+v", record.Identity, before.Status(), before.Outcome, record.Status(), record.Outcome)
		}
		if !known || before.Status() == ledger.StatusPending {
			told[record.Identity] = record
		}
		statuses[record.Status()]++
	}
	enough := func() bool { // each way to be answered was seen
		mu.Lock()
		defer mu.Unlock()
		return len(statuses) == 4
	}
	end := time.Now().Add(3 * time.Second)
	var clients sync.WaitGroup
	for client := range 24 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(client)))
			var mine []ledger.Operation
			for i := 0; time.Now().Before(end) || !enough() && time.Now().Before(end.Add(long)); i++ {
				var op ledger.Operation
				if len(mine) > 0 && rng.IntN(3) == 0 {
					op = mine[rng.IntN(len(mine))]
				} else {
					from, to := users[rng.IntN(len(users))], users[rng.IntN(len(users))]
					if rng.IntN(10) == 0 {
						to = strangers[rng.IntN(len(strangers))]
					}
					op = transfer(from, to, ledger.TxID(fmt.Sprintf("c%d.%d", client, i)), ledger.Amount(1+rng.IntN(60)))
					switch rng.IntN(8) {
					case 0:
						op.Kind, op.Payee = ledger.KindAdd, ""
					case 1:
						op.Kind, op.Payee = ledger.KindWithdraw, ""
					case 2:
						op.Currency = "EUR"
					case 3:
						op.Kind, op.Payee, op.Currency = ledger.KindAdd, "", "EUR"
					}
					mine = append(mine, op)
					mu.Lock()
					wanted[op.Identity] = op
					mu.Unlock()
				}
				if wait := []time.Duration{0, 500 * time.Millisecond}[rng.IntN(2)]; rng.IntN(5) == 0 { // twice at once
					var twin sync.WaitGroup
					for _, p := range routers {
						twin.Go(func() { hear(p.router.Transfer(s.ctx, op, wait)) })
					}
					twin.Wait()
				} else {
					hear(routers[rng.IntN(2)].router.Transfer(s.ctx, op, wait))
				}
			}
		})
	}
	clients.Wait()
	began := time.Now()
	eventually(t, "all sagas end", func() bool { return s.askAll(`select count(*) from saldo.sagas where state = 1`) == 0 })
	t.Logf("%d transfers, %d replays, %v; all ended %v after the last", len(wanted), replays, statuses, time.Since(began))
	for _, status := range []ledger.Status{ledger.StatusCompleted, ledger.StatusPending, ledger.StatusRefused, ledger.StatusRefunded} {
		if statuses[status] == 0 {
			t.Errorf("nothing was %s: the load is too tame", status)
		}
	}

	// Every transfer exactly once, with the outcome that was told.
	final := s.finals()
	for id, op := range wanted {
		record, ok := final[id]
		if !ok || record.Transfer != op.Transfer {
			t.Errorf("%v is stored as %+v", id, record.Transfer)
			continue
		}
		before := told[id]
		if before.Outcome != record.Outcome || before.Status() != ledger.StatusPending && before.Status() != record.Status() {
			t.Errorf("%v was told %s %+v and is %s %+v", id, before.Status(), before.Outcome, record.Status(), record.Outcome)
		}
		entries := map[ledger.Status]int64{ledger.StatusCompleted: 2, ledger.StatusRefunded: 2, ledger.StatusRefused: 0}[record.Status()]
		if op.Kind != ledger.KindTransfer && entries == 2 {
			entries = 1
		}
		if record.entries != entries {
			t.Errorf("%v is %s and has %d entries", id, record.Status(), record.entries)
		}
	}
	if len(final) != len(wanted)+len(users) {
		t.Errorf("%d transfers are stored, %d were asked for", len(final), len(wanted)+len(users))
	}
	s.mustBeSound()
	for _, p := range coordinators {
		if p.log.errors() > 0 {
			t.Errorf("a coordinator complained: %s", p.log.text.String())
		}
	}
}

type final struct {
	ledger.TransferRecord
	entries int64
}

// finals reads all starts, with the number of entries of each transfer on all shards.
func (s *system) finals() map[ledger.Identity]final {
	s.t.Helper()
	all := map[ledger.Identity]final{}
	entries := map[ledger.Identity]int64{}
	for id := range s.dsns {
		s.on(id, func(conn *pgx.Conn) error {
			rows, err := conn.Query(s.ctx, `
				select o.initiator, o.tx_id, o.kind, o.payee, o.amount, o.currency, o.reason, o.balance, o.version,
				       coalesce(s.state, 0), coalesce(s.cause, '')
				from saldo.operations o left join saldo.sagas s using (slot, initiator, tx_id)
				join saldo.slots w on w.slot = o.slot and w.state = 'owned' where o.step = 1`)
			if err != nil {
				return err
			}
			var f final
			_, err = pgx.ForEachRow(rows, []any{&f.Initiator, &f.TxID, &f.Kind, &f.Payee, &f.Amount, &f.Currency, &f.Reason, &f.Balance,
				&f.Version, &f.State, &f.Cause}, func() error {
				if _, twice := all[f.Identity]; twice {
					return fmt.Errorf("%v is stored twice", f.Identity)
				}
				all[f.Identity] = f
				return nil
			})
			if err != nil {
				return err
			}
			var id ledger.Identity
			var n int64
			rows, err = conn.Query(s.ctx, `
				select case when kind = 3 and amount > 0 and step <> 3 then counterparty else user_id end, tx_id, count(*)
				from saldo.entries join saldo.slots w using (slot) where w.state = 'owned' group by 1, 2`)
			if err != nil {
				return err
			}
			_, err = pgx.ForEachRow(rows, []any{&id.Initiator, &id.TxID, &n}, func() error { entries[id] += n; return nil })
			return err
		})
	}
	for id, f := range all {
		f.entries = entries[id]
		all[id] = f
	}
	return all
}

// mustBeSound holds all shards to the promises, per currency. Copies that a move left behind do not count.
func (s *system) mustBeSound() {
	s.t.Helper()
	const owned = ` join saldo.slots w using (slot) where w.state = 'owned'`
	for _, currency := range []string{"USD", "EUR"} {
		users := s.askAll(`select coalesce(sum(balance), 0)::bigint from saldo.accounts`+owned+` and currency = $1`, currency)
		entries := s.askAll(`select coalesce(sum(amount), 0)::bigint from saldo.entries`+owned+` and currency = $1`, currency)
		const system = `select coalesce(sum(system_amount), 0)::bigint from saldo.operations` + owned + ` and currency = $1 and system_account = `
		world, transit := s.askAll(system+`'@world'`, currency), s.askAll(system+`'@transit'`, currency)
		if users != entries || users != -world || transit != 0 || users == 0 && currency == "USD" {
			s.t.Errorf("%s: users %d, entries %d, world %d, transit %d", currency, users, entries, world, transit)
		}
	}
	for id := range s.dsns {
		if n := s.ask(id, `select count(*) from (
			select balance, sum(amount) over w sum, version, row_number() over w n
			from saldo.entries window w as (partition by slot, user_id, currency order by version)) e
			where balance <> sum or balance < 0 or version <> n`); n != 0 {
			s.t.Errorf("%s: %d entries are wrong", id, n)
		}
		if n := s.ask(id, `select count(*) from (select slot, initiator, tx_id, count(*) filter (where step <> 1) from saldo.operations
			group by 1, 2, 3 having count(*) filter (where step <> 1 and reason = '') > 1) x`); n != 0 {
			s.t.Errorf("%s: %d transfers have two ends", id, n)
		}
	}
}

// Two coordinators with an old map end sagas of slots that have moved since, home slots and payees' slots; some of them run
// on one shard by now.
func TestCoordinatorsFollowMovedSlots(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	payers, payees := s.usersOn("s1", 3), s.usersOn("s2", 5)
	s.create(r, 10_000, append(payers, payees[:4]...)...)
	var ops []ledger.Operation
	for i := range 200 {
		payee := payees[i%4]
		if i%10 == 0 {
			payee = payees[4] // whom nobody created
		}
		op := transfer(payers[i%3], payee, ledger.TxID(fmt.Sprint(i)), 10)
		s.mustBe(r, op, 0, ledger.StatusPending, "", false)
		ops = append(ops, op)
	}
	coordinators := []*process{s.another(), s.another()}
	s.move(payees[0], "s1")
	s.move(payers[1], "s2")
	ctx, stop := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, p := range coordinators {
		p.set(func() { p.truth = s.truth })
		p.runs(ctx, &running, -1)
	}
	eventually(t, "all sagas end", func() bool {
		return s.askAll(`select count(*) from saldo.sagas s join saldo.slots o using (slot) where s.state = 1 and o.state = 'owned'`) == 0
	})
	for i, op := range ops {
		status, why := ledger.StatusCompleted, ledger.Applied
		if i%10 == 0 {
			status, why = ledger.StatusRefunded, ledger.PayeeNotFound
		}
		s.mustBe(r, op, 0, status, why, true)
	}
	s.mustBeConserved()
}
