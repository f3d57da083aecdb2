package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// makeUsers gives each user a purse. Doing it again changes nothing.
func (p *payer) makeUsers(ctx context.Context) error {
	for i := range p.users {
		id := p.user(i)
		user := map[string]string{"id": id, "name": id}
		if _, err := p.insist(ctx, http.MethodPost, "/users", user, http.StatusCreated, http.StatusOK); err != nil {
			return err
		}
		// 202 says here that it was done, and 422 that it had been done before.
		money := map[string]any{"amount": purse, "transaction_id": "purse"}
		_, err := p.insist(ctx, http.MethodPost, "/users/"+id+"/add", money, http.StatusAccepted, http.StatusUnprocessableEntity)
		if err != nil {
			return err
		}
	}
	return nil
}

// batch is how many transfers are asked for again in one request.
const batch = 500

// check asks for all that was acknowledged, and for what every user must own by it.
func (p *payer) check(ctx context.Context) error {
	p.mu.Lock()
	begun, known := p.begun, p.known
	p.mu.Unlock()
	// A transfer that was not forgotten is not done again: each answer is what it was, and no balance changes by asking.
	for rest := known; len(rest) > 0; {
		some := rest[:min(batch, len(rest))]
		rest = rest[len(some):]
		if err := p.checkAgain(ctx, some); err != nil {
			return err
		}
	}
	type account struct{ balance, version int64 }
	accounts := make([]account, p.users)
	for i := range accounts {
		accounts[i] = account{purse, 1}
	}
	for _, n := range known {
		t := p.transfer(n)
		accounts[t.from].balance -= t.amount
		accounts[t.from].version++
		accounts[t.to].balance += t.amount
		accounts[t.to].version++
	}
	for i, want := range accounts {
		got, err := p.insist(ctx, http.MethodGet, "/users/"+p.user(i)+"/balance", nil, http.StatusOK)
		if err != nil {
			return fmt.Errorf("balance of %s: %w", p.user(i), err)
		}
		if has := (account{got.Data.Balance, got.Data.Version}); has != want {
			p.accuse("%s has %d after %d entries, and by what was acknowledged %d after %d",
				p.user(i), has.balance, has.version, want.balance, want.version)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wrong) > 0 {
		return fmt.Errorf("%d things are wrong, the first: %s", len(p.wrong), p.wrong[0])
	}
	if begun == 0 {
		return errors.New("nothing was paid")
	}
	p.log.Info("all that was acknowledged is there, once", "transfers", len(known), "users", p.users)
	return nil
}

func (p *payer) checkAgain(ctx context.Context, numbers []int64) error {
	var body struct {
		Transfers []transferBody `json:"transfers"`
	}
	for _, n := range numbers {
		body.Transfers = append(body.Transfers, p.body(n))
	}
	got, err := p.insist(ctx, http.MethodPost, "/transfers/batch", body, http.StatusOK)
	if err != nil {
		return fmt.Errorf("ask again: %w", err)
	}
	if len(got.Data.Results) != len(numbers) {
		return fmt.Errorf("asked for %d transfers again and got %d answers", len(numbers), len(got.Data.Results))
	}
	for i, r := range got.Data.Results {
		switch {
		case r.StatusCode == http.StatusServiceUnavailable || r.StatusCode == http.StatusGatewayTimeout:
			return fmt.Errorf("asked for %s again: %d %s", body.Transfers[i].TransactionID, r.StatusCode, r.Code)
		case r.StatusCode != http.StatusCreated || r.Status != "COMPLETED" || r.TxID != body.Transfers[i].TransactionID:
			p.accuse("%s was acknowledged as COMPLETED and is now answered %d %s %s",
				body.Transfers[i].TransactionID, r.StatusCode, r.Code, r.Status)
		}
	}
	return nil
}
