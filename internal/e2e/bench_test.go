package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/saldo-ledger/saldo/internal/bench"
	"github.com/saldo-ledger/saldo/internal/pgtest"
)

// Every workload, for a moment, on a cluster that the bench starts itself: the figures are plausible, the books clean.
func TestBenchRun(t *testing.T) {
	t.Parallel()
	saldo, temporary := program(t, "saldo"), pgtest.Dir(t)
	works := []string{
		"same", "hot-payer", "hot-payee", "zipf", "cross", "batch", "balance", "mixed", "history", "history-first", "history-last",
	}
	args := append([]string{
		"bench", "run", "--json", "--shards=2", "--users=400", "--connections=16", "--duration=300ms", "--warmup=100ms", "--seed=7",
		"--batch=5", "--depth=500", "--page-size=20", "--cross=50",
	}, works...)
	stdout, stderr, code, err := run(cleanEnv("TMPDIR="+temporary), saldo, args...)
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, stdout, stderr)
	}
	var result bench.Run
	if err := json.Unmarshal([]byte(stdout), &result); err != nil {
		t.Fatal(err)
	}
	if result.Seed != 7 || result.Machine.CPUs == 0 || result.Settings["synchronous_commit"] != "on" || len(result.Results) != len(works) {
		t.Errorf("%+v", result)
	}
	cpu := make(map[string]float64)
	for i, r := range result.Results {
		for kind, used := range r.Cost.CPU {
			cpu[kind] += used
		}
		if problem := implausible(r); problem != "" || r.Work != works[i] {
			t.Errorf("%s: %s: %+v", works[i], problem, r)
		}
	}
	// It is counted in hundredths of a second, of which one measurement may have none.
	for _, kind := range []string{"router", "postgres", "load"} {
		if runtime.GOOS == "linux" && cpu[kind] <= 0 {
			t.Errorf("no work needs any time of the processor by kind %s", kind)
		}
	}
	mustBeEmpty(t, temporary)
}

// implausible says what cannot be right about a measurement over HTTP, "" if nothing is.
func implausible(r bench.Result) string {
	reads := r.Work == "balance" || strings.HasPrefix(r.Work, "history")
	l, c := r.Latency, r.Cost
	errors := len(r.Errors)
	if r.Errors["pending"] > 0 { // this machine may be slow
		errors--
	}
	switch {
	case r.Target != "http" || r.Callers != 16 || r.Shards != 2:
		return "it is another measurement"
	case errors > 0 || r.Missed > 0:
		return "not all was done"
	case r.Conserved == nil || !*r.Conserved:
		return "money is lost"
	case r.Units < 16 || r.PerSecond != float64(r.Units)/r.Seconds:
		return "it did nothing"
	case l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max+1 || l.Max > 60_000:
		return "the latencies are not"
	case reads && c.WALBytes > 100:
		return "reads write"
	case !reads && (c.Commits <= 0 || c.Commits > 4000 || c.BatchSize < 0.25 || c.WALBytes < 50 || c.WALBytes > 50_000):
		return "writes cost nothing, or too much"
	}
	if runtime.GOOS == "linux" {
		for _, kind := range []string{"router", "postgres", "load"} {
			if c.CPU[kind] < 0 || c.CPU[kind] > 100 || c.RSSBytes[kind] < 1<<20 || c.RSSBytes[kind] > 2<<30 {
				return "the processes' cost"
			}
		}
	}
	return ""
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A bench that is told to stop, or killed, leaves no process; one that is told to, no folder either.
func TestBenchRunThatIsStopped(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc, and the kernel's help")
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			temporary := pgtest.Dir(t)
			p := newProcess(t, "bench", cleanEnv("TMPDIR="+temporary), program(t, "saldo"),
				"bench", "run", "same", "--shards=1", "--users=100", "--duration=10m")
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
			var children []int
			until(t, "Postgres, router and coordinator run", long, func() bool {
				if p.gone() {
					t.Fatal("it has ended")
				}
				children = childrenOf(p.pid())
				logs, _ := filepath.Glob(filepath.Join(temporary, "*", "coordinator-1.log"))
				return len(children) >= 3 && len(logs) == 1
			})
			p.signal(signal)
			if err := p.ended(t); err == nil {
				t.Error("it claims to have measured")
			}
			until(t, "nothing of it runs", long, func() bool { return !slices.ContainsFunc(children, alive) })
			if signal == syscall.SIGINT {
				mustBeEmpty(t, temporary)
			}
		})
	}
}

func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		content, _ := os.ReadFile(list)
		for field := range strings.FieldsSeq(string(content)) {
			if child, err := strconv.Atoi(field); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// What makes no sense is refused before anything is started.
func TestBenchRunRefuses(t *testing.T) {
	t.Parallel()
	saldo := program(t, "saldo")
	for args, want := range map[string]string{
		"bench run":                                   "<work>",
		"bench run nothing":                           "saldo bench list",
		"bench run same --connections 0":              "--connections",
		"bench run cross --cross 101":                 "--cross",
		"bench run batch --batch 1001":                "--batch",
		"bench run same --users 0":                    "--users",
		"bench run history --page-size 0":             "--page-size",
		"bench run history --depth 0":                 "--depth",
		"bench run same --routers 0":                  "--routers",
		"bench run same --url http://127.0.0.1:1":     "--running",
		"bench run same --running --data /nowhere":    "--url",
		"bench run same --running --etcd 127.0.0.1:1": "--url",
		"bench run same --dir /dev/null/x":            "/dev/null/x",
	} {
		_, stderr, code, err := run(cleanEnv(), saldo, strings.Fields(args)...)
		if err != nil || code != 2 || !strings.Contains(stderr, want) {
			t.Errorf("saldo %s: exit code %d, %v: %s", args, code, err, stderr)
		}
	}
}
