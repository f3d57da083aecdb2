package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OldestMajor is the oldest major version of Postgres that Saldo runs on.
const OldestMajor = 15

// Binaries is a folder of Postgres server programs that were found to run.
type Binaries struct {
	Dir     string // absolute, links resolved; holds postgres and initdb
	Major   int    // 15
	Version string // "15.14 (Debian 15.14-0+deb12u1)", as the server prints it
}

func (b Binaries) program(name string) string { return filepath.Join(b.Dir, name) }

// ErrNoPostgres says that no usable server binaries are on this machine. The
// error that wraps it names the command that installs them.
var ErrNoPostgres = errors.New("no Postgres server binaries found")

// usualPlaces are the folders where packages put server binaries without adding
// them to PATH.
var usualPlaces = [...]string{
	"/usr/lib/postgresql/*/bin",                    // Debian, Ubuntu
	"/usr/pgsql-*/bin",                             // PGDG on Fedora, RHEL
	"/opt/homebrew/opt/postgresql*/bin",            // brew, Apple silicon
	"/usr/local/opt/postgresql*/bin",               // brew, Intel
	"/home/linuxbrew/.linuxbrew/opt/postgres*/bin", // brew, Linux
	"/usr/libexec/postgresql*",                     // Alpine
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin", // built from source
	"/usr/local/bin",
	"/usr/bin",
}

// FindPostgres finds server binaries of version OldestMajor or newer. A folder
// named by SALDO_POSTGRES_BIN is taken or is an error; otherwise the first of
// these wins: the folder of `postgres` on PATH, the one `pg_config --bindir`
// names, then the newest one in the usual places. It runs `postgres --version`
// of the candidates. If there is none, the error wraps [ErrNoPostgres].
func FindPostgres(getenv func(string) string) (Binaries, error) {
	return findPostgres(getenv, usualPlaces[:])
}

func findPostgres(getenv func(string) string, places []string) (Binaries, error) {
	if dir := getenv("SALDO_POSTGRES_BIN"); dir != "" {
		b, err := inspect(dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("use SALDO_POSTGRES_BIN=%s: %w", dir, err)
		}
		return b, nil
	}

	var rejected []error
	try := func(dir string) (Binaries, bool) {
		b, err := inspect(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			rejected = append(rejected, err)
		}
		return b, err == nil
	}

	for _, dir := range filepath.SplitList(getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue // a relative PATH entry would run whatever lies in the working directory
		}
		if isProgram(filepath.Join(dir, "postgres")) {
			if b, ok := try(dir); ok {
				return b, nil
			}
		}
		if config := filepath.Join(dir, "pg_config"); isProgram(config) {
			if out, err := output(config, "--bindir"); err == nil {
				if b, ok := try(out); ok {
					return b, nil
				}
			}
		}
	}

	var found []Binaries
	for _, pattern := range places {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("search %s: %w", pattern, err)
		}
		for _, dir := range dirs {
			if b, ok := try(dir); ok {
				found = append(found, b)
			}
		}
	}
	if len(found) == 0 {
		return Binaries{}, fmt.Errorf("%w (need version %d or newer): install them with `%s`, or set SALDO_POSTGRES_BIN to their folder%s",
			ErrNoPostgres, OldestMajor, installCommand(getenv), because(rejected))
	}
	return slices.MaxFunc(found, func(a, b Binaries) int { return cmp.Compare(a.Major, b.Major) }), nil
}

func because(rejected []error) string {
	if len(rejected) == 0 {
		return ""
	}
	return fmt.Sprintf(" (not usable: %v)", errors.Join(rejected...))
}

// inspect answers what is in dir. The error wraps os.ErrNotExist if dir holds no
// server at all.
func inspect(dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, err
	}
	// The program, not the folder, is resolved: /usr/local/bin/postgres may be a
	// link into the folder that holds the rest.
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Binaries{}, err
	}
	out, err := output(server, "--version")
	if err != nil {
		return Binaries{}, fmt.Errorf("run %s --version: %w", server, err)
	}
	b, err := parseVersion(out)
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: %w", server, err)
	}
	if b.Major < OldestMajor {
		return Binaries{}, fmt.Errorf("%s is version %s, older than %d", server, b.Version, OldestMajor)
	}
	b.Dir = filepath.Dir(server)
	if !isProgram(b.program("initdb")) {
		return Binaries{}, fmt.Errorf("%s has no initdb beside it", server)
	}
	return b, nil
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*.*)$`)

func parseVersion(line string) (Binaries, error) {
	m := versionLine.FindStringSubmatch(line)
	if m == nil {
		return Binaries{}, fmt.Errorf("unknown version line %q", line)
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Binaries{}, fmt.Errorf("unknown version line %q: %w", line, err)
	}
	return Binaries{Major: major, Version: m[1]}, nil
}

// installCommand is the one line that installs server binaries on this system.
func installCommand(getenv func(string) string) string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	for _, tool := range []struct{ program, command string }{
		{"apt-get", "apt-get update && apt-get install -y postgresql"},
		{"dnf", "dnf install -y postgresql-server"},
		{"apk", "apk add postgresql"},
		{"pacman", "pacman -S --noconfirm postgresql"},
		{"brew", "brew install postgresql@17"},
	} {
		for _, dir := range filepath.SplitList(getenv("PATH")) {
			if !isProgram(filepath.Join(dir, tool.program)) {
				continue
			}
			if os.Geteuid() != 0 && tool.program != "brew" {
				return "sudo sh -c '" + tool.command + "'"
			}
			return tool.command
		}
	}
	return "apt-get update && apt-get install -y postgresql"
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0
}

func output(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	return strings.TrimSpace(string(out)), err
}
