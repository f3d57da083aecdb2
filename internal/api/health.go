package api

import (
	"context"
	"net/http"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Health tells whether this process can serve.
type Health interface {
	// Readiness answers at once, from what is known.
	Readiness(ctx context.Context) Readiness
}

// Readiness is whether requests should be sent here. A router that lost etcd is still ready: it serves from the map that
// it has, and says so in that part.
type Readiness struct {
	Ready bool
	Parts []Part
}

// Part is one thing that the process depends on and how that is, in words that any client may read: "etcd" is
// "connected" or "away, serving from the map of revision 17".
type Part struct {
	Name  string // lower-case ASCII
	State string
}

// livez answers GET /livez: the process can answer.
func (f *face) livez(*request) (reply, error) {
	return reply{status: http.StatusOK, data: alive{}}, nil
}

// readyz answers GET /readyz.
func (f *face) readyz(r *request) (reply, error) {
	readiness := f.Health.Readiness(r)
	if !readiness.Ready {
		return errorReply(&ledger.Error{Code: codeNotReady}, readinessData(readiness)), nil
	}
	return reply{status: http.StatusOK, data: readinessData(readiness)}, nil
}

type alive struct{}

func (alive) appendTo(o object) object { return o.bool("alive", true) }

type readinessData Readiness

func (d readinessData) appendTo(o object) object {
	o = o.bool("ready", d.Ready).name("parts").open()
	for _, part := range d.Parts {
		o = o.text(part.Name, part.State)
	}
	return o.close()
}
