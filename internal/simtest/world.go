package simtest

import (
	"fmt"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

const (
	maxShards       = 4
	maxCoordinators = 3
	maxTransfers    = 8
	maxOccasions    = 16
	maxMessages     = 80
)

// world is one state of everything. It holds no pointers, so that worlds can be compared and hashed; shards are numbers
// of states in the sim that the world belongs to. The order of the fields leaves no padding.
type world struct {
	shards   [maxShards]stateID
	network  [maxMessages]message // sorted, then zeros
	occurred uint16               // bitset: occasions that were
	sent     uint8                // bitset: transfers that were asked for
	unsaved  uint8                // bitset: sagas whose row a home has not written yet (SagaNotDurable)
	told     [maxTransfers]told
	runs     [maxCoordinators][maxTransfers]run
	orphaned [maxTransfers]uint8 // bitset of coordinators that crashed while they ran the saga
	left     Budget
	messages uint8 // in network
}

// stateID numbers the distinct states of the shards of a sim.
type stateID uint32

// message is a call or its reply: kind, coordinator, transfer, info.
type message uint16

type messageKind uint8

const (
	askStart     messageKind = 1 + iota // info: the router takes the pair for a split one
	askCredit                           //
	tellCredit                          // info: reason
	askComplete                         //
	tellComplete                        // info: saga state
	askRefund                           // info: cause
	tellRefund                          // info: cause
	occasion                            // never on the network: coordinator and transfer number what happens
	saveRow                             // never on the network
)

func newMessage(kind messageKind, coordinator, transfer int, info uint8) message {
	return message(kind)<<12 | message(coordinator)<<10 | message(transfer)<<7 | message(info)
}

func (m message) kind() messageKind { return messageKind(m >> 12) }
func (m message) coordinator() int  { return int(m >> 10 & 3) }
func (m message) transfer() int     { return int(m >> 7 & 7) }
func (m message) info() uint8       { return uint8(m & 127) }
func (m message) isCall() bool {
	switch m.kind() {
	case askStart, askCredit, askComplete, askRefund:
		return true
	}
	return false
}

func (w *world) send(m message) {
	n := int(w.messages)
	if n == maxMessages {
		panic("simtest: scope has too many messages at once")
	}
	at, _ := slices.BinarySearch(w.network[:n], m)
	copy(w.network[at+1:n+1], w.network[at:n])
	w.network[at] = m
	w.messages++
}

func (w *world) receive(m message) {
	n := int(w.messages)
	at, found := slices.BinarySearch(w.network[:n], m)
	if !found {
		panic(fmt.Sprintf("simtest: no message %#x", m))
	}
	copy(w.network[at:n-1], w.network[at+1:n])
	w.network[n-1] = 0
	w.messages--
}

func (w *world) onItsWay() []message { return w.network[:w.messages] }

// renamed returns the world in which coordinators 0 and 1 have each other's name.
func (w *world) renamed() world {
	r := *w
	r.runs[0], r.runs[1] = w.runs[1], w.runs[0]
	for i, m := range r.onItsWay() {
		if m.kind() != askStart {
			r.network[i] = newMessage(m.kind(), 1-m.coordinator(), m.transfer(), m.info())
		}
	}
	slices.Sort(r.onItsWay())
	for i, o := range r.orphaned {
		r.orphaned[i] = o&^3 | o&1<<1 | o>>1&1
	}
	return r
}

// told is the latest that a transfer's client was told: a status, and why a refused or refunded one did not happen.
type told uint8

type toldStatus uint8

const (
	toldNothing toldStatus = iota
	toldPending
	toldCompleted
	toldRefunded
	toldRefused
	toldConflict
)

func newTold(status toldStatus, reason ledger.Reason) told {
	return told(status)<<3 | told(reasonCode(reason))
}

func (t told) status() toldStatus    { return toldStatus(t >> 3) }
func (t told) reason() ledger.Reason { return reasons[t&7] }

func (t told) String() string {
	name := [...]string{"nothing", "PENDING", "COMPLETED", "REFUNDED", "REFUSED", "conflict"}[t.status()]
	if t.reason() != ledger.Applied {
		name += " (" + string(t.reason()) + ")"
	}
	return name
}

// toldBy turns a shard's answer to a start into what the client is told.
func toldBy(answer Answer, cause ledger.Reason) told {
	if answer.Err != nil {
		return newTold(toldConflict, ledger.Applied)
	}
	switch answer.Result.Status() {
	case ledger.StatusPending:
		return newTold(toldPending, ledger.Applied)
	case ledger.StatusCompleted:
		return newTold(toldCompleted, ledger.Applied)
	case ledger.StatusRefunded:
		return newTold(toldRefunded, cause)
	default:
		return newTold(toldRefused, answer.Result.Reason)
	}
}

var reasons = [...]ledger.Reason{
	ledger.Applied, ledger.UserNotFound, ledger.PayeeNotFound, ledger.SameAccount, ledger.InsufficientFunds, ledger.BalanceLimit,
}

func reasonCode(reason ledger.Reason) uint8 {
	code := slices.Index(reasons[:], reason)
	if code < 0 {
		panic(fmt.Sprintf("simtest: reason %q is not in the list", reason))
	}
	return uint8(code)
}

// run is what a coordinator knows about a saga: 0 nothing, otherwise the machine's state.
type run uint8

func newRun(state saga.State) run {
	return 1 + run(state.Phase)<<3 + run(reasonCode(state.Cause))
}

func (r run) state() saga.State {
	return saga.State{Phase: saga.Phase((r - 1) >> 3), Cause: reasons[(r-1)&7]}
}

// active tells whether the coordinator waits for an answer.
func (r run) active() bool {
	return r != 0 && r.state().Phase != saga.Completed && r.state().Phase != saga.Refunded
}
