package simtest

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/saga"
)

// sim is the laws of one scope's worlds.
type sim struct {
	scope Scope
	home  [maxTransfers]int // shard of each transfer's payer
	payee [maxTransfers]int // shard of each transfer's payee
	// twin is the first transfer with the same identity.
	twin      [maxTransfers]int
	occasions []occasionOf

	// A shard has few distinct states and is asked few distinct things, in millions of worlds: each is done once.
	states []*shardState
	views  []view
	ids    map[string]stateID
	done   map[visit]commit
}

// occasionOf is something that happens once at any moment: a user is created, or money comes or goes.
type occasionOf struct {
	shard    int
	user     ledger.UserID   // created, or
	transfer ledger.Transfer // added or withdrawn
}

type visit struct {
	state stateID
	call  message // by coordinator 0
}

// commit is what a shard does when it is asked.
type commit struct {
	state    stateID
	info     uint8 // of the reply
	silent   bool  // nothing was recorded and there is no reply
	replayed bool
	reason   ledger.Reason
	lateRoom bool // a credit was refused again although now it could be applied
	broken   string
}

// view is what a shard's state says about each transfer.
type view struct {
	start, credit, refund [maxTransfers]uint8 // how often it took effect
	saga                  [maxTransfers]ledger.SagaState
	refusal               [maxTransfers]ledger.Reason // of the start
	creditRefusal         [maxTransfers]ledger.Reason
	transit               ledger.Amount
}

func newSim(scope Scope) (*sim, world) {
	if err := scope.validate(); err != nil {
		panic(err)
	}
	s := &sim{scope: scope, ids: map[string]stateID{}, done: map[visit]commit{}}
	for i, transfer := range scope.Transfers {
		s.home[i], s.payee[i] = scope.shardOf(transfer.Initiator), scope.shardOf(transfer.Payee)
		s.twin[i] = slices.IndexFunc(scope.Transfers, func(t ledger.Transfer) bool { return t.Identity == transfer.Identity })
	}
	first := world{left: scope.Budget}
	shards := make([]*shardState, scope.Shards)
	for i := range shards {
		shards[i] = emptyShard()
	}
	for _, user := range scope.Users {
		if user.Late {
			s.occasions = append(s.occasions, occasionOf{shard: user.Shard, user: user.ID})
			continue
		}
		shards[user.Shard] = shards[user.Shard].createUser(user.ID)
		if user.Balance > 0 {
			op := ledger.Operation{Transfer: Deposit(user.ID, "opening", user.Balance), Step: ledger.StepStart}
			shards[user.Shard], _, _ = shards[user.Shard].submit(op, NoBug)
		}
	}
	for _, transfer := range scope.Sometime {
		s.occasions = append(s.occasions, occasionOf{shard: scope.shardOf(transfer.Initiator), transfer: transfer})
	}
	for i, state := range shards {
		first.shards[i] = s.number(state)
	}
	return s, first
}

// number returns the number of a shard's state.
func (s *sim) number(state *shardState) stateID {
	key := state.key()
	if id, ok := s.ids[key]; ok {
		return id
	}
	id := stateID(len(s.states))
	s.ids[key] = id
	s.states = append(s.states, state)
	s.views = append(s.views, s.look(state))
	return id
}

func (s *sim) look(state *shardState) view {
	v := view{transit: state.sides[side{ledger.Transit, Currency}]}
	for i, transfer := range s.scope.Transfers {
		v.start[i] = uint8(state.effects[effect{transfer, ledger.StepStart}])
		v.credit[i] = uint8(state.effects[effect{transfer, ledger.StepCredit}])
		v.refund[i] = uint8(state.effects[effect{transfer, ledger.StepRefund}])
		if saga, ok := state.book.Saga(transfer.Identity); ok && saga.Transfer == transfer {
			v.saga[i] = saga.State
		}
		start, ok := state.book.Operation(ledger.Key{Identity: transfer.Identity, Step: ledger.StepStart})
		if ok && start.Transfer == transfer {
			v.refusal[i] = start.Reason
		}
		credit, ok := state.book.Operation(ledger.Key{Identity: transfer.Identity, Step: ledger.StepCredit})
		if ok && credit.Transfer == transfer {
			v.creditRefusal[i] = credit.Reason
		}
	}
	return v
}

