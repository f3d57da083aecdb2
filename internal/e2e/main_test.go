package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

func TestMain(m *testing.M) {
	// Most of these tests wait for something most of the time. More at once would starve each other on two cores.
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	pgtest.Main(etcdtest.With(programs{m}))
}

// programs removes what build has made.
type programs struct{ m interface{ Run() int } }

var programsDir string // "" until they are built

func (p programs) Run() int {
	code := p.m.Run()
	if programsDir != "" {
		if err := os.RemoveAll(programsDir); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: remove the programs:", err)
			code = max(code, 1)
		}
	}
	return code
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "saldo-e2e-*")
	if err != nil {
		return "", err
	}
	programsDir = dir
	sweep(filepath.Join(filepath.Dir(dir), "saldo-e2e-*"))
	args := []string{"build", "-tags", "failpoints", "-o", dir + "/"} // so that coordinators can be killed at each step of a move
	if raceDetector() {
		args = append(args, "-race")
	}
	command := exec.Command("go", append(args, "./cmd/saldo", "./cmd/router", "./cmd/coordinator")...)
	command.Dir = filepath.Join("..", "..")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, output)
	}
	return dir, nil
})

// sweep removes what killed test processes left. Errors do not matter: the next process sweeps again.
func sweep(pattern string) {
	dirs, _ := filepath.Glob(pattern)
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(dir)
		}
	}
}

// raceDetector tells whether this test was built with it; then the programs are too.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// program is the path of one of Saldo's programs.
func program(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the built programs, which -short leaves out")
	}
	begun := time.Now()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Logf("building the programs took %v", took.Round(time.Millisecond))
	}
	return filepath.Join(dir, name)
}
