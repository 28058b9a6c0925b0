package vaulttest_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A server keeps what was written over a restart and a crash, and forgets it when an older snapshot
// is restored.
func TestStorageSurvivesAndGoesBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	vault := vaulttest.New(t, vaulttest.Options{WithoutPlugin: true})
	address := vault.Address()
	enable := func(path string) {
		t.Helper()
		_, err := vault.CLI(ctx, "secrets", "enable", "-path="+path, "kv")
		require.NoError(t, err)
	}
	mounted := func() []string {
		t.Helper()
		mounts, err := vault.Client().Sys().ListMountsWithContext(ctx)
		require.NoError(t, err)
		var ours []string
		for _, path := range []string{"first/", "second/", "third/"} {
			if _, ok := mounts[path]; ok {
				ours = append(ours, path)
			}
		}
		return ours
	}

	enable("first")
	snapshot, err := vault.SnapshotStorage(ctx)
	require.NoError(t, err)
	enable("second")
	require.NoError(t, vault.Restart(ctx))
	assert.Equal(t, []string{"first/", "second/"}, mounted(), "after a restart")
	enable("third")
	require.NoError(t, vault.Kill(ctx))
	require.NoError(t, vault.Restart(ctx))
	assert.Equal(t, []string{"first/", "second/", "third/"}, mounted(), "after a crash")
	require.NoError(t, vault.RestoreStorage(ctx, snapshot))
	assert.Equal(t, []string{"first/"}, mounted(), "after the snapshot was restored")
	assert.Equal(t, address, vault.Address(), "the address must not change over restarts")

	require.NoError(t, vault.Seal(ctx))
	_, err = vault.CLI(ctx, "secrets", "list")
	require.ErrorContains(t, err, "vault secrets list", "a sealed Vault must refuse")
	require.NoError(t, vault.Unseal(ctx))
	assert.Equal(t, []string{"first/"}, mounted(), "after seal and unseal")
}

// The audit log is written, and holds no root token in clear.
func TestEnableAudit(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(t, vaulttest.Options{WithoutPlugin: true})
	file := filepath.Join(t.TempDir(), "audit.log")
	require.NoError(t, vault.EnableAudit(t.Context(), file))
	_, err := vault.Client().Sys().ListMountsWithContext(t.Context())
	require.NoError(t, err)
	require.FileExists(t, file)
}
