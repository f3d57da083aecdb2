package audit

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	out := &sticky{w: w}
	out.printf("Audit of cluster %s, %s, %.1f s, map revision %d\n\n",
		r.Cluster, r.StartedAt.Format(time.RFC3339), r.Seconds, r.Revision)
	r.writeChecks(out)
	r.writeShards(out)
	r.writeMoney(out)
	r.writeMoves(out)
	r.writeVerdict(out)
	return out.err
}

func (r *Report) writeChecks(out *sticky) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROMISE\tCHECK\tSAYS\tCOVERED\tRESULT")
	for _, c := range r.Checks {
		promises := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(c.Promises)), ", "), "[]")
		fmt.Fprintf(table, "%s\t%s\t%s\t%d %s\t%s\n", promises, c.Name, c.Says, c.Covered, c.Unit, c.result())
	}
	_ = table.Flush()
	for _, c := range r.Checks {
		if c.Found == 0 {
			continue
		}
		out.printf("\n%s\n", c.Name)
		for _, v := range c.Violations {
			out.printf("  VIOLATION  %s\n", v)
		}
		if more := c.Found - int64(len(c.Violations)); more > 0 {
			out.printf("  … and %d more\n", more)
		}
	}
	r.writeGaps(out)
}

// writeGaps says what could not be judged: each reason once, since a shard that is down is missing from every check.
func (r *Report) writeGaps(out *sticky) {
	var gaps []string
	checks := make(map[string][]string)
	for _, c := range r.Checks {
		for _, gap := range c.Gaps {
			if checks[gap] == nil {
				gaps = append(gaps, gap)
			}
			checks[gap] = append(checks[gap], string(c.Name))
		}
	}
	for _, gap := range gaps {
		in := strings.Join(checks[gap], ", ")
		if len(checks[gap]) == len(r.Checks) {
			in = "every check"
		}
		out.printf("\nnot judged in %s: %s\n", in, gap)
	}
}

func (c *Check) result() string {
	switch {
	case c.Found == 1:
		return "1 VIOLATION"
	case c.Found > 0:
		return fmt.Sprintf("%d VIOLATIONS", c.Found)
	case len(c.Gaps) > 0:
		return "partial"
	}
	return "ok"
}

func (v Violation) String() string {
	if v.Shard == "" {
		return fmt.Sprintf("%s: %s", v.ID, v.Problem)
	}
	return fmt.Sprintf("%s on %s: %s", v.ID, v.Shard, v.Problem)
}

func (r *Report) writeShards(out *sticky) {
	out.printf("\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	copies := slices.ContainsFunc(r.Shards, func(s ShardReport) bool { return s.Copies > 0 })
	fmt.Fprint(table, "SHARD\tSLOTS\t")
	if copies {
		fmt.Fprint(table, "COPIES\t")
	}
	fmt.Fprintln(table, "USERS\tACCOUNTS\tOPERATIONS\tENTRIES\tSAGAS\tPENDING\t")
	for _, s := range r.Shards {
		trouble := ""
		if s.Error != "" {
			trouble = "NOT READ: " + strings.Join(strings.Fields(s.Error), " ")
		}
		fmt.Fprintf(table, "%s\t%d\t", s.ID, s.Slots)
		if copies {
			fmt.Fprintf(table, "%d\t", s.Copies)
		}
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t%d\t%d\t%s\n",
			s.Users, s.Accounts, s.Operations, s.Entries, s.Sagas, s.Pending, trouble)
	}
	_ = table.Flush()
	if copies {
		out.printf("COPIES are slots that are coming, or have left and are not deleted yet: their rows count nowhere.\n")
	}
}

func (r *Report) writeMoney(out *sticky) {
	out.printf("\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	moved := slices.ContainsFunc(r.Shards, func(s ShardReport) bool {
		return slices.ContainsFunc(s.Totals, func(t MoneyTotal) bool { return t.Moved.Sign() != 0 })
	})
	row := func(shard any, t MoneyTotal, inTransit any) {
		fmt.Fprintf(table, "%s\t%v\t%v\t%v\t%v\t", t.Currency, shard, t.Users, t.World, t.Transit)
		if moved {
			fmt.Fprintf(table, "%v\t", t.Moved)
		}
		fmt.Fprintf(table, "%v\n", inTransit)
	}
	if moved {
		fmt.Fprintln(table, "CURRENCY\tSHARD\tUSERS\t@world\t@transit\t@moved\tIN TRANSIT")
	} else {
		fmt.Fprintln(table, "CURRENCY\tSHARD\tUSERS\t@world\t@transit\tIN TRANSIT")
	}
	all := "all"
	switch {
	case r.Partial:
		all = "partial"
	case r.Unsettled:
		all = "unsettled"
	}
	for _, t := range r.Totals {
		for _, s := range r.Shards {
			for _, own := range s.Totals {
				if own.Currency == t.Currency {
					row(s.ID, own, "")
				}
			}
		}
		row(all, t, t.InTransit)
	}
	_ = table.Flush()
	out.printf("\nPending sagas: %d", r.Pending)
	if r.OldestPending != nil {
		out.printf(", the oldest since %s", r.OldestPending.UTC().Format(time.RFC3339))
	}
	out.printf("\n")
}

func (r *Report) writeMoves(out *sticky) {
	if len(r.Moves) == 0 {
		return
	}
	out.printf("\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MOVE UNDER WAY\tFROM\tTO\tPHASE\tSLOTS")
	for _, m := range r.Moves {
		paused := ""
		if m.Paused {
			paused = ", paused"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s%s\t%d: %s\n", m.ID, m.Source, m.Target, m.Phase, paused, len(m.Slots), m.Slots)
	}
	_ = table.Flush()
	out.printf("\n")
}

func (r *Report) writeVerdict(out *sticky) {
	var (
		found   int64
		failed  []string
		partial int
	)
	for _, c := range r.Checks {
		if found += c.Found; c.Found > 0 {
			failed = append(failed, string(c.Name))
		}
		if len(c.Gaps) > 0 {
			partial++
		}
	}
	if r.Verdict == Clean {
		out.printf("Clean.\n")
	}
	if found > 0 {
		out.printf("NOT CLEAN: %d violations in %s.\n", found, strings.Join(failed, ", "))
	}
	if partial > 0 {
		out.printf("NOT COMPLETE: %d of %d checks could not judge everything.\n", partial, len(r.Checks))
	}
}

// sticky keeps the first error of a writer.
type sticky struct {
	w   io.Writer
	err error
}

func (s *sticky) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

func (s *sticky) printf(format string, args ...any) { fmt.Fprintf(s, format, args...) }
