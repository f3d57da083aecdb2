package configtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var read = regexp.MustCompile(`(?i)(?:getenv|LookupEnv)\("(SALDO_[A-Z_]+)"\)`)

// A variable that is read without a flag stands in the table too, and no other one does.
func TestVariablesWithoutFlag(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	var found []string
	for _, folder := range []string{"cmd", "internal", "saga", "shard"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil || strings.HasPrefix(string(content), "//go:build") { // parts that no release has
				return err
			}
			for _, match := range read.FindAllStringSubmatch(string(content), -1) {
				found = append(found, match[1])
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	var listed []string
	for _, row := range Table(t, filepath.Join(root, "docs", "OPERATIONS.md")) {
		if row.Flag == "" && strings.HasPrefix(row.Variable, "SALDO_") {
			listed = append(listed, row.Variable)
		}
	}
	slices.Sort(listed)
	if !slices.Equal(found, listed) {
		t.Errorf("the table has %q without a flag, and %q are read", listed, found)
	}
}

var (
	heading = regexp.MustCompile(`(?m)^##+ (.*)$`)
	link    = regexp.MustCompile(`\]\(#([^)]*)\)`)
	dropped = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// The handbook's contents name every chapter, and its links lead somewhere.
func TestContents(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "OPERATIONS.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	anchors := make(map[string]bool)
	contents, _, _ := strings.Cut(text, "\n## ")
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		anchor := strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")
		anchors[anchor] = true
		if strings.HasPrefix(match[0], "## ") && !strings.Contains(contents, "](#"+anchor+")") {
			t.Errorf("chapter %q is not in the contents", match[1])
		}
	}
	for _, match := range link.FindAllStringSubmatch(text, -1) {
		if !anchors[match[1]] {
			t.Errorf("a link to #%s leads nowhere", match[1])
		}
	}
}

// complaints takes what a check says.
type complaints struct {
	testing.TB
	said []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	type program struct {
		Serve struct {
			HTTP string `name:"http" env:"SALDO_HTTP" default:":80" help:"Address."`
			Name string `name:"name" env:"SALDO_NAME" help:"Default: host."`
		} `cmd:"" default:"1"`
	}
	right := []Row{
		{Variable: "SALDO_HTTP", Flag: "--http", Programs: []string{"router", "saldo dev"}, Default: ":80"},
		{Variable: "SALDO_NAME", Flag: "--name", Programs: []string{"router"}},
		{Variable: "SALDO_ELSE", Flag: "--else", Programs: []string{"saldo dev"}},
	}
	for name, test := range map[string]struct {
		change func(rows []Row) []Row
		want   string // a part of what is said; "" for nothing
	}{
		"right":                   {func(rows []Row) []Row { return rows }, ""},
		"a default that is told":  {func(rows []Row) []Row { rows[1].Default = "host"; return rows }, ""},
		"a default that is not":   {func(rows []Row) []Row { rows[1].Default = "pid"; return rows }, `SALDO_NAME: default "pid"`},
		"missing":                 {func(rows []Row) []Row { return rows[1:] }, "SALDO_HTTP of router is missing"},
		"another default":         {func(rows []Row) []Row { rows[0].Default = ":8080"; return rows }, `SALDO_HTTP: default ":8080"`},
		"no default":              {func(rows []Row) []Row { rows[0].Default = ""; return rows }, `SALDO_HTTP: default ""`},
		"another flag":            {func(rows []Row) []Row { rows[0].Flag = "--listen"; return rows }, "SALDO_HTTP: flag --listen"},
		"not of this program":     {func(rows []Row) []Row { rows[0].Programs = rows[0].Programs[1:]; return rows }, "does not name router"},
		"of this program, and no": {func(rows []Row) []Row { rows[2].Programs[0] = "router"; return rows }, "SALDO_ELSE: router does not know it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows := slices.Clone(right)
			for i := range rows {
				rows[i].Programs = slices.Clone(rows[i].Programs)
			}
			c := &complaints{TB: t}
			check(c, test.change(rows), "router", new(program))
			if said := strings.Join(c.said, "; "); test.want == "" && said != "" || !strings.Contains(said, test.want) {
				t.Errorf("it says %q, not %q", said, test.want)
			}
		})
	}
	var flags struct {
		Plain string
	}
	c := &complaints{TB: t}
	check(c, right, "coordinator", &flags)
	if len(c.said) != 1 || c.said[0] != "--plain of coordinator has no variable" {
		t.Errorf("a flag without a variable: %q", c.said)
	}
}
