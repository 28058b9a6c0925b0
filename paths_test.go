package rotationsecrets

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
)

const (
	read   = logical.ReadOperation
	listed = logical.ListOperation
	create = logical.CreateOperation
	update = logical.UpdateOperation
	remove = logical.DeleteOperation
)

// The life of a role through every path; must holds each answer against the
// schema that the path declares.
func TestLifeOfARole(t *testing.T) {
	m := newMount(t)
	first := m.role()
	require.Equal(t, "initial", first.Data["trigger"])
	require.Equal(t, "succeeded", first.Data["outcome"])
	require.Equal(t, map[string]any{"entity_id": "entity-1", "display_name": "alice", "accessor_hash": first.Data["actor"].(map[string]any)["accessor_hash"]}, first.Data["actor"])

	creds := m.must(read, "creds/app", nil).Data
	require.EqualValues(t, 1, creds["version"])
	require.EqualValues(t, 900, creds["ttl"])
	require.EqualValues(t, 30*86400, creds["rotation_period"])
	require.NotContains(t, creds, "rotation_schedule")
	require.IsType(t, "", creds["last_vault_rotation"])

	second := m.must(update, "rotate/app", nil).Data
	require.Equal(t, "manual", second["trigger"])
	require.Equal(t, 2, second["version"])
	require.Equal(t, 1, second["previous_version"])

	old := m.must(read, "creds/app/versions/1", nil).Data
	require.Equal(t, "retiring", old["state"])
	require.Contains(t, old, "expire_time")
	m.fails(http.StatusNotFound, read, "creds/app/versions/9", nil)
	m.refuses(read, "creds/app/versions/0", nil, "version: must be a version number")

	back := m.must(update, "rollback/app", map[string]any{"version": 1}).Data
	require.Equal(t, "rollback", back["trigger"])
	require.Equal(t, 1, back["version"])

	m.must(read, "preflight/app", nil)
	retired := m.must(update, "retire/app", map[string]any{"version": 2, "force": true}).Data
	require.Equal(t, 2, retired["version"])

	history := m.must(read, "history/app", map[string]any{"limit": 2}).Data
	require.Len(t, history["rotations"], 2)
	require.NotNil(t, history["next"])
	rest := m.must(read, "history/app", map[string]any{"before": history["next"]}).Data
	require.Len(t, rest["rotations"], 1)
	require.Nil(t, rest["next"])
	m.refuses(read, "history/app", map[string]any{"limit": 0}, "limit: must be 1 to 1000")

	require.Equal(t, []string{"app"}, m.must(listed, "roles/", nil).Data["keys"])
	m.must(remove, "roles/app", nil)
	m.fails(http.StatusNotFound, read, "creds/app", nil)
}

func TestStatus(t *testing.T) {
	m := newMount(t)
	m.role()
	m.must(update, "rotate/app", nil)

	all := m.must(read, "status", nil).Data
	require.Len(t, all["roles"], 1)
	require.Len(t, all["counts"], len(backend.RoleStates), "states without a role are counted as 0")
	require.Nil(t, all["next"])
	require.Empty(t, m.must(read, "status", map[string]any{"state": "blocked"}).Data["roles"])
	m.refuses(read, "status", map[string]any{"state": "happy"}, "state: is none of [diverged blocked")
	m.refuses(read, "status", map[string]any{"limit": 100000}, "limit: must be 1 to 10000")

	one := m.must(read, "status/app", nil).Data
	require.Equal(t, "grace", one["state"])
	require.Equal(t, 2, one["current_version"])
	require.Nil(t, one["rotation"])
	versions := one["versions"].([]any)
	require.Len(t, versions, 2)
	require.Equal(t, []any{}, versions[0].(map[string]any)["in_use"], "asked, and nobody does")
	require.Nil(t, versions[1].(map[string]any)["in_use"], "not asked")
	for key, field := range roleStatusFields() {
		require.Equal(t, field.Required, slices.Contains(slices.Collect(maps.Keys(one)), key), key)
	}
	m.fails(http.StatusNotFound, read, "status/nobody", nil)
}

