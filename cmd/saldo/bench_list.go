package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/saldo-ledger/saldo/internal/bench/work"
)

type benchListCommand struct{}

func (c *benchListCommand) Run(to streams) error {
	table := tabwriter.NewWriter(to.out, 0, 0, 2, ' ', 0)
	for _, w := range work.HTTPWorks() {
		fmt.Fprintf(table, "%s\t%s\n", w.Name, w.About)
	}
	return table.Flush()
}
