package saga

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Carry takes sagas that were just begun to their ends, as far as nothing comes between, and returns those that have
// ended, with State and Cause. It is the short way: whoever has begun a saga knows that, and needs no queue to find it. It
// tries each step once, and again only while a slot moves. What it does not end by the time that ctx does stays in the
// queue of its home, for a Driver.
func Carry(ctx context.Context, steps Steps, begun []ledger.Saga) (ended []ledger.Saga) {
	runs, under := make([]run, len(begun)), make([]*run, len(begun))
	tracer := otel.Tracer(tracerName)
	for i := range runs {
		r := &runs[i]
		r.Saga, r.Saga.State = begun[i], ledger.SagaPending
		r.start(ctx, tracer)
		under[i] = r
	}
	ended = make([]ledger.Saga, 0, len(begun))
	for tries := 0; len(under) > 0; {
		answers := act(ctx, steps, under)
		next, moves := under[:0], false
		for i, r := range under {
			answered := r.learn(&answers[i])
			_, aboutSlot := refusedSlot(answers[i].Err)
			switch {
			case answered && r.action == Stop:
				ended = append(ended, r.ended())
				r.stop()
			case answered && r.action != Alarm:
				next = append(next, r)
			case aboutSlot:
				next, moves = append(next, r), true
			default: // a Driver tries again, and a Driver tells a person
				r.stop()
			}
		}
		if under = next; moves {
			if tries++; !sleep(ctx, jitter(10*time.Millisecond<<min(tries, 4))) {
				break
			}
		}
	}
	for _, r := range under {
		r.stop()
	}
	return ended
}

// ended returns the saga of a run that has stopped.
func (r *run) ended() ledger.Saga {
	saga := r.Saga
	saga.State, saga.Cause = ledger.SagaCompleted, ""
	if r.state.Phase == Refunded {
		saga.State, saga.Cause = ledger.SagaRefunded, r.state.Cause
	}
	return saga
}