// ask commits a call at a shard in a state.
func (s *sim) ask(state stateID, call message) commit {
	v := visit{state, newMessage(call.kind(), 0, call.transfer(), call.info())}
	if call.kind() == occasion {
		v.call = call
	}
	c, ok := s.done[v]
	if !ok {
		c = s.serve(state, call)
		s.done[v] = c
	}
	return c
}

func (s *sim) serve(id stateID, call message) commit {
	before := s.states[id]
	after, c := before, commit{}
	var broken, err error
	transfer := ledger.Transfer{}
	if call.kind() != occasion {
		transfer = s.scope.Transfers[call.transfer()]
	}
	submit := func(op ledger.Operation) (answer Answer) {
		after, answer, broken = before.submit(op, s.scope.Bug)
		err, c.replayed, c.reason = answer.Err, answer.Result.Replayed, answer.Result.Reason
		return answer
	}
	switch call.kind() {
	case askStart:
		split := call.info() == 1
		_, known := before.book.Operation(ledger.Key{Identity: transfer.Identity, Step: ledger.StepStart})
		if s.home[call.transfer()] != s.payee[call.transfer()] && !split && !known {
			// The shard's guard: the payee's slot is not owned here, nothing is recorded, 503. (Of a known one the guard
			// would say the same; here it is let through, as if the payee's slot had come and gone.)
			c.silent = true
			break
		}
		answer := submit(ledger.Operation{Transfer: transfer, Step: ledger.StepStart, Saga: split})
		saga, _ := after.book.Saga(transfer.Identity)
		c.info = uint8(toldBy(answer, saga.Cause))
		if ledger.CodeOf(err) == ledger.CodeConflict {
			err = nil
		}
	case askCredit:
		submit(ledger.Operation{Transfer: transfer, Step: ledger.StepCredit})
		c.info = reasonCode(c.reason)
		if c.replayed && c.reason != ledger.Applied {
			again := transfer
			again.TxID += "-as-if-new"
			op := ledger.Operation{Transfer: again, Step: ledger.StepCredit}
			_, answer, _ := before.submit(op, NoBug)
			c.lateRoom = answer.Err == nil && answer.Result.Reason == ledger.Applied
		}
	case askComplete:
		var answer CompleteAnswer
		saga, _ := before.book.Saga(transfer.Identity)
		c.replayed = saga.State == ledger.SagaCompleted
		after, answer, broken = before.complete(transfer.Identity)
		err, c.info = answer.Err, uint8(answer.State)
	case askRefund:
		answer := submit(ledger.Operation{Transfer: transfer, Step: ledger.StepRefund, Cause: reasons[call.info()]})
		c.info = reasonCode(answer.Result.Cause)
	case occasion:
		what := s.occasions[int(call&0x3ff)]
		if what.user != "" {
			after = before.createUser(what.user)
			break
		}
		submit(ledger.Operation{Transfer: what.transfer, Step: ledger.StepStart})
	case saveRow:
		after = before.saveSaga(transfer)
	}
	switch {
	case broken != nil:
		c.broken = broken.Error()
	case err != nil:
		c.broken = "nothing impossible is asked: " + err.Error()
	}
	c.state = s.number(after)
	return c
}

// action is one step of a world.
type action struct {
	kind        actionKind
	message     message // delivered, lost or sent; or the occasion
	coordinator uint8
	transfer    uint8
}

type actionKind uint8

