package main

import (
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/bench/report"
)

type benchReportCommand struct {
	Results string `name:"results" placeholder:"FILE" default:"docs/bench/results.json" help:"Raw results of the suite."`
	Growth  string `name:"growth" placeholder:"FILE" default:"docs/bench/growth.json" help:"Raw results of saldo bench growth."`
	Plots   string `name:"plots" placeholder:"DIR" default:"docs/bench" help:"Where the plots go."`
	Page    string `name:"page" placeholder:"FILE" default:"docs/PERFORMANCE.md" help:"Whose parts between <!-- bench:… --> markers are written."`
	Check   bool   `name:"check" help:"Change nothing, and fail if something would be."`
}

func (c *benchReportCommand) Run(to streams) error {
	files, err := report.Make(report.Paths{Results: c.Results, Growth: c.Growth, Plots: c.Plots, Page: c.Page})
	if err != nil {
		return err
	}
	if c.Check {
		stale, err := report.Stale(files)
		if err == nil && len(stale) > 0 {
			err = fmt.Errorf("not what the raw results say: %s: run `saldo bench report`", strings.Join(stale, ", "))
		}
		return err
	}
	written, err := report.Write(files)
	for _, path := range written {
		fmt.Fprintln(to.out, path)
	}
	return err
}
