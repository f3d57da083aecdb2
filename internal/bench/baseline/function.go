package baseline

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Function does each transfer by one call of one stored function, each a transaction.
type Function struct {
	conns []*pgx.Conn // by caller
}

// OpenFunction opens a connection for each caller to a database of Create's. Close them.
func OpenFunction(ctx context.Context, dsn string, callers int) (*Function, error) {
	f := &Function{}
	for range callers {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("open the function baseline: %w", err)
		}
		f.conns = append(f.conns, conn)
	}
	return f, nil
}

// Close ends the connections.
func (f *Function) Close() {
	for _, conn := range f.conns {
		_ = conn.Close(context.Background()) // nothing is under way
	}
}

// Call makes the transfers.
func (f *Function) Call(transfers Transfers) load.Call { return calls(transfers, f.Transfer) }

const transferStatement = `select why, balance, version from saldo.transfer($1, $2, $3, $4, $5, $6, $7, '')`

// Transfer does a transfer once, however often it is called, and returns its outcome.
func (f *Function) Transfer(ctx context.Context, caller int, t ledger.Transfer) (outcome ledger.Outcome, err error) {
	err = f.conns[caller].QueryRow(ctx, transferStatement, slotOf(t.Initiator), t.Initiator, t.TxID, slotOf(t.Payee), t.Payee,
		t.Amount, t.Currency).Scan(&outcome.Reason, &outcome.Balance, &outcome.Version)
	return outcome, err
}