const (
	send        actionKind = iota // a client asks
	deliver                       // a message arrives
	deliverLost                   // a request is executed, the reply is lost
	deliverKept                   // a message arrives and will arrive again
	lose                          // a request is lost
	takeUp                        // a coordinator reads a pending row
	timer                         // a coordinator has no answer
	crash                         // a coordinator loses all it knows
	happen                        // an occasion
	save                          // a home writes a saga's row late (SagaNotDurable)
	forget                        // a home crashes before that
	actionKinds
)

// actions appends what can happen in a world: first what is no fault, then, if asked, what is and has budget left.
// faultless is the number of the former.
func (s *sim) actions(w *world, faults bool, to []action) (all []action, faultless int) {
	transfers, coordinators := len(s.scope.Transfers), s.scope.Coordinators
	messages := w.onItsWay()
	for i, m := range messages {
		if i == 0 || m != messages[i-1] {
			to = append(to, action{kind: deliver, message: m})
		}
	}
	for i := range transfers {
		if w.unsaved>>i&1 == 1 {
			to = append(to, action{kind: save, transfer: uint8(i)})
		}
		if w.sent>>i&1 == 0 {
			to = append(to, action{kind: send, message: newMessage(askStart, 0, i, s.split(i))})
		}
		pending := s.views[w.shards[s.home[i]]].saga[i] == ledger.SagaPending
		for c := range coordinators {
			switch r := w.runs[c][i]; {
			case r == 0 && pending && !s.runByAnother(w, c, i):
				to = append(to, action{kind: takeUp, coordinator: uint8(c), transfer: uint8(i)})
			case r.active() && !w.waiting(c, i):
				to = append(to, action{kind: timer, coordinator: uint8(c), transfer: uint8(i)})
			}
		}
	}
	for i := range s.occasions {
		if w.occurred>>i&1 == 0 {
			to = append(to, action{kind: happen, message: message(occasion)<<12 | message(i)})
		}
	}
	faultless = len(to)
	if !faults {
		return to, faultless
	}
	for i, m := range messages {
		if i > 0 && m == messages[i-1] {
			continue
		}
		if w.left.Losses > 0 && m.isCall() {
			to = append(to, action{kind: lose, message: m}, action{kind: deliverLost, message: m})
		}
		if w.left.Duplicates > 0 {
			to = append(to, action{kind: deliverKept, message: m})
		}
	}
	for i := range transfers {
		if again := w.sent>>i&1 == 1; !again || w.left.Repeats > 0 {
			if again {
				to = append(to, action{kind: send, message: newMessage(askStart, 0, i, s.split(i))})
			}
			if w.left.MapChanges > 0 {
				to = append(to, action{kind: send, message: newMessage(askStart, 0, i, 1-s.split(i))})
			}
		}
		if w.left.Crashes > 0 && w.unsaved>>i&1 == 1 {
			to = append(to, action{kind: forget, transfer: uint8(i)})
		}
		pending := s.views[w.shards[s.home[i]]].saga[i] == ledger.SagaPending
		for c := range coordinators {
			switch r := w.runs[c][i]; {
			case w.left.Seconds > 0 && r == 0 && pending && s.runByAnother(w, c, i):
				to = append(to, action{kind: takeUp, coordinator: uint8(c), transfer: uint8(i)})
			case w.left.Timeouts > 0 && r.active() && w.waiting(c, i):
				to = append(to, action{kind: timer, coordinator: uint8(c), transfer: uint8(i)})
			}
		}
	}
	if w.left.Crashes > 0 {
		for c := range coordinators {
			if w.runs[c] != [maxTransfers]run{} {
				to = append(to, action{kind: crash, coordinator: uint8(c)})
			}
		}
	}
	return to, faultless
}

// split is the flag that a router with the right map sends.
func (s *sim) split(transfer int) uint8 {
	if s.home[transfer] != s.payee[transfer] {
		return 1
	}
	return 0
}

func (s *sim) runByAnother(w *world, coordinator, transfer int) bool {
	for c := range s.scope.Coordinators {
		if c != coordinator && w.runs[c][transfer].active() {
			return true
		}
	}
	return false
}

