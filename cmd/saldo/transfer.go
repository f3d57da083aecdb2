package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

type transferCommand struct {
	Show transferShowCommand `cmd:"" help:"Show a transfer and its way over the shards, with times."`
}

type transferShowCommand struct {
	desk `embed:""`
	ID   string `arg:"" help:"The transfer: INITIATOR/TX_ID, or a transaction id alone, which is looked for on all shards."`
	TxID string `arg:"" optional:"" name:"tx-id" help:"The transaction id, where the initiator stands alone."`
	JSON bool   `name:"json" help:"Print it as JSON, for machines."`
}

// Help says how to read it.
func (c *transferShowCommand) Help() string {
	return "The times of a step are those of its shard's Postgres: between two shards they tell as much as their clocks agree. " +
		"A dotted line is money in transit. Exits with 2 if a shard that might know more did not answer."
}

func (c *transferShowCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	list, err := c.find(ctx, client)
	if err != nil {
		return helpful(err)
	}
	if c.JSON {
		return printJSON(to.out, list)
	}
	for i, t := range list.Transfers {
		if i > 0 {
			fmt.Fprintln(to.out)
		}
		what := t.Kind + " " + money(t.Amount, t.Currency)
		if t.Payee != "" {
			what = fmt.Sprintf("%s to %s", money(t.Amount, t.Currency), t.Payee)
		}
		d := drawing{
			id: ledger.Identity{Initiator: t.Initiator, TxID: t.TxID}, what: what, description: t.Description,
			status: t.Status, reason: t.Reason, currency: t.Currency, home: t.Home,
			begun: t.CreatedAt, seconds: t.Seconds, trace: t.TraceID, steps: t.Steps,
		}
		if t.Saga {
			d.payeeShard = t.PayeeShard
		} else if t.Payee != "" && t.Status == ledger.StatusCompleted {
			d.received = fmt.Sprintf("%s %s", t.Payee, change(t.Amount, t.Currency))
		}
		draw(to.out, d)
	}
	if list.More {
		fmt.Fprintln(to.err, "There are more of that id: say whose, as in saldo transfer show alice/my-transfer.")
	}
	return tellUnanswered(to, list.Unanswered)
}

// find looks a transfer up, by its identity or by its transaction id alone.
func (c *transferShowCommand) find(ctx context.Context, client *admin.Client) (list admin.TransferList, err error) {
	if c.TxID == "" && !strings.Contains(c.ID, "/") {
		txID, err := ledger.ParseTxID(c.ID)
		if err != nil {
			return list, err
		}
		list, err = client.Transfers(ctx, txID)
		return list, err
	}
	id, err := transferID{ID: c.ID, TxID: c.TxID}.identity()
	if err != nil {
		return list, err
	}
	t, err := client.Transfer(ctx, id)
	return admin.TransferList{Transfers: []admin.Transfer{t}, Unanswered: t.Unanswered}, err
}

// drawing is what is drawn of a transfer.
type drawing struct {
	id                ledger.Identity
	what, description string
	received          string // what the payee's line says, if the start wrote that too
	status            ledger.Status
	reason            ledger.Reason
	currency          ledger.Currency
	home, payeeShard  ledger.ShardID // payeeShard: "" if all is done on one
	begun             time.Time
	seconds           float64
	trace             string
	steps             []admin.StepInfo
}

