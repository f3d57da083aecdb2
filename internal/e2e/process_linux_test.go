package e2e

import "syscall"

// endWithUs has the kernel end a child when this process dies.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
