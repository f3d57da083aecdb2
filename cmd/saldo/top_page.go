package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// page is what a terminal has room for.
type page struct {
	width, height int    // 0: any
	color         bool   // headings and problems stand out
	problem       string // that is said above all else
}

const (
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// cut makes a text fit.
func (p page) cut(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if p.height > 0 && len(lines) > p.height {
		lines = append(lines[:p.height-1], "…")
	}
	for i, line := range lines {
		if p.width > 0 && utf8.RuneCountInString(line) > p.width {
			lines[i] = string([]rune(line)[:p.width-1]) + "…"
		}
		if p.color && strings.HasPrefix(line, "! ") {
			lines[i] = red + lines[i] + plain
		} else if p.color && heading(line) {
			lines[i] = bold + lines[i] + plain
		}
	}
	return strings.Join(lines, "\n")
}

// heading tells whether a line is a table's first.
func heading(line string) bool {
	first, _, _ := strings.Cut(line, " ")
	return slices.Contains([]string{"SHARD", "ROUTER", "MOVE", "PENDING"}, first)
}

// showTop is what saldo top shows. Lines that begin with "! " are problems.
func showTop(s sight, p page) string {
	var b strings.Builder
	for line := range strings.SplitSeq(p.problem, "\n") {
		if line != "" {
			fmt.Fprintf(&b, "! %s\n", strings.TrimSpace(line))
		}
	}
	fmt.Fprintf(&b, "saldo %s · %s · %d shards, %d routers, %d coordinators · map %d · audit %s\n",
		s.Cluster.UID[:min(8, len(s.Cluster.UID))], s.At.Local().Format(time.TimeOnly), s.Cluster.Shards,
		len(s.Cluster.Routers), len(s.Cluster.Coordinators), s.Cluster.Registry.Revision,
		strings.ReplaceAll(string(s.Audit.State), "_", " "))
	for _, problem := range topProblems(s) {
		fmt.Fprintf(&b, "! %s\n", problem)
	}
	b.WriteByte('\n')
	showShards(&b, s)
	showRouters(&b, s)
	showMoves(&b, s)
	showSagas(&b, s)
	return p.cut(b.String())
}

// topProblems is what a person should look at first.
func topProblems(s sight) []string {
	var problems []string
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !s.Cluster.Registry.Connected {
		say("etcd does not answer since %s: payments go on, moves and joins wait", moment(s.Cluster.Registry.Contact))
	}
	if s.Cluster.Registry.Problem != "" {
		say("the map stands still: %s", s.Cluster.Registry.Problem)
	}
	if !s.Cluster.Founded {
		say("the cluster's slots are not spread yet")
	}
	for _, shard := range s.Shards.Shards {
		if !shard.Answers {
			say("shard %s does not answer: %s", shard.ID, shard.Error)
		}
	}
	for _, router := range s.Figures.Routers {
		if !router.Answers {
			say("router %s: %s", router.Name, router.Error)
		}
	}
	if s.Cluster.Problem == "" && s.Cluster.Founded {
		leads := make(map[string]bool)
		for _, leader := range s.Cluster.Leaders {
			leads[leader.Election] = true
		}
		if !leads["rebalancer"] {
			say("no coordinator is elected to move slots")
		}
	}
	if s.Audit.State == admin.AuditViolations {
		say("the audit has found what must not be: %s", s.Audit.Message)
	}
	return problems
}

// lanes are those of all routers to one shard.
type lanes struct {
	queue        int64
	rate, batch  float64
	wait, commit *float64
}

func lanesTo(id ledger.ShardID, routers []admin.RouterFigures) (all lanes) {
	batches := 0.0
	for _, router := range routers {
		for _, lane := range router.Lanes {
			if lane.Shard != id {
				continue
			}
			all.queue += lane.Queue
			all.rate += lane.OperationsPerSecond
			if lane.Batch != nil && *lane.Batch > 0 {
				batches += lane.OperationsPerSecond / *lane.Batch
			}
			all.wait, all.commit = worse(all.wait, lane.WaitP99), worse(all.commit, lane.CommitP99)
		}
	}
	if batches > 0 {
		all.batch = all.rate / batches
	}
	return all
}

func worse(a, b *float64) *float64 {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}

func showShards(b *strings.Builder, s sight) {
	figures := make(map[ledger.ShardID]admin.ShardFigures)
	for _, f := range s.Figures.Shards {
		figures[f.ID] = f
	}
	table := newTable(b)
	fmt.Fprintln(table, "SHARD\tSTATE\tSLOTS\tOPS/S\tSAGAS/S\tPENDING\tOLDEST\tQUEUE\tWAIT\tCOMMIT\tBATCH\tSIZE")
	for _, shard := range s.Shards.Shards {
		f, lane := figures[shard.ID], lanesTo(shard.ID, s.Figures.Routers)
		state := shard.State
		if !shard.Answers {
			state = "DOWN"
		}
		pending, oldest := count(f.PendingSagas), ""
		if f.MorePending {
			pending = "> " + pending
		}
		if f.OldestPending > 0 {
			oldest = lasted(f.OldestPending)
		}
		batch := ""
		if lane.batch > 0 {
			batch = fmt.Sprintf("%.1f", lane.batch)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", shard.ID, state, shard.Slots,
			rate(f.OperationsPerSecond), rate(f.SagasPerSecond), pending, oldest,
			lane.queue, millis(lane.wait), millis(lane.commit), batch, humanize.IBytes(uint64(max(f.DatabaseBytes, 0))))
	}
	_ = table.Flush()
}

func showRouters(b *strings.Builder, s sight) {
	if s.Figures.Problem != "" {
		fmt.Fprintf(b, "\n! %s\n", s.Figures.Problem)
		return
	}
	b.WriteByte('\n')
	table := newTable(b)
	fmt.Fprintln(table, "ROUTER\tADDRESS\tREQ/S\t5XX/S\tP50\tP99\tUP")
	for _, r := range s.Figures.Routers {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Address, rate(r.RequestsPerSecond),
			rate(r.ErrorsPerSecond), millis(r.P50), millis(r.P99), lasted(max(s.At.Sub(r.StartedAt).Seconds(), 0)))
	}
	_ = table.Flush()
	if len(s.Figures.Routers) == 0 {
		b.WriteString("  (none has announced itself)\n")
	}
}

