package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// binPattern is where Debian's packages put the server binaries.
const binPattern = "/usr/lib/postgresql/*/bin"

// ErrNoServer is returned when the machine has no PostgreSQL server.
var ErrNoServer = errors.New("no PostgreSQL server binaries (initdb, postgres) found")

func findBinDir(dir string) (string, error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{os.Getenv("PGTEST_BIN")}
	}
	if candidates[0] == "" {
		found, err := filepath.Glob(binPattern)
		if err != nil {
			return "", fmt.Errorf("look for server binaries: %w", err)
		}
		sort.Slice(found, func(i, j int) bool { return major(found[i]) > major(found[j]) })
		candidates = found
	}
	for _, c := range candidates {
		if executable(filepath.Join(c, "initdb")) && executable(filepath.Join(c, "postgres")) {
			return c, nil
		}
	}
	return "", fmt.Errorf("%w in %q: install them (apt-get install postgresql) or name their directory in PGTEST_BIN",
		ErrNoServer, strings.Join(append(candidates, binPattern), ":"))
}

func major(binDir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(binDir)))
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// account is the unix account the server runs under; nil for our own. The
// server refuses to run as root.
type account struct{ uid, gid int }

func serverAccount() (*account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID == nil && errGID == nil && uid != 0 {
			return &account{uid, gid}, nil
		}
	}
	return nil, errors.New("a PostgreSQL server does not run as root, and there is neither an account postgres nor nobody to run it under")
}

func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	if err := os.Chown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("hand the cluster's files to the server's account: %w", err)
	}
	return nil
}

func (a *account) apply(cmd *exec.Cmd) {
	// SIGQUIT is PostgreSQL's immediate shutdown: no server outlives us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT, Setpgid: true}
	if a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	// The caller's own PG* variables must not steer the server.
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "PG") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
}

func (s *Server) initDB(ctx context.Context) error {
	if err := s.writeFile("password", []byte(s.superuserPassword+"\n")); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.binDir, "initdb"), "--pgdata", s.dataDir, "--username", Superuser,
		"--pwfile", filepath.Join(s.dir, "password"), "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	cmd.Dir = s.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	s.account.apply(cmd)
	p := start(cmd)
	if p.startErr != nil {
		return fmt.Errorf("run initdb: %w", p.startErr)
	}
	<-p.exited
	if p.err != nil {
		return fmt.Errorf("run initdb: %w: %s", p.err, out.String())
	}
	conf, err := os.OpenFile(filepath.Join(s.dataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure the cluster: %w", err)
	}
	_, err = conf.WriteString("\ninclude 'pgtest.conf'\n")
	return errors.Join(err, conf.Close())
}

// process is a child with an owner: one goroutine, locked to its thread, starts
// it and waits for it. The lock matters: the kernel sends Pdeathsig when the
// thread that started the child ends, not the process.
type process struct {
	cmd      *exec.Cmd
	startErr error
	exited   chan struct{}
	err      error // valid once exited is closed
}

func start(cmd *exec.Cmd) *process {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan struct{})
	go func() {
		defer close(p.exited)
		runtime.LockOSThread() // never unlocked: the thread ends with the child
		p.startErr = cmd.Start()
		close(started)
		if p.startErr == nil {
			p.err = cmd.Wait()
		}
	}()
	<-started
	return p
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return p.startErr == nil
	}
}

// stop ends the process: fast shutdown first, then ever harder.
func (p *process) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		if !p.running() {
			return
		}
		if err := p.cmd.Process.Signal(sig); err != nil {
			return
		}
		select {
		case <-p.exited:
			return
		case <-time.After(10 * time.Second):
		}
	}
	<-p.exited
}

// Halt stops the server and keeps its data. Halting a halted server does nothing.
func (s *Server) Halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.stop()
		s.proc = nil
	}
}

// Resume starts a halted server on the same port and waits until it answers.
func (s *Server) Resume(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil && s.proc.running() {
		return nil
	}
	logFile, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer logFile.Close() // the child has its own copy
	cmd := exec.Command(filepath.Join(s.binDir, "postgres"), "-D", s.dataDir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, logFile, logFile
	s.account.apply(cmd)
	p := start(cmd)
	if p.startErr != nil {
		return fmt.Errorf("start the server: %w", p.startErr)
	}
	s.proc = p
	err = s.waitFor(ctx, "the server to answer", func() bool {
		return !p.running() || s.Exec(ctx, "postgres", "SELECT 1") == nil
	})
	if err == nil && !p.running() {
		err = errors.New("the server ended at once")
	}
	if err != nil {
		p.stop()
		s.proc = nil
		return fmt.Errorf("start the server: %w; its log ends with: %s", err, tail(s.Log()))
	}
	return nil
}

// Restart stops and starts the server; every session ends.
func (s *Server) Restart(ctx context.Context) error {
	s.Halt()
	return s.Resume(ctx)
}

// Stop ends the server and removes its data.
func (s *Server) Stop() error {
	s.Halt()
	return s.remove()
}

func (s *Server) remove() error {
	if s.dir == "" {
		return nil
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the cluster: %w", err)
	}
	return nil
}

func tail(log string) string {
	const keep = 2000
	return log[max(0, len(log)-keep):]
}

func randomPassword() string { return rand.Text() }
