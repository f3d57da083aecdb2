package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

type sagaCommand struct {
	List  sagaListCommand  `cmd:"" help:"Show transfers between shards that have not ended, the oldest first."`
	Show  sagaShowCommand  `cmd:"" help:"Show one, with its steps."`
	Retry sagaRetryCommand `cmd:"" help:"Have the next steps of one tried at once."`
}

type sagaListCommand struct {
	desk      `embed:""`
	State     string        `name:"state" enum:"pending,completed,refunded" default:"pending" help:"pending, completed or refunded. Ended ones are shown from the latest back."`
	OlderThan time.Duration `name:"older-than" placeholder:"5m" help:"Only those that were begun so long ago, or longer."`
	Shard     string        `name:"shard" placeholder:"ID" help:"Only those of one home: their payers live there."`
	Limit     int           `name:"limit" default:"50" help:"So many, at most 500."`
	After     string        `name:"after" placeholder:"CURSOR" help:"Go on where a list has ended, as that has said."`
	JSON      bool          `name:"json" help:"Print them as JSON, for machines."`
}

// Help says what is usual.
func (c *sagaListCommand) Help() string {
	return "A transfer between shards ends within milliseconds. One that is pending for longer waits for a shard that does not answer, " +
		"and ends by itself when that is back: `saldo saga show` says for which. Exits with 2 if a shard did not answer."
}

func (c *sagaListCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	query := url.Values{"state": {c.State}, "limit": {strconv.Itoa(c.Limit)}}
	if c.OlderThan > 0 {
		query.Set("older_than", c.OlderThan.String())
	}
	if c.Shard != "" {
		query.Set("shard", c.Shard)
	}
	if c.After != "" {
		query.Set("after", c.After)
	}
	list, err := client.Sagas(ctx, query)
	if err != nil {
		return helpful(err)
	}
	if c.JSON {
		return printJSON(to.out, list)
	}
	if len(list.Sagas) == 0 {
		fmt.Fprintf(to.err, "no transfer between shards is %s\n", c.State)
		return tellUnanswered(to, list.Unanswered)
	}
	table := newTable(to.out)
	fmt.Fprintln(table, "TRANSFER\tTO\tAMOUNT\tSTATE\tFROM SHARD\tTO SHARD\tBEGUN\tLASTED\tCAUSE")
	for _, s := range list.Sagas {
		fmt.Fprintf(table, "%s/%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Initiator, s.TxID, s.Payee,
			money(s.Amount, s.Currency), s.State, s.Home, s.PayeeShard, moment(s.CreatedAt), lasted(s.Seconds), s.Cause)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if list.Next != "" {
		fmt.Fprintf(to.err, "there are more: --after %s\n", list.Next)
	}
	return tellUnanswered(to, list.Unanswered)
}

type sagaShowCommand struct {
	desk       `embed:""`
	transferID `embed:""`
	JSON       bool `name:"json" help:"Print it as JSON, for machines."`
}

func (c *sagaShowCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	id, err := c.identity()
	if err != nil {
		return err
	}
	saga, err := client.Saga(ctx, id)
	if err != nil {
		return helpful(err)
	}
	if c.JSON {
		return printJSON(to.out, saga)
	}
	draw(to.out, drawing{
		id: id, what: fmt.Sprintf("%s to %s", money(saga.Amount, saga.Currency), saga.Payee),
		status: saga.State, reason: saga.Cause, currency: saga.Currency, home: saga.Home, payeeShard: saga.PayeeShard,
		begun: saga.CreatedAt, seconds: saga.Seconds, trace: saga.TraceID, steps: saga.Steps,
	})
	if saga.State == ledger.StatusPending {
		tellWaiting(ctx, client, to, saga)
	}
	return tellUnanswered(to, saga.Unanswered)
}

// tellWaiting says for whom a pending saga waits, as far as that can be seen from outside.
func tellWaiting(ctx context.Context, client *admin.Client, to streams, saga admin.Saga) {
	shards, err := client.Shards(ctx)
	if err != nil {
		return // it is only for comfort
	}
	for _, s := range shards.Shards {
		switch {
		case s.ID == saga.PayeeShard && !s.Answers, s.ID == saga.Home && !s.Answers:
			fmt.Fprintf(to.err, "it waits for shard %s: %s\n", s.ID, s.Error)
		case s.ID == saga.Home && s.Driver == "":
			fmt.Fprintf(to.err, "no coordinator is elected to drive the sagas of shard %s\n", s.ID)
		}
	}
	fmt.Fprintf(to.err, "have it tried now: saldo saga retry %s/%s\n", saga.Initiator, saga.TxID)
}

type sagaRetryCommand struct {
	desk       `embed:""`
	transferID `embed:""`
	JSON       bool `name:"json" help:"Print what came of it as JSON, for machines."`
}

// Help says that it is harmless.
func (c *sagaRetryCommand) Help() string {
	return "Whoever drives the transfer goes on beside that: each step is known by its key, and nothing is done twice. " +
		"A step that has no answer is never taken for refused. Exits with 1 if the transfer has not ended."
}

func (c *sagaRetryCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	id, err := c.identity()
	if err != nil {
		return err
	}
	retry, err := client.RetrySaga(ctx, id)
	if err != nil {
		return helpful(err)
	}
	switch {
	case c.JSON:
		err = printJSON(to.out, retry)
	case !retry.Tried:
		fmt.Fprintf(to.err, "%v: it had ended before: %s\n", id, retry.State)
	case retry.State == ledger.StatusPending:
		fmt.Fprintf(to.err, "%v is still pending: %s\n", id, retry.Problem)
	case retry.Cause != "":
		fmt.Fprintf(to.err, "%v: %s (%s)\n", id, retry.State, retry.Cause)
	default:
		fmt.Fprintf(to.err, "%v: %s\n", id, retry.State)
	}
	if err == nil && retry.State == ledger.StatusPending {
		err = wire.ExitCode(1)
	}
	return err
}