// draw draws a transfer's way: a line for each shard, from left to right, and what was done there from above to below.
func draw(to io.Writer, d drawing) {
	fmt.Fprintf(to, "%v: %s\n", d.id, d.what)
	if d.description != "" {
		fmt.Fprintf(to, "  %q\n", d.description)
	}
	status := string(d.status)
	if d.reason != "" {
		status += " (" + string(d.reason) + ")"
	}
	switch {
	case d.status == ledger.StatusPending:
		status += " for " + lasted(d.seconds)
	case d.payeeShard != "":
		status += " after " + lasted(d.seconds)
	}
	fmt.Fprintf(to, "  %s, begun %s\n", status, moment(d.begun))
	if d.trace != "" {
		fmt.Fprintf(to, "  trace %s\n", d.trace)
	}
	fmt.Fprintln(to)

	shards := []ledger.ShardID{d.home}
	for _, step := range d.steps {
		if !slices.Contains(shards, step.Shard) {
			shards = append(shards, step.Shard)
		}
	}
	if d.payeeShard != "" && !slices.Contains(shards, d.payeeShard) {
		shards = append(shards, d.payeeShard)
	}
	const width = 14
	column := func(text string) string { return fmt.Sprintf("%-*s", width, text) }
	var head strings.Builder
	for _, shard := range shards {
		head.WriteString(column(string(shard)))
	}
	fmt.Fprintf(to, "  %-12s  %s\n", "", strings.TrimRight(head.String(), " "))
	inTransit := false
	var last ledger.ShardID // where the latest step was done; what is a copy was done elsewhere
	for _, step := range d.steps {
		if !step.Copy {
			if last != "" && last != step.Shard {
				fmt.Fprintf(to, "  %-12s  %s\n", "", arrow(shards, last, step.Shard, width))
			}
			last = step.Shard
		}
		var line strings.Builder
		for _, shard := range shards {
			mark := "│"
			if shard == step.Shard {
				mark = stations[step.Step] + " " + step.Step
				if step.Copy {
					mark = "◌ " + step.Step
				}
			}
			line.WriteString(column(mark))
		}
		text := told(step, d.currency)
		if d.received != "" {
			text += "; " + d.received
		}
		fmt.Fprintf(to, "  %s  %s  %s\n", since(d.begun, step.At), line.String(), text)
		inTransit = d.payeeShard != "" && step.Step == "start" && step.Outcome == "applied"
	}
	if d.status == ledger.StatusPending && inTransit && len(shards) > 1 {
		fmt.Fprintf(to, "  %-12s  %s  in transit\n", "", arrow(shards, d.home, d.payeeShard, width))
	}
}

var stations = map[string]string{"start": "●", "credit": "●", "refund": "●", "end": "■"}

// since says when something happened after the beginning.
func since(begun, at time.Time) string {
	d := at.Sub(begun)
	if d == 0 {
		return fmt.Sprintf("%-12s", "0")
	}
	sign := "+"
	if d < 0 {
		sign = "-"
		d = -d
	}
	return fmt.Sprintf("%-12s", sign+lasted(d.Seconds()))
}

// told says what a step did.
func told(step admin.StepInfo, currency ledger.Currency) string {
	text := step.Outcome
	switch {
	case step.Step == "end" && step.Reason != "":
		text = fmt.Sprintf("%s: %s", step.Outcome, step.Reason)
	case step.Outcome == "refused":
		text = fmt.Sprintf("refused: %s", step.Reason)
	case step.Outcome == "applied" && step.Balance != nil:
		text = fmt.Sprintf("%s %s, balance %s", step.User, change(step.Change, currency), count(*step.Balance))
	}
	if step.Copy {
		text += " (a copy)"
	}
	return text
}

// arrow is a dotted line from one shard's column to another's.
func arrow(shards []ledger.ShardID, from, to ledger.ShardID, width int) string {
	a, b := slices.Index(shards, from), slices.Index(shards, to)
	cells := make([]rune, 0, len(shards)*width)
	for i := range shards {
		cell := []rune(fmt.Sprintf("%-*s", width, "│"))
		for j := range cell {
			at := i*width + j
			low, high := min(a, b)*width, max(a, b)*width
			if at > low && at < high {
				cell[j] = '┄'
			}
		}
		cells = append(cells, cell...)
	}
	switch {
	case b > a:
		cells[b*width-1] = '▶'
	case b < a:
		cells[b*width+1] = '◀'
	}
	return strings.TrimRight(string(cells), " ")
}
