// Package child starts processes that end with the one who started them: each has one goroutine that
// waits for it, ends by its own handle and never by a name, and ends with its parent when that is
// killed (on Linux).
package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A Process is a running child, or one that has ended.
type Process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it ended; valid once exited is closed
}

// Start starts the command. A command that was made with a context ends with that, too.
func Start(cmd *exec.Cmd) (*Process, error) {
	cmd.SysProcAttr = endWithParent()
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends such a child with the thread that started it, not with the process, so this
		// thread is kept until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended and was reaped.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err tells how a process ended that has ended: nil with exit code 0.
func (p *Process) Err() error {
	<-p.exited
	return p.err
}

// Stop asks the process to end, and kills it when it is not gone after the grace, which is an error.
// It returns when the process was reaped; stopping one that has ended does nothing.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
	}
	_ = p.cmd.Process.Kill() // it may have ended just now
	<-p.exited
	return fmt.Errorf("%s did not end within %s, and was killed", p.cmd.Path, grace)
}
