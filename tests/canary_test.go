package tests

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// A canary is a secret that is looked for everywhere but where it belongs.
type canaries struct {
	*world
	secrets map[string]string // what it is, and its value
	told    map[string]string // every answer but those of creds/
}

// Secrets go through a role's whole life, signing keys too, and into fields where they do not belong. None turns up in
// a log, an error, a status, a history or an incident, nor in the database's own log.
func TestCanaries(t *testing.T) {
	t.Parallel()
	c := &canaries{
		world:   newWorld(t, "canary", sharedVault(t), pgtest.Shared(t)),
		secrets: map[string]string{}, told: map[string]string{},
	}
	c.secrets["the administrator's password"] = c.password
	c.live()
	c.misplace()
	c.lookAround()
	c.signingKeys()
	c.standNowhere(c.places())
}

// standNowhere looks for every secret in every text.
func (c *canaries) standNowhere(places map[string]string) {
	c.t.Helper()
	for what, secret := range c.secrets {
		require.Greater(c.t, len(secret), 12, "%s is too short to be looked for", what)
	}
	for where, text := range places {
		for what, secret := range c.secrets {
			if strings.Contains(text, secret) { // and no failure prints the text
				c.t.Errorf("%s stands in %s", what, where)
			}
		}
	}
}

// tell makes a request and keeps its answer for later.
func (c *canaries) tell(method, path string, body map[string]any) answer {
	c.t.Helper()
	a := c.call(c.t.Context(), method, path, body)
	require.NotZero(c.t, a.Status, a.sentence())
	c.told[fmt.Sprintf("the answer %d to %s %s", len(c.told), method, path)] = a.Text
	return a
}

// hold reads the current credential and makes its password a canary.
func (c *canaries) hold() credential {
	c.t.Helper()
	held := c.current(c.role)
	c.secrets[fmt.Sprintf("the password of version %d", held.Version)] = held.Password
	return held
}

// live takes a role through what can happen to it, failures included.
func (c *canaries) live() {
	c.t.Helper()
	assert.Equal(c.t, http.StatusOK, c.tell("PUT", "roles/"+c.role, c.roleFields(nil)).Status)
	first := c.hold()
	require.NoError(c.t, c.login(c.t.Context(), first.URL))
	assert.Equal(c.t, http.StatusOK, c.tell("PUT", "rotate/"+c.role, nil).Status)
	c.hold()
	assert.Equal(c.t, http.StatusOK, c.tell("PUT", "rollback/"+c.role, nil).Status)
	assert.Equal(c.t, http.StatusOK, c.tell("PUT", "rotate/"+c.role, nil).Status)
	c.hold()

	c.closeDatabase() // the candidate cannot be verified
	assert.Equal(c.t, http.StatusBadRequest, c.tell("PUT", "rotate/"+c.role, nil).Status)
	c.openDatabase()
	assert.Equal(c.t, http.StatusOK, c.tell("PUT", "emergency/"+c.role, map[string]any{"reason": "an exercise"}).Status)
	leaked := c.current(c.role)
	c.hold()
	assert.Error(c.t, c.login(c.t.Context(), first.URL))

	// A user that somebody locks out makes the check of the current version fail, and tell so.
	c.superuser(fmt.Sprintf("ALTER ROLE %s NOLOGIN", pgtest.Ident(leaked.Username)))
	c.tell("PUT", "rotate/"+c.role, nil)
	root := c.tell("PUT", "connections/main/rotate-root", nil)
	assert.True(c.t, root.ok(), root.sentence())
	c.tell("PUT", "rotate/"+c.role, nil)
	c.hold()
}

