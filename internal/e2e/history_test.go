package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"
)

// history is all that clients asked and were told while parts of the cluster were killed.
type history struct {
	opening  map[identity]bool // transfers that were done before, one by one
	attempts []*attempt
}

// class is what an answer says about the request that it answers.
type class string

const (
	ok       class = "ok"       // done
	pending_ class = "pending"  // debited, and will end
	rejected class = "rejected" // refused by the rules, which is remembered
	conflict class = "conflict" // the identity is known with other contents
	none     class = "none"     // certainly nothing was recorded by this request
	unknown  class = "unknown"  // anything
	broken   class = "broken"   // an answer that must not be
)

// attempt is one request and its answer.
type attempt struct {
	router      int
	invoke, ret time.Duration // since the history began
	class       class
	what        string // the answer, for people
	replayed    bool

	// Of a write:
	identity identity
	contents contents
	mutated  bool // sent with other contents than the identity was first used with
	status   string
	reason   string // of a rejection

	// Of a read, and of a write that is told its balance:
	of      account
	told    bool
	balance int64
	version int64
}

func (a *attempt) String() string {
	return fmt.Sprintf("%v %s %s %d (router %d, %v to %v): %s", a.identity, a.contents.kind, a.of.user, a.contents.amount, a.router+1,
		a.invoke.Round(time.Millisecond), a.ret.Round(time.Millisecond), a.what)
}

// definite tells whether the answer says that the transfer is recorded.
func (a *attempt) definite() bool { return a.class == ok || a.class == pending_ || a.class == rejected }

// judge holds what clients were told against what the shards hold in the end.
func (h *history) judge(w *world) (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	writes := make(map[identity][]*attempt)
	for _, a := range h.attempts {
		if a.class == broken {
			complain("%v", a)
		}
		if a.identity != (identity{}) {
			writes[a.identity] = append(writes[a.identity], a)
		}
	}
	for id := range w.starts {
		if writes[id] == nil && !h.opening[id] {
			complain("phantom: nobody asked for %v", id)
		}
	}
	for id, attempts := range writes {
		judgeWrites(id, attempts, w, complain)
	}
	h.judgeVersions(writes, w, complain)
	slices.Sort(wrong)
	return wrong
}

// check judges, and fails the test with what is wrong.
func (h *history) check(t *testing.T, w *world) {
	t.Helper()
	const most = 20
	wrong := h.judge(w)
	for _, problem := range wrong[:min(len(wrong), most)] {
		t.Error(problem)
	}
	if len(wrong) > most {
		t.Errorf("and %d more", len(wrong)-most)
	}
}

// judgeWrites is about one transfer.
func judgeWrites(id identity, attempts []*attempt, w *world, complain func(string, ...any)) {
	slices.SortStableFunc(attempts, func(x, y *attempt) int { return cmp.Compare(x.invoke, y.invoke) })
	start := w.starts[id]
	status, reason := w.outcome(id)
	fresh := 0
	recorder := false // one of them may have recorded it
	for _, a := range attempts {
		if a.mutated {
			if a.class != conflict && a.class != none && a.class != unknown {
				complain("other contents are no conflict: %v", a)
			}
			continue
		}
		if a.definite() && !a.replayed {
			fresh++
		}
		recorder = recorder || a.class == unknown || fresh > 0
		switch {
		case a.class == conflict:
			complain("conflict with nothing: %v", a)
		case a.definite() && start == nil:
			complain("lost: %v", a)
		case start == nil:
		case start.contents != a.contents:
			complain("mutated: %v is recorded as %v", a, start.contents)
		case a.class == ok && status != "COMPLETED":
			complain("told as done, and is %s %s: %v", status, reason, a)
		case a.class == pending_ && !start.saga:
			complain("told as pending, and is no saga: %v", a)
		case a.class == rejected && (status != "REFUSED" && status != "REFUNDED" || reason != a.reason):
			complain("told as rejected, and is %s %q: %v", status, reason, a)
		case a.class == rejected && a.status != "" && status != a.status:
			complain("told as %s, and is %s: %v", a.status, status, a)
		case a.told && (a.balance != start.balance || a.version != start.version):
			complain("told balance %d at version %d, recorded %d at %d: %v", a.balance, a.version, start.balance, start.version, a)
		}
	}
	if start != nil && !recorder {
		complain("recorded, though no answer says that it may have been: %v", attempts)
	}
	if fresh > 1 {
		complain("%d answers to %v say that they are the first: %v", fresh, id, attempts)
	}
	for i, a := range attempts {
		for _, b := range attempts[i+1:] {
			if a.mutated || b.mutated || !a.definite() || !b.definite() || b.invoke < a.ret {
				continue
			}
			if !b.replayed {
				complain("told already, and now as new: %v, then %v", a, b)
			}
			if a.class != pending_ && b.class != a.class {
				complain("told otherwise before: %v, then %v", a, b)
			}
		}
	}
}

// judgeVersions is about accounts: every told balance is that of the entry with the told version; and what was seen once
// is not unseen later, also not the payer's side of a credit that was seen.
func (h *history) judgeVersions(writes map[identity][]*attempt, w *world, complain func(string, ...any)) {
	type event struct {
		at    time.Duration
		ends  bool
		a     *attempt
		floor *int64 // of a's account, when a began
	}
	var events []event
	for _, a := range h.attempts {
		if !a.told {
			continue
		}
		if entries := w.entries[a.of]; a.version > int64(len(entries)) {
			complain("lost entry: version %d of %v, which has %d: %v", a.version, a.of, len(entries), a)
			continue
		} else if a.version > 0 && entries[a.version-1].balance != a.balance || a.version == 0 && a.balance != 0 {
			complain("version %d of %v has another balance: %v", a.version, a.of, a)
		} else if a.version > 0 {
			if first := writes[entries[a.version-1].identity]; first != nil && first[0].invoke > a.ret {
				complain("version %d of %v is from the future: %v", a.version, a.of, a)
			}
		}
		if a.replayed { // tells of the past
			continue
		}
		floor := new(int64)
		events = append(events, event{a.invoke, false, a, floor}, event{a.ret, true, a, floor})
	}
	slices.SortStableFunc(events, func(x, y event) int { return cmp.Compare(x.at, y.at) })
	floors := make(map[account]int64)
	for _, e := range events {
		if !e.ends {
			*e.floor = floors[e.a.of]
			continue
		}
		least := *e.floor
		if e.a.identity != (identity{}) {
			least++ // a write makes a new entry
		}
		if e.a.version < least {
			complain("version %d of %v is told when %d was seen before: %v", e.a.version, e.a.of, *e.floor, e.a)
		}
		for v := floors[e.a.of]; v < e.a.version; v++ {
			seen := w.entries[e.a.of][v]
			if start := w.starts[seen.identity]; start != nil && start.kind == "transfer" && seen.step != 3 && seen.amount > 0 {
				payer := account{seen.identity.initiator, e.a.of.currency}
				floors[payer] = max(floors[payer], start.version)
			}
		}
		floors[e.a.of] = max(floors[e.a.of], e.a.version)
	}
}
