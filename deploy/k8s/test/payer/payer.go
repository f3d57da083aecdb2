package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

type config struct {
	url, name      string
	users, callers int
	rate           float64
	patience       time.Duration
}

// purse is what each user begins with: more than anyone can pay in a run.
const purse = 1_000_000_000

// payer pays, and knows what the books have to say.
type payer struct {
	config
	client *http.Client
	log    *slog.Logger

	mu    sync.Mutex // guards the following
	step  step
	begun int64   // transfers: their numbers are below
	known []int64 // numbers of those that were acknowledged as completed
	wrong []string
}

func newPayer(c config, log *slog.Logger) *payer {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = c.callers
	return &payer{config: c, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, log: log, step: newStep()}
}

// transfer is the one of a number: all of it follows from the number, so it need not be kept to be repeated.
type transfer struct {
	from, to int
	amount   int64
}

func (p *payer) transfer(n int64) transfer {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	from, to := random.IntN(p.users), random.IntN(p.users-1)
	if to >= from {
		to++
	}
	return transfer{from, to, 1 + random.Int64N(9)}
}

func (p *payer) user(i int) string   { return fmt.Sprintf("%s-%d", p.name, i) }
func (p *payer) txID(n int64) string { return fmt.Sprintf("%s-t%d", p.name, n) }
func (p *payer) body(n int64) transferBody {
	t := p.transfer(n)
	return transferBody{p.user(t.from), p.user(t.to), t.amount, p.txID(n)}
}

// run makes the users, pays until ctx ends, then learns what is still open and checks everything.
func (p *payer) run(ctx context.Context) error {
	if p.users < 2 {
		return errors.New("it takes two to pay")
	}
	if err := p.makeUsers(ctx); err != nil {
		return fmt.Errorf("make users: %w", err)
	}
	p.endStep()
	p.log.Info("paying", "users", p.users, "rate", p.rate)
	// What is under way when the load ends still has to become known.
	open, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var callers sync.WaitGroup
	due := make(chan time.Time)
	for range p.callers {
		callers.Go(func() {
			for at := range due {
				p.pay(open, p.number(), at)
			}
		})
	}
	p.keepTime(ctx, due)
	close(due)
	giveUp := time.AfterFunc(p.patience, cancel)
	callers.Wait()
	giveUp.Stop()
	checked, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.patience)
	defer cancel()
	return p.check(checked)
}

// keepTime has a transfer begun each 1/rate of a second until ctx ends.
func (p *payer) keepTime(ctx context.Context, due chan<- time.Time) {
	ticker := time.NewTicker(time.Duration(float64(time.Second) / p.rate))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-ticker.C:
			select {
			case due <- at:
			default:
				p.note(func(s *step) { s.unsent++ })
			}
		}
	}
}

func (p *payer) number() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.begun
	p.begun++
	return n
}

// pay has one transfer done, however often that must be asked for.
func (p *payer) pay(ctx context.Context, n int64, due time.Time) {
	body := p.body(n)
	got, err := p.insist(ctx, http.MethodPost, "/transfers", body, http.StatusCreated)
	if err != nil {
		p.accuse("transfer %s: %v", body.TransactionID, err)
		return
	}
	p.mu.Lock()
	p.known = append(p.known, n)
	p.step.took = append(p.step.took, time.Since(due))
	p.mu.Unlock()
	if n%4 != 0 {
		return
	}
	// Who was told of an entry must not be shown a balance from before it, wherever the user lives by now.
	seen, err := p.insist(ctx, http.MethodGet, "/users/"+body.Source+"/balance", nil, http.StatusOK)
	switch {
	case err != nil:
		p.accuse("balance of %s: %v", body.Source, err)
	case seen.Data.Version < got.Data.Version:
		p.accuse("%s was told of entry %d by %s, and then shown entry %d",
			body.Source, got.Data.Version, body.TransactionID, seen.Data.Version)
	}
}

// accuse notes what must not be.
func (p *payer) accuse(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	p.wrong = append(p.wrong, text)
	p.mu.Unlock()
	p.log.Error(text)
}
