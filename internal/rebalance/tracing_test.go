package rebalance

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// switching is a registry that switches.
type switching struct{ *records }

func (switching) Switch(_ context.Context, move placement.Move, _ int64) (placement.Move, error) {
	move.Phase, move.Epochs = placement.PhaseSwitched, placement.Epochs{2, 2}
	return move, nil
}

// told is a pair that is told.
type told struct {
	*script
	activate error
}

func (p told) Activate(context.Context, []placement.Hold) error { return p.activate }
func (told) Tombstone(context.Context, []placement.Hold) error  { return nil }

// opensTold is the Shards that have that pair.
type opensTold struct {
	Shards
	pair told
}

func (o opensTold) Pair(*View, placement.Move, int64) (Pair, error) { return o.pair, nil }

func TestMoveIsTraced(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	for i, c := range []struct {
		activate error
		want     string
	}{
		{nil, "mark, unfence, fence, final, switch, activate, tombstone, fence slots, catchup, move"},
		{errors.New("the target is down"), "mark, unfence, fence, final, switch, activate!, fence slots!, catchup!, move"},
	} {
		r := newRecords(t, placement.PhaseCatchup)
		r.view.Moves[0].ID = placement.MoveID([]string{"m0", "m1"}[i])
		m := newTestMover(nil)
		m.registry, m.move, m.tracer = switching{r}, r.view.Moves[0], provider.Tracer("")
		m.metrics = newMetrics().of(m.move)
		m.shards = opensTold{pair: told{
			script: &script{final: func(context.Context) (int, error) { return 0, nil }}, activate: c.activate,
		}}
		ctx, span := m.work(t.Context(), "move")
		if err := m.step(ctx); !errors.Is(err, c.activate) {
			t.Error(err)
		}
		span.End()
		var names []string
		for _, s := range spans.Ended() {
			if s.SpanContext().TraceID() != tracing.MoveTrace(m.move.ID).TraceID() {
				continue
			}
			name := s.Name()
			if s.Status().Code == codes.Error {
				name += "!"
			}
			names = append(names, name)
		}
		if got := strings.Join(names, ", "); got != c.want {
			t.Errorf("the move is told as %s, not %s", got, c.want)
		}
	}
}
