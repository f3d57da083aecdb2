package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// Paths says where the raw results are and where the report goes.
type Paths struct {
	Results string // of the suite
	Growth  string // of package growth
	Plots   string // a folder
	Page    string // with the markers
}

// File is one file of the report.
type File struct {
	Path    string
	Content []byte
}

// Make returns the report's files. What has not been measured yet, since its raw results are absent, is said to be so.
func Make(paths Paths) ([]File, error) {
	results, err := read(paths.Results)
	if err != nil {
		return nil, err
	}
	growth, err := read(paths.Growth)
	if err != nil {
		return nil, err
	}
	page, err := os.ReadFile(paths.Page)
	if err != nil {
		return nil, err
	}
	folder, err := relative(filepath.Dir(paths.Page), paths.Plots)
	if err != nil {
		return nil, err
	}
	r := &report{folder: filepath.ToSlash(folder)}
	filled, err := fill(string(page), func(name string) (string, error) {
		for _, source := range []struct {
			run    *bench.Run
			path   string
			target string // of make
			blocks map[string]block
		}{
			{results, paths.Results, "bench", suiteBlocks},
			{growth, paths.Growth, "bench.growth", growthBlocks},
		} {
			show, ok := source.blocks[name]
			switch {
			case !ok:
				continue
			case source.run == nil:
				return fmt.Sprintf("Not measured yet: `make %s` does it.\n", source.target), nil
			}
			return show(r, source.run)
		}
		return "", errors.New("nothing of that name is generated")
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", paths.Page, err)
	}
	files := make([]File, 0, len(r.plots)+1)
	for _, plot := range r.plots {
		files = append(files, File{Path: filepath.Join(paths.Plots, plot.Path), Content: plot.Content})
	}
	return append(files, File{Path: paths.Page, Content: []byte(filled)}), nil
}

func relative(from, to string) (string, error) {
	from, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	if to, err = filepath.Abs(to); err != nil {
		return "", err
	}
	return filepath.Rel(from, to)
}

// read returns the raw results at path, nil if there are none.
func read(path string) (*bench.Run, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields() // those of another version, which would be shown in part
	var run bench.Run
	if err := decoder.Decode(&run); err != nil {
		return nil, fmt.Errorf("read the raw results %s: %w", path, err)
	}
	return &run, nil
}

// Write writes the files that are not there as they should be, and returns their paths.
func Write(files []File) ([]string, error) {
	stale, err := Stale(files)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file.Path, file.Content, 0o644); err != nil {
			return nil, err
		}
	}
	return stale, nil
}

// Stale returns the paths of the files that are not there as they should be.
func Stale(files []File) ([]string, error) {
	var stale []string
	for _, file := range files {
		content, err := os.ReadFile(file.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil || !bytes.Equal(content, file.Content) {
			stale = append(stale, file.Path)
		}
	}
	return stale, nil
}

// report is one report in the making.
type report struct {
	folder string // of the plots, as the page links to it
	plots  []File // their paths within the folder
}

// image adds a plot and returns its line in the page.
func (r *report) image(name, alt string, content []byte) string {
	r.plots = append(r.plots, File{Path: name, Content: content})
	return fmt.Sprintf("![%s](%s/%s)\n", alt, strings.TrimSuffix(r.folder, "/"), name)
}
