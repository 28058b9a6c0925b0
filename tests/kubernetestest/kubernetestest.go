// Package kubernetestest starts a real Kubernetes control plane as child processes, on loopback and in
// a folder of its own: etcd, the API server with TLS and RBAC, the controllers, the scheduler. Nodes and
// their kubelets alone are played, by kwok, which calls pods running (see Readiness); package podrunner
// runs a process for each.
//
// A start takes about ten seconds, so tests share a Cluster and have a namespace each.
package kubernetestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
)

// How long things may take on a loaded machine, far above what they take on a quiet one.
const (
	startTimeout = 2 * time.Minute
	stopTimeout  = 30 * time.Second
	pollInterval = 50 * time.Millisecond
)

// nodes is how many nodes there are: enough for a DaemonSet to have more than one pod.
const nodes = 2

// A Cluster is a running control plane. Its embedded Client is an administrator's.
type Cluster struct {
	*Client
	binaries   string
	dir        string
	authority  *certs.Authority
	ports      struct{ etcd, peer, api int }
	components []*component // in the order of their starts
	namespaces atomic.Int64
}

// TB is the part of testing.TB that is needed, so that programs may use this package without the
// testing one.
type TB interface {
	Context() context.Context
	Helper()
	Cleanup(func())
	Failed() bool
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// New starts a Cluster that ends with the test. A test that fails prints the ends of its logs.
func New(t TB) *Cluster {
	t.Helper()
	c, err := Start(t.Context())
	if err != nil {
		t.Fatalf("start Kubernetes: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close Kubernetes: %v", err)
		}
	})
	c.ShowLogs(t)
	return c
}

// ShowLogs prints the ends of the logs when the test has failed.
func (c *Cluster) ShowLogs(t TB) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the ends of Kubernetes' logs:\n%s", c.Logs(20))
		}
	})
}

// Start starts a control plane and waits until pods would be scheduled and run. The context bounds the
// start alone: the cluster lives until Close, or until this process ends.
func Start(ctx context.Context) (*Cluster, error) {
	binaries, err := ensureKubernetes(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Another process may take a port between the look and the start.
	const attempts = 3
	for attempt := 1; ; attempt++ {
		c := &Cluster{binaries: binaries}
		if err = c.start(ctx); err == nil {
			return c, nil
		}
		logs := c.Logs(20)
		err = errors.Join(err, c.Close())
		if !strings.Contains(logs, "address already in use") || attempt == attempts {
			return nil, fmt.Errorf("%w\n%s", err, logs)
		}
	}
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if c.dir, err = os.MkdirTemp("", "kubernetestest-"); err != nil {
		return err
	}
	ports, err := child.FreePorts(3)
	if err != nil {
		return err
	}
	c.ports.etcd, c.ports.peer, c.ports.api = ports[0], ports[1], ports[2]
	if err := c.writeFiles(); err != nil {
		return err
	}
	if c.Client, err = c.administrator(); err != nil {
		return err
	}
	if err := c.run("etcd", c.etcd()...); err != nil {
		return err
	}
	if err := c.run("kube-apiserver", c.apiServer()...); err != nil {
		return err
	}
	if err := c.await(ctx, "the API server to be ready", func(ctx context.Context) error {
		return c.do(ctx, "GET", "/readyz", "", nil, nil)
	}); err != nil {
		return err
	}
	for name, arguments := range map[string][]string{
		"kube-controller-manager": c.controllerManager(), "kube-scheduler": c.scheduler(), "kwok": c.kwok(),
	} {
		if err := c.run(name, arguments...); err != nil {
			return err
		}
	}
	return c.addNodes(ctx)
}

// addNodes adds the nodes and waits until everything that makes a pod run has shown that it works: the
// controllers, the scheduler and kwok have to do with this one.
func (c *Cluster) addNodes(ctx context.Context) error {
	for i := range nodes {
		if err := c.Create(ctx, node(fmt.Sprintf("node-%d", i+1))); err != nil {
			return err
		}
	}
	const namespace = "default"
	if err := c.awaitAccount(ctx, namespace); err != nil {
		return err
	}
	first := Deployment(namespace, "first", 1)
	if err := c.Apply(ctx, first); err != nil {
		return err
	}
	if err := c.AwaitRollout(ctx, "Deployment", namespace, "first"); err != nil {
		return err
	}
	return c.Delete(ctx, "Deployment", namespace, "first")
}

// Close ends all processes and removes their folder. It may be called twice.
func (c *Cluster) Close() error {
	var err error
	for len(c.components) > 0 { // the other way round than they were started: none misses another
		last := len(c.components) - 1
		err = errors.Join(err, c.components[last].stop())
		c.components = c.components[:last]
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// Address is where the API server listens: https://127.0.0.1:port.
func (c *Cluster) Address() string { return fmt.Sprintf("https://127.0.0.1:%d", c.ports.api) }

// CAPEM is the certificate authority of the API server's certificate.
func (c *Cluster) CAPEM() string { return string(c.authority.PEM) }

// Namespace makes a namespace in which pods can be made, with a name that begins like this, and returns
// its name. It stays until the cluster ends.
func (c *Cluster) Namespace(t TB, name string) string {
	t.Helper()
	name = fmt.Sprintf("%s-%d", name, c.namespaces.Add(1))
	if err := c.Create(t.Context(), Object{"apiVersion": "v1", "kind": "Namespace", "metadata": Object{"name": name}}); err != nil {
		t.Fatalf("%v", err)
	}
	if err := c.awaitAccount(t.Context(), name); err != nil {
		t.Fatalf("%v", err)
	}
	return name
}

// awaitAccount waits for the account that pods of a namespace run under, without which none is made.
func (c *Cluster) awaitAccount(ctx context.Context, namespace string) error {
	return c.await(ctx, "the default account of the namespace "+namespace, func(ctx context.Context) error {
		return c.Get(ctx, "ServiceAccount", namespace, "default", nil)
	})
}

// await polls until there is no error, the context ends or one of the processes does.
func (c *Cluster) await(ctx context.Context, what string, attempt func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		for _, component := range c.components {
			if component.ended() {
				return fmt.Errorf("wait for %s: %s ended: its log ends with\n%s", what, component.name, component.log(20))
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last seen: %w", what, context.Cause(ctx), err)
		}
	}
}

// ensureKubernetes asks the script that finds or builds the control plane.
func ensureKubernetes(ctx context.Context) (string, error) {
	if folder := os.Getenv("KUBERNETES_DIR"); folder != "" {
		return filepath.Abs(folder)
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find this checkout: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(strings.TrimSpace(string(root)), "scripts", "ensure-kubernetes"))
	var said strings.Builder
	cmd.Stderr = &said
	folder, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find a Kubernetes control plane: %w\n%s", err, said.String())
	}
	return strings.TrimSpace(string(folder)), nil
}
