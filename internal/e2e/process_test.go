package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is one of Saldo's programs, which may be killed and started again.
type process struct {
	name string // in messages
	path string
	args []string
	env  []string
	log  string // file of its output, appended to from start to start

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
	err  error         // how it ended; readable once done is closed
}

// newProcess describes a process. When the test ends it is killed if it still runs, its log is searched for what no
// program may say, and shown if the test has failed.
func newProcess(t *testing.T, name string, env []string, path string, args ...string) *process {
	t.Helper()
	p := &process{name: name, path: path, args: args, env: env, log: filepath.Join(t.TempDir(), name+".log")}
	t.Cleanup(func() {
		p.kill()
		output := p.output()
		if found := alarming.FindString(output); found != "" {
			t.Errorf("%s says %q", name, found)
		}
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, tail(output, 60))
		}
	})
	return p
}

// alarming is what is a bug wherever it is said.
var alarming = regexp.MustCompile(`WARNING: DATA RACE|(?m)^panic: .*|(?m)^fatal error: .*|.*msg="request failed".*|.*contradict each other.*`)

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// cleanEnv is this process's environment without what configures Saldo, Postgres or tracing.
func cleanEnv(more ...string) []string {
	var env []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "SALDO_") && !strings.HasPrefix(setting, "PG") && !strings.HasPrefix(setting, "OTEL_") {
			env = append(env, setting)
		}
	}
	env = append(env, "SALDO_ADMIN_HTTP=127.0.0.1:0") // many coordinators run here
	env = append(env, "GORACE=atexit_sleep_ms=0")     // otherwise each program takes a second to end
	if dir := os.Getenv("SALDO_POSTGRES_BIN"); dir != "" {
		env = append(env, "SALDO_POSTGRES_BIN="+dir)
	}
	return append(env, more...)
}

// start starts the process; its end is waited for by the goroutine that this makes.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(cmd.SysProcAttr)
	done, started := make(chan struct{}), make(chan error)
	go func() {
		defer close(done)
		// The kernel's promise is tied to the thread that forks: see package local.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done = cmd, done
	return nil
}

// running is the process that was started last, nil before.
func (p *process) running() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd, p.done
}

func (p *process) pid() int {
	cmd, _ := p.running()
	return cmd.Process.Pid
}

// signal sends a signal to the process alone. A process that is gone takes none.
func (p *process) signal(s syscall.Signal) {
	if cmd, _ := p.running(); cmd != nil {
		_ = cmd.Process.Signal(s)
	}
}

// kill ends the process at once and returns when it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	if _, done := p.running(); done != nil {
		<-done
	}
}

// stop asks the process to end, as Ctrl-C does, and checks that it ends well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	if cmd, _ := p.running(); cmd == nil {
		return
	}
	p.signal(syscall.SIGINT)
	if err := p.ended(t); err != nil {
		t.Errorf("%s ended with %v after SIGINT", p.name, err)
	}
}

// ended waits for the end of the process and returns how it ended.
func (p *process) ended(t *testing.T) error {
	t.Helper()
	_, done := p.running()
	select {
	case <-done:
		return p.err
	case <-time.After(90 * time.Second):
		t.Fatalf("%s does not end", p.name)
		return nil
	}
}

// ending is closed when the process has ended.
func (p *process) ending() <-chan struct{} {
	_, done := p.running()
	return done
}

// gone tells whether the process has ended.
func (p *process) gone() bool {
	_, done := p.running()
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (p *process) output() string {
	content, err := os.ReadFile(p.log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was said yet
		return err.Error()
	}
	return string(bytes.ToValidUTF8(content, []byte("?")))
}

// run runs a program to its end and returns what it printed and its exit code. The error is about what no program may do.
func run(env []string, path string, args ...string) (stdout, stderr string, code int, err error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &errs
	if err := cmd.Start(); err != nil {
		return "", "", 0, err
	}
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the exit code says it
	if !late.Stop() {
		err = fmt.Errorf("%s %v did not end", filepath.Base(path), args)
	} else if found := alarming.FindString(errs.String()); found != "" {
		err = fmt.Errorf("%s %v says %q", filepath.Base(path), args, found)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode(), err
}

// until polls until done returns true. what says what did not come.
func until(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(25 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// alive tells whether a process exists that is not a zombie. (A zombie of somebody else's still has its pid.)
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // no /proc
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}