func showMoves(b *strings.Builder, s sight) {
	if len(s.Moves.Moves) == 0 {
		return
	}
	b.WriteByte('\n')
	table := newTable(b)
	fmt.Fprintln(table, "MOVE\tFROM\tTO\tSLOTS\tPHASE\tFOR\tROWS")
	for _, m := range s.Moves.Moves {
		phase, rows := string(m.Phase), ""
		if m.Paused {
			phase += ", paused"
		}
		if m.Progress != nil {
			rows = count(m.Progress.Rows)
			if m.Progress.Expected > 0 && m.Phase == placement.PhaseCopy {
				rows += " of about " + count(m.Progress.Expected)
			}
		}
		id := string(m.ID)
		fmt.Fprintf(table, "…%s\t%s\t%s\t%d\t%s\t%s\t%s\n", id[max(0, len(id)-6):], m.Source, m.Target, m.Number, phase,
			lasted(max(s.At.Sub(m.CreatedAt).Seconds(), 0)), rows)
	}
	_ = table.Flush()
}

func showSagas(b *strings.Builder, s sight) {
	if len(s.Sagas.Sagas) == 0 {
		return
	}
	b.WriteByte('\n')
	table := newTable(b)
	fmt.Fprintln(table, "PENDING\tTO\tAMOUNT\tFROM SHARD\tTO SHARD\tFOR")
	for _, saga := range s.Sagas.Sagas {
		fmt.Fprintf(table, "%s/%s\t%s\t%s\t%s\t%s\t%s\n", saga.Initiator, saga.TxID, saga.Payee,
			money(saga.Amount, saga.Currency), saga.Home, cmp.Or(saga.PayeeShard, "?"), lasted(saga.Seconds))
	}
	_ = table.Flush()
	if s.Sagas.Next != "" {
		b.WriteString("  … and more: saldo saga list\n")
	}
}

func rate(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "0"
	case perSecond < 10:
		return fmt.Sprintf("%.1f", perSecond)
	}
	return count(int64(perSecond + 0.5))
}

func millis(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", *seconds*1000)
}
