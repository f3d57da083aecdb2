package simtest

import (
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

// violation tells the story of some actions that broke a promise.
func (s *sim) violation(w world, actions []action, promise string) *Violation {
	var story strings.Builder
	s.tellScope(&story)
	for i, a := range actions {
		var f fact
		w, f = s.step(w, a)
		fmt.Fprintf(&story, "%3d. %s\n", i+1, s.line(f))
	}
	fmt.Fprintf(&story, "broken: %s\n", promise)
	return &Violation{Promise: promise, Steps: len(actions), Story: story.String()}
}

func (s *sim) tellScope(story *strings.Builder) {
	for shard := range s.scope.Shards {
		fmt.Fprintf(story, "shard %s:", shardName(shard))
		for _, user := range s.scope.Users {
			switch {
			case user.Shard != shard:
			case user.Late:
				fmt.Fprintf(story, " %s (not yet created)", user.ID)
			default:
				fmt.Fprintf(story, " %s %d", user.ID, user.Balance)
			}
		}
		story.WriteByte('\n')
	}
	for _, t := range s.scope.Transfers {
		fmt.Fprintf(story, "asked for: %v, %d to %s\n", t.Identity, t.Amount, t.Payee)
	}
	if s.scope.Bug != NoBug {
		fmt.Fprintf(story, "planted bug: %s\n", s.scope.Bug)
	}
}

func shardName(shard int) string { return string(rune('A' + shard)) }

// line tells one step in the words of docs/ARCHITECTURE.md.
func (s *sim) line(f fact) string {
	a := f.action
	name := func(i int) ledger.Identity { return s.scope.Transfers[i].Identity }
	coordinator := func(c int) string { return fmt.Sprintf("coordinator %d", c+1) }
	switch a.kind {
	case send:
		how := "as a local transfer"
		if a.message.info() == 1 {
			how = "as a saga"
		}
		t := s.scope.Transfers[a.message.transfer()]
		return fmt.Sprintf("client: asks for %v, %d to %s; the router sends it to shard %s %s",
			t.Identity, t.Amount, t.Payee, shardName(s.home[a.message.transfer()]), how)
	case lose:
		return fmt.Sprintf("network: %s is lost", s.callName(a.message))
	case deliver, deliverKept, deliverLost:
		suffix := map[actionKind]string{
			deliver: "", deliverKept: "; the network will deliver it again", deliverLost: "; the reply is lost",
		}[a.kind]
		if a.message.isCall() {
			return s.callName(a.message) + " → " + s.commitName(f) + suffix
		}
		return s.replyLine(f) + suffix
	case takeUp:
		return fmt.Sprintf("%s: reads the saga %v, PENDING → %s",
			coordinator(int(a.coordinator)), name(int(a.transfer)), actionName(f.next))
	case timer:
		when := "no answer"
		if f.early {
			when = "no answer in time, though it is still on its way"
		}
		return fmt.Sprintf("%s: %v: %s → %s", coordinator(int(a.coordinator)), name(int(a.transfer)), when, actionName(f.next))
	case crash:
		return coordinator(int(a.coordinator)) + ": crashes, and comes back knowing nothing"
	case happen:
		what := s.occasions[int(a.message&0x3ff)]
		if what.user != "" {
			return fmt.Sprintf("shard %s: user %s is created", shardName(what.shard), what.user)
		}
		return fmt.Sprintf("shard %s: %v %v of %d → %s", shardName(what.shard), what.transfer.Kind, what.transfer.Identity,
			what.transfer.Amount, outcomeName(f.commit.reason))
	case save:
		return fmt.Sprintf("home shard %s: writes the saga's row of %v", shardName(s.home[a.transfer]), name(int(a.transfer)))
	case forget:
		return fmt.Sprintf("home shard %s: crashes before it has written the saga's row of %v",
			shardName(s.home[a.transfer]), name(int(a.transfer)))
	}
	return "?"
}

func (s *sim) callName(m message) string {
	i := m.transfer()
	step, shard, home := "", s.home[i], "home "
	switch m.kind() {
	case askStart:
		step = "start"
	case askCredit:
		step, shard, home = "credit", s.payee[i], ""
	case askComplete:
		step = "complete"
	case askRefund:
		step = "refund"
	}
	text := fmt.Sprintf("%sshard %s: %s %v", home, shardName(shard), step, s.scope.Transfers[i].Identity)
	if m.kind() != askStart {
		text += fmt.Sprintf(" from coordinator %d", m.coordinator()+1)
	}
	return text
}

func (s *sim) commitName(f fact) string {
	c := f.commit
	known := ""
	if c.replayed {
		known = ", as recorded"
	}
	switch m := f.action.message; m.kind() {
	case askStart:
		if c.silent {
			return "the payee's slot is not owned here: nothing recorded"
		}
		if told(c.info).status() == toldConflict {
			return "conflict: the identity has other contents"
		}
		text := outcomeName(c.reason) + known
		if c.reason == ledger.Applied {
			text += ", " + told(c.info).String()
		}
		if f.action.kind != deliverLost {
			text += "; the client is told"
		}
		return text
	case askComplete:
		return ledger.SagaState(c.info).String() + known
	default:
		return outcomeName(c.reason) + known
	}
}

func outcomeName(reason ledger.Reason) string {
	if reason == ledger.Applied {
		return "applied"
	}
	return "refused: " + string(reason)
}

func (s *sim) replyLine(f fact) string {
	m := f.action.message
	id := s.scope.Transfers[m.transfer()].Identity
	learned := ""
	switch m.kind() {
	case tellCredit:
		learned = "credit " + outcomeName(reasons[m.info()])
	case tellComplete:
		learned = "home says " + ledger.SagaState(m.info()).String()
	case tellRefund:
		learned = "home says REFUNDED"
	}
	if f.ignore {
		return fmt.Sprintf("coordinator %d: %v: %s → knows nothing of it", m.coordinator()+1, id, learned)
	}
	return fmt.Sprintf("coordinator %d: %v: %s → %s", m.coordinator()+1, id, learned, actionName(f.next))
}

func actionName(next saga.Action) string {
	switch next {
	case saga.None:
		return "nothing new"
	case saga.SendCredit:
		return "sends the credit"
	case saga.SendComplete:
		return "sends complete"
	case saga.SendRefund:
		return "sends the refund"
	case saga.Stop:
		return "has done with it"
	}
	return "ALARM"
}
