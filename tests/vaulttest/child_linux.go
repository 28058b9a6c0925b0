package vaulttest

import "syscall"

// endWithParent makes the kernel send the child SIGTERM when its parent dies, however that happens.
// SIGTERM, so that Vault in turn ends its plugins. The process group of its own keeps a Ctrl-C at
// the terminal from reaching Vault before the one who started it has put its affairs in order.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
