// Package configtest holds what a program can be told against the table of docs/OPERATIONS.md, chapter Configuration. For
// tests only.
//
// It owns the rules of that table: a row for each variable, with its flag, the programs that know it and its default.
// It refuses to judge what a row says a variable means.
package configtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Handbook is where the table stands, seen from the folder of a program.
var Handbook = filepath.Join("..", "..", "docs", "OPERATIONS.md")

// Row is a line of the table.
type Row struct {
	Variable string
	Flag     string   // --name; "" if there is none
	Programs []string // "router", "saldo" for several of its commands, "saldo dev" for one
	Default  string   // the first value that it names; "" if it names none
}

var quoted = regexp.MustCompile("`([^`]*)`")

// Table reads the table.
func Table(t testing.TB, file string) []Row {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, found := strings.Cut(string(content), "\n## Configuration\n")
	if !found {
		t.Fatalf("%s has no chapter Configuration", file)
	}
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	var rows []Row
	for line := range strings.Lines(chapter) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.HasPrefix(strings.TrimSpace(cells[0]), "`") {
			continue
		}
		row := Row{Variable: first(cells[0]), Flag: first(cells[1]), Default: first(cells[3])}
		for program := range strings.SplitSeq(cells[2], ",") {
			row.Programs = append(row.Programs, strings.TrimSpace(program))
		}
		if slices.ContainsFunc(rows, func(other Row) bool { return other.Variable == row.Variable }) {
			t.Errorf("%s stands there twice", row.Variable)
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table in chapter Configuration", file)
	}
	return rows
}

func first(cell string) string {
	if match := quoted.FindStringSubmatch(cell); match != nil {
		return match[1]
	}
	return ""
}

// Check fails the test unless the table says of a program what the program's flags are. The program is a service, all of
// whose flags but --help and --version have variables, or saldo, whose commands may have others.
func Check(t testing.TB, program string, flags any, options ...kong.Option) {
	t.Helper()
	check(t, Table(t, Handbook), program, flags, options...)
}

func check(t testing.TB, rows []Row, program string, flags any, options ...kong.Option) {
	t.Helper()
	parser, err := kong.New(flags, append([]kong.Option{kong.Vars{"version": ""}}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string][]setting)
	for _, command := range parser.Model.Children {
		collect(t, program, command.Name, command, known)
	}
	if len(known) == 0 {
		collect(t, program, program, parser.Model.Node, known)
	}
	for variable, settings := range known {
		at := slices.IndexFunc(rows, func(row Row) bool { return row.Variable == variable })
		if at < 0 {
			t.Errorf("%s of %s is missing: flag --%s, default %q, %q", variable, program, settings[0].flag, settings[0].value, settings[0].help)
			continue
		}
		rows[at].compare(t, program, settings)
	}
	for _, row := range rows {
		if row.Flag != "" && len(row.of(program)) > 0 && known[row.Variable] == nil {
			t.Errorf("%s: %s does not know it", row.Variable, program)
		}
	}
}

// setting is a flag that has a variable, in one command.
type setting struct {
	command, flag, value, help string
}

func collect(t testing.TB, program, command string, node *kong.Node, known map[string][]setting) {
	t.Helper()
	for _, flag := range node.Flags {
		for _, variable := range flag.Envs {
			known[variable] = append(known[variable], setting{command, flag.Name, flag.Default, flag.Help})
		}
		if len(flag.Envs) == 0 && program != "saldo" && flag.Name != "help" && flag.Name != "version" && command != "health" {
			t.Errorf("--%s of %s has no variable", flag.Name, program)
		}
	}
	for _, child := range node.Children {
		collect(t, program, command, child, known)
	}
}

// of returns what the row says about a program: its name, or names of its commands.
func (r Row) of(program string) (named []string) {
	for _, name := range r.Programs {
		if name == program || strings.HasPrefix(name, program+" ") {
			named = append(named, name)
		}
	}
	return named
}

func (r Row) compare(t testing.TB, program string, settings []setting) {
	t.Helper()
	var commands []string
	for _, s := range settings {
		if r.Flag != "--"+s.flag {
			t.Errorf("%s: flag %s, and %s has --%s", r.Variable, r.Flag, program, s.flag)
		}
		if r.Default != s.value && (s.value != "" || !strings.Contains(s.help, r.Default)) {
			t.Errorf("%s: default %q, and %s has %q (%s)", r.Variable, r.Default, program, s.value, s.help)
		}
		commands = append(commands, program+" "+s.command)
	}
	slices.Sort(commands)
	commands = slices.Compact(commands)
	named := r.of(program)
	slices.Sort(named)
	switch {
	case len(named) == 0:
		t.Errorf("%s: the row does not name %s", r.Variable, program)
	case slices.Equal(named, []string{program}):
		if program == "saldo" && len(commands) == 1 {
			t.Errorf("%s: say %q", r.Variable, commands[0])
		}
	case !slices.Equal(named, commands):
		t.Errorf("%s: the row names %q, and %q know it", r.Variable, named, commands)
	}
}
