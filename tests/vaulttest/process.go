package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A process is one run of `vault server`.
type process struct {
	os     *os.Process
	exited chan struct{} // closed when the process was reaped
}

// start starts the server's process and waits until it answers requests, sealed or not.
func (s *Server) start(ctx context.Context) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.options.Binary, "server", "-config="+s.configFile()) // not CommandContext: it outlives the context, which bounds the start alone
	cmd.Env = s.environment()
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = endWithParent()

	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends such a child with the thread that started it, not with the process, so
		// this thread is kept until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.os = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", s.options.Binary, err)
	}
	s.setProcess(p)

	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client := s.Client()
	err = s.until(ctx, "Vault to listen", func(ctx context.Context) bool {
		_, err := client.Sys().SealStatusWithContext(ctx)
		return err == nil
	})
	if err != nil {
		return errors.Join(err, s.Kill(ctx))
	}
	return nil
}

// Stop ends the server as an operator does, with SIGTERM; a server that is not gone after 30 s is
// killed, and that is an error. Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	return s.end(ctx, syscall.SIGTERM)
}

// Kill ends Vault's process and the plugin's with SIGKILL, as a crash of the machine does.
func (s *Server) Kill(ctx context.Context) error {
	return s.end(ctx, syscall.SIGKILL)
}

func (s *Server) end(ctx context.Context, signal syscall.Signal) error {
	p := s.running()
	if p == nil {
		return nil
	}
	// A plugin whose Vault was killed would go on alone. It is looked up before, while it can
	// still be told by its parent.
	plugins, err := s.pluginProcesses()
	if err != nil {
		return err
	}
	if err := p.os.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal Vault: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	select {
	case <-p.exited:
	case <-ctx.Done():
		err = fmt.Errorf("the server did not stop within %s; killed\n%s", stopTimeout, tail(s.Log(), 20))
		_ = p.os.Kill() // it may have ended just now
		<-p.exited
	}
	s.setProcess(nil)
	for _, plugin := range plugins {
		if killErr := plugin.Kill(); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
			err = errors.Join(err, fmt.Errorf("kill the plugin: %w", killErr))
		}
	}
	return err
}

func (s *Server) running() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

func (s *Server) setProcess(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
}

// until polls the condition until it holds, the context ends or the server does.
func (s *Server) until(ctx context.Context, what string, condition func(context.Context) bool) error {
	p := s.running()
	if p == nil {
		return fmt.Errorf("wait for %s: the server is stopped", what)
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for !condition(ctx) {
		select {
		case <-ticker.C:
		case <-p.exited:
			s.setProcess(nil)
			return fmt.Errorf("wait for %s: Vault's process ended\n%s", what, tail(s.Log(), 20))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w\n%s", what, context.Cause(ctx), tail(s.Log(), 20))
		}
	}
	return nil
}