// misplace gives secrets where they do not belong, and wrong ones.
func (c *canaries) misplace() {
	c.t.Helper()
	number := 0
	secret := func(where string) string {
		number++
		value := fmt.Sprintf("canary%dSecretValue%d", number, number*7919)
		c.secrets["what was given "+where] = value
		return value
	}
	type m = map[string]any
	for _, r := range []struct {
		path string
		body m
	}{
		{"connections/wrong", c.connection(m{"password": secret("as a wrong password")})},
		{"connections/wrong", c.connection(m{"pasword": secret("in a misspelt field")})},
		{"connections/wrong", c.connection(m{"connection_url": "postgresql://u:" + secret("in connection_url") + "@127.0.0.1/db"})},
		{"connections/wrong", c.connection(m{"connection_url": "host=127.0.0.1 dbname=db password=" + secret("in a keyword connection_url")})},
		{"connections/wrong", c.connection(m{"private_key": secret("as private_key")})},
		{"connections/wrong", c.connection(m{"tls_certificate": secret("as tls_certificate"), "private_key": "x"})},
		{"connections/wrong", c.connection(m{"tls_ca": secret("as tls_ca")})},
		{"connections/wrong", c.connection(m{"verify_connection": secret("as verify_connection")})},
		{"connections/wrong", c.connection(m{"connect_timeout": secret("as connect_timeout")})},
		{"connections/wrong", c.connection(m{"type": secret("as type of a connection")})},
		{"connections/main", m{"password": secret("as another wrong password")}},
		{"roles/wrong", c.roleFields(m{"type": secret("as type of a role")})},
		{"roles/wrong", c.roleFields(m{"password": secret("as password of a role")})},
		{"roles/wrong", c.roleFields(m{"rotation_period": secret("as rotation_period")})},
		{"roles/wrong", c.roleFields(m{"rotation_schedule": secret("as rotation_schedule"), "rotation_period": nil})},
		{"roles/wrong", c.roleFields(m{"rotation_schedule": "0 2 * * " + secret("in rotation_schedule"), "rotation_period": nil})},
		{"roles/wrong", c.roleFields(m{"next_rotation": secret("as next_rotation")})},
		{"roles/wrong", c.roleFields(m{"strategy": secret("as strategy")})},
		{"roles/wrong", c.roleFields(m{"username_template": secret("as username_template") + " {{"})},
		{"roles/wrong", c.roleFields(m{"username_prefix": secret("as username_prefix") + " with a space"})},
		{"roles/wrong", c.roleFields(m{"max_versions": secret("as max_versions")})},
		{"roles/wrong", c.roleFields(m{"on_rollout_failure": secret("as on_rollout_failure")})},
		{"rotate/" + c.role, m{"wait": secret("as wait")}},
		{"rollback/" + c.role, m{"version": secret("as version")}},
		{"emergency/" + c.role, m{"severity": secret("as severity"), "reason": "x"}},
		{"reconcile/" + c.role, m{"action": secret("as action")}},
	} {
		a := c.tell("PUT", r.path, r.body)
		assert.Equal(c.t, http.StatusBadRequest, a.Status, "%s %v: %s", r.path, r.body, a.sentence())
	}
}

// lookAround asks for everything that tells of the role.
func (c *canaries) lookAround() {
	c.t.Helper()
	for _, path := range []string{
		"connections/main", "connections/main/check", "roles/" + c.role, "status", "status/" + c.role,
		"history/" + c.role, "preflight/" + c.role, "config",
	} {
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodGet, path, nil).Status, path)
	}
	var list struct{ Keys []string }
	a := c.tell("LIST", "incidents", nil)
	require.NoError(c.t, unmarshal(a, &list))
	require.Len(c.t, list.Keys, 1)
	c.tell(http.MethodGet, "incidents/"+list.Keys[0], nil)
}

// places are all texts in which a secret would be a leak. Each is known to tell of what was done, so
// that nobody looks into an empty one.
func (c *canaries) places() map[string]string {
	c.t.Helper()
	audit, err := os.ReadFile(sharedAuditLog())
	require.NoError(c.t, err)
	places := map[string]string{
		"Vault's log, with the plugin's": c.vault.Log(),
		"Vault's audit log":              string(audit),
		"PostgreSQL's log":               c.postgres.Log(),
	}
	assert.Contains(c.t, places["Vault's log, with the plugin's"], "role="+c.role)
	assert.Contains(c.t, places["Vault's audit log"], c.path+"/rotate/"+c.role)
	assert.Contains(c.t, places["Vault's audit log"], "canary", "the paths are in clear")
	assert.Contains(c.t, places["PostgreSQL's log"], fmt.Sprintf(`CREATE ROLE "%s_v2_`, c.role))
	for where, text := range c.told {
		places[where] = text
	}
	return places
}
