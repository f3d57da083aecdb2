package meter

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/saldo-ledger/saldo/internal/bench"
)

// Machine is what this machine is, as far as it says. dir is where the data will be: a flush is timed there. "": it is not.
func Machine(dir string) (bench.Machine, error) {
	m := bench.Machine{
		CPUs: runtime.NumCPU(), Go: runtime.Version(),
		CPU:      value("/proc/cpuinfo", "model name", ":"),
		MemoryGB: float64(bytesOf(value("/proc/meminfo", "MemTotal", ":"))) / (1 << 30),
		Kernel:   strings.TrimSpace(read("/proc/sys/kernel/ostype") + " " + read("/proc/sys/kernel/osrelease")),
		System:   strings.Trim(value("/etc/os-release", "PRETTY_NAME", "="), `"`),
		LoadAvg:  loadAverage(),
	}
	if m.System == "" {
		m.System = runtime.GOOS
	}
	if dir == "" {
		return m, nil
	}
	flush, err := flushTime(dir)
	m.FlushMS = float64(flush.Microseconds()) / 1000
	return m, err
}

func read(file string) string {
	content, _ := os.ReadFile(file)
	return strings.TrimSpace(string(content))
}

// value is the first one of a name in a file of lines, "" if there is none.
func value(file, name, separator string) string {
	for line := range strings.Lines(read(file)) {
		if key, value, ok := strings.Cut(line, separator); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func bytesOf(kilobytes string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(kilobytes, " kB"), 10, 64)
	return n << 10
}

func loadAverage() float64 {
	average, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	n, _ := strconv.ParseFloat(average, 64)
	return n
}

// flushTime is the median time of an fsync after the write of a page at the end of a file.
func flushTime(dir string) (time.Duration, error) {
	file, err := os.Create(filepath.Join(dir, "flush-test"))
	if err != nil {
		return 0, fmt.Errorf("time a flush: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	page := make([]byte, 8192)
	took := make([]time.Duration, 51)
	for i := range took {
		if _, err := file.Write(page); err != nil {
			return 0, fmt.Errorf("time a flush: %w", err)
		}
		begun := time.Now()
		if err := file.Sync(); err != nil {
			return 0, fmt.Errorf("time a flush: %w", err)
		}
		took[i] = time.Since(begun)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
