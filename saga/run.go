package saga

import (
	"context"

	"go.opentelemetry.io/otel/trace"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// run is one saga under way: where the machine stands, and what it does next.
type run struct {
	Pending
	state  State
	action Action
	trail

	// Of a driver's, guarded by its mutex:
	ours   bool         // its home was this by the map
	place  *destination // whose share it takes
	tries  int          // without an answer for a reason of its own
	silent int          // tries until a person may be told again
}

// start begins a saga that is pending or was left anywhere on its way, and continues the trace of its request.
func (r *run) start(ctx context.Context, tracer trace.Tracer) {
	r.state, r.action = Start(r.State, r.Cause)
	r.trail = newTrail(ctx, tracer, &r.Pending)
}

// stop ends what start began.
func (r *run) stop() { r.trail.end(r.action, r.state) }

// operation is the step that the next action submits: a credit or a refund.
func (r *run) operation() ledger.Operation {
	if r.action == SendRefund {
		return ledger.Operation{Transfer: r.Transfer, Step: ledger.StepRefund, Cause: r.state.Cause}
	}
	return ledger.Operation{Transfer: r.Transfer, Step: ledger.StepCredit}
}

// learn lets the machine decide by the answer to the action what is next. It returns false if that is to try again.
func (r *run) learn(answer *ledger.Answer) (answered bool) {
	event, cause := r.event(answer)
	state, action := Step(r.state, event, cause)
	if r.state = state; action != None {
		r.action = action
	}
	return event != NoAnswer
}

// event says what the answer to the action means.
func (r *run) event(answer *ledger.Answer) (Event, ledger.Reason) {
	result, err := &answer.Result, answer.Err
	switch r.action {
	case SendCredit:
		switch {
		case err != nil:
			return NoAnswer, ""
		case result.Reason != ledger.Applied:
			return CreditRefused, result.Reason
		}
		return CreditApplied, ""
	case SendRefund:
		switch {
		case err != nil && result.State == ledger.SagaCompleted:
			return HomeCompleted, ""
		case err != nil:
			return NoAnswer, ""
		}
		return HomeRefunded, r.state.Cause
	default:
		switch {
		case result.State == ledger.SagaRefunded:
			return HomeRefunded, ""
		case err != nil:
			return NoAnswer, ""
		}
		return HomeCompleted, ""
	}
}
