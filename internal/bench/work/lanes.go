package work

import (
	"context"
	"errors"

	"github.com/saldo-ledger/saldo/internal/bench/load"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// Lane makes transfers within one shard straight on its lane, in this process: what a router does without HTTP and routing.
func Lane(lane *shard.Shard, m *placement.Map, transfers Transfers) load.Call {
	return func(ctx context.Context, caller int, n int64) (int, error) {
		t := transfers(caller, n)
		_, payer := m.HoldOn(t.Initiator)
		_, payee := m.HoldOn(t.Payee)
		result, err := lane.Submit(ctx, ledger.Operation{Transfer: t, Step: ledger.StepStart}, payer, payee)
		switch {
		case err != nil:
			return 0, laneError{err}
		case result.Reason != ledger.Applied:
			return 0, laneError{&ledger.Error{Code: ledger.Code(result.Reason), Message: "refused"}}
		case result.Replayed:
			return 0, errReplayed
		}
		return 1, nil
	}
}

// errReplayed is of a transfer that was done before: its generator gave an id twice.
var errReplayed = errors.New("the transfer was done before: its transaction id is not new")

// laneError is counted under the ledger's code.
type laneError struct{ error }

func (e laneError) Unwrap() error { return e.error }

func (e laneError) ErrorCode() string {
	if code := ledger.CodeOf(e.error); code != "" {
		return string(code)
	}
	return "error"
}
