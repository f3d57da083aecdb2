package saga_test

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

// BenchmarkMachine runs sagas from their start to their end, without what the actions cost.
func BenchmarkMachine(b *testing.B) {
	for _, story := range []struct {
		name   string
		events []saga.Event
	}{
		{"completed", []saga.Event{saga.CreditApplied, saga.HomeCompleted}},
		{"refunded", []saga.Event{saga.CreditRefused, saga.HomeRefunded}},
		{"repeated", []saga.Event{saga.NoAnswer, saga.NoAnswer, saga.CreditApplied, saga.NoAnswer, saga.HomeCompleted}},
	} {
		b.Run(story.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				state, action := saga.Start(ledger.SagaPending, ledger.Applied)
				for _, event := range story.events {
					state, action = saga.Step(state, event, ledger.PayeeNotFound)
				}
				if action != saga.Stop {
					b.Fatalf("ended in %v with %v", state, action)
				}
			}
		})
	}
}
