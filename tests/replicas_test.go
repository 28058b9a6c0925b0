package tests

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// at puts another server's port in the place of one's in a URL.
func at(url string, from, to *pgtest.Server) string {
	return strings.Replace(url, ":"+strconv.Itoa(from.Port())+"/", ":"+strconv.Itoa(to.Port())+"/", 1)
}

// Readers of a standby: what they are given works there, and what leaked is dead there too.
func TestReadersOfAStandby(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.NewPair(t)
	w := newWorld(t, "standby", sharedVault(t), primary)
	there := func(c credential) credential {
		c.URL = at(c.URL, primary, standby)
		return c
	}
	require.NoError(t, standby.CatchUp(t.Context(), primary))
	replicas := map[string]any{"replica_urls": at(primary.TemplateURL(w.database), primary, standby)}
	a := w.call(t.Context(), http.MethodPut, "connections/main", replicas)
	require.Equal(t, http.StatusBadRequest, a.Status, "a password is not sent to a new address")
	require.Contains(t, a.sentence(), "password: is required again, because replica_urls changed")
	w.write("connections/main", w.connection(replicas))
	require.Contains(t, w.get("connections/main/check").Text, fmt.Sprintf(`"check":"replica 127.0.0.1:%d","detail":"is a hot standby`, standby.Port()))

	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	first := w.current(w.role)
	require.NoError(t, w.login(t.Context(), there(first).URL), "at once: the standby had replayed it")
	reader := w.session(there(first))
	w.rotation("rotate/"+w.role, nil)
	second := w.current(w.role)
	require.NoError(t, w.login(t.Context(), there(second).URL))
	await.Until(t, "status to count the session on the standby", func() (bool, any) {
		uses := w.status(w.role).version(1).InUse
		return len(uses) == 1 && uses[0].Count == 1, uses
	})

	e := w.emergency(map[string]any{"reason": "laptop stolen", "severity": "critical"})
	await.Until(t, "the incident to be contained", func() (bool, any) {
		i := w.incident(e.IncidentID)
		return i.Status == "contained", i
	})
	require.Error(t, reader.Ping(t.Context()))
	for _, v := range w.incident(e.IncidentID).Roles[0].Versions {
		require.NotNil(t, v.Proof)
		require.Contains(t, v.Proof.Result, "primary and 1 standby")
	}
	require.True(t, refused(w.login(t.Context(), there(first).URL)))
	third := w.current(w.role)
	require.NoError(t, w.login(t.Context(), there(third).URL))
	w.diesWithoutTheStandby(standby)
}

// diesWithoutTheStandby ends a version while the standby is away: it is not proven dead until
// somebody says that the standby is gone, for which nobody needs the password.
func (w *world) diesWithoutTheStandby(standby *pgtest.Server) {
	w.t.Helper()
	old := w.current(w.role)
	standby.Halt()
	w.rotation("rotate/"+w.role, nil)
	w.write("retire/"+w.role, map[string]any{"version": old.Version, "force": true})
	require.True(w.t, refused(w.login(w.t.Context(), old.URL)))
	await.Until(w.t, "the version to wait for the standby", func() (bool, any) {
		s := w.status(w.role)
		return strings.Contains(s.Reason, "take it out of replica_urls"), s.Reason
	})
	await.Until(w.t, "status to say that it is not proven dead", func() (bool, any) {
		a := w.get("status/" + w.role)
		return strings.Contains(strings.Join(a.Warnings, ""), "is not proven dead"), a.Warnings
	})
	v := w.status(w.role).version(old.Version)
	require.Equal(w.t, "disabled", v.State)
	require.False(w.t, v.ProvenDead)
	w.write("connections/main", map[string]any{"replica_urls": ""})
	require.Contains(w.t, w.get("connections/main").Text, `"replica_urls":[]`)
	await.Until(w.t, "the version to be proven dead", func() (bool, any) {
		v = w.status(w.role).version(old.Version)
		return v.ProvenDead && v.State == "retired", v
	})
}

// A rotation works before and after a failover, with the one connection_url that names both servers.
func TestFailoverOfTheDatabase(t *testing.T) {
	t.Parallel()
	primary, standby := pgtest.NewPair(t)
	w := newWorld(t, "failover", sharedVault(t), primary)
	both := fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", primary.Port(), standby.Port())
	url := strings.Replace(primary.TemplateURL(w.database), fmt.Sprintf("127.0.0.1:%d", primary.Port()), both, 1) + "&target_session_attrs=read-write"
	w.write("connections/main", w.connection(map[string]any{"connection_url": url}))
	w.write("roles/"+w.role, w.roleFields(nil))
	first := w.current(w.role)
	require.Contains(t, first.URL, "@"+both+"/")
	require.NoError(t, w.login(t.Context(), first.URL))
	w.rotation("rotate/"+w.role, nil)
	second := w.current(w.role)
	require.NoError(t, w.login(t.Context(), second.URL))

	require.NoError(t, standby.CatchUp(t.Context(), primary))
	primary.Halt()
	require.NoError(t, standby.Promote(context.WithoutCancel(t.Context())))
	w.postgres = standby
	require.NoError(t, w.login(t.Context(), second.URL), "readers find the new primary by the URL they have")
	w.awaitRotation(w.role)
	third := w.current(w.role)
	require.Contains(t, third.URL, "@"+both+"/")
	require.NoError(t, w.login(t.Context(), third.URL))
	w.write("retire/"+w.role, map[string]any{"version": second.Version, "force": true})
	await.Until(t, "the version from before the failover to be proven dead", func() (bool, any) {
		v := w.status(w.role).version(second.Version)
		return v.ProvenDead, v
	})
	require.True(t, refused(w.login(t.Context(), second.URL)))
}
