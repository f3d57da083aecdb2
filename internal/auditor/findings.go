package auditor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
)

// Finding is something that must not be.
type Finding struct {
	Check audit.Name `json:"check"`
	audit.Violation
	First time.Time `json:"first"` // when it was found
	Last  time.Time `json:"last"`  // when it was seen last
}

// findings are what is known to be wrong.
type findings struct {
	shown int
	turns int // how often the sweep has gone round
	known map[key]*finding
}

type key struct {
	check   audit.Name
	shard   string
	id      string
	problem string
}

type finding struct {
	Finding
	turn  int  // in which it was seen last
	swept bool // the sweep has seen it, so it would again
}

// standing tells whether a check is about what shards say they are, which each round looks at, and not about rows.
func standing(check audit.Name) bool {
	return check == audit.CheckIdentity || check == audit.CheckSlots || check == audit.CheckMoves
}

// noDigit leaves out what of a problem changes while it stays the same one.
func noDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// complete tells whether a round has judged everything, whatever it has found.
func complete(report *audit.Report) bool {
	return !slices.ContainsFunc(report.Checks, func(c audit.Check) bool { return len(c.Gaps) > 0 }) &&
		!slices.ContainsFunc(report.Shards, func(s audit.ShardReport) bool { return s.Error != "" })
}

// see takes in a report, and returns what was not known.
func (f *findings) see(report *audit.Report, recent bool, now time.Time) (fresh []Finding) {
	if f.known == nil {
		f.known = make(map[key]*finding)
	}
	for _, check := range report.Checks {
		for _, v := range check.Violations {
			k := key{check.Name, string(v.Shard), v.ID, strings.Map(noDigit, v.Problem)}
			if seen, ok := f.known[k]; ok {
				seen.Last, seen.turn, seen.swept = now, f.turns, seen.swept || !recent
				continue
			}
			found := Finding{check.Name, v, now, now}
			fresh = append(fresh, found)
			if len(f.known) < f.shown {
				f.known[k] = &finding{found, f.turns, !recent}
			}
		}
	}
	if recent && complete(report) {
		for k, seen := range f.known {
			if standing(k.check) && seen.Last.Before(now) {
				delete(f.known, k)
			}
		}
	}
	return fresh
}

// turn says that the sweep has gone round: what it has not seen in all of the time is not there any more.
func (f *findings) turn() {
	for k, seen := range f.known {
		// What a sweep does not look at, the payee's entry of a local transfer, stays until somebody looks.
		if !standing(k.check) && seen.turn < f.turns && (seen.swept || !seen.Line) {
			delete(f.known, k)
		}
	}
	f.turns++
}

// list returns them, the oldest first.
func (f *findings) list() []Finding {
	all := make([]Finding, 0, len(f.known))
	for _, seen := range f.known {
		all = append(all, seen.Finding)
	}
	slices.SortFunc(all, func(x, y Finding) int {
		return cmp.Or(x.First.Compare(y.First), cmp.Compare(x.Check, y.Check), cmp.Compare(x.Shard, y.Shard), cmp.Compare(x.ID, y.ID))
	})
	return all
}

// counts returns how many there are of each check.
func (f *findings) counts() map[audit.Name]int {
	counts := make(map[audit.Name]int)
	for k := range f.known {
		counts[k.check]++
	}
	return counts
}
