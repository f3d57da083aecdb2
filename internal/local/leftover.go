package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// How long a leftover server is given for each way to end.
const (
	leftoverFast      = 20 * time.Second       // SIGINT: checkpoint, then exit
	leftoverOrphans   = 300 * time.Millisecond // backends that notice their postmaster's death
	leftoverImmediate = 5 * time.Second        // SIGQUIT: exit without a checkpoint
	leftoverKill      = 5 * time.Second
)

// clearLeftovers ends every Postgres process that still runs on data. Call it
// with the directory's lock held and no server of our own running: then whoever
// runs there is a leftover of a supervisor that died, or an orphaned backend of
// a postmaster that did.
func clearLeftovers(ctx context.Context, data string, log *slog.Logger) error {
	if err := endServers(ctx, data, log); err != nil {
		return fmt.Errorf("stop leftover servers on %s: %w", data, err)
	}
	// Nothing runs here now. But if the pid on record exists (a dead postmaster
	// that nobody has reaped; after a reboot, any other process), Postgres would
	// refuse to start.
	pidFile := filepath.Join(data, "postmaster.pid")
	if pid := recordedPID(pidFile); pid != 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		log.Warn("removing a stale postmaster.pid", "pid", pid, "data", data)
		return os.Remove(pidFile)
	}
	return nil
}

func endServers(ctx context.Context, data string, log *slog.Logger) error {
	procs, err := serverProcesses(data)
	if err != nil || len(procs) == 0 {
		return err
	}
	log.Warn("stopping leftover Postgres processes", "pids", procs, "data", data)
	signalServers(data, procs, syscall.SIGCONT) // a frozen process hears nothing else
	if postmaster := recordedPID(filepath.Join(data, "postmaster.pid")); slices.Contains(procs, postmaster) {
		signalServers(data, []int{postmaster}, syscall.SIGINT)
		procs, err = waitServersGone(ctx, data, leftoverFast)
	} else {
		procs, err = waitServersGone(ctx, data, leftoverOrphans)
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{
		{syscall.SIGQUIT, leftoverImmediate},
		{syscall.SIGKILL, leftoverKill},
	} {
		if err != nil || len(procs) == 0 {
			return err
		}
		signalServers(data, procs, step.signal)
		procs, err = waitServersGone(ctx, data, step.wait)
	}
	if err == nil && len(procs) > 0 {
		err = fmt.Errorf("processes %v survive SIGKILL", procs)
	}
	return err
}

func waitServersGone(ctx context.Context, data string, limit time.Duration) ([]int, error) {
	deadline := time.Now().Add(limit)
	for {
		procs, err := serverProcesses(data)
		if err != nil || len(procs) == 0 || time.Now().After(deadline) {
			return procs, err
		}
		select {
		case <-ctx.Done():
			return procs, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// signalServers signals those pids that still are servers on data. A process
// handle is taken before the check, so that where the system has such handles a
// pid that was reused in between is not hit.
func signalServers(data string, pids []int, s syscall.Signal) {
	for _, pid := range pids {
		proc, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if isServer(pid, data) {
			_ = proc.Signal(s) // gone already: the caller looks again
		}
		_ = proc.Release()
	}
}

// recordedPID is the postmaster's pid in its lock file, 0 if there is none.
func recordedPID(pidFile string) int {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// recordedReady says whether the postmaster with this pid accepts connections,
// those of readers alone if it is a standby. It is the sign that pg_ctl itself
// waits for: the eighth line of the lock file.
func recordedReady(pidFile string, pid int) bool {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 8 || strings.TrimSpace(lines[0]) != strconv.Itoa(pid) {
		return false
	}
	state := strings.TrimSpace(lines[7])
	return state == "ready" || state == "standby"
}

// Exists says whether dir already holds the data of a [Postgres].
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
