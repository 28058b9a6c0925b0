//go:build !linux

package child

import "syscall"

// endWithParent can only keep the terminal's Ctrl-C away here: no other system ends a child when its
// parent is killed.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