// waiting tells whether a coordinator's call for a saga, or its reply, is on its way.
func (w *world) waiting(coordinator, transfer int) bool {
	var ask, tell messageKind
	switch w.runs[coordinator][transfer].state().Phase {
	case saga.Crediting:
		ask, tell = askCredit, tellCredit
	case saga.Completing:
		ask, tell = askComplete, tellComplete
	case saga.Refunding:
		ask, tell = askRefund, tellRefund
	}
	for _, m := range w.onItsWay() {
		if (m.kind() == ask || m.kind() == tell) && m.transfer() == transfer && m.coordinator() == coordinator {
			return true
		}
	}
	return false
}

// fact is what a step did, for the storyteller and the counters.
type fact struct {
	action action
	commit commit      // of deliver and its kin, if a call was delivered
	next   saga.Action // of a coordinator that learned something
	early  bool        // the timer fired early
	ignore bool        // a reply found nobody
	ended  bool        // the commit ended a saga
	broken string      // the promise that the step broke
}

// step does one action.
func (s *sim) step(w world, a action) (world, fact) {
	f := fact{action: a}
	switch a.kind {
	case send:
		i := a.message.transfer()
		if w.sent>>i&1 == 1 {
			w.left.Repeats--
		}
		if a.message.info() != s.split(i) {
			w.left.MapChanges--
		}
		w.sent |= 1 << i
		w.send(a.message)
	case lose:
		w.left.Losses--
		w.receive(a.message)
	case deliver, deliverLost, deliverKept:
		switch a.kind {
		case deliverLost:
			w.left.Losses--
		case deliverKept:
			w.left.Duplicates--
		}
		if a.kind != deliverKept {
			w.receive(a.message)
		}
		if a.message.isCall() {
			s.deliverCall(&w, &f)
		} else {
			s.deliverReply(&w, &f)
		}
	case takeUp:
		c, i := int(a.coordinator), int(a.transfer)
		if s.runByAnother(&w, c, i) {
			w.left.Seconds--
		}
		stored := s.views[w.shards[s.home[i]]].saga[i]
		state, next := saga.Start(stored, ledger.Applied)
		w.runs[c][i] = newRun(state)
		s.act(&w, &f, c, i, next)
	case timer:
		c, i := int(a.coordinator), int(a.transfer)
		if f.early = w.waiting(c, i); f.early {
			w.left.Timeouts--
		}
		s.learn(&w, &f, c, i, saga.NoAnswer, ledger.Applied)
	case crash:
		w.left.Crashes--
		for i := range w.runs[a.coordinator] {
			if w.runs[a.coordinator][i].active() {
				w.orphaned[i] |= 1 << a.coordinator
			}
		}
		w.runs[a.coordinator] = [maxTransfers]run{}
	case happen:
		i := int(a.message & 0x3ff)
		w.occurred |= 1 << i
		shard := s.occasions[i].shard
		f.commit = s.ask(w.shards[shard], a.message)
		w.shards[shard] = f.commit.state
	case save:
		shard := s.home[a.transfer]
		w.unsaved &^= 1 << a.transfer
		w.shards[shard] = s.ask(w.shards[shard], newMessage(saveRow, 0, int(a.transfer), 0)).state
	case forget:
		w.left.Crashes--
		w.unsaved &^= 1 << a.transfer
	}
	if f.broken == "" {
		f.broken = f.commit.broken
	}
	if f.broken == "" {
		f.broken = s.check(&w)
	}
	return w, f
}

