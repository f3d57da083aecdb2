package local_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/saldo-ledger/saldo/internal/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testContext ends with the test, and before a hung test would be killed
// together with what it has to clean up.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantLocked(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, local.ErrLocked) {
		t.Errorf("the error is %v, not ErrLocked", err)
	}
}
