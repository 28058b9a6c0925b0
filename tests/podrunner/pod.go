package podrunner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

// A pod is one process. The Runner's lock guards its fields, but for name.
type pod struct {
	name    string
	cancel  context.CancelFunc
	address string // "" until it listens
	ready   bool
	health  Health
}

// run is a pod's life: its process starts, is asked for its health, and ends when the context does.
func (r *Runner) run(ctx context.Context, p *pod, c config) {
	process, address, err := r.startProcess(ctx, c)
	if err != nil {
		r.failed(err)
		return
	}
	defer func() {
		r.setReady(p, false)
		select {
		case <-process.Exited():
			r.failed(fmt.Errorf("the process of the pod %s ended by itself: %w", p.name, process.Err()))
		default:
			if err := process.Stop(endTimeout); err != nil {
				r.failed(err)
			}
		}
	}()
	select {
	case line := <-address:
		r.mu.Lock()
		p.address = line
		r.mu.Unlock()
		r.probe(ctx, p, process)
	case <-process.Exited():
	case <-ctx.Done():
	}
}

// startProcess starts the test's own binary as a pod, whose first line of output is where it listens.
func (r *Runner) startProcess(ctx context.Context, c config) (*child.Process, <-chan string, error) {
	told, err := c.encode()
	if err != nil {
		return nil, nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	log, err := os.OpenFile(r.logFile(c.Pod), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close() // the child has its own copy
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close() // and of this

	cmd := exec.Command(self) // not CommandContext: it is asked to end, not killed
	cmd.Env = []string{configVariable + "=" + told}
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, write, log
	process, err := child.Start(cmd)
	if err != nil {
		return nil, nil, errors.Join(err, read.Close())
	}
	address := make(chan string, 1)
	r.owned.Go(func() { // ends with the process, which holds the other end of the pipe
		defer read.Close()
		if lines := bufio.NewScanner(read); lines.Scan() {
			address <- lines.Text()
		}
	})
	return process, address, nil
}

// probe asks the process for its health until the context or the process ends, and tells the control
// plane when it becomes ready and when it no longer is.
func (r *Runner) probe(ctx context.Context, p *pod, process *child.Process) {
	client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	told := false
	for {
		health, healthy := ask(ctx, client, p.address)
		if ctx.Err() != nil {
			return
		}
		r.mu.Lock()
		p.health, p.ready = health, healthy
		r.mu.Unlock()
		if healthy != told {
			err := r.options.Client.SetReady(ctx, r.options.Namespace, p.name, healthy)
			if err == nil || kubernetestest.HasCode(err, http.StatusNotFound) { // else it is told again
				told = healthy
			}
		}
		select {
		case <-ticker.C:
		case <-process.Exited():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *Runner) setReady(p *pod, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.ready = ready
}

// ask asks a process for its health.
func ask(ctx context.Context, client *http.Client, address string) (health Health, healthy bool) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return Health{Error: err.Error()}, false
	}
	response, err := client.Do(request)
	if err != nil {
		return Health{Error: err.Error()}, false
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&health); err != nil {
		return Health{Error: err.Error()}, false
	}
	return health, response.StatusCode == http.StatusOK
}

func (r *Runner) logFile(pod string) string { return filepath.Join(r.dir, pod+".log") }

// logs are what all processes have said, those that have ended too.
func (r *Runner) logs() string {
	files, err := filepath.Glob(r.logFile("*"))
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&b, "--- %s\n%s\n", strings.TrimSuffix(filepath.Base(file), ".log"), text)
	}
	return b.String()
}