func (s *sim) deliverCall(w *world, f *fact) {
	m := f.action.message
	i := m.transfer()
	shard := s.home[i]
	if m.kind() == askCredit {
		shard = s.payee[i]
	}
	before := &s.views[w.shards[shard]]
	wasPending := before.saga[i] == ledger.SagaPending
	started := before.start[i]
	f.commit = s.ask(w.shards[shard], m)
	w.shards[shard] = f.commit.state
	after := &s.views[f.commit.state]
	f.ended = wasPending && after.saga[i] != ledger.SagaPending
	if s.scope.Bug == SagaNotDurable && after.start[i] > started && told(f.commit.info).status() == toldPending {
		w.unsaved |= 1 << i
	}
	switch {
	case f.action.kind == deliverLost || f.commit.silent:
	case m.kind() == askStart:
		// The client is told at once: the earlier it knows, the more must stand.
		f.broken = w.tell(i, told(f.commit.info))
	default:
		w.send(newMessage(m.kind()+1, m.coordinator(), i, f.commit.info))
	}
}

func (s *sim) deliverReply(w *world, f *fact) {
	m := f.action.message
	c, i := m.coordinator(), m.transfer()
	if w.runs[c][i] == 0 {
		f.ignore = true
		return
	}
	switch m.kind() {
	case tellCredit:
		if cause := reasons[m.info()]; cause != ledger.Applied {
			s.learn(w, f, c, i, saga.CreditRefused, cause)
		} else {
			s.learn(w, f, c, i, saga.CreditApplied, cause)
		}
	case tellComplete:
		if ledger.SagaState(m.info()) == ledger.SagaRefunded {
			s.learn(w, f, c, i, saga.HomeRefunded, ledger.Applied)
		} else {
			s.learn(w, f, c, i, saga.HomeCompleted, ledger.Applied)
		}
	case tellRefund:
		s.learn(w, f, c, i, saga.HomeRefunded, reasons[m.info()])
	}
}

// learn steps a coordinator's machine and does what it says.
func (s *sim) learn(w *world, f *fact, coordinator, transfer int, event saga.Event, cause ledger.Reason) {
	state := w.runs[coordinator][transfer].state()
	if event == saga.NoAnswer && state.Phase == saga.Crediting {
		switch s.scope.Bug {
		case TimeoutRefuses:
			event, cause = saga.CreditRefused, ledger.PayeeNotFound
		case GivesUp:
			w.runs[coordinator][transfer] = newRun(saga.State{Phase: saga.Refunded})
			f.next = saga.Stop
			return
		}
	}
	state, next := saga.Step(state, event, cause)
	w.runs[coordinator][transfer] = newRun(state)
	s.act(w, f, coordinator, transfer, next)
}

func (s *sim) act(w *world, f *fact, coordinator, transfer int, next saga.Action) {
	f.next = next
	switch next {
	case saga.SendCredit:
		w.send(newMessage(askCredit, coordinator, transfer, 0))
	case saga.SendComplete:
		w.send(newMessage(askComplete, coordinator, transfer, 0))
	case saga.SendRefund:
		cause := reasonCode(w.runs[coordinator][transfer].state().Cause)
		w.send(newMessage(askRefund, coordinator, transfer, cause))
	case saga.Alarm:
		// A planted bug's story goes on, to the harm that the alarm warns of.
		if s.scope.Bug == NoBug {
			f.broken = "no alarm: the machine met two outcomes that contradict each other"
		}
	}
}

// tell remembers what a client is told, and checks it against what the client was told before.
func (w *world) tell(transfer int, now told) (broken string) {
	before := w.told[transfer]
	ended := now.status() == toldCompleted || now.status() == toldRefunded
	if before != now && before.status() != toldNothing && (before.status() != toldPending || !ended) {
		return fmt.Sprintf("a told outcome stands: the client was told %v, then %v", before, now)
	}
	w.told[transfer] = now
	return ""
}

