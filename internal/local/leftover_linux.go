package local

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// serverProcesses lists the Postgres processes on data, backends included: each
// one has data as its working directory, whatever became of its parent.
func serverProcesses(data string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && runsIn(pid, st) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func isServer(pid int, data string) bool {
	st, err := os.Stat(data)
	return err == nil && runsIn(pid, st)
}

func runsIn(pid int, data os.FileInfo) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	name, err := os.ReadFile(proc + "/comm")
	if err != nil || !strings.HasPrefix(string(name), "postgres") && !strings.HasPrefix(string(name), "postmaster") {
		return false
	}
	cwd, err := os.Stat(proc + "/cwd") // a zombie has none
	return err == nil && os.SameFile(cwd, data)
}
