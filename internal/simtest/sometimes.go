package simtest

import "github.com/saldo-ledger/saldo/internal/ledger"

// Sometimes are things that must happen in some world, or the exploration has shown nothing.
type Sometimes uint8

const (
	Completed           Sometimes = iota // a saga was completed
	Refunded                             // a saga was refunded
	DuplicateSuppressed                  // a shard answered a step from its record
	FinishedByAnother                    // a coordinator ended a saga that another one had run when it crashed
	LateCreditRefused                    // a credit was refused again, although by now it could have been applied
	RefundReplayed                       // a refund was answered from its record
	CompleteReplayed                     // a completed saga was completed again
	RefusalReplayed                      // a refused start was refused again
	AnsweredAcrossMaps                   // a repeat by a router with another map was answered from the start's record
	GuardRefused                         // a shard refused a start whose payee is elsewhere, and recorded nothing
	ConflictTold                         // a client was told that its identity is taken
	TimedOutEarly                        // a timer fired while its call was on its way
	ReplyToNobody                        // a reply found its coordinator gone
	sometimesEnd
)

func (s Sometimes) String() string {
	return [...]string{
		"completed", "refunded", "duplicate suppressed", "finished by another coordinator",
		"late credit refused after a refusal", "refund replayed", "complete replayed", "refusal replayed",
		"answered across a map change", "guard refused", "conflict told", "timed out early", "reply to nobody",
	}[s]
}

// Counts says how often each of Sometimes happened.
type Counts [sometimesEnd]int

// Add adds up what two explorations counted.
func (c *Counts) Add(d *Counts) {
	for i := range c {
		c[i] += d[i]
	}
}

func (c *Counts) count(s *sim, w *world, f *fact) {
	if f.ignore {
		c[ReplyToNobody]++
	}
	if f.early {
		c[TimedOutEarly]++
	}
	m := f.action.message
	if a := f.action.kind; a != deliver && a != deliverLost && a != deliverKept {
		return
	}
	replayed := f.commit.replayed
	if replayed {
		c[DuplicateSuppressed]++
	}
	switch m.kind() {
	case askStart:
		if f.commit.silent {
			c[GuardRefused]++
		}
		if told(f.commit.info).status() == toldConflict {
			c[ConflictTold]++
		}
		if replayed && f.commit.reason != ledger.Applied {
			c[RefusalReplayed]++
		}
		if replayed && m.info() != s.split(m.transfer()) {
			c[AnsweredAcrossMaps]++
		}
	case askCredit:
		if f.commit.lateRoom {
			c[LateCreditRefused]++
		}
	case askComplete, askRefund:
		if f.ended && w.orphan(m.coordinator(), m.transfer()) {
			c[FinishedByAnother]++
		}
		switch {
		case m.kind() == askComplete && f.ended:
			c[Completed]++
		case m.kind() == askComplete && replayed:
			c[CompleteReplayed]++
		case m.kind() == askRefund && f.ended:
			c[Refunded]++
		case m.kind() == askRefund && replayed:
			c[RefundReplayed]++
		}
	}
}