func TestEmergency(t *testing.T) {
	m := newMount(t)
	m.role()
	m.refuses(update, "emergency/app", nil, "reason: is required")
	m.refuses(update, "emergency/app", map[string]any{"reason": "leak", "severity": "mild"}, "severity: must be one of")
	m.fails(http.StatusNotFound, update, "emergency/nobody", map[string]any{"reason": "leak"})

	e := m.must(update, "emergency/app", map[string]any{"reason": "seen in a log"}).Data
	require.Equal(t, "emergency", e["trigger"])
	require.Equal(t, "contained", e["status"])
	require.Equal(t, []any{map[string]any{"version": 1, "sessions_ended": 0, "proven_dead": true}}, e["killed"])

	id := e["incident_id"].(string)
	require.Equal(t, []string{id}, m.must(listed, "incidents/", nil).Data["keys"])
	i := m.must(read, "incidents/"+id, nil).Data
	require.Equal(t, "seen in a log", i["reason"])
	require.Equal(t, "high", i["severity"])
	require.NotEmpty(t, i["steps"])
	require.Len(t, i["roles"], 1)
	m.fails(http.StatusNotFound, read, "incidents/none", nil)
}

func TestBulkEmergency(t *testing.T) {
	m := newMount(t)
	m.role()
	m.must(create, "roles/shop", map[string]any{"type": "memory", "connection": "main"})
	m.refuses(update, "emergency", map[string]any{"reason": "leak", "connection": "main"}, "confirm: is required")
	m.refuses(update, "emergency", map[string]any{"connection": "main", "confirm": 2}, "reason: is required")
	m.refuses(update, "emergency", map[string]any{"reason": "leak", "confirm": 2}, "connection: is required, or roles")
	m.refuses(update, "emergency", map[string]any{"reason": "leak", "confirm": 2, "connection": "main", "roles": "*"}, "roles: cannot be given together with connection")
	m.refuses(update, "emergency", map[string]any{"connection": "other", "dry_run": true}, "connection: there is no connection")
	m.refuses(update, "emergency", map[string]any{"roles": "x*", "dry_run": true}, "roles: names no role")
	m.refuses(update, "emergency", map[string]any{"roles": "*", "dry_run": true, "confirm": 2}, "confirm: cannot be given together with dry_run")
	require.Contains(t, m.fails(http.StatusConflict, update, "emergency", map[string]any{"reason": "leak", "roles": "*", "confirm": 3}), "confirm=2")

	dry := m.must(update, "emergency", map[string]any{"connection": "main", "dry_run": true}).Data
	require.Equal(t, 2, dry["count"])
	require.Equal(t, true, dry["dry_run"])
	require.Nil(t, dry["incident_id"])
	app := dry["roles"].(map[string]any)["app"].(map[string]any)
	require.Equal(t, "main", app["connection"])
	require.Equal(t, "ok", app["state"])
	require.Len(t, app["versions"], 1)
	m.fails(http.StatusNotFound, listed, "incidents/", nil)

	resp := m.must(update, "emergency", map[string]any{"reason": "leak", "connection": "main", "confirm": 2})
	require.Empty(t, resp.Warnings)
	require.Equal(t, "contained", resp.Data["status"])
	require.Empty(t, resp.Data["failed"])
	for _, name := range []string{"app", "shop"} {
		one := resp.Data["roles"].(map[string]any)[name].(map[string]any)
		require.Equal(t, "contained", one["status"])
		require.Equal(t, "succeeded", one["outcome"])
		require.Equal(t, resp.Data["incident_id"], one["incident_id"])
		for key := range emergencyFields() {
			require.Contains(t, one, key)
		}
	}
	require.Equal(t, []string{resp.Data["incident_id"].(string)}, m.must(listed, "incidents/", nil).Data["keys"])
	require.Len(t, m.must(read, "incidents/"+resp.Data["incident_id"].(string), nil).Data["roles"], 2)

	m.memory.World.SetRefuse(true)
	resp = m.must(update, "emergency", map[string]any{"reason": "leak", "roles": "sh*", "confirm": 1})
	require.Equal(t, "open", resp.Data["status"])
	require.Contains(t, resp.Data["failed"].(map[string]any)["shop"], "the check query failed")
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, resp.Warnings[0], "1 of 1 roles")
}

func TestCalendar(t *testing.T) {
	m := newMount(t)
	m.role()
	m.must(update, "rotate/app", nil)
	c := m.must(read, "calendar", nil).Data
	require.Equal(t, false, c["truncated"])
	entries := c["entries"].([]any)
	require.Len(t, entries, 2)
	require.Equal(t, "retirement", entries[0].(map[string]any)["what"])
	last := entries[1].(map[string]any)
	require.Equal(t, "rotation", last["what"])
	require.Equal(t, "app", last["role"])
	require.Equal(t, "memory", last["type"])
	require.Equal(t, m.must(read, "status/app", nil).Data["next_rotation"], last["time"])
	require.Len(t, m.must(read, "calendar", map[string]any{"days": "1"}).Data["entries"], 1)
	for _, days := range []any{0, -1, 367, "0"} {
		m.refuses(read, "calendar", map[string]any{"days": days}, "days: must be 1 to 366")
	}
	m.refuses(read, "calendar", map[string]any{"days": "soon"}, "days: must be a whole number")
}

