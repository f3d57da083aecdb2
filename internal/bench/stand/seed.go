package stand

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// Currency is what all measurements move.
const Currency ledger.Currency = "USD"

// user names the users that Seed makes.
func user(n int) ledger.UserID { return ledger.UserID(fmt.Sprintf("bench-%07d", n)) }

// seeding is how Seed uses a lane: many callers, so that a commit holds many operations.
const (
	seedCallers = 1024 // for each shard
	seedBatch   = 2048
)

// Seed makes users with an amount each, straight through the lanes, and returns them by shard, in the order of Shards. Those
// that are there already stay as they are, and the first users are the same whatever n is: a stand may be seeded again with
// more.
func (s *Stand) Seed(ctx context.Context, n int, amount ledger.Amount) ([][]ledger.UserID, error) {
	users := make([][]ledger.UserID, len(s.Shards))
	for i := range n {
		on := s.ShardOf(user(i))
		users[on] = append(users[on], user(i))
	}
	var done atomic.Int64
	stop := s.tell(func() string { return fmt.Sprintf("making users: %d of %d", done.Load(), n) })
	defer stop()
	group, groupCtx := errgroup.WithContext(ctx)
	for i, of := range users {
		group.Go(func() error {
			return s.withLane(s.Shards[i].ID, func(lane *shard.Shard) error {
				return share(groupCtx, len(of), seedCallers, func(k int) error {
					_, hold := s.Map().HoldOn(of[k])
					if _, _, err := lane.CreateUser(groupCtx, ledger.User{ID: of[k], Name: "of a measurement"}, hold); err != nil {
						return fmt.Errorf("make user %s: %w", of[k], err)
					}
					if err := add(groupCtx, lane, of[k], "bench-seed", amount, hold); err != nil {
						return err
					}
					done.Add(1)
					return nil
				})
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return users, s.vacuum(ctx)
}

// vacuum does on a stand of its own what autovacuum would do at a moment of its choice, soon after so many inserts.
func (s *Stand) vacuum(ctx context.Context) error {
	if s.own == nil {
		return nil
	}
	for _, shard := range s.Shards {
		conn, err := pgx.Connect(ctx, shard.DSN)
		if err != nil {
			return fmt.Errorf("vacuum shard %s: %w", shard.ID, err)
		}
		_, err = conn.Exec(ctx, `vacuum analyze`)
		if err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))); err != nil {
			return fmt.Errorf("vacuum shard %s: %w", shard.ID, err)
		}
	}
	return nil
}

// Deepen makes a user whose history is at least depth entries long, straight through the lane, and returns it.
func (s *Stand) Deepen(ctx context.Context, depth int64) (ledger.UserID, error) {
	const deep ledger.UserID = "bench-deep"
	id, hold := s.Map().HoldOn(deep)
	var done atomic.Int64
	stop := s.tell(func() string { return fmt.Sprintf("making a long history: %d of %d entries", done.Load(), depth) })
	defer stop()
	err := s.withLane(id, func(lane *shard.Shard) error {
		if _, _, err := lane.CreateUser(ctx, ledger.User{ID: deep, Name: "with a long history"}, hold); err != nil {
			return fmt.Errorf("make user %s: %w", deep, err)
		}
		account, err := lane.Balance(ctx, deep, Currency)
		if err != nil {
			return err
		}
		done.Store(account.Version)
		run := time.Now().UnixNano()
		return share(ctx, int(max(depth-account.Version, 0)), 2*seedCallers, func(k int) error {
			err := add(ctx, lane, deep, ledger.TxID(fmt.Sprintf("bench-deep-%d-%d", run, k)), 1, hold)
			done.Add(1)
			return err
		})
	})
	if err != nil {
		return "", err
	}
	return deep, s.vacuum(ctx)
}

func add(
	ctx context.Context, lane *shard.Shard, to ledger.UserID, id ledger.TxID, amount ledger.Amount, hold placement.Hold,
) error {
	result, err := lane.Submit(ctx, ledger.Operation{Step: ledger.StepStart, Transfer: ledger.Transfer{
		Identity: ledger.Identity{Initiator: to, TxID: id}, Kind: ledger.KindAdd, Amount: amount, Currency: Currency,
	}}, hold)
	switch {
	case ledger.CodeOf(err) == ledger.CodeConflict:
		return fmt.Errorf("give user %s money: it had another amount before, choose a new cluster: %w", to, err)
	case err != nil:
		return fmt.Errorf("give user %s money: %w", to, err)
	case result.Reason != ledger.Applied:
		return fmt.Errorf("give user %s money: %s", to, result.Reason)
	}
	return nil
}

func (s *Stand) withLane(id ledger.ShardID, do func(*shard.Shard) error) error {
	lane, err := s.Open(id, func(c *shard.Config) { c.MaxBatch, c.QueueSize = seedBatch, 4*seedCallers })
	if err != nil {
		return err
	}
	defer lane.Close()
	return do(lane)
}

// share does n things, at most callers at a time, and stops at the first error.
func share(ctx context.Context, n, callers int, do func(i int) error) error {
	var next atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	for range min(callers, n) {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n && groupCtx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// tell says how something goes about twice a second, until stop is called.
func (s *Stand) tell(how func() string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(500 * time.Millisecond); ; {
			s.progress(how())
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}
