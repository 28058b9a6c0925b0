package tests

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// started ends a fake of an API with the test.
func started[A interface{ Close() }](t *testing.T, api A) A {
	t.Helper()
	t.Cleanup(api.Close)
	return api
}

// newPairs mounts the engine for API keys, with the connection main.
func newPairs(t *testing.T, name string, vault *vaulttest.Server, connection map[string]any) *world {
	t.Helper()
	w := newKeys(t, name, vault)
	w.write("connections/main", connection)
	return w
}

// reaches gives the fields of a connection to a fake, with changes.
func reaches(typ, url string, changes map[string]any) map[string]any {
	return with(map[string]any{"type": typ, "base_url": url, "allow_insecure_http": true, "requests_per_second": 0}, changes)
}

func toOpenAI(api *fakeapi.OpenAI, changes map[string]any) map[string]any {
	return with(reaches("openai", api.BaseURL(), map[string]any{"admin_key": api.AdminKey(), "project": api.Project()}), changes)
}

func toAnthropic(api *fakeapi.Anthropic, changes map[string]any) map[string]any {
	return with(reaches("anthropic", api.URL(), map[string]any{"admin_key": api.AdminKey()}), changes)
}

// definition is one of the files in docs/providers, as it stands.
func definition(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "providers", name+".json"))
	require.NoError(t, err)
	return string(text)
}

// pairFields gives the fields of a working role, with changes.
func pairFields(changes map[string]any) map[string]any {
	return with(map[string]any{"type": "api-key", "connection": "main", "rotation_period": "30d", "grace_period": "20s"}, changes)
}

// A keyPair is an answer of creds/ of API keys.
type keyPair struct {
	Version     int    `json:"version"`
	TTL         int    `json:"ttl"`
	Primary     string `json:"primary_key"`
	PrimaryID   string `json:"primary_key_id"`
	Secondary   string `json:"secondary_key"`
	SecondaryID string `json:"secondary_key_id"`
}

func (w *world) pair(role string) (p keyPair) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.get("creds/"+role), &p))
	return p
}

// stage hands a key in, which must be possible.
func (w *world) stage(role string, body map[string]any) (v versionAnswer, a answer) {
	w.t.Helper()
	a = w.write("stage/"+role, body)
	require.NoError(w.t, unmarshal(a, &v))
	return v, a
}

// retire ends a version before its grace is over, as far as that is possible.
func (w *world) retire(role string, version int) (v versionAnswer) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.write("retire/"+role, map[string]any{"version": version, "force": true}), &v))
	return v
}

// denied makes a request that must be refused with one sentence.
func (w *world) denied(status int, path string, body map[string]any, says ...string) {
	w.t.Helper()
	a := w.call(w.t.Context(), http.MethodPut, path, body)
	assert.Equal(w.t, status, a.Status, a.Text)
	require.Len(w.t, a.Errors, 1, a.Text)
	for _, words := range says {
		assert.Contains(w.t, a.sentence(), words)
	}
}

// gone checks that nothing is there to be read.
func (w *world) gone(path string) {
	w.t.Helper()
	a, err := w.read(w.t.Context(), path)
	require.NoError(w.t, err)
	assert.Equal(w.t, http.StatusNotFound, a.Status, "%s: %s", path, a.Text)
}

// awaitVersion waits until a version is in one of the states.
func (w *world) awaitVersion(role string, number int, states ...string) (v versionAnswer) {
	w.t.Helper()
	await.Until(w.t, fmt.Sprintf("version %d of %s to be %s", number, role, strings.Join(states, " or ")), func() (bool, any) {
		s := w.status(role)
		v = s.version(number)
		return slices.Contains(states, v.State), fmt.Sprintf("%+v; %s: %s", v, s.State, s.Reason)
	})
	return v
}

// awaitDead waits until a version is ended for good, and proven dead.
func (w *world) awaitDead(role string, number int) {
	w.t.Helper()
	await.Until(w.t, fmt.Sprintf("version %d of %s to be proven dead", number, role), func() (bool, any) {
		s := w.status(role)
		v := s.version(number)
		return v.State == "retired" && v.ProvenDead, fmt.Sprintf("%+v; %s: %s", v, s.State, s.Reason)
	})
}

// awaitIncident waits until the record of an emergency has the status.
func (w *world) awaitIncident(id, status string) (i incidentAnswer) {
	w.t.Helper()
	await.Until(w.t, "the incident to be "+status, func() (bool, any) {
		i = w.incident(id)
		return i.Status == status, i
	})
	return i
}

// emergencyOf declares that a role's key leaked.
func (w *world) emergencyOf(role string, body map[string]any) (e emergencyAnswer) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.write("emergency/"+role, body), &e))
	require.NotEmpty(w.t, e.IncidentID)
	return e
}

// told are the rotations of a role that have ended, newest first, as trigger, outcome and version.
func (w *world) told(role string) (rotations []string) {
	w.t.Helper()
	var page struct {
		Rotations []rotationAnswer `json:"rotations"`
	}
	require.NoError(w.t, unmarshal(w.get("history/"+role), &page))
	for _, r := range page.Rotations {
		rotations = append(rotations, fmt.Sprintf("%s %s %d", r.Trigger, r.Outcome, r.Version))
	}
	return rotations
}

// accountsOf are the service accounts that bear the name of a role.
func accountsOf(api *fakeapi.OpenAI, role string) []fakeapi.Key {
	return slices.DeleteFunc(api.Accounts(), func(k fakeapi.Key) bool { return !strings.Contains(k.Name, ":"+role+":") })
}

// statusOf is a key's status at the provider; empty if it is no more.
func statusOf(keys []fakeapi.Key, id string) string {
	for _, k := range keys {
		if k.ID == id {
			return k.Status
		}
	}
	return ""
}
