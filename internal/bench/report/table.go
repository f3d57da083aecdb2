package report

import (
	"fmt"
	"strings"
)

// table is a table of the page. Columns from the numbers-th on are numbers.
type table struct {
	text    strings.Builder
	numbers int
}

func newTable(numbers int, heads ...string) *table {
	t := &table{numbers: numbers}
	t.row(heads...)
	for i := range heads {
		if i < numbers {
			t.text.WriteString("|---")
		} else {
			t.text.WriteString("|--:")
		}
	}
	t.text.WriteString("|\n")
	return t
}

func (t *table) row(cells ...string) {
	for _, cell := range cells {
		fmt.Fprintf(&t.text, "| %s ", strings.ReplaceAll(cell, "|", `\|`))
	}
	t.text.WriteString("|\n")
}

func (t *table) String() string { return t.text.String() }
