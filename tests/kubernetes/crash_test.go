package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// The plugin's process is killed again and again during a rollout: as soon as a template was changed,
// which is before that can be journalled, while new pods are waited for, and in between. Each workload
// is restarted once for each rotation, and the rotation ends well.
func TestARolloutWhoseEngineIsKilled(t *testing.T) {
	t.Parallel()
	own := vaulttest.New(t, vaulttest.Options{}) // the others' plugin is not to be killed
	r := newRunbook(t, own, nil)
	r.api.BreakFrom(2)
	before := map[string]release{"api": r.release("api"), "web": r.release("web")}
	stop := r.clients()

	id := r.begin("rotate/database", nil)
	r.killOnceRestarted("api", before["api"])
	for range 4 { // its new pod is not ready, so that it goes on
		r.kill()
		require.Equal(t, "running", r.status("database").Rotation.step("rollout").State)
	}
	require.Equal(t, before["web"], r.release("web"), "its turn has not come")
	r.mend("api", r.api)
	r.killOnceRestarted("web", before["web"])
	r.kill()

	ended := r.ended("database", id)
	require.Equal(t, "succeeded", ended.Outcome, "%+v", ended)
	require.Equal(t, []string{"mirror done", "rollout done", "checks done"}, ended.states())
	stop()
	r.restartedOnce(before, 2)
	r.isCopied("database")
	_, copies := r.copied("database")
	require.Equal(t, 2, copies, "one copy for each version")
	r.gone("database", 1)

	before = map[string]release{"api": r.release("api"), "web": r.release("web")}
	id = r.begin("rotate/database", nil)
	for _, app := range []string{"api", "web"} {
		r.killOnceRestarted(app, before[app])
	}
	require.Equal(t, "succeeded", r.ended("database", id).Outcome)
	r.restartedOnce(before, 3)
}

// killOnceRestarted kills the plugin as soon as a Deployment's template was changed.
func (r *runbook) killOnceRestarted(app string, before release) {
	r.t.Helper()
	await.Until(r.t, app+" to be restarted", func() (bool, any) {
		d, err := r.kubernetes.Workload(r.t.Context(), "Deployment", r.namespace, app)
		require.NoError(r.t, err)
		return d.Metadata.Generation > before.generation, d.Metadata
	})
	r.kill()
}

// kill kills the plugin's process, and waits until another one answers.
func (r *runbook) kill() {
	r.t.Helper()
	killed, err := r.vault.KillPlugin(r.t.Context())
	require.NoError(r.t, err)
	require.Positive(r.t, killed)
	require.NotNil(r.t, r.status("database").Rotation, "it was killed in the middle of a rotation")
}

// restartedOnce checks that each Deployment was changed once, and runs pods that have read this version.
func (r *runbook) restartedOnce(before map[string]release, version int) {
	r.t.Helper()
	for app, was := range before {
		now := r.release(app)
		require.Equal(r.t, was.generation+1, now.generation, "%s: one change", app)
		require.NotEqual(r.t, was.hash, now.hash, app)
		templates, err := r.kubernetes.Templates(r.t.Context(), r.namespace, app)
		require.NoError(r.t, err)
		require.Equal(r.t, version, templates, "%s: one for each version", app)
	}
	r.serves(r.api, version)
	r.serves(r.web, version)
}