func TestPreflight(t *testing.T) {
	m := newMount(t)
	m.role()
	lines := m.must(read, "preflight/app", nil).Data["lines"].([]any)
	require.Len(t, lines, 7)
	for _, line := range lines {
		require.Contains(t, []string{"pass", "warn"}, line.(map[string]any)["result"], line)
	}
	m.fails(http.StatusNotFound, read, "preflight/nobody", nil)
}

// A rotation that ends badly while the request waits is a 400 with its id.
func TestRotationThatFailsIsRefused(t *testing.T) {
	m := newMount(t)
	m.role()
	m.memory.World.SetRefuse(true)
	resp, err := m.handle(update, "rotate/app", nil)
	require.NoError(t, err)
	status, sentence := statusOf(t, update, resp, err)
	require.Equal(t, http.StatusBadRequest, status)
	id := resp.Data["data"].(map[string]any)["rotation_id"].(string)
	require.NotEmpty(t, id)
	require.Contains(t, sentence, id)
	require.Contains(t, sentence, "the check query failed")
	require.EqualValues(t, 1, m.must(read, "creds/app", nil).Data["version"])
}

func TestFirstRotationThatFailsLeavesNoRole(t *testing.T) {
	m := newMount(t)
	m.connection()
	m.memory.World.SetRefuse(true)
	m.refuses(create, "roles/app", map[string]any{"type": "memory", "connection": "main"}, "role app was not created")
	m.fails(http.StatusNotFound, read, "roles/app", nil)
	m.fails(http.StatusNotFound, listed, "roles/", nil)
}

func TestReconcile(t *testing.T) {
	m := newMount(t)
	m.role()
	sentence := m.fails(http.StatusConflict, update, "reconcile/app", nil)
	require.Contains(t, sentence, "not diverged")
}

func TestConfig(t *testing.T) {
	m := newMount(t)
	require.Equal(t, map[string]any{
		"paused": false, "max_concurrent_rotations": 16, "overdue_after": int64(604800), "history_limit": 100, "external_url": nil,
		"channels": []string{}, "contacts": []string{}, "escalate_after": int64(3600), "notify_before": int64(0), "unauthenticated_metrics": false, "access_rate_threshold": 1000,
	},
		m.must(read, "config", nil).Data)
	m.must(update, "config", map[string]any{"overdue_after": "2d", "paused": "true"})
	got := m.must(read, "config", nil).Data
	require.EqualValues(t, 2*86400, got["overdue_after"])
	require.Equal(t, true, got["paused"])
	require.Equal(t, 100, got["history_limit"], "left out, kept")
	m.refuses(update, "config", map[string]any{"history_limit": 0}, "history_limit: ")

	for given, want := range map[string]any{
		"https://vault.example.com:8200/": "https://vault.example.com:8200", "HTTP://10.0.0.1": "http://10.0.0.1",
		"https://example.com/vault//": "https://example.com/vault", "": nil,
	} {
		require.Equal(t, want, m.must(update, "config", map[string]any{"external_url": given}).Data["external_url"], given)
	}
	m.must(update, "config", map[string]any{"external_url": "https://vault.example.com"})
	for _, given := range []string{
		"vault.example.com", "ftp://vault", "https://", "https://:8200", "https://user@vault", "https://:pw@vault", "https://vault?", "https://vault/#",
		"https://vault/?a=b", "https://vault:port", "https:vault", "//vault", "/", " https://vault",
	} {
		sentence := m.refuses(update, "config", map[string]any{"external_url": given}, "external_url: must be an http or https URL")
		require.NotContains(t, sentence, "pw")
	}
	require.Equal(t, "https://vault.example.com", m.must(update, "config", map[string]any{"external_url": nil}).Data["external_url"], "null: not given")

	sentence := m.fails(http.StatusConflict, update, "rotate/app", nil)
	require.Contains(t, sentence, "paused")
}

