package api

import (
	"net/http"
	"sync/atomic"
)

// gate bounds the requests in progress in this process, so that its memory is bounded whatever is sent to it; what batches
// hold is bounded in bytes besides. It refuses before a body is read. How much each shard is given is not decided here, since
// only the body says which one is meant.
type gate struct {
	most   int64
	inside atomic.Int64
}

// newGate returns nil, which lets everybody in, if most is 0.
func newGate(most int) *gate {
	if most == 0 {
		return nil
	}
	return &gate{most: int64(most)}
}

// gateOf returns the gate of a route. Reads and writes have one each, so that neither keep the others out.
func (f *face) gateOf(rt route) *gate {
	switch {
	case rt.always || rt.path == "":
		return nil
	case rt.method == http.MethodPost:
		return f.writes
	}
	return f.reads
}

// enter lets a request in if there is room. If so, leave must be called when it is done.
func (g *gate) enter() bool {
	if g == nil || g.inside.Add(1) <= g.most {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g != nil {
		g.inside.Add(-1)
	}
}

// crowded tells whether more than half of the room is taken.
func (g *gate) crowded() bool { return g != nil && g.inside.Load() > g.most/2 }
