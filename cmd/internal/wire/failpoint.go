//go:build failpoints

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// failpoints returns what is called at every step of a move. It is for tests, which build the programs with this tag; no
// other build has it.
//
// SALDO_FAILPOINTS names a folder. A process that comes to a point, say "before switch", looks there for a file of that
// name, with dashes for spaces, and does once what it holds: kill itself, stop itself until it is sent SIGCONT, or pause
// this step alone. Who does it says so by a file with ".taken" behind the name, which holds the process id; a pause ends
// when that file is removed.
func failpoints() func(point string) {
	folder := os.Getenv("SALDO_FAILPOINTS")
	if folder == "" {
		return nil
	}
	return func(point string) {
		file := filepath.Join(folder, strings.ReplaceAll(point, " ", "-"))
		taken := file + ".taken"
		action, err := os.ReadFile(file)
		if err == nil {
			err = os.Rename(file, taken) // of several processes one gets it
		}
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err == nil {
			err = os.WriteFile(taken, []byte(strconv.Itoa(os.Getpid())), 0o600)
		}
		if err != nil {
			panic(fmt.Sprintf("failpoint %q: %v", point, err))
		}
		switch string(action) {
		case "kill":
			err = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		case "stop":
			err = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		case "pause":
			for err == nil {
				time.Sleep(time.Millisecond)
				_, err = os.Stat(taken)
			}
		default:
			err = fmt.Errorf("%q is none of kill, stop, pause", action)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			panic(fmt.Sprintf("failpoint %q: %v", point, err))
		}
	}
}
