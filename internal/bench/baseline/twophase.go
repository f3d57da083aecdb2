package baseline

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// TwoPhase does transfers between servers as the textbook has it: both sides do their part and PREPARE TRANSACTION side by
// side, the decision is put on disk, then both COMMIT PREPARED side by side. The client is the coordinator. That is three
// round trips and, on each side, two flushes, and one for the decision.
//
// The decision is what a successor goes by when a coordinator has died, or only seems to have. Without it (Unlogged) he
// could still ask every server whether one side has committed, but must be sure that the one before him will never go on.
//
// Two transfers between the same two users may each hold what the other waits for, and no server sees the whole cycle: after
// lock_timeout they are undone, and counted as errors. Between many users that hardly happens.
type TwoPhase struct {
	clients  []*client
	shardOf  func(ledger.UserID) int
	unlogged bool
}

// Unlogged is the same clients without a decision on disk: less than the textbook asks for, and faster.
func (t *TwoPhase) Unlogged() *TwoPhase {
	return &TwoPhase{clients: t.clients, shardOf: t.shardOf, unlogged: true}
}

// client has a connection to each server.
type client []*side

// side is one server's part of a client's transfer. Its connection is in pipeline mode, so that requests to two servers
// are under way at once without a goroutine for each.
type side struct {
	conn     *pgconn.PgConn
	pipeline *pgconn.Pipeline
}

// OpenTwoPhase opens, for each caller, a connection to each of the databases, which are of Create's and on servers with
// max_prepared_transactions of at least as many. shardOf says which database has a user's account. Close them.
func OpenTwoPhase(ctx context.Context, dsns []string, callers int, shardOf func(ledger.UserID) int) (*TwoPhase, error) {
	t := &TwoPhase{shardOf: shardOf}
	for range callers {
		c := &client{}
		t.clients = append(t.clients, c)
		for _, dsn := range dsns {
			s, err := openSide(ctx, dsn)
			if err != nil {
				t.Close()
				return nil, fmt.Errorf("open the 2pc baseline: %w", err)
			}
			*c = append(*c, s)
		}
	}
	return t, nil
}

const (
	debitStatement  = `select balance, version from saldo.debit($1, $2, $3, $4, $5, $6, '')`
	creditStatement = `select balance, version from saldo.credit($1, $2, $3, $4, $5, $6, '')`
	decideStatement = `insert into saldo.decisions (id) values ($1)`
)

