// Package kubernetes looks at what follows a secret on a real Kubernetes control plane: the plugin in a
// real Vault, a real PostgreSQL, workloads that roll, and a process for each pod. It has a target of its
// own, make test-kubernetes.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/podrunner"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// shared are one control plane and one Vault for all tests that leave them as they are. Each of them has
// a namespace, a mount, a database and role names of its own; a test that kills or restarts Vault starts
// one of its own.
var shared struct {
	sync.Mutex
	kubernetes *kubernetestest.Cluster
	vault      *vaulttest.Server
	err        error // of the first start that failed: no other is tried
}

func TestMain(m *testing.M) {
	podrunner.Main()
	code := pgtest.Main(m)
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "close the shared servers:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// cluster starts the shared control plane at the first call.
func cluster(t *testing.T) *kubernetestest.Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.kubernetes == nil && shared.err == nil {
		shared.kubernetes, shared.err = kubernetestest.Start(outlives(t))
	}
	if shared.err != nil {
		t.Fatalf("start the shared servers: %v", shared.err)
	}
	shared.kubernetes.ShowLogs(t)
	return shared.kubernetes
}

// vault starts the shared Vault at the first call.
func vault(t *testing.T) *vaulttest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.vault == nil && shared.err == nil {
		shared.vault, shared.err = vaulttest.Start(outlives(t), vaulttest.Options{})
	}
	if shared.err != nil {
		t.Fatalf("start the shared servers: %v", shared.err)
	}
	return shared.vault
}

// outlives gives a context for a server that outlives the test that came first.
func outlives(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Minute) // it may be built
	t.Cleanup(cancel)
	return ctx
}

func closeShared() (err error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.vault != nil {
		err = shared.vault.Close()
	}
	if shared.kubernetes != nil {
		err = errors.Join(err, shared.kubernetes.Close())
	}
	return err
}
