package stand

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// findProgram finds one of Saldo's programs: in SALDO_BIN_DIR if that is set, else beside this one, else on PATH.
func findProgram(name string) (string, error) {
	if dir := os.Getenv("SALDO_BIN_DIR"); dir != "" {
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("the program %s is not in SALDO_BIN_DIR: %w", name, err)
		}
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("the program %s is neither beside this one nor on PATH: run `make build` and use bin/saldo, "+
		"or set SALDO_BIN_DIR to the folder that holds it", name)
}

// process is a router or a coordinator.
type process struct {
	name string // in messages
	log  string // file of its output
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
	err  error         // how it ended; readable once done is closed
}

// startProcess starts a program in a process group of its own, which Ctrl-C at the terminal does not reach, to be killed by
// the kernel if this process dies first (Linux only).
func startProcess(name, log string, environment []string, path string, args ...string) (*process, error) {
	output, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	p := &process{name: name, log: log, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = environment, output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(p.cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The kernel's promise is tied to the thread that forks: see package local.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ready waits until a router is, and returns its address.
func (p *process) ready(ctx context.Context) (address string, err error) {
	serves := func() (bool, error) {
		address = p.address()
		return address != "", nil
	}
	if err := await(ctx, []*process{p}, p.name+" serves", serves); err != nil {
		return "", err
	}
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return address, await(ctx, []*process{p}, p.name+" is ready", func() (bool, error) {
		response, err := client.Get("http://" + address + "/readyz")
		if err != nil {
			return false, err
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
}

// address is where a router says that it serves, "" while it has not said so.
func (p *process) address() string {
	said, _ := os.ReadFile(p.log)
	for lines := bufio.NewScanner(bytes.NewReader(said)); lines.Scan(); {
		var line struct {
			Message string `json:"msg"`
			HTTP    string `json:"http"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Message == "router serves" {
			return line.HTTP
		}
	}
	return ""
}

// await polls until is, as long as the processes live.
func await(ctx context.Context, processes []*process, what string, is func() (bool, error)) error {
	for {
		ok, err := is()
		if ok && err == nil {
			return nil
		}
		for _, p := range processes {
			if p.gone() {
				return fmt.Errorf("%s has ended: %w: %s", p.name, errors.Join(p.err, err), p.said())
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %s", what, errors.Join(ctx.Err(), err), processes[0].said())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// said is the end of the process's log.
func (p *process) said() string {
	said, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 2000
	return string(bytes.TrimSpace(said[max(len(said)-most, 0):]))
}

// stop asks the process to end and sees to it that it does.
func (p *process) stop() error {
	if p.gone() {
		return fmt.Errorf("%s had ended by itself: %w: %s", p.name, errors.Join(p.err, errors.New("nobody asked it to")), p.said())
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already: done says so
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w: %s", p.name, p.err, p.said())
	}
	return nil
}
