package main

import (
	"context"
	"fmt"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

type userCommand struct {
	Show userShowCommand `cmd:"" help:"Show a user, the shard where they live, their money and its latest changes."`
}

type userShowCommand struct {
	desk `embed:""`
	ID   string `arg:"" help:"Of the user."`
	JSON bool   `name:"json" help:"Print them as JSON, for machines."`
}

func (c *userShowCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	id, err := ledger.ParseUserID(c.ID)
	if err != nil {
		return err
	}
	u, err := client.User(ctx, id)
	if err != nil {
		return helpful(err)
	}
	if c.JSON {
		return printJSON(to.out, u)
	}
	about := newTable(to.out)
	fmt.Fprintf(about, "user\t%s\n", u.ID)
	fmt.Fprintf(about, "name\t%s\n", printed(u.Name))
	if u.Email != "" {
		fmt.Fprintf(about, "email\t%s\n", printed(u.Email))
	}
	fmt.Fprintf(about, "created\t%s\n", moment(u.CreatedAt))
	fmt.Fprintf(about, "changed\t%s\n", moment(u.UpdatedAt))
	fmt.Fprintf(about, "lives on\tshard %s (slot %d, epoch %d)\n", u.Shard, u.Slot, u.Epoch)
	if u.Moving != nil {
		fmt.Fprintf(about, "moving\tto shard %s, in phase %s (move %s)\n", u.Moving.To, u.Moving.Phase, u.Moving.ID)
	}
	for _, place := range u.Places {
		switch {
		case place.Error != "":
			fmt.Fprintf(about, "unknown\tshard %s: %s\n", place.Shard, place.Error)
		case place.Shard != u.Shard && place.Present:
			fmt.Fprintf(about, "copy\ton shard %s (the slot is %s there)\n", place.Shard, place.State)
		case place.Shard == u.Shard && place.State != "owned":
			fmt.Fprintf(about, "note\tthe slot is %q on its shard\n", place.State)
		}
	}
	for _, account := range u.Accounts {
		fmt.Fprintf(about, "balance\t%s (%s entries)\n", money(account.Balance, account.Currency), count(account.Version))
	}
	if err := about.Flush(); err != nil {
		return err
	}
	if len(u.Accounts) == 0 {
		fmt.Fprintln(to.err, "no money has ever come or gone")
		return nil
	}
	fmt.Fprintln(to.out)
	table := newTable(to.out)
	fmt.Fprintln(table, "ENTRY\tWHEN\tCHANGE\tBALANCE\tWITH\tTRANSFER")
	for _, e := range u.Entries {
		what := e.Kind
		if e.Step == "refund" {
			what = "refund"
		}
		with := string(e.Counterparty)
		if with == "" {
			with = "(" + what + ")"
		} else if what == "refund" {
			with += " (refund)"
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s/%s\n", e.Version, moment(e.At),
			change(e.Change, e.Currency), count(e.Balance), with, e.Initiator, e.TxID)
	}
	return table.Flush()
}
