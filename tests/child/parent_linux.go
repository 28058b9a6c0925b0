package child

import "syscall"

// endWithParent makes the kernel end the child when its parent dies, however that happens. The process
// group of its own keeps a Ctrl-C at the terminal from reaching it before the one who started it has
// put its affairs in order.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
