package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// Moving slots: the SQL of it. Package rebalance says what is done when; this is how, and why each transaction is safe.
//
// # Two kinds of transactions
//
// A change of slots (move_slots.go) takes the advisory lock exclusively: it waits for every transaction that has checked its
// slots, at most 100 ms, in which others queue behind it. Then it reads the slots, a pure function says for each what it
// becomes or why it must not, and all are written in the same transaction, with what belongs to it: what is booked against
// @moved, and the pending sagas (the oldest, if there are very many), which are written anew so that they stand in the queue
// behind the moment in which they became visible.
//
// A write of rows (move_copy.go, move_clean.go) takes the lock shared, like a batch, and then asks guard_move whether the
// slots are what it needs, under this move and token. It is never held while another server is waited for: rows come into
// temporary tables first, in no transaction. Nor while a copy that was deleted is read over to find what is left of it.
//
// # The exact delta
//
// Every row carries the transaction that wrote it (accounts do not; their entries do). What a saved snapshot of the source
// did not see is what was committed since, in whatever order. A pass reads that in one REPEATABLE READ transaction, whose
// own snapshot is saved at the target together with the last of its rows; the first copy reads chunk by chunk with fresh
// snapshots, which is enough since its saved snapshot is older than all of them. The visibility function uses no index, so
// each query names the transactions itself: those that had not begun, and the few that had not ended.
//
// That holds as long as the source gives out no transaction number again. After a crash it knows only of those that are in
// its log on disk, so a snapshot is stored only after a commit of the mover's own has brought the log there. With a source
// that is another server, has another timeline, or is behind what was read of it before, the copy does not go on.
//
//	users, operations, entries   rows that the snapshot did not see. Inserted if absent; one that is there must be the same
//	accounts                     those with such an entry. The larger version wins
//	sagas                        those of such a start; and those pending at the target, if they have changed
//
// Nothing is deleted while a slot is owned, so a delta needs no deletions. Accounts without an entry are not copied: an
// account comes into being with its first one.
//
// # What is compared
//
// What is inserted and is there already must be the same. After each pass every account that it touched must be what its
// newest entry says, at the target, and its entries must join those that were there; and what all accounts of each slot come
// to must be what it was at the source, whatever the pass has read. Before the fence all history is compared slot by slot by
// sums of hashes, as of the latest pass, and accounts, users and sagas with it (move_verify.go). So nothing that is done
// inside the fence grows with history; it does with the number of the slots' accounts.
//
// # What a failover loses
//
// A promoted standby may know less than was decided. A target is activated only by the pass that was made under the fence
// and stored on the timeline that it is on: else ErrNotFinal, and it is copied to again. A copy is deleted only while the
// other shard knows of its epoch, and a shard that takes itself for the owner at an older one is not called clean. What a
// source takes for its own in vain is fenced when it is adopted (adopt.go).

// PairConfig says which slots move from where to where, and for which mover.
type PairConfig struct {
	Source, Target Config // of these Cluster, ID, DSN, Timeline, Password and Name
	MoveID         placement.MoveID
	Slots          placement.SlotSet
	Fenced         bool  // the registry knows that the source may have fenced them
	Token          int64 // the leader's; 0 for whoever only tells the shards what was decided
}

// Pair is the source and the target of a move, for its mover. It implements rebalance.Pair, whose methods it documents. It
// is for one goroutine at a time.
type Pair struct {
	config PairConfig
	log    *slog.Logger
	slots  []int16 // of the move, ascending

	source, target *moverConn // change slots and write rows
	reader         *moverConn // of the source: reads rows

	staged   map[*movedTable]bool // whose staging tables have rows
	cleaning cleaning
}

var _ rebalance.Pair = (*Pair)(nil)

// OpenPair returns the pair without connecting. Close ends it.
func OpenPair(config PairConfig, log *slog.Logger) (*Pair, error) {
	p := &Pair{config: config, slots: slotNumbers(config.Slots), staged: make(map[*movedTable]bool)}
	p.log = log.With("move", config.MoveID, "source", config.Source.ID, "target", config.Target.ID)
	for _, side := range []struct {
		conn   **moverConn
		shard  Config
		more   map[string]string
		opened string // on each new connection
	}{
		{&p.source, config.Source, lookups, ""},
		{&p.target, config.Target, lookups, createStagingStatement},
		{&p.reader, config.Source, reads, ""},
	} {
		conn, err := newMoverConn(side.shard, side.opened, side.more)
		if err != nil {
			return nil, err
		}
		*side.conn = conn
	}
	return p, nil
}

