package admission_test

import (
	"context"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/admission"
)

func BenchmarkEnterLeave(b *testing.B) {
	limiter := admission.New(admission.Config{Target: 25 * time.Millisecond, Always: 128})
	b.ReportAllocs()
	for b.Loop() {
		limiter.Enter(context.Background(), 1)
		limiter.Leave(1)
	}
}
