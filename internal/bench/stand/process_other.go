//go:build !linux

package stand

import "syscall"

// There is no death signal here: the processes outlive this one if it is killed.
func endWithUs(*syscall.SysProcAttr) {}
