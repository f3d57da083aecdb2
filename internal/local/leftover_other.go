//go:build !linux

package local

import (
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// serverProcesses lists the Postgres processes on data: the postmaster shows its
// -D, the others the cluster_name that we gave them.
func serverProcesses(data string) ([]int, error) {
	out, err := exec.Command("ps", "-axww", "-o", "pid=,command=").Output()
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		number, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		postmaster := strings.Contains(command, "postgres -D "+data+" ")
		if postmaster || strings.HasPrefix(strings.TrimSpace(command), "postgres: "+clusterName(data)+": ") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isServer(pid int, data string) bool {
	pids, err := serverProcesses(data)
	return err == nil && slices.Contains(pids, pid)
}
