package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/auditor"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Audits one after another while money moves within and between shards at full speed: never a false alarm, and never
// incomplete.
func TestNoFalseAlarms(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	var users []ledger.UserID
	for _, id := range shardIDs {
		for i := range 6 {
			users = append(users, userOn(id, fmt.Sprintf("u%d", i)))
		}
	}
	for _, user := range users {
		w.must(part{user: user}, part{op: add(user, "open", 1000)})
	}

	var (
		working sync.WaitGroup
		stop    atomic.Bool
		steps   atomic.Int64
	)
	for worker := range 8 {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for i := 0; !stop.Load(); i++ {
				payer, payee := users[random.IntN(len(users))], users[random.IntN(len(users))]
				if random.IntN(10) == 0 {
					payee = userOn(shardIDs[random.IntN(3)], "nobody")
				}
				tx := fmt.Sprintf("%d-%d", worker, i)
				n, err := transfer(w, payer, tx, payee, ledger.Amount(1+random.IntN(400)))
				if err != nil {
					t.Error(err)
					return
				}
				steps.Add(int64(n))
			}
		})
	}
	// The order of the rounds is exact: where no slot moves there is not even a suspect.
	options := audit.Options{Chunk: 64, Patience: time.Minute, Progress: func(text string) {
		if strings.HasSuffix(text, "again") {
			t.Error(text)
		}
	}}
	always := auditor.New(w, auditor.Config{Audit: options}, slog.New(slog.DiscardHandler))
	audits := 0
	for begun := time.Now(); time.Since(begun) < time.Second || audits < 3; audits++ {
		always.Round(t.Context())
		if r := w.audit(options); r.Verdict != audit.Clean {
			t.Errorf("after %d steps:\n%s", steps.Load(), table(r))
			break
		}
	}
	stop.Store(true)
	working.Wait()
	always.Round(t.Context())
	mustBeClean(t, always, steps.Load())
	r := w.audit(audit.Options{})
	if usd := r.Totals[0]; r.Verdict != audit.Clean || r.Pending != 0 || usd.InTransit.Sign() != 0 || usd.Users.Int64() != 1000*int64(len(users)) {
		t.Errorf("in the end:\n%s", table(r))
	}
	t.Logf("%d audits during %d steps\n%s", audits, steps.Load(), table(r))
}

// between is a world in which something happens in round 1, after s1's snapshot was taken and before s2's.
type between struct {
	*world
	happens func()
	taken   chan struct{} // s1's, of round 1
	once    [2]sync.Once
}

func (b *between) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	if id == "s2" {
		<-b.taken
		b.once[0].Do(b.happens)
	}
	snapshot, err := b.world.Snapshot(ctx, id)
	if id == "s1" {
		b.once[1].Do(func() { close(b.taken) })
	}
	return snapshot, err
}

// A whole saga between two snapshots of a round: its credit is seen in round 1, its start is not. Then one of which the
// end is seen and the credit is not.
func TestSagaBetweenSnapshots(t *testing.T) {
	t.Parallel()
	for _, ends := range [][2]ledger.UserID{{a1, b1}, {b1, a1}} {
		w := newWorld(t, templates)
		op := debit(ends[0], "between", ends[1], 500)
		b := &between{world: w, taken: make(chan struct{}), happens: func() {
			w.must(part{op: op}, part{op: credit(op)}, part{op: op, complete: true})
		}}
		r, err := audit.Run(t.Context(), b, audit.Options{Progress: func(text string) {
			if strings.HasSuffix(text, "again") {
				t.Error(text)
			}
		}})
		if err != nil || r.Verdict != audit.Clean || r.Totals[1].InTransit.Sign() < 0 {
			t.Errorf("%v\n%s", err, table(r))
		}
	}
}

// transfer does all steps of a transfer, as far as a router and a coordinator would, and returns how many.
func transfer(w *world, payer ledger.UserID, tx string, payee ledger.UserID, amount ledger.Amount) (steps int, err error) {
	op := pay(payer, tx, payee, amount)
	home, hold := w.m.HoldOn(payer)
	there, payeeHold := w.m.HoldOn(payee)
	if home == there {
		return 1, w.tell(part{op: op})
	}
	op.Saga = true
	ctx := w.t.Context()
	started, err := w.by[home].Submit(ctx, op, hold)
	if err != nil || started.Reason != ledger.Applied {
		return 1, err
	}
	credited, err := w.by[there].Submit(ctx, credit(op), payeeHold)
	if err != nil {
		return 2, err
	}
	if credited.Reason != ledger.Applied {
		_, err = w.by[home].Submit(ctx, refund(op, credited.Reason), hold)
		return 3, err
	}
	_, err = w.by[home].Complete(ctx, op.Identity, hold)
	return 3, err
}