// Close ends the connections.
func (p *Pair) Close() {
	p.source.close()
	p.target.close()
	p.reader.close()
}

// moves is for every session of a mover.
var moves = map[string]string{
	// For the advisory lock: others queue behind whoever waits for it exclusively.
	"lock_timeout": "100ms",
}

// reads is for the session that reads the source. It writes nothing that needs to be durable, so its statements may be
// timed out.
var reads = map[string]string{
	"statement_timeout": "10min",
	// A pass holds no locks, only vacuum back, while the target takes its rows in. That neither this nor the above ends if
	// nobody reads what the source sends.
	"idle_in_transaction_session_timeout": "1min",
	"tcp_user_timeout":                    "1min",
	"enable_seqscan":                      "off",
	"enable_bitmapscan":                   "off", // but for deltas
	"enable_sort":                         "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
	"max_parallel_workers_per_gather":     "0",
}

// moverConn is a connection to one shard in the movers' role, opened when it is needed and again after it broke.
type moverConn struct {
	shard   Config
	session *pgx.ConnConfig
	opened  string    // is run on each new connection
	conn    *pgx.Conn // nil before it is needed
}

func newMoverConn(shard Config, opened string, more map[string]string) (*moverConn, error) {
	shard.setDefaults()
	session, err := connConfig(shard.DSN, shard.Password, roleMover, shard.Name+" move", moves, expecting(shard.Timeline), more)
	if err != nil {
		return nil, fmt.Errorf("open shard %s: %w", shard.ID, err)
	}
	mustBe(session, shard.Cluster, shard.ID)
	return &moverConn{shard: shard, session: session, opened: opened}, nil
}

// errSchema: rows are moved only between tables of the same shape, and this program knows one.
var errSchema = fmt.Errorf("%w: its schema is not this program's", ErrUnfit)

// get returns the connection, idle. Like a lane's it can send no cancel requests: see the package's doc.
func (m *moverConn) get(ctx context.Context) (*pgx.Conn, error) {
	if m.conn != nil && !m.conn.IsClosed() && m.conn.PgConn().TxStatus() == 'I' {
		return m.conn, nil
	}
	m.close()
	conn, err := connectWithoutCancel(ctx, m.session)
	if err != nil {
		return nil, m.failed("connect", err)
	}
	m.conn = conn
	if err := m.greet(ctx); err != nil {
		m.close()
		return nil, m.failed("connect", err)
	}
	return conn, nil
}

func (m *moverConn) greet(ctx context.Context) error {
	var (
		pipeline pgx.Batch
		schema   int64
	)
	pipeline.Queue(schemaVersionStatement).QueryRow(func(row pgx.Row) error { return row.Scan(&schema) })
	pipeline.Queue(durableStatement)
	if err := m.conn.SendBatch(ctx, &pipeline).Close(); err != nil {
		return err
	}
	newest, err := SchemaVersion()
	if err != nil {
		return err
	}
	if schema != newest {
		return fmt.Errorf("%w: it has version %d, and this program moves rows of version %d only", errSchema, schema, newest)
	}
	if m.opened != "" {
		_, err = m.conn.PgConn().Exec(ctx, m.opened).ReadAll()
	}
	return err
}

func (m *moverConn) close() {
	if m.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = m.conn.Close(ctx) // what was not committed is to be done again
	m.conn = nil
}

// rollback ends a transaction that failed or that has nothing to commit.
func (m *moverConn) rollback() {
	if m.conn == nil || m.conn.IsClosed() || m.conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := m.conn.Exec(ctx, "rollback"); err != nil {
		m.close()
	}
}

// failed makes an error of this shard's one that callers know, as rebalance.Pair tells them.
func (m *moverConn) failed(doing string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case stateLockTimeout:
			err = fmt.Errorf("%w: %w", rebalance.ErrBusy, err)
		case stateTokenLost:
			err = fmt.Errorf("%w: %s", rebalance.ErrTokenLost, pg.Message)
		default:
			err = ownership(err)
		}
	}
	return fmt.Errorf("shard %s: %s: %w", m.shard.ID, doing, err)
}

func slotNumbers(slots placement.SlotSet) []int16 {
	numbers := make([]int16, len(slots))
	for i, slot := range slots {
		numbers[i] = int16(slot)
	}
	return numbers
}
