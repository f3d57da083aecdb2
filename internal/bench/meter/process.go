package meter

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor time in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// times are what a process has used.
type times struct {
	own      time.Duration // by the process, its threads that have ended included
	children time.Duration // by its children that have ended, and theirs
}

// processTimes is false where there is no such process, or no /proc.
func processTimes(pid int) (times, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return times{}, false
	}
	// The second field is the program's name in parentheses, which may hold anything; the third follows the last one.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const first, user, system, childrensUser, childrensSystem = 3, 14, 15, 16, 17 // as proc(5) counts them
	var ticks [4]int64
	for i, field := range []int{user, system, childrensUser, childrensSystem} {
		if len(fields) <= field-first {
			return times{}, false
		}
		if ticks[i], err = strconv.ParseInt(string(fields[field-first]), 10, 64); err != nil {
			return times{}, false
		}
	}
	return times{own: time.Duration(ticks[0]+ticks[1]) * tick, children: time.Duration(ticks[2]+ticks[3]) * tick}, true
}

func processorTime(pid int) (time.Duration, bool) {
	t, ok := processTimes(pid)
	return t.own, ok
}

// serverTime is what a postmaster and all its children have used, those that have ended included.
func serverTime(pid int) (time.Duration, bool) {
	for range 10 {
		before, ok := processTimes(pid)
		if !ok {
			return 0, false
		}
		alive, ok := children(pid)
		if !ok {
			return 0, false
		}
		sum := time.Duration(0)
		for _, child := range alive {
			if t, ok := processTimes(child); ok {
				sum += t.own + t.children
			}
		}
		// A child that ended meanwhile would count twice, or not at all.
		if after, ok := processTimes(pid); ok && after.children == before.children {
			return sum + after.own + after.children, true
		}
	}
	return 0, false
}

// children are the pids of a process's children. (Postgres starts each from the postmaster's one thread.)
func children(pid int) (pids []int, ok bool) {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, field := range strings.Fields(string(list)) {
		if child, err := strconv.Atoi(field); err == nil {
			pids = append(pids, child)
		}
	}
	return pids, err == nil
}

// resetPeak makes the kernel forget the peak of a process's memory. Where it may not, the peak is that of the process's
// life.
func resetPeak(pid int) {
	const peakOfResidentSet = "5"
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(peakOfResidentSet), 0)
}

func peakMemory(pid int) (int64, bool) {
	status := memoryStatus(pid)
	peak, ok := status["VmHWM"]
	return peak, ok
}

// serverMemory is what a postmaster and its children have in memory: what is each one's own, and what they share once.
func serverMemory(pid int) (int64, bool) {
	var own, shared int64
	processes, ok := children(pid)
	if !ok {
		return 0, false
	}
	for _, process := range append(processes, pid) {
		status := memoryStatus(process)
		own += status["RssAnon"]
		shared = max(shared, status["RssShmem"]+status["RssFile"])
	}
	return own + shared, own+shared > 0
}

// memoryStatus are the sizes in /proc/PID/status, in bytes.
func memoryStatus(pid int) map[string]int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	sizes := make(map[string]int64)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if kilobytes, ok := strings.CutSuffix(strings.TrimSpace(value), " kB"); ok {
			if n, err := strconv.ParseInt(kilobytes, 10, 64); err == nil {
				sizes[name] = n << 10
			}
		}
	}
	return sizes
}