// Whatever a role can be given is shown by a read, durations as whole seconds.
func TestRoleIsShownWhole(t *testing.T) {
	m := newMount(t)
	m.connection()
	m.must(create, "roles/app", map[string]any{
		"type": "memory", "connection": "main", "rotation_schedule": "0 3 * * 0", "rotation_window": "2h", "grace_period": json.Number("7200"),
		"custom_metadata": []any{"team=billing", "tier=1"}, "destroy_after": "1d",
	})
	got := m.must(read, "roles/app", nil).Data
	for name := range m.backend.roles.fields() {
		if name == "password" { // secret
			require.NotContains(t, got, name)
			continue
		}
		require.Contains(t, got, name)
	}
	require.Nil(t, got["rotation_period"], "does not apply")
	require.Equal(t, "0 3 * * 0", got["rotation_schedule"])
	require.EqualValues(t, 7200, got["rotation_window"])
	require.EqualValues(t, 7200, got["grace_period"])
	require.EqualValues(t, 86400, got["destroy_after"])
	require.Equal(t, "u", got["prefix"], "a default of the kind")
	require.Equal(t, map[string]string{"team": "billing", "tier": "1"}, got["custom_metadata"])

	resp := m.must(update, "roles/app", map[string]any{"rotation_period": "60d", "jitter": nil})
	require.Empty(t, resp.Data, "a change makes no rotation")
	got = m.must(read, "roles/app", nil).Data
	require.EqualValues(t, 60*86400, got["rotation_period"])
	require.Nil(t, got["rotation_schedule"])
	require.EqualValues(t, 7200, got["grace_period"], "left out, kept")
}

func TestRoleOfNoOrUnknownType(t *testing.T) {
	m := newMount(t)
	m.refuses(create, "roles/app", nil, "type: is required for a new role: memory")
	m.refuses(create, "roles/app", map[string]any{"type": "oracle"}, "type: names no type of role; there are: memory")
	m.refuses(create, "connections/main", nil, "type: is required for a new connection: memory")
	m.refuses(create, "roles/app", map[string]any{"type": "memory", "connection": "nowhere"}, "connection: there is no connection")
}

func TestConnectionSecretsAreKeptAndNeverShown(t *testing.T) {
	m := newMount(t)
	m.connection()
	for _, path := range []string{"connections/main", "connections/main/check"} {
		raw, err := json.Marshal(m.must(read, path, nil))
		require.NoError(t, err)
		require.NotContains(t, string(raw), adminPassword)
	}
	m.must(update, "connections/main", map[string]any{"pool_size": "8"})
	got := m.must(read, "connections/main", nil).Data
	require.EqualValues(t, 8, got["pool_size"])
	require.Equal(t, "memory", got["type"])
	require.Nil(t, got["last_root_rotation"])
	require.NotContains(t, got, "password")
	require.Equal(t, []string{"main"}, m.must(listed, "connections/", nil).Data["keys"])

	sentence := m.refuses(update, "connections/main", map[string]any{"address": "elsewhere"}, "password: ")
	require.NotContains(t, sentence, adminPassword)
	m.must(read, "connections/main/check", nil)

	m.must(update, "connections/main/rotate-root", nil)
	require.NotNil(t, m.must(read, "connections/main", nil).Data["last_root_rotation"])
	m.must(remove, "connections/main", nil)
	m.fails(http.StatusNotFound, read, "connections/main", nil)
	m.must(remove, "connections/main", nil)
}

func TestConnectionInUseIsNotDeleted(t *testing.T) {
	m := newMount(t)
	m.role()
	require.Contains(t, m.fails(http.StatusConflict, remove, "connections/main", nil), "app")
}

func TestExistence(t *testing.T) {
	m := newMount(t)
	m.role()
	for path, want := range map[string]bool{"roles/app": true, "roles/other": false, "connections/main": true, "connections/other": false} {
		checked, exists, err := m.backend.HandleExistenceCheck(t.Context(), m.request(create, path, map[string]any{"nonsense": 1}))
		require.NoError(t, err)
		require.True(t, checked)
		require.Equal(t, want, exists, path)
	}
}

// A rotation that outlasts the wait is answered with its phase, and a warning.
func TestRotateWithoutWaiting(t *testing.T) {
	m := newMount(t)
	m.role()
	m.must(update, "rotate/app", map[string]any{"wait": "0s"})
	require.Eventually(t, func() bool { return m.must(read, "creds/app", nil).Data["version"] == 2 }, 10*time.Second, 10*time.Millisecond)
}
