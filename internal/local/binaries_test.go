package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeServer makes a folder of programs that answer as a server of that version.
func fakeServer(t *testing.T, dir, version string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"postgres": fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s'\n", version),
		"initdb":   "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindPostgres(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	places := filepath.Join(root, "usual", "*", "bin")
	old := fakeServer(t, filepath.Join(root, "old"), "14.9")
	v15 := fakeServer(t, filepath.Join(root, "usual", "15", "bin"), "15.14 (Debian 15.14-0+deb12u1)")
	v17 := fakeServer(t, filepath.Join(root, "usual", "17", "bin"), "17.2")
	fakeServer(t, filepath.Join(root, "usual", "9.6", "bin"), "9.6.24")
	links := filepath.Join(root, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(v15, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(root, "config")
	if err := os.Mkdir(config, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "pg_config"), []byte("#!/bin/sh\necho "+v15+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	half := fakeServer(t, filepath.Join(root, "half"), "16.1")
	if err := os.Remove(filepath.Join(half, "initdb")); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct {
		name      string
		env       map[string]string
		places    []string
		want      string // a folder
		wantMajor int
		wantErr   string // part of the error
	}{
		{name: "newest in the usual places", places: []string{places}, want: v17, wantMajor: 17},
		{name: "PATH wins over the usual places", env: map[string]string{"PATH": links}, places: []string{places}, want: v15, wantMajor: 15},
		{name: "pg_config names the folder", env: map[string]string{"PATH": config}, want: v15, wantMajor: 15},
		{name: "too old on PATH, newer elsewhere", env: map[string]string{"PATH": old}, places: []string{places}, want: v17, wantMajor: 17},
		{name: "a relative PATH entry is not used", env: map[string]string{"PATH": "."}, places: []string{places}, want: v17, wantMajor: 17},
		{name: "the folder that was named", env: map[string]string{"SALDO_POSTGRES_BIN": v15, "PATH": v17}, places: []string{places}, want: v15, wantMajor: 15},
		{name: "the named folder is too old", env: map[string]string{"SALDO_POSTGRES_BIN": old}, places: []string{places}, wantErr: "older than 15"},
		{name: "the named folder is empty", env: map[string]string{"SALDO_POSTGRES_BIN": root}, places: []string{places}, wantErr: "SALDO_POSTGRES_BIN"},
		{name: "no initdb", env: map[string]string{"PATH": half}, wantErr: "has no initdb beside it"},
		{name: "nothing", wantErr: "install"},
		{name: "only an old one", env: map[string]string{"PATH": old}, wantErr: "14.9, older than 15"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := findPostgres(func(key string) string { return tt.env[key] }, tt.places)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("the error is %v, without %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Dir != tt.want || got.Major != tt.wantMajor {
				t.Errorf("found %+v, want %s of version %d", got, tt.want, tt.wantMajor)
			}
		})
	}
}

func TestFindPostgresNamesACommand(t *testing.T) {
	t.Parallel()
	apt := t.TempDir()
	if err := os.WriteFile(filepath.Join(apt, "apt-get"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := findPostgres(func(key string) string {
		if key == "PATH" {
			return apt
		}
		return ""
	}, nil)
	if !errors.Is(err, ErrNoPostgres) {
		t.Errorf("the error is %v, not ErrNoPostgres", err)
	}
	if !strings.Contains(err.Error(), "apt-get install -y postgresql") && !strings.Contains(err.Error(), "brew install postgresql") {
		t.Errorf("the error names no command: %v", err)
	}
}

func TestPortsArePreferencesOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "port")
	for content, want := range map[string]int{"": 0, "x": 0, "25000\n": 1, "25000 25001": 2, "70000": 0, "1 -1": 0} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := readPorts(path); len(got) != want {
			t.Errorf("read %v from %q", got, content)
		}
	}
}
