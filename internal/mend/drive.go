package mend

import (
	"context"
	"errors"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Books are the shards, each user's found by the map. Errors are as package routing's Shard has them.
type Books interface {
	Balance(ctx context.Context, user ledger.UserID, currency ledger.Currency) (ledger.Account, error)
	Submit(ctx context.Context, op ledger.Operation) (ledger.Result, error)
	Complete(ctx context.Context, id ledger.Identity) (ledger.SagaState, error)
}

// ErrForPerson is returned by Drive for what cannot be mended by sending a step again. Its text says why and what to do.
var ErrForPerson = errors.New("this is for a person")

// Description stands in the history of a start that was driven again: what the client wrote is lost.
const Description = "driven again: its first record was lost"

// Drive sends the side of a transfer that was lost once more. Doing that again changes nothing, nor does it if nothing was
// lost. After nil, the transfer is whole, or a coordinator brings it to its end. The error is ErrForPerson, or says that a
// shard could not do it now.
func Drive(ctx context.Context, books Books, tear Tear) error {
	t := tear.Transfer
	switch tear.Kind {
	case CreditLost:
		return driveCredit(ctx, books, t)
	case StartLost:
		return driveStart(ctx, books, t, tear.Refused)
	case RefusalLost:
		return fmt.Errorf("%w: no money is missing, since the payer was refunded; only the record of the refusal is, "+
			"and the credit must not be sent again: it might be applied now",
			ErrForPerson)
	case StartRefused:
		return fmt.Errorf("%w: %s has %d %s which nobody paid, and the refusal of the start stands: withdraw them, "+
			"or have the payer pay by a new transfer that is withdrawn again",
			ErrForPerson, t.Payee, t.Amount, t.Currency)
	}
	return fmt.Errorf("unknown kind of tear %q", tear.Kind)
}

// driveCredit gives the payee what the payer has paid.
func driveCredit(ctx context.Context, books Books, t ledger.Transfer) error {
	account, err := balance(ctx, books, t.Payee, t.Currency)
	if err != nil {
		return err
	}
	if account.Balance > ledger.MaxAmount-t.Amount { // a refusal would stand
		return fmt.Errorf("%w: %s has %d %s and cannot have more: make room, then drive it again",
			ErrForPerson, t.Payee, account.Balance, t.Currency)
	}
	result, err := books.Submit(ctx, ledger.Operation{Transfer: t, Step: ledger.StepCredit})
	switch {
	case err != nil:
		return fmt.Errorf("credit %v again: %w", t.Identity, err)
	case result.Reason != ledger.Applied:
		return fmt.Errorf("%w: the credit was refused this time (%s), which stands: the money is in @transit, add it to whom it belongs to",
			ErrForPerson, result.Reason)
	}
	return nil
}

// driveStart takes from the payer what the payee was given. If the payee's shard has refused it, a coordinator gives it back.
func driveStart(ctx context.Context, books Books, t ledger.Transfer, refused bool) error {
	account, err := balance(ctx, books, t.Initiator, t.Currency)
	if err != nil {
		return err
	}
	if account.Balance < t.Amount { // a refusal would stand
		return fmt.Errorf("%w: %s has %d %s left, %d are to be paid: see that there is enough, then drive it again",
			ErrForPerson, t.Initiator, account.Balance, t.Currency, t.Amount)
	}
	result, err := books.Submit(ctx, ledger.Operation{Transfer: t, Step: ledger.StepStart, Saga: true, Description: Description})
	switch {
	case err != nil:
		return fmt.Errorf("start %v again: %w", t.Identity, err)
	case result.Reason != ledger.Applied:
		return fmt.Errorf("%w: the start was refused this time (%s), which stands", ErrForPerson, result.Reason)
	case refused:
		return nil
	}
	if _, err := books.Complete(ctx, t.Identity); err != nil {
		return fmt.Errorf("complete %v again: %w", t.Identity, err)
	}
	return nil
}

func balance(ctx context.Context, books Books, user ledger.UserID, currency ledger.Currency) (ledger.Account, error) {
	account, err := books.Balance(ctx, user, currency)
	if ledger.CodeOf(err) == ledger.CodeUserNotFound {
		return account, fmt.Errorf("%w: user %s was lost too: create the user, then drive it again", ErrForPerson, user)
	}
	return account, err
}
