package operatortest_test

import (
	"fmt"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/operatortest"
)

func TestFakeConforms(t *testing.T) {
	t.Parallel()
	fake, made := operatortest.NewFake(), 0
	operatortest.Conform(t, operatortest.World{
		Ledger: fake,
		Database: func() string {
			made++
			return fmt.Sprint("postgres://nowhere/", made)
		},
		Down:  func(dsn string) { fake.DownAt(dsn) },
		Sagas: func(id ledger.ShardID, _ string) { fake.Sagas(id, 1) },
	})
}
