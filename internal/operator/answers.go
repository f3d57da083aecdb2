package operator

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator/v1alpha1"
)

// ask asks every registered shard of this cluster's what it holds, all at once, and adopts new primaries that are sure to
// have everything.
func (p *pass) ask(ctx context.Context) {
	var (
		mu     sync.Mutex
		asking sync.WaitGroup
		failed = make(map[ledger.ShardID]error)
	)
	p.answers = make(map[ledger.ShardID]Answer)
	for _, m := range p.plan.members {
		if !m.registered || m.part == foreign {
			continue
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			answer, err := p.ledger.Ask(ctx, m.id)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[m.id] = err
				return
			}
			p.answers[m.id] = answer
		})
	}
	asking.Wait()
	for _, m := range p.plan.members {
		err := failed[m.id]
		var failover *NotAdoptedError
		switch {
		case err == nil:
		case errors.As(err, &failover):
			p.adopt(ctx, m.id, failover)
		default:
			p.note(m.id, "it does not answer: %s", firstLine(err))
		}
	}
}

// adopt accepts a new primary, if nothing that was acknowledged can be missing there. Whether it is, is a person's to say
// otherwise: what was lost must be looked for before money is moved by what is left.
func (p *pass) adopt(ctx context.Context, id ledger.ShardID, failover *NotAdoptedError) {
	doubt := failover.Unknown
	if len(failover.Lost) > 0 {
		doubt = strings.Join(failover.Lost, ", ")
	}
	if r, ok := p.running[id]; doubt == "" && ok {
		doubt = p.engine.durable(r)
	} else if doubt == "" {
		doubt = "what runs it is gone"
	}
	if doubt != "" {
		p.note(id, "%v", failover)
		p.block("NotAdopted", "shard %s: %v. The operator does not, since something that was acknowledged may be missing: %s. "+
			"Make sure that the old primary is down, then: saldo shard adopt %s", id, failover, doubt, id)
		return
	}
	if err := p.ledger.Adopt(ctx, id); err != nil {
		p.note(id, "%v", err)
		p.block("NotAdopted", "shard %s: %v: %v", id, failover, err)
		return
	}
	p.event(id, "PrimaryAdopted", "Adopt",
		"shard %s: its Postgres has failed over with a quorum, and the new primary, on timeline %d, was adopted",
		id, failover.Timeline)
	p.scale("Adopting", "the new primary of shard %s was adopted", id)
}

// dsn is the address of a shard for the services, without a password.
func (p *pass) dsn(id ledger.ShardID) string {
	address := url.URL{
		Scheme: "postgres", User: url.User(p.logins.user), Host: fmt.Sprintf("%s:%d", p.engine.host(id), postgresPort), Path: "/" + database,
	}
	return address.String()
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// states say what has become of a member.
func (p *pass) state(m member) v1alpha1.MemberState {
	switch {
	case m.part == gone:
		return v1alpha1.MemberRetired
	case m.part == foreign:
		return v1alpha1.MemberForeign
	case m.registered && m.Draining:
		return v1alpha1.MemberDraining
	case m.registered:
		return v1alpha1.MemberActive
	case p.running[m.id].ready:
		return v1alpha1.MemberJoining
	}
	return v1alpha1.MemberCreating
}
