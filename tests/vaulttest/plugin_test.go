package vaulttest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// The plugin runs as one process for all its mounts, which can be killed by its process id alone and
// comes back with the next request.
func TestPluginRunsAsAProcessAndComesBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	vault := vaulttest.New(t, vaulttest.Options{})
	require.NoError(t, vault.Mount(ctx, "rotation"))
	require.NoError(t, vault.Mount(ctx, "second"))
	before, err := vault.PluginPIDs()
	require.NoError(t, err)
	require.Len(t, before, 1, "one process must serve both mounts")

	killed, err := vault.KillPlugin(ctx)
	require.NoError(t, err)
	assert.Equal(t, 1, killed)
	for _, mount := range []string{"rotation", "second"} {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			_, err := vault.Client().Logical().ReadWithContext(ctx, mount+"/config")
			assert.NoError(c, err)
		}, 30*time.Second, 20*time.Millisecond, "Vault must start the plugin again for %s", mount)
	}
	after, err := vault.PluginPIDs()
	require.NoError(t, err)
	require.Len(t, after, 1)
	assert.NotEqual(t, before, after)

	require.NoError(t, vault.Restart(ctx))
	_, err = vault.Client().Logical().ReadWithContext(ctx, "rotation/config")
	require.NoError(t, err, "the mount must be served after a restart")

	require.NoError(t, vault.Stop(ctx))
	pids, err := vault.PluginPIDs()
	require.NoError(t, err)
	assert.Empty(t, pids, "a stopped Vault must leave no plugin behind")
}
