package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The whole runbook: a rotation that everything follows; one with a release that cannot work with what
// it reads, after which all is as it was; and one after the release was mended.
func TestTheWholeRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, vault(t), nil)
	first := map[string]release{"api": r.release("api"), "web": r.release("web")}
	r.isCopied("database")

	r.rotatesWell(2, first)
	r.breakFrom(3)
	second := map[string]release{"api": r.release("api"), "web": r.release("web")}

	pods := append(r.serves(r.api, 2), r.serves(r.web, 2)...)
	_, copies := r.copied("database")
	stop := r.clients()
	ended := r.ended("database", r.begin("rotate/database", nil))
	require.Equal(t, "rolled_back", ended.Outcome)
	require.Equal(t, []string{"mirror done", "rollout failed", "mirror done", "rollout done", "checks done"}, ended.states())
	require.Equal(t, "step rollout failed: "+r.namespace+"/deployment/api: its new pods did not become available within its progressDeadlineSeconds (1 of 2 pods are new, 2 available, 2 old left)", ended.Error.Message)
	stop()
	status := r.status("database")
	require.Equal(t, 2, status.Current)
	require.Equal(t, "blocked", status.State, status.Reason)
	r.isCopied("database")
	_, now := r.copied("database")
	require.Equal(t, copies+2, now, "the candidate, and the earlier version again")
	for app, before := range second {
		after := r.release(app)
		require.Equal(t, before.hash, after.hash, app)
		require.Equal(t, before.restarts, after.restarts, app)
	}
	require.Equal(t, second["api"].generation+2, r.release("api").generation, "there and back")
	require.Equal(t, second["web"].generation, r.release("web").generation, "its turn never came")
	require.ElementsMatch(t, pods, append(r.serves(r.api, 2), r.serves(r.web, 2)...), "pods that ran go on")
	r.gone("database", 3)

	r.api.BreakFrom(0)
	r.givenUpAfter("api", patient)
	mended := map[string]release{"api": r.release("api"), "web": r.release("web")}
	r.rotatesWell(4, mended)
	r.gone("database", 2)
}

// rotatesWell rotates to a version that everything follows, without a login refused.
func (r *runbook) rotatesWell(version int, before map[string]release) {
	r.t.Helper()
	old := r.currentVersion("database")
	stop := r.clients()
	ended := r.ended("database", r.begin("rotate/database", nil))
	require.Equal(r.t, "succeeded", ended.Outcome, "%+v", ended)
	require.Equal(r.t, version, ended.Version)
	require.Equal(r.t, []string{"mirror done", "rollout done", "checks done"}, ended.states())
	require.Equal(r.t, version, r.currentVersion("database"))
	r.isCopied("database")
	r.serves(r.api, version)
	r.serves(r.web, version)
	for app, was := range before {
		require.Equal(r.t, was.generation+1, r.release(app).generation, "%s: one change", app)
	}
	r.gone("database", old)
	stop()
	var history struct{ Rotations []rotationAnswer }
	r.read("history/database", &history)
	require.Equal(r.t, ended.ID, history.Rotations[0].ID)
	require.Equal(r.t, ended.Steps, history.Rotations[0].Steps)
}
