package e2e

import (
	"strings"
	"testing"
	"time"
)

// The judge finds what it is there for. Ann has 100 and gives Bob, on another shard, 30; Cleo is refused.
func TestJudge(t *testing.T) {
	t.Parallel()
	type scene struct {
		*history
		*world
		add, give, read, seen, refused *attempt
	}
	ann, bob, cleo := account{"ann", "USD"}, account{"bob", "USD"}, account{"cleo", "USD"}
	addID, giveID, refusedID := identity{"ann", "add"}, identity{"ann", "give"}, identity{"cleo", "t"}
	make_ := func() scene {
		add := contents{"add", "", 100, "USD"}
		give := contents{"transfer", "bob", 30, "USD"}
		ask := contents{"transfer", "bob", 5, "USD"}
		s := scene{
			history: &history{opening: map[identity]bool{}},
			world: &world{
				users: map[string]bool{"ann": true, "bob": true, "cleo": true},
				starts: map[identity]*operation{
					addID:     {contents: add, balance: 100, version: 1},
					giveID:    {contents: give, saga: true, balance: 70, version: 2},
					refusedID: {contents: ask, reason: "insufficient_funds"},
				},
				credits: map[identity]*operation{giveID: {contents: give, balance: 30, version: 1}},
				refunds: map[identity]*operation{},
				sagas:   map[identity]*saga{giveID: {contents: give, state: 2}},
				entries: map[account][]entry{
					ann: {{1, 100, 100, addID, 1}, {2, -30, 70, giveID, 1}},
					bob: {{1, 30, 30, giveID, 2}},
				},
				balances: map[account]held{ann: {70, 2}, bob: {30, 1}, cleo: {}},
			},
		}
		at := time.Duration(0)
		tell := func(a attempt) *attempt {
			a.invoke, a.ret = at, at+5
			at += 10
			s.attempts = append(s.attempts, &a)
			return &a
		}
		s.add = tell(attempt{class: ok, identity: addID, contents: add, of: ann, told: true, balance: 100, version: 1})
		s.give = tell(attempt{class: ok, identity: giveID, contents: give, of: ann, told: true, balance: 70, version: 2})
		s.seen = tell(attempt{class: ok, of: bob, told: true, balance: 30, version: 1})
		s.read = tell(attempt{class: ok, of: ann, told: true, balance: 70, version: 2})
		s.refused = tell(attempt{class: rejected, identity: refusedID, contents: ask, reason: "insufficient_funds", status: "REFUSED"})
		return s
	}
	again := func(s scene, a *attempt, class class, replayed bool) *attempt {
		b := *a
		b.class, b.replayed, b.told = class, replayed, false
		b.invoke, b.ret = 100, 105
		s.attempts = append(s.attempts, &b)
		return &b
	}
	for name, test := range map[string]struct {
		change func(s scene)
		want   string // a part of what is said; "" for nothing
	}{
		"all is well": {func(scene) {}, ""},
		"a repeat":    {func(s scene) { again(s, s.give, ok, true) }, ""},
		"unknown and not there": {func(s scene) {
			delete(s.starts, refusedID)
			s.refused.class = unknown
		}, ""},
		"conflict of other contents": {func(s scene) { again(s, s.give, conflict, false).mutated = true }, ""},

		"lost":                    {func(s scene) { delete(s.starts, refusedID) }, "lost"},
		"lost entry":              {func(s scene) { s.entries[bob] = nil }, "lost entry"},
		"phantom":                 {func(s scene) { s.attempts = s.attempts[1:] }, "phantom"},
		"mutated":                 {func(s scene) { s.starts[giveID].amount = 31 }, "mutated"},
		"resurrected":             {func(s scene) { s.starts[refusedID].reason = "" }, "told as rejected"},
		"refunded in the end":     {func(s scene) { s.sagas[giveID].state = 3 }, "told as done"},
		"recorded in spite of it": {func(s scene) { s.refused.class = none }, "no answer says that it may have been"},
		"a repeat of nothing": {func(s scene) {
			again(s, s.refused, rejected, true)
			s.refused.class = none
		}, "no answer says that it may have been"},
		"a repeat of what is unknown": {func(s scene) {
			again(s, s.refused, rejected, true)
			s.refused.class = unknown
		}, ""},
		"done twice": {func(s scene) { again(s, s.give, ok, false) }, "say that they are the first"},
		"first done, then pending": {
			func(s scene) { again(s, s.give, pending_, true) }, "told otherwise before"},
		"other contents done": {func(s scene) { again(s, s.give, ok, true).mutated = true }, "other contents"},
		"false conflict":      {func(s scene) { again(s, s.give, conflict, false) }, "conflict with nothing"},
		"wrong balance":       {func(s scene) { s.give.balance = 71 }, "told balance"},
		"wrong read":          {func(s scene) { s.read.balance = 71 }, "another balance"},
		"stale read":          {func(s scene) { s.read.version, s.read.balance = 1, 100 }, "was seen before"},
		"stale after a credit was seen": {func(s scene) {
			s.read.version, s.read.balance = 1, 100
			s.give.class, s.give.told = unknown, false
		}, "was seen before"},
		"future": {func(s scene) { s.seen.invoke, s.seen.ret = -20, -10 }, "from the future"},
		"500":    {func(s scene) { s.refused.class, s.refused.what = broken, "500" }, "500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := make_()
			test.change(s)
			wrong := strings.Join(s.judge(s.world), "\n")
			if test.want == "" && wrong != "" || !strings.Contains(wrong, test.want) {
				t.Errorf("the judge says %q, want %q", wrong, test.want)
			}
		})
	}

	// And so does the world's own check.
	for name, test := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"all is well": {func(*world) {}, ""},
		"gap":         {func(w *world) { w.entries[ann][1].version = 3 }, "entry 3"},
		"balance":     {func(w *world) { w.balances[ann] = held{71, 2} }, "its entries say"},
		"overdraft": {func(w *world) {
			w.entries[ann][1].amount, w.entries[ann][1].balance = -130, -30
		}, "entry 2"},
		"no credit":    {func(w *world) { delete(w.credits, giveID) }, "saga ann/give"},
		"no debit":     {func(w *world) { w.entries[ann] = w.entries[ann][:1] }, "start ann/give"},
		"twice":        {func(w *world) { w.entries[bob] = append(w.entries[bob], entry{2, 30, 60, giveID, 2}) }, "has 2 entries"},
		"no start":     {func(w *world) { delete(w.starts, giveID) }, "belongs to no operation"},
		"pending":      {func(w *world) { w.sagas[giveID].state = 1 }, "state 1"},
		"money made":   {func(w *world) { w.starts[addID].amount = 90 }, "came in"},
		"other amount": {func(w *world) { w.entries[bob][0].amount = 31 }, "moves 31"},
	} {
		t.Run("world: "+name, func(t *testing.T) {
			t.Parallel()
			w := make_().world
			test.change(w)
			w.replay()
			w.join()
			wrong := strings.Join(w.wrong, "\n")
			if test.want == "" && wrong != "" || !strings.Contains(wrong, test.want) {
				t.Errorf("the check says %q, want %q", wrong, test.want)
			}
		})
	}
}
