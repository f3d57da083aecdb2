package saga

import (
	"context"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/tracing"
)

// Carry takes sagas that were just begun to their ends, as far as nothing comes between, and returns those that have
// ended, with State and Cause. It is the short way: whoever has begun a saga knows that, and needs no queue to find it. It
// tries each step once, and again only when a slot that was refused has moved. What it does not end by the time that ctx does stays in the
// queue of its home, for a Driver.
func Carry(ctx context.Context, steps Steps, begun []ledger.Saga) (ended []ledger.Saga) {
	runs, under := make([]run, len(begun)), make([]*run, len(begun))
	tracer := tracing.Tracer("saga")
	for i := range runs {
		r := &runs[i]
		r.Saga, r.Saga.State = begun[i], ledger.SagaPending
		r.start(ctx, tracer)
		under[i] = r
	}
	ended = make([]ledger.Saga, 0, len(begun))
	var (
		refused []*run // wait for their slots; the others do not wait for them
		slots   []ledger.Slot
	)
	for tries := 0; len(under) > 0; {
		answers := act(ctx, steps, under)
		next := under[:0]
		for i, r := range under {
			answered := r.learn(&answers[i])
			slot, aboutSlot := refusedSlot(answers[i].Err)
			switch {
			case answered && r.action == Stop:
				ended = append(ended, r.ended())
				r.stop()
			case answered && r.action != Alarm:
				next = append(next, r)
			case aboutSlot:
				refused, slots = append(refused, r), append(slots, slot)
			default: // a Driver tries again, and a Driver tells a person
				r.stop()
			}
		}
		if under = next; len(under) == 0 && len(refused) > 0 {
			if !awaitAgain(ctx, steps, slots, tries) {
				break
			}
			tries++
			under, refused, slots = refused, nil, nil
		}
	}
	for _, r := range refused {
		r.stop()
	}
	return ended
}

// awaitAgain waits for slots, and longer the more often they were refused, whatever Steps thinks. It returns false if ctx has
// ended.
func awaitAgain(ctx context.Context, steps Steps, slots []ledger.Slot, tries int) bool {
	steps.Await(ctx, slots)
	return sleep(ctx, jitter(5*time.Millisecond<<min(tries, 5)))
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
