package growth

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hierarchy is where the kernel lets processor time be limited: cgroup v1's cpu controller, or v2 with it.
type hierarchy struct {
	root string // where it is mounted
	home string // the folder of this process's own group, to which what was held returns
	v2   bool
}

const needed = "to hold a Postgres to a slice of a core, the bench must run as root on Linux, where the cgroup cpu " +
	"controller (v1 or v2) is mounted and may be written to; with --shards= it leaves that part out"

// findHierarchy finds it under proc, which is /proc.
func findHierarchy(proc string) (hierarchy, error) {
	mounts, err := os.ReadFile(filepath.Join(proc, "mounts"))
	if err != nil {
		return hierarchy{}, fmt.Errorf("%s: %w", needed, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(mounts)); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // device, folder, type, options
		if len(fields) < 4 {
			continue
		}
		h := hierarchy{root: fields[1]}
		switch fields[2] {
		case "cgroup":
			if !slices.Contains(strings.Split(fields[3], ","), "cpu") {
				continue
			}
		case "cgroup2":
			controllers, _ := os.ReadFile(filepath.Join(h.root, "cgroup.controllers"))
			if !slices.Contains(strings.Fields(string(controllers)), "cpu") {
				continue // another hierarchy has it
			}
			h.v2 = true
		default:
			continue
		}
		own, err := h.own(proc)
		if err != nil {
			return hierarchy{}, fmt.Errorf("%s: %w", needed, err)
		}
		h.home = filepath.Join(h.root, own)
		return h, nil
	}
	return hierarchy{}, fmt.Errorf("%s: it is not mounted", needed)
}

// own is the path of this process's group in the hierarchy.
func (h hierarchy) own(proc string) (string, error) {
	groups, err := os.ReadFile(filepath.Join(proc, "self", "cgroup"))
	if err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(bytes.NewReader(groups)); lines.Scan(); {
		// number, controllers, path; v2 has the number 0 and no controllers
		if number, rest, ok := strings.Cut(lines.Text(), ":"); ok {
			controllers, path, _ := strings.Cut(rest, ":")
			if h.v2 && number == "0" || !h.v2 && slices.Contains(strings.Split(controllers, ","), "cpu") {
				return path, nil
			}
		}
	}
	return "", errors.New("this process is in no group of it")
}

// slice is a group of processes that together get a part of a core.
type slice struct {
	hierarchy hierarchy
	dir       string
}

// shortest is the least that the kernel gives in a period.
const shortest = time.Millisecond

// limits are the files of a group that hold it to so many cores, and what to write to them: the shortest slice that there
// is, in as long a period as makes it so many cores.
func limits(v2 bool, cores float64) [][2]string {
	period := min(max(time.Duration(float64(shortest)/cores), shortest), time.Second)
	of, quota := period.Microseconds(), time.Duration(cores*float64(period)).Microseconds()
	if v2 {
		return [][2]string{{"cpu.max", fmt.Sprintf("%d %d", quota, of)}}
	}
	return [][2]string{{"cpu.cfs_period_us", strconv.FormatInt(of, 10)}, {"cpu.cfs_quota_us", strconv.FormatInt(quota, 10)}}
}

const groupName = "saldo-bench-"

// try makes a slice of so many cores, without anybody in it, and removes it.
func (h hierarchy) try(cores float64) error {
	s := h.slice("trial")
	if err := s.make(cores); err != nil {
		return err
	}
	return s.release()
}

func (h hierarchy) slice(name string) *slice {
	return &slice{hierarchy: h, dir: filepath.Join(h.root, fmt.Sprintf("%s%d-%s", groupName, os.Getpid(), name))}
}

// hold makes a slice of so many cores and puts a process and its children into it, and thereby all that they will start.
// Release it.
func (h hierarchy) hold(name string, pid int, cores float64) (*slice, error) {
	s := h.slice(name)
	if err := s.make(cores); err != nil {
		return nil, err
	}
	if err := moveTree(pid, s.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("hold process %d to a slice of a core: %w", pid, err), s.release())
	}
	return s, nil
}

func (s *slice) make(cores float64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", needed, err)
		}
	}()
	s.hierarchy.sweep()
	if s.hierarchy.v2 {
		// It is in most roots; where it is not, this says why.
		if err := put(s.hierarchy.root, "cgroup.subtree_control", "+cpu"); err != nil {
			return err
		}
	}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return err
	}
	for _, limit := range limits(s.hierarchy.v2, cores) {
		if err := put(s.dir, limit[0], limit[1]); err != nil {
			return errors.Join(err, s.release())
		}
	}
	return nil
}

func put(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// moveTree moves a process and its children into a group. What they start meanwhile is found in the next round.
func moveTree(pid int, dir string) error {
	moved := make(map[int]bool)
	for {
		tree, err := withChildren(pid)
		if err != nil {
			return err
		}
		news := false
		for _, member := range tree {
			if moved[member] {
				continue
			}
			moved[member], news = true, true
			if err := put(dir, "cgroup.procs", strconv.Itoa(member)); err != nil && !errors.Is(err, syscall.ESRCH) { // gone
				return err
			}
		}
		if !news {
			return nil
		}
	}
}

// withChildren returns a process and its children. The process comes first: when it is in a group, its next children are.
func withChildren(pid int) ([]int, error) {
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	tree := []int{pid}
	for _, field := range strings.Fields(string(list)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		tree = append(tree, child)
	}
	return tree, nil
}

// release lets the processes run as before and removes the slice.
func (s *slice) release() error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		members, err := os.ReadFile(filepath.Join(s.dir, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("release a slice of a core: %w", err)
		}
		for _, member := range strings.Fields(string(members)) {
			if err := put(s.hierarchy.home, "cgroup.procs", member); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("release a slice of a core: %w", err)
			}
		}
		err = syscall.Rmdir(s.dir) // its files are the kernel's
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("release a slice of a core: remove %s: %w", s.dir, err)
		}
	}
}

// sweep removes the slices that killed processes left. One that cannot be removed is not empty, or somebody else did.
func (h hierarchy) sweep() {
	left, _ := filepath.Glob(filepath.Join(h.root, groupName+"*"))
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupName), "-")
		if pid, err := strconv.Atoi(owner); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = syscall.Rmdir(dir)
		}
	}
}

// periods is in how many periods the slice had something to do, and in how many of these it was used up.
func (s *slice) periods() (all, usedUp int64, err error) {
	stat, err := os.ReadFile(filepath.Join(s.dir, "cpu.stat"))
	if err != nil {
		return 0, 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(stat)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("%s: %w", filepath.Join(s.dir, "cpu.stat"), err)
		case name == "nr_periods":
			all = n
		case name == "nr_throttled":
			usedUp = n
		}
	}
	return all, usedUp, nil
}
