package tests

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Secrets go to where roles are copied, and to endpoints that tell them back. None turns up in a log, an error, a
// status, a history, an event or a metric: neither those of the role, nor those with which others are asked.
func TestDependentsCanaries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "canarydeps", sharedVault(t), pgtest.Shared(t))
	c := &dependentCanaries{
		canaries: &canaries{world: w, secrets: map[string]string{}, told: map[string]string{}},
		kv:       newPlace(w, w.vault, "team"),
		webhook:  fakechannels.NewWebhook(signingSecret, fakechannels.TLS()),
	}
	t.Cleanup(c.webhook.Close)
	c.live()
	c.misplace()
	c.lookAround()
	c.standNowhere(c.places())
}

type dependentCanaries struct {
	*canaries
	kv      *place
	app     *service
	webhook *fakechannels.Webhook
}

var toldInCanaries = []string{"mirror.written", "rotation.rolled_back", "version.activated"}

// ok makes a request that succeeds, and keeps its answer.
func (c *dependentCanaries) ok(path string, body map[string]any) {
	c.t.Helper()
	a := c.tell(http.MethodPut, path, body)
	require.True(c.t, a.ok(), "%s: %s", path, a.sentence())
}

// live takes a role through what can happen to its dependents, failures included.
func (c *dependentCanaries) live() {
	c.t.Helper()
	token := c.kv.write("auth/token/create", map[string]any{"policies": []string{c.kv.name}, "no_default_policy": true, "no_parent": true}).Auth.ClientToken
	c.secrets["the secret id"], c.secrets["the token of a connection"], c.secrets["the token of a check"] = c.kv.secretID, token, checkToken
	c.secrets["the administrator's password"] = c.password
	c.ok("channels/siem", map[string]any{ // not of everything: many messages are gathered, and come late
		"type": "webhook", "url": c.webhook.URL() + "/vault", "tls_ca": c.webhook.CA(), "signing_secret": signingSecret, "events": toldInCanaries,
	})
	c.ok("connections/self", c.kv.connection(nil))
	c.ok("connections/other", c.kv.connection(map[string]any{"auth": "token", "token": token, "role_id": nil, "secret_id": nil}))
	c.ok("roles/"+c.role, c.roleFields(map[string]any{"grace_period": "1h", "mirror": c.kv.to("self", "app"), "mirror_fields": map[string]any{"all": "{{.connection_url}} {{.password}}"}}))
	c.hold()
	c.app = startService(c.t, c.world, c.role, "api")
	c.ok("connections/health", c.app.connection(nil))
	c.ok("roles/"+c.role, map[string]any{"checks": "health", "expect_sessions": "api"})
	c.ok("rotate/"+c.role, patiently)
	c.hold()

	// An endpoint that quotes the password in its answer.
	c.app.change(func(s *service) { s.broken = 3 })
	require.Equal(c.t, http.StatusBadRequest, c.tell(http.MethodPut, "rotate/"+c.role, patiently).Status)
	c.secrets["the password that was rolled back"] = c.get("creds/" + c.role + "/versions/3").fields()["password"].(string)
	c.app.change(func(s *service) { s.broken = 0 })

	// What somebody else wrote may be a secret too.
	c.secrets["what was written by hand"] = "a-password-by-hand-4711"
	c.kv.byHand("app", "password="+c.secrets["what was written by hand"])
	a := c.tell(http.MethodPut, "rotate/"+c.role, patiently)
	require.Contains(c.t, a.sentence(), "was written by somebody else")
	c.ok("roles/"+c.role, map[string]any{"mirror": c.kv.to("other", "elsewhere")})
	await.Until(c.t, "the copy to have moved", func() (bool, any) {
		found := c.kv.copied("elsewhere")
		return found.Version == 1, found.Version
	})
	c.ok("rotate/"+c.role, patiently)
	c.hold()
	require.Equal(c.t, 2, c.kv.copied("elsewhere").Version)
	c.ok("rollback/"+c.role, patiently)
	c.ok("emergency/"+c.role, with(map[string]any{"reason": "an exercise"}, patiently))
	c.hold()
}

// misplace gives secrets that are wrong, or where they do not belong.
func (c *dependentCanaries) misplace() {
	c.t.Helper()
	secret := func(where string) string {
		value := fmt.Sprintf("canary%dDependent%d", len(c.secrets), len(c.secrets)*7919)
		c.secrets["what was given "+where] = value
		return value
	}
	type m = map[string]any
	for _, r := range []m{
		c.kv.connection(m{"secret_id": secret("as a wrong secret_id")}),
		c.kv.connection(m{"auth": "token", "token": secret("as a wrong token")}),
		c.kv.connection(m{"auth": "token", "token": secret("as a token with a line break") + "\n"}),
		c.kv.connection(m{"auth": secret("as auth")}),
		c.kv.connection(m{"address": "http://u:" + secret("in address") + "@127.0.0.1:1"}),
		c.kv.connection(m{"secret": secret("in a misspelt field")}),
		c.kv.connection(m{"ca_cert": secret("as ca_cert")}),
		c.app.connection(m{"url": "https://u:" + secret("in url") + "@127.0.0.1/"}),
		c.app.connection(m{"token": secret("as a wrong token of a check")}),
		c.app.connection(m{"token": secret("as a token of a check with a blank") + " x"}),
		c.app.connection(m{"attempts": secret("as attempts")}),
		c.app.connection(m{"tls_ca": secret("as tls_ca of a check")}),
	} {
		a := c.tell(http.MethodPut, "connections/wrong", r)
		assert.Equal(c.t, http.StatusBadRequest, a.Status, a.sentence())
	}
}

func (c *dependentCanaries) lookAround() {
	c.t.Helper()
	for _, name := range []string{"self", "other", "health"} {
		for _, path := range []string{"connections/" + name, "connections/" + name + "/check"} {
			assert.Equal(c.t, http.StatusOK, c.tell(http.MethodGet, path, nil).Status, path)
		}
	}
	c.tell(http.MethodGet, "channels/siem", nil)
	c.canaries.lookAround()
	status, _, metrics := c.scraped(c.t, "metrics", "")
	require.Equal(c.t, http.StatusOK, status)
	require.Contains(c.t, metrics, c.role)
	c.told["the metrics"] = metrics
}

func (c *dependentCanaries) places() map[string]string {
	c.t.Helper()
	n := &newsroom{world: c.world, webhook: c.webhook}
	for _, event := range toldInCanaries {
		n.awaitEvent(event)
	}
	places := c.canaries.places()
	var bodies strings.Builder
	for _, r := range c.webhook.Requests() {
		bodies.Write(r.Body)
	}
	places["what the receiver of webhooks got"] = bodies.String()
	return places
}
