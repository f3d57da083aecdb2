package saga

import (
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Phase is where a running saga stands. Only Completed and Refunded are known durably, by the saga's row at its home; the
// rest is in memory and found again by asking.
type Phase uint8

const (
	Crediting  Phase = iota // the payee's shard has not answered
	Completing              // credited; the home has not confirmed the end
	Refunding               // durably refused by the payee's shard; the home has not confirmed the refund
	Completed
	Refunded
)

// State is a phase and, from Refunding on, the payee's shard's reason.
type State struct {
	Phase Phase
	Cause ledger.Reason
}

// Event is what a saga learned.
type Event uint8

const (
	CreditApplied Event = iota // the payee's shard says: applied, now or earlier
	CreditRefused              // the payee's shard says: refused, durably
	HomeCompleted              // the home says: completed, by this runner or by another
	HomeRefunded               // the home says: refunded, by this runner or by another
	NoAnswer                   // the last action's outcome is unknown: a timeout, a lost reply, a shard that is down
)

// Action is what to do next. Each one may be done any number of times.
type Action uint8

const (
	None         Action = iota // the event changes nothing; keep waiting for the answer to the last action
	SendCredit                 // apply the credit at the payee's shard
	SendComplete               // end the saga at its home
	SendRefund                 // refund at its home, with the cause
	Stop                       // the saga has ended
	Alarm                      // two durable outcomes contradict each other: do nothing more, tell a person
)

// Start returns the state and the first action of a saga that is read from its home. The same for a new saga and for one
// that another runner left anywhere on its way. A stored state that this version does not know is an Alarm: a credit for it
// could make money.
func Start(stored ledger.SagaState, cause ledger.Reason) (State, Action) {
	switch stored {
	case ledger.SagaPending:
		return State{Phase: Crediting}, SendCredit
	case ledger.SagaCompleted:
		return State{Phase: Completed}, Stop
	case ledger.SagaRefunded:
		return State{Phase: Refunded, Cause: cause}, Stop
	}
	return State{Phase: Crediting}, Alarm
}

// Step is the machine. cause is the reason that comes with CreditRefused or HomeRefunded. It is total: an event that a
// correct world cannot produce in a state is answered with Alarm, a late or doubled one with None.
func Step(s State, event Event, cause ledger.Reason) (State, Action) {
	switch s.Phase {
	case Crediting:
		switch event {
		case CreditApplied:
			return State{Phase: Completing}, SendComplete
		case CreditRefused:
			return State{Phase: Refunding, Cause: cause}, SendRefund
		case HomeCompleted: // another runner was faster
			return State{Phase: Completed}, Stop
		case HomeRefunded:
			return State{Phase: Refunded, Cause: cause}, Stop
		case NoAnswer: // unknown is not failed
			return s, SendCredit
		}
	case Completing:
		switch event {
		case CreditApplied:
			return s, None
		case HomeCompleted:
			return State{Phase: Completed}, Stop
		case NoAnswer:
			return s, SendComplete
		case CreditRefused, HomeRefunded:
			return s, Alarm
		}
	case Refunding:
		switch event {
		case CreditRefused:
			return s, None
		case HomeRefunded:
			return State{Phase: Refunded, Cause: s.Cause}, Stop
		case NoAnswer:
			return s, SendRefund
		case CreditApplied, HomeCompleted:
			return s, Alarm
		}
	case Completed:
		if event == CreditRefused || event == HomeRefunded {
			return s, Alarm
		}
	case Refunded:
		if event == CreditApplied || event == HomeCompleted {
			return s, Alarm
		}
	}
	return s, None
}

// Table prints the machine, one line for each state and event. testdata/machine.golden holds it for review.
func Table() string {
	var table strings.Builder
	fmt.Fprintf(&table, "%-12s %-15s %-12s %s\n", "state", "event", "state", "action")
	for phase := Crediting; phase <= Refunded; phase++ {
		for event := CreditApplied; event <= NoAnswer; event++ {
			next, action := Step(State{Phase: phase}, event, ledger.PayeeNotFound)
			fmt.Fprintf(&table, "%-12v %-15v %-12v %v\n", phase, event, next.Phase, action)
		}
	}
	return table.String()
}

func (p Phase) String() string {
	return [...]string{"crediting", "completing", "refunding", "completed", "refunded"}[p]
}

func (e Event) String() string {
	return [...]string{"credit-applied", "credit-refused", "home-completed", "home-refunded", "no-answer"}[e]
}

func (a Action) String() string {
	return [...]string{"none", "credit", "complete", "refund", "stop", "ALARM"}[a]
}
