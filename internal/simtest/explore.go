package simtest

import (
	"hash/maphash"
	"time"
)

// Report is what an exploration found.
type Report struct {
	States  int // distinct worlds
	Edges   int // steps between them
	Books   int // distinct states of shards
	Depth   int // of the world farthest from the first, in steps
	Longest int // steps without further faults from any world to its end
	Elapsed time.Duration
	Counts  Counts
	Broken  *Violation // the first broken promise, with a shortest story; nil if every promise holds
}

// Violation is a broken promise and how it came to be.
type Violation struct {
	Promise string
	Steps   int
	Story   string
}

// mostStates keeps a scope that was chosen too large from eating the machine: about 3 GB.
const mostStates = 20_000_000

// Explore visits every world that a scope can reach, nearest first, and stops at the first broken promise, or when there
// are so many worlds that the scope should have been smaller.
func Explore(scope Scope) *Report {
	e := explorer{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		index: map[fingerprint]uint32{},
	}
	began := time.Now()
	var first world
	e.sim, first = newSim(scope)
	e.first = first
	e.explore()
	if e.report.Broken == nil {
		e.checkEnds()
	}
	e.report.States, e.report.Books, e.report.Elapsed = len(e.parent), len(e.sim.states), time.Since(began)
	return &e.report
}

type explorer struct {
	sim    *sim
	first  world
	seeds  [2]maphash.Seed
	index  map[fingerprint]uint32
	parent []uint32 // of each world
	via    []uint16 // which of the parent's actions led to each world
	// faultless are the steps that are no faults, of all worlds in order; those of world i begin at begin[i].
	faultless []uint32
	begin     []uint32
	report    Report
}

// fingerprint stands for a world. Two worlds of one scope share one with a probability of about 2^-80.
type fingerprint [2]uint64

// fingerprint is the same for a world and for the one in which two coordinators have changed names.
func (e *explorer) fingerprint(w *world) fingerprint {
	print := e.exactly(w)
	if e.sim.scope.Coordinators == 2 {
		renamed := w.renamed()
		if other := e.exactly(&renamed); other[0] < print[0] {
			return other
		}
	}
	return print
}

func (e *explorer) exactly(w *world) fingerprint {
	return fingerprint{maphash.Comparable(e.seeds[0], *w), maphash.Comparable(e.seeds[1], *w)}
}

func (e *explorer) explore() {
	e.index[e.fingerprint(&e.first)] = 0
	e.parent, e.via = append(e.parent, 0), append(e.via, 0)
	var actions []action
	frontier, next := []world{e.first}, []world(nil)
	for at := uint32(0); len(frontier) > 0; frontier, next = next, frontier[:0] {
		if len(e.parent) > mostStates {
			e.report.Broken = e.violation("the scope is too large to be explored", at, -1)
			return
		}
		for i := range frontier {
			w := &frontier[i]
			var faultless int
			actions, faultless = e.sim.actions(w, true, actions[:0])
			e.begin = append(e.begin, uint32(len(e.faultless)))
			if faultless == 0 {
				if left := e.sim.unfinished(w); left != "" {
					e.report.Broken = e.violation(left, at, -1)
					return
				}
			}
			for k, a := range actions {
				e.report.Edges++
				after, f := e.sim.step(*w, a)
				e.report.Counts.count(e.sim, &after, &f)
				if f.broken != "" {
					e.report.Broken = e.violation(f.broken, at, k)
					return
				}
				print := e.fingerprint(&after)
				id, known := e.index[print]
				if !known {
					id = uint32(len(e.parent))
					e.index[print] = id
					e.parent, e.via = append(e.parent, at), append(e.via, uint16(k))
					next = append(next, after)
				}
				if k < faultless {
					e.faultless = append(e.faultless, id)
				}
			}
			at++
		}
		if len(next) > 0 {
			e.report.Depth++
		}
	}
	e.begin = append(e.begin, uint32(len(e.faultless)))
}

// checkEnds checks that the steps that are no faults have no cycle, and finds their longest path. That each path's end is
// a good one, explore has checked.
func (e *explorer) checkEnds() {
	const unseen, open = -2, -1
	longest := make([]int32, len(e.parent))
	for i := range longest {
		longest[i] = unseen
	}
	type frame struct{ at, edge uint32 }
	var stack []frame
	for root := range uint32(len(e.parent)) {
		if longest[root] != unseen {
			continue
		}
		stack = append(stack, frame{root, e.begin[root]})
		longest[root] = open
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.edge < e.begin[top.at+1] {
				to := e.faultless[top.edge]
				top.edge++
				switch longest[to] {
				case unseen:
					longest[to] = open
					stack = append(stack, frame{to, e.begin[to]})
				case open:
					e.report.Broken = e.violation("always ends: without further faults the world comes back to where it was", to, -1)
					return
				}
				continue
			}
			length := int32(0)
			for _, to := range e.faultless[e.begin[top.at]:e.begin[top.at+1]] {
				length = max(length, longest[to]+1)
			}
			longest[top.at] = length
			e.report.Longest = max(e.report.Longest, int(length))
			stack = stack[:len(stack)-1]
		}
	}
}

// violation tells how a world came to be, and its k-th action if k is not negative.
func (e *explorer) violation(promise string, at uint32, k int) *Violation {
	var path []int
	if k >= 0 {
		path = append(path, k)
	}
	for ; at != 0; at = e.parent[at] {
		path = append(path, int(e.via[at]))
	}
	w := e.first
	var actions []action
	for i := len(path) - 1; i >= 0; i-- {
		all, _ := e.sim.actions(&w, true, nil)
		actions = append(actions, all[path[i]])
		w, _ = e.sim.step(w, all[path[i]])
	}
	return e.sim.violation(e.first, actions, promise)
}
