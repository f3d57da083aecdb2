package report

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

// The figures in testdata are made up.

// copied is a folder with a page of its own, beside the raw results of testdata.
func copied(t *testing.T, page string) Paths {
	t.Helper()
	dir := t.TempDir()
	paths := Paths{
		Results: filepath.Join("testdata", "results.json"), Growth: filepath.Join("testdata", "growth.json"),
		Plots: filepath.Join(dir, "bench"), Page: filepath.Join(dir, "page.md"),
	}
	if err := os.WriteFile(paths.Page, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	return paths
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestReport(t *testing.T) {
	t.Parallel()
	paths := copied(t, content(t, "testdata", "page.md"))
	files, err := Make(paths)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		name := filepath.Base(file.Path)
		names = append(names, name)
		golden := filepath.Join("testdata", "golden", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, file.Content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if string(file.Content) != content(t, golden) {
			t.Errorf("%s is not as in %s; if it should be: go test ./internal/bench/report -update, and look at it", name, golden)
		}
	}
	if want := []string{"rows.svg", "callers.svg", "growth-shards.svg", "growth-cpu.svg", "page.md"}; !slices.Equal(names, want) {
		t.Errorf("the files are %v, not %v", names, want)
	}
}

func TestThePageIsWhatTheRawResultsSay(t *testing.T) {
	t.Parallel()
	docs := filepath.Join("..", "..", "..", "docs")
	bench := filepath.Join(docs, "bench")
	files, err := Make(Paths{
		Results: filepath.Join(bench, "results.json"), Growth: filepath.Join(bench, "growth.json"), Plots: bench,
		Page: filepath.Join(docs, "PERFORMANCE.md"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if stale, err := Stale(files); err != nil || len(stale) > 0 {
		t.Errorf("not what the raw results say: %v, %v: run `saldo bench report`", stale, err)
	}
}

func TestWriteThenStale(t *testing.T) {
	t.Parallel()
	paths := copied(t, content(t, "testdata", "page.md"))
	again := func() []File {
		t.Helper()
		files, err := Make(paths)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	stale := func() (names []string) {
		t.Helper()
		paths, err := Stale(again())
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			names = append(names, filepath.Base(path))
		}
		return names
	}
	if got := stale(); len(got) != 5 {
		t.Errorf("before anything is written, stale are %v", got)
	}
	if written, err := Write(again()); err != nil || len(written) != 5 {
		t.Fatal(written, err)
	}
	if got := stale(); len(got) != 0 {
		t.Errorf("the same raw results gave other bytes: %v", got)
	}
	if written, err := Write(again()); err != nil || len(written) != 0 {
		t.Errorf("written again: %v, %v", written, err)
	}

	// What a person writes stays, and what he writes between markers does not.
	page := content(t, paths.Page)
	if err := os.WriteFile(paths.Page, []byte(strings.Replace(page, "The end.", "A new end.", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := stale(); len(got) != 0 {
		t.Errorf("a person's words count as stale: %v", got)
	}
	if err := os.WriteFile(paths.Page, []byte(strings.Replace(page, "18,700", "99,999", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(paths.Plots, "rows.svg")); err != nil {
		t.Fatal(err)
	}
	if got := stale(); !slices.Equal(got, []string{"rows.svg", "page.md"}) {
		t.Errorf("stale are %v", got)
	}
}

func TestWhatIsNotMeasuredIsSaidToBeSo(t *testing.T) {
	t.Parallel()
	paths := copied(t, content(t, "testdata", "page.md"))
	paths.Growth = filepath.Join(t.TempDir(), "absent.json")
	files, err := Make(paths)
	if err != nil {
		t.Fatal(err)
	}
	page := string(files[len(files)-1].Content)
	if n := strings.Count(page, "Not measured yet: `make bench.growth` does it."); n != len(growthBlocks) {
		t.Errorf("said %d times, not %d", n, len(growthBlocks))
	}
	if strings.Contains(page, "`make bench` does it") || len(files) != 3 {
		t.Errorf("%d files:\n%s", len(files), page)
	}
}

func TestPagesAndResultsThatAreWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ page, results, want string }{
		"no end":          {page: "<!-- bench:rows -->\n", want: "<!-- /bench:rows --> is missing"},
		"another's end":   {page: "<!-- bench:rows -->\n<!-- /bench:cost -->\n", want: "<!-- /bench:rows --> is missing"},
		"unknown":         {page: "<!-- bench:rhubarb -->\n<!-- /bench:rhubarb -->\n", want: "bench:rhubarb"},
		"not JSON":        {results: "{", want: "raw results"},
		"other's results": {results: `{"suite":"full","colour":"red"}`, want: "colour"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			paths := copied(t, c.page)
			if c.results != "" {
				paths.Results = filepath.Join(t.TempDir(), "results.json")
				if err := os.WriteFile(paths.Results, []byte(c.results), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Make(paths); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, without %q", err, c.want)
			}
		})
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for x, want := range map[float64]string{
		0: "0", 1: "1", 64: "64", 1024: "1,024", 17586.4: "17,586", 123.4: "123", 99.96: "100", 12.34: "12.3", 1.234: "1.23", 0.6: "0.60",
		0.0742: "0.0742", 0.00012: "0.00012", -1234.5: "-1,235",
	} {
		if got := number(x); got != want {
			t.Errorf("%g is shown as %s, not %s", x, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0", 0.30000000000000004: "0.3", 5: "5", 2500: "2,500", 10_000: "10 k", 12_500: "12.5 k", 50e6: "50 M"} {
		if got := short(x); got != want {
			t.Errorf("on an axis %g is shown as %s, not %s", x, got, want)
		}
	}
}
