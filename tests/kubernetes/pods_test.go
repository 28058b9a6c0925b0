package kubernetes

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// Pods keep what they read when they started, so that they follow a rotation by being restarted, and
// the front address tells whether a login was refused on the way.
func TestPodsLogInWithWhatTheyReadWhenTheyStarted(t *testing.T) {
	w := newWorld(t, vault(t))
	w.writeRole("database", nil)
	api := w.deploy("api", "database", 2)
	versions := func(want int) {
		t.Helper()
		ready := api.Ready()
		require.Len(t, ready, 2)
		for name, health := range ready {
			require.Equal(t, want, health.Version, "%s: %+v", name, health)
		}
	}
	versions(1)
	await.Until(t, "a session for each pod, beside those that a look at its health opens", func() (bool, any) {
		lasting := w.postgres.MustQuery(t, w.mount,
			"SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'api' AND backend_start < now() - interval '1 s'")
		return lasting == "2", lasting
	})

	w.write("rotate/database", nil)
	await.Until(t, "the rotation", func() (bool, any) { v := w.currentVersion("database"); return v == 2, v })
	versions(1)

	require.NoError(t, w.kubernetes.Restart(t.Context(), "Deployment", w.namespace, "api"))
	asked := 0
	await.Until(t, "the restart, asking all the time", func() (bool, any) {
		_, healthy := api.Ask(t.Context())
		require.True(t, healthy, "%+v", api.Counts())
		asked++
		d, err := w.kubernetes.Workload(t.Context(), "Deployment", w.namespace, "api")
		require.NoError(t, err)
		return d.Complete() && len(api.Ready()) == 2, fmt.Sprintf("%+v", d.Status)
	})
	versions(2)
	counts := api.Counts()
	require.Equal(t, asked, counts.Healthy)
	require.Zero(t, counts.Refused+counts.Failed+counts.Unavailable, "%+v", counts)
}

func TestARefusedLoginIsCounted(t *testing.T) {
	w := newWorld(t, vault(t))
	w.writeRole("database", nil)
	api := w.deploy("api", "database", 1)
	health, healthy := api.Ask(t.Context())
	require.True(t, healthy)
	w.postgres.MustExec(t, w.mount, fmt.Sprintf("ALTER ROLE %q NOLOGIN", health.Username))
	await.Until(t, "the pod to be no longer ready", func() (bool, any) {
		api.Ask(t.Context())
		return len(api.Ready()) == 0 && api.Counts().Refused > 0, api.Counts()
	})
}

func TestAReleaseThatCannotWorkWithAVersionNeverBecomesReady(t *testing.T) {
	w := newWorld(t, vault(t))
	w.writeRole("database", nil)
	api := w.deploy("api", "database", 1)
	api.BreakFrom(2)
	w.write("rotate/database", nil)
	await.Until(t, "the rotation", func() (bool, any) { v := w.currentVersion("database"); return v == 2, v })
	require.NoError(t, w.kubernetes.Restart(t.Context(), "Deployment", w.namespace, "api"))
	await.Until(t, "the roll-out to be given up", func() (bool, any) {
		d, err := w.kubernetes.Workload(t.Context(), "Deployment", w.namespace, "api")
		require.NoError(t, err)
		return d.Condition("Progressing").Reason == "ProgressDeadlineExceeded", d.Status
	})
	health, healthy := api.Ask(t.Context())
	require.True(t, healthy, "the pod that works goes on")
	require.Equal(t, 1, health.Version)

	w.write("rollback/database", nil)
	await.Until(t, "the rollback", func() (bool, any) { v := w.currentVersion("database"); return v == 1, v })
	require.NoError(t, w.kubernetes.Restart(t.Context(), "Deployment", w.namespace, "api"))
	w.awaitRollout("api")
}
