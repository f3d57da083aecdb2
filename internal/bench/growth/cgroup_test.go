package growth

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFindHierarchy(t *testing.T) {
	t.Parallel()
	unified := t.TempDir()
	if err := os.WriteFile(filepath.Join(unified, "cgroup.controllers"), []byte("cpuset cpu io\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	without := t.TempDir()
	if err := os.WriteFile(filepath.Join(without, "cgroup.controllers"), []byte("hugetlb cpuset\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	v1 := "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n"
	for name, c := range map[string]struct {
		mounts, groups string
		want           hierarchy
		wantErr        string
	}{
		"v1": {
			mounts: v1, groups: "9:cpuset:/\n4:cpu,cpuacct:/user.slice\n0::/other\n",
			want: hierarchy{root: "/sys/fs/cgroup/cpu,cpuacct", home: "/sys/fs/cgroup/cpu,cpuacct/user.slice"},
		},
		"v1, since v2 has no cpu": {
			mounts: "none " + without + " cgroup2 rw 0 0\n" + v1, groups: "4:cpu,cpuacct:/\n0::/other\n",
			want: hierarchy{root: "/sys/fs/cgroup/cpu,cpuacct", home: "/sys/fs/cgroup/cpu,cpuacct"},
		},
		"v2": {
			mounts: "/dev/vda / ext4 rw 0 0\nnone " + unified + " cgroup2 rw 0 0\n", groups: "0::/user.slice/me\n",
			want: hierarchy{root: unified, home: unified + "/user.slice/me", v2: true},
		},
		"none":         {mounts: "/dev/vda / ext4 rw 0 0\n", groups: "0::/\n", wantErr: "must run as root on Linux"},
		"in no group":  {mounts: v1, groups: "9:cpuset:/\n", wantErr: "in no group of it"},
		"not on Linux": {wantErr: "must run as root on Linux"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			if c.mounts != "" {
				if err := os.Mkdir(filepath.Join(proc, "self"), 0o755); err != nil {
					t.Fatal(err)
				}
				for file, content := range map[string]string{"mounts": c.mounts, "self/cgroup": c.groups} {
					if err := os.WriteFile(filepath.Join(proc, file), []byte(content), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := findHierarchy(proc)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("the error is %v, without %q", err, c.wantErr)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("found %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v2    bool
		cores float64
		want  [][2]string
	}{
		{false, 0.1, [][2]string{{"cpu.cfs_period_us", "10000"}, {"cpu.cfs_quota_us", "1000"}}},
		{true, 0.1, [][2]string{{"cpu.max", "1000 10000"}}},
		{true, 0.25, [][2]string{{"cpu.max", "1000 4000"}}},
		{false, 0.01, [][2]string{{"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "1000"}}},
		{true, 1, [][2]string{{"cpu.max", "1000 1000"}}},
	} {
		if got := limits(c.v2, c.cores); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%g cores, v2 %v: %v, not %v", c.cores, c.v2, got, c.want)
		}
	}
}

// mayHold skips a test where processes cannot be held.
func mayHold(t *testing.T) hierarchy {
	t.Helper()
	h, err := findHierarchy("/proc")
	if err != nil {
		t.Skip(err)
	}
	if err := h.try(0.1); err != nil {
		t.Skip(err)
	}
	return h
}

func TestHold(t *testing.T) {
	t.Parallel()
	h := mayHold(t)
	busy := exec.Command("sh", "-c", "(while :; do :; done) & while :; do :; done")
	busy.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = syscall.Kill(-busy.Process.Pid, syscall.SIGKILL) }
	defer end()
	var tree []int
	for deadline := time.Now().Add(5 * time.Second); len(tree) < 2; {
		var err error
		if tree, err = withChildren(busy.Process.Pid); err != nil || time.Now().After(deadline) {
			t.Fatal(tree, err)
		}
	}

	s, err := h.hold("test", busy.Process.Pid, 0.1)
	if err != nil {
		t.Fatal(err)
	}
	before, usedBefore, err := s.periods()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	after, usedAfter, err := s.periods()
	if err != nil {
		t.Fatal(err)
	}
	if all, usedUp := after-before, usedAfter-usedBefore; all < 20 || usedUp < all*8/10 {
		t.Errorf("of %d periods in a second, %d were used up by loops that never rest", all, usedUp)
	}
	for _, pid := range tree {
		if group := groupOf(t, pid); !strings.Contains(group, filepath.Base(s.dir)) {
			t.Errorf("process %d is not held: %s", pid, group)
		}
	}
	if err := s.release(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range tree {
		if group := groupOf(t, pid); strings.Contains(group, filepath.Base(s.dir)) {
			t.Errorf("process %d is still held: %s", pid, group)
		}
	}
	if left, _ := filepath.Glob(s.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	end()
	_ = busy.Wait() // it was killed
	if _, err := h.hold("gone", busy.Process.Pid, 0.1); err == nil {
		t.Error("a process that is gone was held")
	}
	if left, _ := filepath.Glob(filepath.Join(h.root, groupName+"*-gone")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func groupOf(t *testing.T, pid int) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestSweep(t *testing.T) {
	t.Parallel()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	h := hierarchy{root: t.TempDir()}
	of := func(pid int) string { return filepath.Join(h.root, groupName+strconv.Itoa(pid)+"-s1") }
	ours, left := of(os.Getpid()), of(dead.Process.Pid)
	for _, dir := range []string{ours, left, filepath.Join(h.root, groupName+"x")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.sweep()
	if found, _ := filepath.Glob(filepath.Join(h.root, "*")); len(found) != 2 || found[0] != ours {
		t.Errorf("there are %v", found)
	}
}
