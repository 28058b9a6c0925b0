// Package podrunner plays the kubelet of an application: it runs a process for each pod of a workload
// that the control plane of package kubernetestest wants to run, tells the control plane when the
// process is ready, and ends it with its pod. In front of the processes is one address, as a Service is,
// which sends each request to one of those that are ready.
//
// The process is a real HTTP server that reads a PostgreSQL credential from Vault once, when it starts,
// and logs in with it whenever its health is asked for. It is the test's own binary: TestMain calls Main.
package podrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

const (
	watchInterval = 100 * time.Millisecond // how often the pods are looked at
	probeInterval = 250 * time.Millisecond // how often a pod's health is asked for
	probeTimeout  = 20 * time.Second
	endTimeout    = 10 * time.Second
)

// Options say whose pods are run, and as what.
type Options struct {
	// Client reads pods and tells which are ready.
	Client *kubernetestest.Client
	// Namespace and App, the value of the label app, say which pods: those of a workload that
	// package kubernetestest makes with this name. They have ReadyWhenToldSo.
	Namespace, App string
	// VaultAddress, VaultToken and Path say where the credential is read: rotation/creds/app.
	VaultAddress, VaultToken, Path string
	// PostgresCA is the authority of the server that the credential's connection_url leads to.
	PostgresCA string
}

// A Runner runs the processes of one application.
type Runner struct {
	options Options
	dir     string
	front   *http.Server
	address string
	cancel  context.CancelFunc
	owned   sync.WaitGroup

	mu         sync.Mutex
	pods       map[string]*pod // by uid
	turn       int
	brokenFrom int
	counts     Counts
	err        error // what went wrong in the background, apart from what is tried again
}

// Counts are what the front address has answered.
type Counts struct {
	Healthy     int // the pod had logged in
	Refused     int // the server had refused the pod's login
	Failed      int // the pod was not healthy, for another reason
	Unavailable int // there was no pod to ask
}

// New starts a Runner that ends with the test. A test that fails prints what its processes said.
func New(t kubernetestest.TB, options Options) *Runner {
	t.Helper()
	r, err := start(t.Context(), options)
	if err != nil {
		t.Fatalf("run the pods of %s: %v", options.App, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the pods of %s: %+v\n%s", options.App, r.Counts(), r.logs())
		}
		if err := r.close(); err != nil {
			t.Errorf("end the pods of %s: %v", options.App, err)
		}
	})
	return r
}

func start(ctx context.Context, options Options) (*Runner, error) {
	dir, err := os.MkdirTemp("", "podrunner-")
	if err != nil {
		return nil, err
	}
	r := &Runner{options: options, dir: dir, pods: map[string]*pod{}}
	if err := r.listen(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	// The pods outlive the test's context, which ends before its clean-up does.
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.owned.Go(func() { r.watch(ctx) })
	return r, nil
}

// close ends the front and all processes, and waits for them.
func (r *Runner) close() error {
	r.cancel()
	err := r.front.Close()
	r.owned.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(err, r.err, os.RemoveAll(r.dir))
}

// BreakFrom makes processes that start from now on unhealthy when the version of the credential that
// they read is this one or a later one: a release that cannot work with it. 0 ends that.
func (r *Runner) BreakFrom(version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.brokenFrom = version
}

// Ready are the pods that are ready, by name, and what each said of itself last.
func (r *Runner) Ready() map[string]Health {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready := map[string]Health{}
	for _, p := range r.pods {
		if p.ready {
			ready[p.name] = p.health
		}
	}
	return ready
}

// watch starts a process for each pod that runs and ends those of pods that are gone.
func (r *Runner) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		r.reconcile(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

type podList struct {
	Items []struct {
		Metadata kubernetestest.Metadata `json:"metadata"`
		Status   struct {
			Phase string `json:"phase"`
		} `json:"status"`
	} `json:"items"`
}

func (r *Runner) reconcile(ctx context.Context) {
	var list podList
	if err := r.options.Client.List(ctx, "Pod", r.options.Namespace, "app="+r.options.App, &list); err != nil {
		return // the next tick asks again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var wanted []string
	for _, item := range list.Items {
		if item.Status.Phase != "Running" || item.Metadata.Deleted != nil {
			continue
		}
		wanted = append(wanted, item.Metadata.UID)
		if r.pods[item.Metadata.UID] == nil {
			p := &pod{name: item.Metadata.Name}
			r.pods[item.Metadata.UID] = p
			var podContext context.Context
			podContext, p.cancel = context.WithCancel(ctx)
			config := r.config(p.name)
			r.owned.Go(func() { r.run(podContext, p, config) })
		}
	}
	for uid, p := range r.pods {
		if !slices.Contains(wanted, uid) {
			p.cancel()
			delete(r.pods, uid)
		}
	}
}

// config is what a process that starts now is told. The lock is held.
func (r *Runner) config(name string) config {
	o := r.options
	return config{
		Pod: name, App: o.App, VaultAddress: o.VaultAddress, VaultToken: o.VaultToken, Path: o.Path,
		PostgresCA: o.PostgresCA, BrokenFrom: r.brokenFrom,
	}
}

func (r *Runner) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

func (c config) encode() (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode what the pod is told: %w", err)
	}
	return string(text), nil
}
