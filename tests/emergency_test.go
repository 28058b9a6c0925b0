package tests

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// emergencyAnswer is what emergency/:name answers.
type emergencyAnswer struct {
	rotationAnswer
	Status string `json:"status"`
	Killed []struct {
		Version       int  `json:"version"`
		SessionsEnded int  `json:"sessions_ended"`
		ProvenDead    bool `json:"proven_dead"`
	} `json:"killed"`
	NextSteps []string `json:"next_steps"`
}

type incidentAnswer struct {
	Status    string   `json:"status"`
	Severity  string   `json:"severity"`
	Contained *string  `json:"contained_time"`
	NextSteps []string `json:"next_steps"`
	Roles     []struct {
		Name       string `json:"name"`
		ReplacedBy int    `json:"replaced_by"`
		Versions   []struct {
			Version       int    `json:"version"`
			Identifier    string `json:"identifier"`
			SessionsEnded int    `json:"sessions_ended"`
			Proof         *struct {
				Result string `json:"result"`
			} `json:"proof"`
		} `json:"compromised_versions"`
	} `json:"roles"`
}

func (w *world) emergency(body map[string]any) (e emergencyAnswer) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.write("emergency/"+w.role, body).Data, &e))
	require.NotEmpty(w.t, e.IncidentID)
	return e
}

func (w *world) incident(id string) (i incidentAnswer) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.get("incidents/"+id).Data, &i))
	return i
}

// session opens a session that an emergency is to end.
func (w *world) session(c credential) *pgx.Conn {
	w.t.Helper()
	conn, err := connect(w.t.Context(), w.postgres, c.URL)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(w.t.Context()) })
	require.NoError(w.t, conn.Ping(w.t.Context()))
	return conn
}

// Every version that somebody may hold dies at once with its sessions, after the new one took over.
func TestEmergencyEndsWhatLeaked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "leak", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	first := w.current(w.role)
	sessions := []*pgx.Conn{w.session(first), w.session(first)}
	w.rotation("rotate/"+w.role, nil)
	second := w.current(w.role)
	sessions = append(sessions, w.session(second))

	e := w.emergency(map[string]any{"reason": "laptop stolen", "severity": "critical"})
	assert.Equal(t, "contained", e.Status, e.NextSteps)
	assert.Empty(t, e.NextSteps)
	assert.Equal(t, "emergency", e.Trigger)
	require.Len(t, e.Killed, 2)
	for i, ended := range []int{2, 1} {
		assert.Equal(t, i+1, e.Killed[i].Version)
		assert.Equal(t, ended, e.Killed[i].SessionsEnded, "sessions of version %d", i+1)
		assert.True(t, e.Killed[i].ProvenDead, "version %d", i+1)
	}
	for i, session := range sessions {
		assert.Error(t, session.Ping(t.Context()), "session %d lives on", i)
	}
	for _, leaked := range []credential{first, second} {
		assert.True(t, refused(w.login(t.Context(), leaked.URL)), "version %d still logs in", leaked.Version)
	}
	third := w.current(w.role)
	assert.Equal(t, 3, third.Version)
	require.NoError(t, w.login(t.Context(), third.URL))
	await.Until(t, "the leaked users to be dropped", func() (bool, any) {
		users := w.users(w.role)
		return len(users) == 1 && users[0] == third.Username, users
	})
	w.incidentOf(e, first, second)
	w.neverBack(1, 2)
}

// incidentOf checks the record of an emergency that is over.
func (w *world) incidentOf(e emergencyAnswer, leaked ...credential) {
	w.t.Helper()
	var record incidentAnswer
	await.Until(w.t, "the record to be contained", func() (bool, any) {
		record = w.incident(e.IncidentID)
		return record.Status == "contained", record
	})
	assert.Equal(w.t, "critical", record.Severity)
	assert.NotNil(w.t, record.Contained)
	assert.Empty(w.t, record.NextSteps)
	require.Len(w.t, record.Roles, 1)
	assert.Equal(w.t, w.role, record.Roles[0].Name)
	assert.Equal(w.t, e.Version, record.Roles[0].ReplacedBy)
	require.Len(w.t, record.Roles[0].Versions, len(leaked))
	for i, v := range record.Roles[0].Versions {
		assert.Equal(w.t, leaked[i].Username, v.Identifier)
		require.NotNil(w.t, v.Proof)
		assert.Contains(w.t, v.Proof.Result, "28", "the server's own code for a refused login")
	}
}

