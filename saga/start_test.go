package saga_test

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

func TestStart(t *testing.T) {
	t.Parallel()
	for stored, want := range map[ledger.SagaState]saga.Action{
		ledger.SagaPending:      saga.SendCredit,
		ledger.SagaCompleted:    saga.Stop,
		ledger.SagaRefunded:     saga.Stop,
		0:                       saga.Alarm,
		ledger.SagaRefunded + 1: saga.Alarm, // written by a newer version
	} {
		if _, got := saga.Start(stored, ledger.PayeeNotFound); got != want {
			t.Errorf("a saga stored as %v: %v, want %v", stored, got, want)
		}
	}
}
