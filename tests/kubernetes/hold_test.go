package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// A rotation whose rollout fails waits for a person, who has three ways out of it.
func TestAHeldRotation(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, vault(t), map[string]any{"on_rollout_failure": "hold"})

	t.Run("goes on", func(t *testing.T) {
		defer r.in(t)()
		stop, id := r.clients(), r.holds(2)
		r.mend("api", r.api)
		before := r.release("api")
		r.resumes()
		ended := r.ended("database", id)
		require.Equal(t, "succeeded", ended.Outcome, "%+v", ended)
		stop()
		require.Equal(t, before.generation, r.release("api").generation, "it is not restarted again")
		r.serves(r.api, 2)
		r.serves(r.web, 2)
		r.isCopied("database")
	})
	t.Run("goes back", func(t *testing.T) {
		defer r.in(t)()
		before, pods := map[string]release{"api": r.release("api"), "web": r.release("web")}, r.serves(r.api, 2)
		stop := r.clients()
		r.holds(3)
		back := r.ended("database", r.begin("rollback/database", nil))
		require.Equal(t, "rollback", back.Trigger)
		require.Equal(t, "succeeded", back.Outcome, "%+v", back)
		stop()
		require.Equal(t, 2, r.currentVersion("database"))
		require.Equal(t, before["api"].hash, r.release("api").hash)
		require.Equal(t, before["api"].restarts, r.release("api").restarts)
		require.Equal(t, before["web"], r.release("web"), "its turn never came")
		require.ElementsMatch(t, pods, r.serves(r.api, 2), "pods that ran go on")
		r.isCopied("database")
		r.gone("database", 3)
	})
	t.Run("is overtaken by an emergency", func(t *testing.T) {
		defer r.in(t)()
		held := r.holds(4)
		r.mend("api", r.api)
		r.write("emergency/database", map[string]any{"reason": "the credential was found in a public place", "wait": "0s"})
		await.Until(t, "the incident to be over", func() (bool, any) {
			s := r.status("database")
			return s.Current == 5 && s.Rotation == nil && s.Last.ID != held, describe(s)
		})
		s := r.status("database")
		require.Equal(t, "emergency", s.Last.Trigger)
		require.Equal(t, "succeeded", s.Last.Outcome, "%+v", s.Last)
		for _, leaked := range []int{2, 4} {
			r.gone("database", leaked)
		}
		r.serves(r.api, 5)
		r.serves(r.web, 5)
		r.isCopied("database")
	})
}

// in lets a part of a test speak for the world.
func (r *runbook) in(t *testing.T) (out func()) {
	all := r.t
	r.t = t
	return func() { r.t = all }
}

// holds rotates to a version with which api does not work, and looks at what then waits for a person.
func (r *runbook) holds(version int) (id string) {
	r.t.Helper()
	old := r.currentVersion("database")
	r.breakFrom(version)
	id = r.begin("rotate/database", nil)
	s := r.held("database")
	require.Equal(r.t, id, s.Rotation.ID)
	require.Equal(r.t, version, s.Current, "everything stays as it is")
	require.Contains(r.t, s.Reason, "step rollout failed: "+r.namespace+"/deployment/api: its new pods did not become available within its progressDeadlineSeconds")
	require.Equal(r.t, "failed", s.Rotation.step("rollout").State)
	r.isCopied("database")
	for _, number := range []int{old, version} {
		user := s.version(number).Identifier
		require.Equal(r.t, "true", r.postgres.MustQuery(r.t, r.mount, "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = '"+user+"'"), "both versions stay valid")
	}
	_, refusal := r.attempt("rotate/database", nil)
	require.Contains(r.t, refusal, "in flight")
	return id
}

// resumes lets a held rotation go on, once the workload is no longer given up.
func (r *runbook) resumes() {
	r.t.Helper()
	await.Until(r.t, "the mended release to come up", func() (bool, any) {
		d, err := r.kubernetes.Workload(r.t.Context(), "Deployment", r.namespace, "api")
		require.NoError(r.t, err)
		return d.Complete(), d.Status
	})
	r.begin("rotate/database", map[string]any{"resume": true})
}
