package saga_test

import (
	"flag"
	"os"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

var update = flag.Bool("update", false, "rewrite testdata/machine.golden")

func TestTableIsTheReviewedOne(t *testing.T) {
	t.Parallel()
	const golden = "testdata/machine.golden"
	got := saga.Table()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the machine is not the one in %s (run with -update and review the difference):\n%s", golden, got)
	}
}

func TestCauseIsKept(t *testing.T) {
	t.Parallel()
	s, _ := saga.Start(ledger.SagaPending, ledger.Applied)
	s, action := saga.Step(s, saga.CreditRefused, ledger.BalanceLimit)
	if action != saga.SendRefund || s.Cause != ledger.BalanceLimit {
		t.Fatalf("after a refusal: %v, %v", s, action)
	}
	s, _ = saga.Step(s, saga.NoAnswer, ledger.Applied)
	s, action = saga.Step(s, saga.HomeRefunded, ledger.Applied)
	if action != saga.Stop || s != (saga.State{Phase: saga.Refunded, Cause: ledger.BalanceLimit}) {
		t.Fatalf("after the refund: %v, %v", s, action)
	}
}
