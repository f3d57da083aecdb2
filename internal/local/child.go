package local

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process that was started, and is waited for, by one goroutine.
type child struct {
	pid  int
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone and reaped
	err  error         // how it ended; readable once done is closed
}

// startChild starts cmd in a process group of its own, as id, to be sent
// lastWish by the kernel if this process dies first (Linux only). The goroutine
// it makes ends with the process: receive from done.
func startChild(cmd *exec.Cmd, id identity, lastWish syscall.Signal) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	setDeathSignal(cmd.SysProcAttr, lastWish)
	if id.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid)}
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(c.done)
		// The death signal is tied to the thread that forks, not to the process:
		// were this thread given back, Go could end it and so the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			c.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		<-c.done
		return nil, err
	}
	return c, nil
}

func (c *child) signal(s os.Signal) {
	// The only errors are about a process that is gone, and then done says so.
	_ = c.cmd.Process.Signal(s)
}

// serverEnv is the environment of the server and of initdb: nothing of ours, so
// that PGDATA, PGOPTIONS or a locale of the caller change nothing.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}