// neverBack checks that what leaked cannot become current again.
func (w *world) neverBack(versions ...int) {
	w.t.Helper()
	for _, version := range versions {
		a := w.call(w.t.Context(), "PUT", "rollback/"+w.role, map[string]any{"version": version})
		assert.Equal(w.t, 409, a.Status, a.sentence())
		assert.Contains(w.t, a.sentence(), "compromised")
	}
}

// With kill_first the leaked version dies although no successor can be made; readers get one as soon
// as there is one.
func TestEmergencyKillsFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "killfirst", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	leaked := w.current(w.role)
	session := w.session(leaked)
	w.closeDatabase()

	e := w.emergency(map[string]any{"reason": "posted in a forum", "kill_first": true})
	assert.Equal(t, "contained", e.Status, e.NextSteps)
	require.Len(t, e.Killed, 1)
	assert.True(t, e.Killed[0].ProvenDead, "the server refuses it, and lets the administrator in")
	assert.Equal(t, 1, e.Killed[0].SessionsEnded)
	assert.Equal(t, "failed", e.Outcome, "there is no replacement")
	assert.Contains(t, strings.Join(e.NextSteps, "\n"), "readers of "+w.role+" fail", "what is contained is not mended")
	assert.True(t, refused(w.login(t.Context(), leaked.URL)), "what leaked still logs in")
	assert.Error(t, session.Ping(t.Context()), "its session lives on")

	w.openDatabase()
	w.awaitContained(e.IncidentID)
	c := w.current(w.role)
	assert.Greater(t, c.Version, leaked.Version)
	require.NoError(t, w.login(t.Context(), c.URL))
	w.neverBack(leaked.Version)
}

// A replacement that cannot be verified must not become current: the incident stays open and says
// that the leak lives on, and how to end it anyway. Once mended, it is contained without a person.
func TestEmergencyWithoutReplacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "stuck", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	leaked := w.current(w.role)
	w.closeDatabase()

	e := w.emergency(map[string]any{"reason": "seen in a log"})
	assert.Equal(t, "open", e.Status)
	assert.Contains(t, strings.Join(e.NextSteps, "\n"), "kill_first=true")
	assert.Contains(t, strings.Join(e.NextSteps, "\n"), "the leak lives on")
	assert.Equal(t, leaked.Version, w.current(w.role).Version, "an unverified version must not become current")
	s := w.status(w.role)
	assert.Equal(t, []string{e.IncidentID}, s.OpenIncidents)
	assert.Contains(t, s.Reason, "kill_first=true")
	var record incidentAnswer
	await.Until(t, "the record to say what to do", func() (bool, any) {
		record = w.incident(e.IncidentID)
		return strings.Contains(strings.Join(record.NextSteps, "\n"), "kill_first=true"), record
	})
	assert.Equal(t, "open", record.Status)

	w.openDatabase()
	w.awaitContained(e.IncidentID)
	assert.True(t, refused(w.login(t.Context(), leaked.URL)), "what leaked still logs in")
	c := w.current(w.role)
	require.NoError(t, w.login(t.Context(), c.URL))
	await.Until(t, "one user to be left", func() (bool, any) {
		users := w.users(w.role)
		return len(users) == 1 && users[0] == c.Username, users
	})
}

// A person who does not want to wait for the next attempt rotates by hand: what leaked dies all the
// same, and not after its grace.
func TestEmergencyIsContainedByRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "byhand", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	leaked := w.current(w.role)
	w.closeDatabase()
	e := w.emergency(map[string]any{"reason": "seen in a log"})
	require.Equal(t, "open", e.Status)

	w.openDatabase()
	w.awaitRotation(w.role)
	w.awaitContained(e.IncidentID)
	assert.True(t, refused(w.login(t.Context(), leaked.URL)), "what leaked still logs in")
	require.NoError(t, w.login(t.Context(), w.current(w.role).URL))
}

// closeDatabase keeps everybody but superusers and the administrator from logging in: a new user can
// be made, but not verified.
func (w *world) closeDatabase() {
	w.t.Helper()
	w.superuser(
		fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", w.database, w.admin),
		fmt.Sprintf("REVOKE CONNECT ON DATABASE %s FROM PUBLIC", w.database),
	)
}

func (w *world) openDatabase() {
	w.t.Helper()
	w.superuser(fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO PUBLIC", w.database))
}

func (w *world) awaitContained(incident string) {
	w.t.Helper()
	await.Within(w.t, 2*await.Patience, "the incident to be contained", func() (bool, any) {
		record := w.incident(incident)
		return record.Status == "contained", record
	})
	await.Until(w.t, "the role to have no open incident", func() (bool, any) {
		open := w.status(w.role).OpenIncidents
		return len(open) == 0, open
	})
}
