//go:build !linux

package local

import "syscall"

// There is no death signal here: the server outlives a killed supervisor until
// the next start finds it.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
