package shard

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Balance reads one account; zero if the user has none in the currency. Errors: CodeUserNotFound, CodeUnavailable,
// *placement.OwnershipError.
func (s *Shard) Balance(ctx context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	return s.balances.read(ctx, ledger.AccountKey{User: user, Currency: currency})
}

// balanceReader coalesces reads: those that arrive while its queries run form the next one. A read never joins a query
// that was sent before it arrived, so it sees all that was answered before.
type balanceReader struct {
	shard   *Shard
	arrived chan struct{} // room for one

	mu      sync.Mutex
	waiting []*balanceRead
	under   int  // queries under way
	late    bool // what waits has waited long enough for others
	timed   bool // late will be set
	closed  bool // nobody takes what waits
}

type balanceRead struct {
	key  ledger.AccountKey
	done chan balanceAnswer // room for one
}

type balanceAnswer struct {
	account ledger.Account
	err     error
}

const (
	balanceReaders = 2   // queries in flight
	worthBalances  = 128 // reads that wait before a second query is sent beside the first
)

func newBalanceReader(s *Shard) *balanceReader {
	return &balanceReader{shard: s, arrived: make(chan struct{}, 1)}
}

func (r *balanceReader) start(ctx context.Context, running *sync.WaitGroup) {
	readers := balanceReaders
	if r.shard.config.BalanceBatch == 1 { // no coalescing: as many queries as there are connections
		readers = r.shard.config.ReadConns
	}
	for range readers {
		running.Go(func() {
			defer tracing.Crash(r.shard.log, "reading balances")
			r.run(ctx)
		})
	}
}

func (r *balanceReader) read(ctx context.Context, key ledger.AccountKey) (ledger.Account, error) {
	read := &balanceRead{key: key, done: make(chan balanceAnswer, 1)}
	if err := r.enqueue(read); err != nil {
		return ledger.Account{}, err
	}
	asked := time.Now()
	due(r.arrived)
	select {
	case a := <-read.done:
		r.tellBalance(ctx, read, asked, a.err)
		return a.account, a.err
	case <-ctx.Done():
		err := ledger.Unavailable("the shard is down or busy: try again", ctx.Err())
		r.tellBalance(ctx, read, asked, err)
		return ledger.Account{}, err
	}
}

func (r *balanceReader) enqueue(read *balanceRead) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return shuttingDown()
	case len(r.waiting) >= r.shard.config.QueueSize:
		return ledger.Overloaded("the shard has too many reads waiting: try again")
	}
	r.waiting = append(r.waiting, read)
	if r.under > 0 && !r.timed {
		r.timed = true
		time.AfterFunc(maxGather, r.setLate)
	}
	return nil
}

func (r *balanceReader) setLate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timed, r.late = false, len(r.waiting) > 0
	due(r.arrived)
}

func (r *balanceReader) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			r.answerAll(r.close(), shuttingDown())
			return
		case <-r.arrived:
		}
		for reads := r.gather(); len(reads) > 0; reads = r.gather() {
			r.query(ctx, reads)
			r.ended()
		}
	}
}

// gather lets those who are about to ask do so first: a query has its price, which many should share. It takes no time
// where nobody is.
func (r *balanceReader) gather() []*balanceRead {
	if r.shard.config.BalanceBatch > 1 {
		runtime.Gosched()
	}
	return r.take()
}

// take returns the reads that wait, and wakes another reader if it leaves enough for it.
func (r *balanceReader) take() []*balanceRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	reads := r.waiting
	if len(reads) == 0 || r.under > 0 && !r.late && len(reads) < min(worthBalances, r.shard.config.BalanceBatch) {
		return nil
	}
	if limit := r.shard.config.BalanceBatch; len(reads) > limit {
		reads, r.waiting = reads[:limit:limit], reads[limit:]
		due(r.arrived)
	} else {
		r.waiting = nil
	}
	r.under++
	r.late = false
	return reads
}

func (r *balanceReader) ended() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.under--
}

// close lets no more reads wait, and returns those that do.
func (r *balanceReader) close() []*balanceRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	reads := r.waiting
	r.waiting, r.closed = nil, true
	return reads
}

func (r *balanceReader) answerAll(reads []*balanceRead, err error) {
	for _, read := range reads {
		read.done <- balanceAnswer{err: err}
	}
}

const balancesStatement = `
select ` + owned + `, wanted.n,
       case when a.user_id is not null then true
       else exists (select from users u where u.slot = wanted.slot and u.id = wanted.user_id) end,
       coalesce(a.balance, 0), coalesce(a.version, 0)
from (select generate_series(1, cardinality($1::smallint[])) as n,
             unnest($1::smallint[]) as slot, unnest($2::text[]) as user_id, unnest($3::text[]) as currency) wanted
left join slots owned on owned.slot = wanted.slot
left join accounts a on a.slot = wanted.slot and a.user_id = wanted.user_id and a.currency = wanted.currency`

func (r *balanceReader) query(ctx context.Context, reads []*balanceRead) {
	ctx, cancel := context.WithTimeout(ctx, r.shard.config.RoundTrip)
	defer cancel()
	n := len(reads)
	slots, users, currencies := make([]int16, n), make([]string, n), make([]string, n)
	for i, read := range reads {
		slots[i], users[i], currencies[i] = int16(placement.SlotOf(read.key.User)), string(read.key.User), string(read.key.Currency)
	}
	answers := make([]balanceAnswer, n)
	err := r.shard.readEach(ctx, balancesStatement, []any{slots, users, currencies},
		func(row pgx.Rows, guard *[]byte) (answer *error, err error) {
			var (
				i      int64
				exists bool
				a      ledger.Account
			)
			if err := row.Scan(guard, &i, &exists, &a.Balance, &a.Version); err != nil {
				return nil, err
			}
			answers[i-1].account = a
			if !exists {
				answers[i-1].err = userNotFound()
			}
			return &answers[i-1].err, nil
		})
	if err != nil {
		r.answerAll(reads, err)
		return
	}
	for i, read := range reads {
		read.done <- answers[i]
	}
}

func shuttingDown() error { return ledger.Unavailable("shutting down: try again", nil) }

func userNotFound() error {
	return &ledger.Error{Code: ledger.CodeUserNotFound, Message: "user not found"}
}

func due(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}