// check says which promise a world breaks. What a single commit can break, the commit has checked.
func (s *sim) check(w *world) (broken string) {
	transit, onTheWay := ledger.Amount(0), ledger.Amount(0)
	for shard := range s.scope.Shards {
		transit += s.views[w.shards[shard]].transit
	}
	var starts, credits, refunds [maxTransfers]uint8 // by identity
	for i := range s.scope.Transfers {
		home, payee := &s.views[w.shards[s.home[i]]], &s.views[w.shards[s.payee[i]]]
		start, credit, refund := home.start[i], payee.credit[i], home.refund[i]
		saga := home.saga[i]
		if (saga != 0 || w.unsaved>>i&1 == 1) && credit == 0 && refund == 0 {
			onTheWay += s.scope.Transfers[i].Amount
		}
		t := s.twin[i]
		starts[t], credits[t], refunds[t] = starts[t]+start, credits[t]+credit, refunds[t]+refund
		id := s.scope.Transfers[i].Identity
		switch {
		case starts[t] > 1:
			return fmt.Sprintf("exactly once: the start of %v took effect %d times", id, starts[t])
		case credits[t] > 1:
			return fmt.Sprintf("exactly once: the credit of %v took effect %d times", id, credits[t])
		case refunds[t] > 1:
			return fmt.Sprintf("exactly once: the refund of %v took effect %d times", id, refunds[t])
		case credits[t]+refunds[t] > 1:
			return fmt.Sprintf("exactly once: %v was both credited and refunded", id)
		case credit+refund > 0 && start == 0:
			return fmt.Sprintf("exactly once: %v was credited or refunded, but never debited", id)
		case saga == ledger.SagaCompleted && credit == 0:
			return fmt.Sprintf("exactly once: %v is COMPLETED, but was never credited", id)
		case saga == ledger.SagaRefunded && refund == 0:
			return fmt.Sprintf("exactly once: %v is REFUNDED, but has no refund", id)
		}
	}
	if transit != onTheWay {
		return fmt.Sprintf("conserved: @transit holds %d, sagas account for %d", transit, onTheWay)
	}
	for i, transfer := range s.scope.Transfers {
		if !s.stands(w, i) {
			return fmt.Sprintf("a told outcome stands: the client of %v was told %v", transfer.Identity, w.told[i])
		}
	}
	return ""
}

// stands tells whether what a transfer's client was told is still so.
func (s *sim) stands(w *world, i int) bool {
	home, payee := &s.views[w.shards[s.home[i]]], &s.views[w.shards[s.payee[i]]]
	start, credit, refund := home.start[i], payee.credit[i], home.refund[i]
	saga, unsaved := home.saga[i], w.unsaved>>i&1 == 1
	switch t := w.told[i]; t.status() {
	case toldPending:
		return start == 1 && (saga != 0 || unsaved)
	case toldCompleted:
		return start == 1 && refund == 0 && (saga == 0 && !unsaved || saga == ledger.SagaCompleted && credit == 1)
	case toldRefunded:
		// The payee's refusal is the reason. (A planted bug's story goes on, to the harm.)
		because := s.scope.Bug != NoBug || payee.creditRefusal[i] == t.reason()
		return refund == 1 && credit == 0 && saga == ledger.SagaRefunded && because
	case toldRefused:
		return start == 0 && credit == 0 && refund == 0 && saga == 0 && home.refusal[i] == t.reason()
	case toldConflict:
		return start == 0 && credit == 0 && refund == 0 && saga == 0
	}
	return true
}

// unfinished says what is left undone in a world in which nothing more will happen, or "".
func (s *sim) unfinished(w *world) string {
	for i, transfer := range s.scope.Transfers {
		if s.views[w.shards[s.home[i]]].saga[i] == ledger.SagaPending {
			return fmt.Sprintf("always ends: nothing more will happen, and %v is PENDING", transfer.Identity)
		}
	}
	transit := ledger.Amount(0)
	for shard := range s.scope.Shards {
		transit += s.views[w.shards[shard]].transit
	}
	if transit != 0 {
		return fmt.Sprintf("always ends: nothing more will happen, and @transit holds %d", transit)
	}
	return ""
}

// orphan tells whether another coordinator than this one once ran the saga and crashed.
func (w *world) orphan(coordinator, transfer int) bool {
	return bits.OnesCount8(w.orphaned[transfer]&^(1<<coordinator)) > 0
}