func openSide(ctx context.Context, dsn string) (*side, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if config.RuntimeParams["lock_timeout"] == "" {
		config.RuntimeParams["lock_timeout"] = "500ms"
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	for name, statement := range map[string]string{
		"begin": "begin", "debit": debitStatement, "credit": creditStatement, "decide": decideStatement,
	} {
		if _, err := conn.Prepare(ctx, name, statement, nil); err != nil {
			return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
		}
	}
	return &side{conn: conn, pipeline: conn.StartPipeline(context.Background())}, nil
}

// Close ends the connections.
func (t *TwoPhase) Close() {
	for _, c := range t.clients {
		for _, s := range *c {
			_ = s.conn.Close(context.Background()) // nothing is under way
		}
	}
}

// Call makes the transfers.
func (t *TwoPhase) Call(transfers Transfers) load.Call { return calls(transfers, t.Transfer) }

// Transfer does a transfer between two databases once, however often it is called, and returns its outcome. A refusal is
// answered, not recorded.
func (t *TwoPhase) Transfer(_ context.Context, caller int, transfer ledger.Transfer) (ledger.Outcome, error) {
	payer, payee := (*t.clients[caller])[t.shardOf(transfer.Initiator)], (*t.clients[caller])[t.shardOf(transfer.Payee)]
	if payer == payee {
		return ledger.Outcome{}, fmt.Errorf("%s and %s are in one database", transfer.Initiator, transfer.Payee)
	}
	// The first phase. A function that fails skips what follows it in the pipeline: that side is not prepared.
	payer.sendWork("debit", transfer.Initiator, transfer.Payee, transfer)
	payee.sendWork("credit", transfer.Payee, transfer.Initiator, transfer)
	outcome, payerErr := payer.receiveWork()
	_, payeeErr := payee.receiveWork()

	decided := payerErr == nil && payeeErr == nil
	if decided && !t.unlogged {
		if err := payer.decide(transfer.Identity); err != nil {
			return ledger.Outcome{}, err // both sides stay prepared: the decision may be on disk
		}
	}

	// The second.
	payer.sendEnd("debit", transfer.Identity, payerErr == nil, decided)
	payee.sendEnd("credit", transfer.Identity, payeeErr == nil, decided)
	err := errors.Join(payer.receive(nil), payee.receive(nil))

	switch refused := errors.Join(payerErr, payeeErr); {
	case err != nil:
		return ledger.Outcome{}, err
	case refused == nil:
		return outcome, nil
	default:
		return payer.explain(transfer, refused)
	}
}

// preparedName is of one side's transaction. Ids have no character that would have to be quoted.
func preparedName(function string, id ledger.Identity) string { return function + ":" + id.String() }

// sendWork sends one side's part of a transfer: the function's parameters begin with whose account is changed.
func (s *side) sendWork(function string, owner, other ledger.UserID, t ledger.Transfer) {
	s.pipeline.SendQueryPrepared("begin", nil, nil, nil)
	s.pipeline.SendQueryPrepared(function, [][]byte{
		strconv.AppendInt(nil, int64(slotOf(owner)), 10), []byte(owner), []byte(t.TxID), []byte(other),
		strconv.AppendInt(nil, int64(t.Amount), 10), []byte(t.Currency),
	}, nil, nil)
	s.pipeline.SendQueryParams("prepare transaction '"+preparedName(function, t.Identity)+"'", nil, nil, nil, nil)
	_ = s.pipeline.Sync() // what it could not send, it will not receive
}

func (s *side) receiveWork() (outcome ledger.Outcome, err error) {
	err = s.receive(func(row [][]byte) {
		balance, _ := strconv.ParseInt(string(row[0]), 10, 64)
		outcome.Version, _ = strconv.ParseInt(string(row[1]), 10, 64)
		outcome.Balance = ledger.Amount(balance)
	})
	return outcome, err
}

// decide puts on disk that a transfer is to be committed.
func (s *side) decide(id ledger.Identity) error {
	s.pipeline.SendQueryPrepared("decide", [][]byte{[]byte(id.String())}, nil, nil)
	_ = s.pipeline.Sync()
	return s.receive(nil)
}

// sendEnd ends a side's transaction, which may be prepared or have failed before.
func (s *side) sendEnd(function string, id ledger.Identity, prepared, commit bool) {
	statement := "rollback"
	switch {
	case prepared && commit:
		statement = "commit prepared '" + preparedName(function, id) + "'"
	case prepared:
		statement = "rollback prepared '" + preparedName(function, id) + "'"
	}
	s.pipeline.SendQueryParams(statement, nil, nil, nil, nil)
	_ = s.pipeline.Sync()
}

// receive reads the answers up to a sync and gives the rows among them to scan.
func (s *side) receive(scan func(row [][]byte)) error {
	var failed error
	for {
		results, err := s.pipeline.GetResults()
		var refused *pgconn.PgError
		switch {
		case errors.As(err, &refused): // the sync is still to come
			failed = err
			continue
		case err != nil:
			return err
		}
		switch answer := results.(type) {
		case nil:
			return errors.New("a request was not sent")
		case *pgconn.PipelineSync:
			return failed
		case *pgconn.ResultReader:
			for answer.NextRow() {
				scan(answer.Values())
			}
			if _, err := answer.Close(); err != nil {
				failed = err
			}
		}
	}
}

const outcomeStatement = `
select reason, balance, version
from saldo.operations
where slot = $1 and tx_id = $2 and initiator = $3 and step = 1`

// explain returns the outcome of a transfer that was voted against: the first one's, or why.
func (s *side) explain(t ledger.Transfer, refused error) (ledger.Outcome, error) {
	var why *pgconn.PgError
	if !errors.As(refused, &why) {
		return ledger.Outcome{}, refused
	}
	switch why.Code {
	case "SB001":
		return ledger.Outcome{Reason: ledger.Reason(why.Message)}, nil
	case "23505": // unique_violation
	default:
		return ledger.Outcome{}, refused
	}
	s.pipeline.SendQueryParams(outcomeStatement, [][]byte{
		strconv.AppendInt(nil, int64(slotOf(t.Initiator)), 10), []byte(t.TxID), []byte(t.Initiator),
	}, nil, nil, nil)
	_ = s.pipeline.Sync()
	var outcome *ledger.Outcome
	err := s.receive(func(row [][]byte) {
		balance, _ := strconv.ParseInt(string(row[1]), 10, 64)
		version, _ := strconv.ParseInt(string(row[2]), 10, 64)
		outcome = &ledger.Outcome{Reason: ledger.Reason(row[0]), Balance: ledger.Amount(balance), Version: version}
	})
	switch {
	case err != nil:
		return ledger.Outcome{}, err
	case outcome == nil: // it was another unique key
		return ledger.Outcome{}, refused
	}
	return *outcome, nil
}

// Clean ends the transactions that dead clients left prepared, as their transfers were decided: committed if the decision is
// there or one side has committed, undone if not. No client may be at work. It returns how many there were.
func Clean(ctx context.Context, dsns ...string) (int, error) {
	var conns []*pgx.Conn
	defer func() {
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for _, dsn := range dsns {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return 0, fmt.Errorf("clean the 2pc baseline: %w", err)
		}
		conns = append(conns, conn)
	}
	left := 0
	for _, conn := range conns {
		names, err := prepared(ctx, conn)
		if err != nil {
			return left, fmt.Errorf("clean the 2pc baseline: %w", err)
		}
		for _, name := range names {
			if err := end(ctx, conns, conn, name); err != nil {
				return left, fmt.Errorf("clean the 2pc baseline: %w", err)
			}
			left++
		}
	}
	return left, nil
}

func prepared(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `select gid from pg_prepared_xacts where database = current_database()`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

const decidedStatement = `
select exists (select from saldo.decisions where id = $1)
    or exists (select from saldo.operations where initiator || '/' || tx_id = $1)`

func end(ctx context.Context, all []*pgx.Conn, conn *pgx.Conn, name string) error {
	_, id, _ := strings.Cut(name, ":")
	decided := false
	for _, other := range all {
		var there bool
		if err := other.QueryRow(ctx, decidedStatement, id).Scan(&there); err != nil {
			return err
		}
		decided = decided || there
	}
	verb := "rollback"
	if decided {
		verb = "commit"
	}
	_, err := conn.Exec(ctx, verb+" prepared '"+name+"'")
	return err
}
