package tests

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// bulkAnswer is what emergency answers.
type bulkAnswer struct {
	IncidentID *string                    `json:"incident_id"`
	Status     *string                    `json:"status"`
	DryRun     bool                       `json:"dry_run"`
	Count      int                        `json:"count"`
	Roles      map[string]emergencyAnswer `json:"roles"`
	Failed     map[string]string          `json:"failed"`
}

func (w *world) bulk(body map[string]any) (b bulkAnswer) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.write("emergency", body).Data, &b))
	return b
}

// addRoles makes roles beside the world's own, and returns what they read.
func (w *world) addRoles(suffixes ...string) map[string]credential {
	w.t.Helper()
	leaked := map[string]credential{}
	for _, suffix := range suffixes {
		name := w.role + suffix
		w.write("roles/"+name, w.roleFields(map[string]any{"grace_period": "1h"}))
		leaked[name] = w.current(name)
	}
	return leaked
}

// replaced checks that what leaked is refused and what is read now logs in.
func (w *world) replaced(leaked map[string]credential) {
	w.t.Helper()
	for name, old := range leaked {
		assert.True(w.t, refused(w.login(w.t.Context(), old.URL)), "version %d of %s still logs in", old.Version, name)
		assert.NoError(w.t, w.login(w.t.Context(), w.current(name).URL), name)
		assert.Greater(w.t, w.current(name).Version, old.Version, name)
	}
}

// The roles of a connection leak at once. One cannot be replaced: that is told with it, keeps the
// incident open, and stops no other. A deleted role's user does not live out its grace.
func TestBulkEmergencyByConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bulk", sharedVault(t), pgtest.Shared(t))
	w.write("connections/main", map[string]any{"allow_custom_statements": true})
	w.write("connections/other", w.connection(nil))
	leaked := w.addRoles("-a", "-b", "-c")
	deleted := w.addRoles("-deleted")[w.role+"-deleted"]
	w.write("roles/"+w.role+"-elsewhere", w.roleFields(map[string]any{"connection": "other"}))
	elsewhere := w.current(w.role + "-elsewhere")
	picky := w.role + "-picky"
	w.write("roles/"+picky, w.roleFields(map[string]any{"verification_statements": []string{"SELECT count(*) FROM orders"}}))
	stuck := w.current(picky)
	require.True(t, w.call(t.Context(), http.MethodDelete, "roles/"+w.role+"-deleted", nil).ok())
	session := w.session(leaked[w.role+"-a"])

	users := w.snapshot()
	dry := w.bulk(map[string]any{"connection": "main", "dry_run": true})
	assert.True(t, dry.DryRun)
	assert.Equal(t, 5, dry.Count)
	assert.Nil(t, dry.IncidentID)
	a := w.call(t.Context(), http.MethodPut, "emergency", map[string]any{"connection": "main", "confirm": 4, "reason": "backup stolen"})
	assert.Equal(t, http.StatusConflict, a.Status)
	assert.Contains(t, a.sentence(), "confirm=5")
	assert.Equal(t, users, w.snapshot(), "looking changes nothing, nor does a wrong number")

	w.superuser("ALTER TABLE orders RENAME TO orders_away")
	b := w.bulk(map[string]any{"connection": "main", "confirm": dry.Count, "reason": "backup stolen", "severity": "critical", "wait": "60s"})
	require.NotNil(t, b.IncidentID)
	assert.Equal(t, "open", *b.Status)
	require.Len(t, b.Roles, 5)
	require.Len(t, b.Failed, 1)
	assert.Contains(t, b.Failed[picky], "verification statement 1")
	assert.Contains(t, strings.Join(b.Roles[picky].NextSteps, "\n"), "the leak lives on")
	for name, one := range b.Roles {
		if name != picky {
			assert.Equal(t, "contained", one.Status, "%s: %v", name, one.NextSteps)
			assert.True(t, one.Killed[0].ProvenDead, name)
		}
	}
	assert.Equal(t, 1, b.Roles[w.role+"-a"].Killed[0].SessionsEnded)
	assert.Error(t, session.Ping(t.Context()), "its session lives on")
	w.replaced(leaked)
	assert.True(t, refused(w.login(t.Context(), deleted.URL)), "the deleted role's user still logs in")
	require.NoError(t, w.login(t.Context(), elsewhere.URL), "a role of another connection")

	record := w.incident(*b.IncidentID)
	assert.Equal(t, "open", record.Status)
	assert.Len(t, record.Roles, 5)
	assert.Contains(t, strings.Join(record.NextSteps, "\n"), picky)

	w.superuser("ALTER TABLE orders_away RENAME TO orders")
	w.awaitRecord(*b.IncidentID)
	w.replaced(map[string]credential{picky: stuck})
}

// awaitRecord waits until an incident is contained, and nothing of it is to be done.
func (w *world) awaitRecord(id string) {
	w.t.Helper()
	await.Within(w.t, 2*await.Patience, "the incident to be contained", func() (bool, any) {
		record := w.incident(id)
		return record.Status == "contained" && len(record.NextSteps) == 0, record
	})
}

// The plugin's process is killed right after a bulk emergency was declared: the next one carries it
// out, for every role, as one incident.
func TestBulkEmergencySurvivesAKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bulkkill", vaulttest.New(t, vaulttest.Options{}), pgtest.Shared(t))
	leaked := w.addRoles("-shop-1", "-shop-2", "-shop-3", "-shop-4")
	other := w.addRoles("-other")[w.role+"-other"]
	b := w.bulk(map[string]any{"roles": w.role + "-shop-*", "confirm": 4, "reason": "laptop lost", "kill_first": true, "wait": "0s"})
	_, err := w.vault.KillPlugin(t.Context())
	require.NoError(t, err)
	w.awaitRecord(*b.IncidentID) // which comes before the replacements: they are killed first
	for name, old := range leaked {
		await.Until(t, "a replacement of "+name, func() (bool, any) {
			c := w.current(name)
			return c.Version > old.Version, c.Version
		})
	}
	w.replaced(leaked)
	assert.Equal(t, other.Version, w.current(w.role+"-other").Version, "its name does not match")
	require.NoError(t, w.login(t.Context(), other.URL))
	var incidents struct {
		Keys []string `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(w.call(t.Context(), "LIST", "incidents", nil).Data, &incidents))
	assert.Equal(t, []string{*b.IncidentID}, incidents.Keys)
}
