// Package tests looks at the product from outside: the plugin runs as a process of a real Vault,
// against a real PostgreSQL, and is spoken to over HTTP and by the vault command alone.
package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// shared is one Vault for all tests that leave it as it is, since a start takes seconds. Each of
// them has a mount, a database, a group and role names of its own. Tests that kill or restart
// something start their own servers.
var shared struct {
	sync.Mutex
	dir   string
	vault *vaulttest.Server
	err   error
}

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "close the shared Vault:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// sharedVault starts the shared Vault at the first call, with an audit log from its first request.
func sharedVault(t *testing.T) *vaulttest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.vault == nil && shared.err == nil {
		shared.err = startShared()
	}
	if shared.err != nil {
		t.Fatalf("start the shared Vault: %v", shared.err)
	}
	vault := shared.vault
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the shared Vault's log:\n%s", lastLines(vault.Log(), 60))
		}
	})
	return vault
}

func startShared() (err error) {
	// Not a test's context, nor its folder: the server outlives the test that came first.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if shared.dir, err = os.MkdirTemp("", "e2e-"); err != nil {
		return err
	}
	if shared.vault, err = vaulttest.Start(ctx, vaulttest.Options{}); err != nil {
		return err
	}
	return shared.vault.EnableAudit(ctx, sharedAuditLog())
}

func sharedAuditLog() string { return filepath.Join(shared.dir, "audit.log") }

func closeShared() error {
	shared.Lock()
	defer shared.Unlock()
	var err error
	if shared.vault != nil {
		err = shared.vault.Close()
	}
	if shared.dir != "" {
		err = errors.Join(err, os.RemoveAll(shared.dir))
	}
	return err
}
