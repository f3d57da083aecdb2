package simtest

import (
	"fmt"
	"math/rand/v2"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Run is one random run of a world too large to be explored.
type Run struct {
	Steps  int // with faults
	Ending int // steps without faults until everything has ended
	Counts Counts
	Broken *Violation // with a story from which no single step can be left out
}

const (
	swarmSteps = 120 // with faults, at most
	// swarmEnding is how many steps the largest swarm may need once faults stop. Without faults a world has no cycles.
	swarmEnding = 1000
)

// Swarm makes a random scope and a random run in it, both from the seed. Which faults happen, and how often, differs from
// seed to seed: a run in which everything goes wrong all the time finds less than many in which a few things do.
func Swarm(seed uint64, bug Bug) *Run {
	random := rand.New(rand.NewPCG(seed, 0x5a1d0))
	s, first := newSim(swarmScope(random, bug))
	weights := swarmWeights(random)
	run := &Run{}
	faulty := random.IntN(swarmSteps)

	w, taken := first, []action(nil)
	var actions []action
	step := func(faults bool) bool {
		var faultless int
		actions, faultless = s.actions(&w, faults, actions[:0])
		if w.messages > maxMessages-8 {
			actions = actions[:faultless] // too full a network for more faults
		}
		if len(actions) == 0 {
			return false
		}
		a := choose(random, actions, &weights)
		var f fact
		w, f = s.step(w, a)
		taken = append(taken, a)
		run.Counts.count(s, &w, &f)
		if f.broken != "" {
			run.Broken = s.shrink(first, taken, f.broken)
			return false
		}
		return true
	}
	for len(taken) < faulty && step(true) {
	}
	run.Steps = len(taken)
	weights = [actionKinds]int{}
	for run.Broken == nil && len(taken)-run.Steps <= swarmEnding && step(false) {
	}
	run.Ending = len(taken) - run.Steps
	if run.Broken == nil {
		if left := s.unfinished(&w); left != "" {
			run.Broken = s.violation(first, taken, left)
		}
	}
	return run
}

// choose takes an action by the weights of their kinds; all weigh the same if none weighs anything.
func choose(random *rand.Rand, actions []action, weights *[actionKinds]int) action {
	total := 0
	for _, a := range actions {
		total += weights[a.kind]
	}
	if total == 0 {
		return actions[random.IntN(len(actions))]
	}
	at := random.IntN(total)
	for _, a := range actions {
		if at -= weights[a.kind]; at < 0 {
			return a
		}
	}
	panic("unreachable")
}

func swarmWeights(random *rand.Rand) [actionKinds]int {
	var weights [actionKinds]int
	for kind := range weights {
		weights[kind] = []int{0, 1, 4, 16}[random.IntN(4)]
	}
	weights[deliver] = 16
	weights[send] = max(weights[send], 1)
	weights[takeUp] = max(weights[takeUp], 1)
	return weights
}

func swarmScope(random *rand.Rand, bug Bug) Scope {
	some := func(most int) uint8 { return uint8(random.IntN(most + 1)) }
	scope := Scope{
		Name: "swarm", Shards: 2 + random.IntN(maxShards-1), Coordinators: 1 + random.IntN(maxCoordinators), Bug: bug,
		Budget: Budget{
			Losses: some(8), Duplicates: some(8), Timeouts: some(8), Crashes: some(4),
			Seconds: some(4), Repeats: some(8), MapChanges: some(4),
		},
	}
	for i := range 2 + random.IntN(5) {
		user := User{ID: ledger.UserID(fmt.Sprintf("u%d", i)), Shard: random.IntN(scope.Shards)}
		switch random.IntN(5) {
		case 0:
			user.Late = true
		case 1:
			user.Balance = ledger.MaxAmount - ledger.Amount(some(10))
		default:
			user.Balance = ledger.Amount(some(20))
		}
		scope.Users = append(scope.Users, user)
	}
	anyone := func() ledger.UserID {
		if random.IntN(20) == 0 {
			return "nobody"
		}
		return scope.Users[random.IntN(len(scope.Users))].ID
	}
	for range 2 + random.IntN(maxTransfers-1) {
		tx := ledger.TxID(fmt.Sprintf("t%d", random.IntN(6)))
		payment := Payment(anyone(), tx, anyone(), 1+ledger.Amount(some(9)))
		if random.IntN(20) == 0 {
			payment.Amount = ledger.MaxAmount
		}
		duplicate := false
		for _, other := range scope.Transfers {
			duplicate = duplicate || other == payment
		}
		if !duplicate {
			scope.Transfers = append(scope.Transfers, payment)
		}
	}
	for i := range random.IntN(5) {
		user := scope.Users[random.IntN(len(scope.Users))].ID
		tx := ledger.TxID(fmt.Sprintf("cash%d", i))
		if random.IntN(2) == 0 {
			scope.Sometime = append(scope.Sometime, Deposit(user, tx, 1+ledger.Amount(some(9))))
		} else {
			scope.Sometime = append(scope.Sometime, Withdrawal(user, tx, 1+ledger.Amount(some(9))))
		}
	}
	return scope
}

// shrink leaves out actions as long as the rest still breaks a promise, and tells what remains.
func (s *sim) shrink(first world, actions []action, promise string) *Violation {
	for size := len(actions) / 2; size > 0; {
		smaller := false
		for at := 0; at+size <= len(actions); {
			fewer := append(append([]action(nil), actions[:at]...), actions[at+size:]...)
			if broken, used := s.replay(first, fewer); broken != "" {
				actions, promise, smaller = fewer[:used], broken, true
				continue
			}
			at += size
		}
		if !smaller {
			size /= 2
		}
	}
	return s.violation(first, actions, promise)
}

// replay does the actions as long as each can happen. It returns the first broken promise and how many actions led to it.
func (s *sim) replay(w world, actions []action) (broken string, used int) {
	var can []action
	for i, a := range actions {
		can, _ = s.actions(&w, true, can[:0])
		possible := false
		for _, c := range can {
			possible = possible || c == a
		}
		if !possible {
			return "", i
		}
		var f fact
		if w, f = s.step(w, a); f.broken != "" {
			return f.broken, i + 1
		}
	}
	return "", len(actions)
}
