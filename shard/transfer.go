package shard

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

const transferColumns = `
       o.initiator, o.tx_id, o.kind, o.saga, o.payee, o.amount, o.currency, o.reason, o.balance, o.version, o.description,
       o.created_at, s.state, s.cause, s.ended_at`

const transferStatement = `
select ` + owned + `, ` + transferColumns + `
from (values ($1::smallint, $2::text, $3::text)) as wanted(slot, initiator, tx_id)
left join slots owned on owned.slot = wanted.slot
left join operations o on o.slot = wanted.slot and o.tx_id = wanted.tx_id and o.initiator = wanted.initiator and o.step = 1
left join sagas s on o.saga and s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator`

// Transfer reads what became of a transfer at its home. Errors: CodeTransferNotFound, CodeUnavailable,
// *placement.OwnershipError.
func (s *Shard) Transfer(ctx context.Context, id ledger.Identity) (ledger.TransferRecord, error) {
	args := []any{int16(placement.SlotOf(id.Initiator)), string(id.Initiator), string(id.TxID)}
	records, err := s.transfers(ctx, transferStatement, args)
	if err != nil {
		return ledger.TransferRecord{}, err
	}
	if len(records) == 0 {
		return ledger.TransferRecord{}, &ledger.Error{Code: ledger.CodeTransferNotFound, Message: "transfer not found"}
	}
	return records[0], nil
}

// One probe of the key for each slot.
const transfersByTxIDStatement = `
select ` + owned + `, ` + transferColumns + `
from unnest($1::smallint[]) as wanted(slot)
left join slots owned on owned.slot = wanted.slot
left join operations o on o.slot = wanted.slot and o.tx_id = $2 and o.step = 1
left join sagas s on o.saga and s.slot = o.slot and s.tx_id = o.tx_id and s.initiator = o.initiator
where o.slot is not null or owned.state is distinct from 'owned'
order by (owned.state = 'owned') nulls first -- a slot that is not owned is never cut off
limit 100`

// TransfersByTxID reads the transfers with a tx_id of any initiator in the slots, at most 100. Errors: CodeUnavailable,
// *placement.OwnershipError if one of the slots is not owned.
func (s *Shard) TransfersByTxID(ctx context.Context, id ledger.TxID, slots []ledger.Slot) ([]ledger.TransferRecord, error) {
	numbers := make([]int16, len(slots))
	for i, slot := range slots {
		numbers[i] = int16(slot)
	}
	return s.transfers(ctx, transfersByTxIDStatement, []any{numbers, string(id)})
}

func (s *Shard) transfers(ctx context.Context, query string, args []any) ([]ledger.TransferRecord, error) {
	var records []ledger.TransferRecord
	err := s.read(ctx, query, args, func(row pgx.Rows, guard *[]byte) error {
		var (
			initiator, txID, payee, currency, reason, description, cause *string
			kind, state                                                  *int16
			saga                                                         *bool
			amount, balance, version                                     *int64
			created, ended                                               *time.Time
		)
		err := row.Scan(guard, &initiator, &txID, &kind, &saga, &payee, &amount, &currency, &reason, &balance, &version,
			&description, &created, &state, &cause, &ended)
		if err != nil || initiator == nil {
			return err
		}
		r := ledger.TransferRecord{CreatedAt: *created, EndedAt: *created}
		r.Step, r.Saga, r.Description = ledger.StepStart, *saga, *description
		r.Transfer = ledger.Transfer{
			Identity: ledger.Identity{Initiator: ledger.UserID(*initiator), TxID: ledger.TxID(*txID)},
			Kind:     ledger.Kind(*kind), Payee: ledger.UserID(*payee),
			Amount: ledger.Amount(*amount), Currency: ledger.Currency(*currency),
		}
		r.Outcome = ledger.Outcome{Reason: ledger.Reason(*reason), Balance: ledger.Amount(*balance), Version: *version}
		if state != nil {
			r.State, r.Cause, r.EndedAt = ledger.SagaState(*state), ledger.Reason(*cause), time.Time{}
			if ended != nil {
				r.EndedAt = *ended
			}
		}
		records = append(records, r)
		return nil
	})
	return records, err
}
