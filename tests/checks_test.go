package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// After a rotation an endpoint is asked that logs in with what the application read, and the database who has a
// session. What is well passes; what is not goes back, or is held for a person.
func TestChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "checks", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h", "rollout_timeout": "10s"}))
	c := &checking{world: w, app: startService(t, w, w.role, "api", "web")}
	inSteps(t, &journey{world: w}, c, []step[*checking]{
		{"connection", (*checking).connection},
		{"well", (*checking).well},
		{"unwell", (*checking).unwell},
		{"without a session", (*checking).withoutSession},
		{"held and resumed", (*checking).heldAndResumed},
		{"held and rolled back", (*checking).heldAndRolledBack},
	})
}

type checking struct {
	*world
	app *service
}

// patiently lets a request wait for as long as steps take on a loaded machine.
var patiently = map[string]any{"wait": "60s"}

func (c *checking) connection() {
	c.write("connections/api-health", c.app.connection(nil))
	var check struct {
		Lines []struct{ Check, Result, Detail string }
	}
	require.NoError(c.t, unmarshal(c.get("connections/api-health/check"), &check))
	require.Len(c.t, check.Lines, 3)
	for _, line := range check.Lines {
		assert.Equal(c.t, "pass", line.Result, "%s: %s", line.Check, line.Detail)
	}
	c.write("roles/"+c.role, map[string]any{"checks": "api-health", "expect_sessions": "api,web"})
	assert.Contains(c.t, c.preflight(), "check api-health: pass: "+c.app.Listener.Addr().String()+" answered 200")
}

// steps are those of the newest rotation that has ended.
func (c *checking) lastSteps() (last struct {
	rotationAnswer
	Error *struct{ Kind, Message string }
	Steps []stepAnswer
},
) {
	c.t.Helper()
	var s struct {
		Last any `json:"last_rotation"`
	}
	s.Last = &last
	require.NoError(c.t, unmarshal(c.get("status/"+c.role), &s))
	return last
}

func (c *checking) well() {
	r := c.rotation("rotate/"+c.role, patiently)
	require.Equal(c.t, "succeeded", r.Outcome)
	last := c.lastSteps()
	require.Len(c.t, last.Steps, 1)
	assert.Equal(c.t, "checks", last.Steps[0].Name)
	assert.Equal(c.t, "done", last.Steps[0].State)
	assert.Equal(c.t, fmt.Sprintf("api-health: %s answered 200; every expected application has a session under %s",
		c.app.Listener.Addr(), c.current(c.role).Username), last.Steps[0].Detail)
	assert.Equal(c.t, 2, c.app.holds())
}

// rolledBack asks for a rotation that goes back.
func (c *checking) rolledBack(says string) {
	c.t.Helper()
	before := c.current(c.role)
	a := c.call(c.t.Context(), http.MethodPut, "rotate/"+c.role, patiently)
	require.Equal(c.t, http.StatusBadRequest, a.Status, a.Text)
	assert.Contains(c.t, a.sentence(), says)
	after := c.current(c.role)
	assert.Equal(c.t, before.Version, after.Version, "readers get what they had")
	assert.Equal(c.t, before.Password, after.Password)
	require.NoError(c.t, c.login(c.t.Context(), after.URL))
	last := c.lastSteps()
	assert.Equal(c.t, "rolled_back", last.Outcome)
	assert.Equal(c.t, "retiring", c.status(c.role).version(last.Version).State, "somebody may hold what was tried: it has its grace")
	await.Until(c.t, "the service to be back", func() (bool, any) { return c.app.holds() == before.Version, c.app.holds() })
}

// breaks lets the service be of a release that works with what it has, and with nothing newer.
func (c *checking) breaks(lacks string) {
	highest := c.status(c.role).highest()
	c.app.change(func(s *service) { s.broken, s.lacks = highest+1, lacks })
}

func (c *checking) mends() { c.app.change(func(s *service) { s.broken, s.lacks = 0, "" }) }

// failure is what is said of a check that did not pass.
func (c *checking) failure() string {
	return fmt.Sprintf("step checks failed: check api-health failed 2 times, the last with: ask the health endpoint: %s answered 503, expected 200", c.app.Listener.Addr())
}

func (c *checking) unwell() {
	c.breaks("")
	c.rolledBack(c.failure())
	s := c.status(c.role)
	assert.Equal(c.t, "blocked", s.State, "a person looks after it")
	assert.Equal(c.t, "the last rotation was rolled back: "+c.failure(), s.Reason)
	c.mends()
	require.Equal(c.t, "succeeded", c.rotation("rotate/"+c.role, patiently).Outcome)
}

func (c *checking) withoutSession() {
	c.breaks("web")
	c.rolledBack("step checks failed: not done after 10s: no session of web under " + c.role + "_v")
	c.mends()
}

// heldRotation asks for a rotation whose check fails, and waits until it is held. It gives the version.
func (c *checking) heldRotation() int {
	c.t.Helper()
	c.breaks("")
	before := c.current(c.role)
	c.write("rotate/"+c.role, map[string]any{"wait": "1s"})
	c.awaitState(c.role, await.Patience, "action_required")
	s := c.status(c.role)
	assert.Equal(c.t, c.failure(), s.Reason)
	require.NotNil(c.t, s.Rotation)
	assert.Equal(c.t, "active", s.Rotation.Phase)
	held := c.current(c.role)
	assert.Equal(c.t, s.Rotation.Version, held.Version, "readers get the new version")
	for _, each := range []credential{before, held} {
		require.NoError(c.t, c.login(c.t.Context(), each.URL), "version %d", each.Version)
	}
	refusal{path: "rotate/" + c.role, status: http.StatusConflict, says: "resume=true"}.check(c.t, c.world)
	return held.Version
}

func (c *checking) heldAndResumed() {
	c.write("roles/"+c.role, map[string]any{"on_rollout_failure": "hold"})
	version := c.heldRotation()
	c.mends()
	r := c.rotation("rotate/"+c.role, with(map[string]any{"resume": true}, patiently))
	assert.Equal(c.t, "succeeded", r.Outcome)
	assert.Equal(c.t, version, c.current(c.role).Version)
	assert.Equal(c.t, "grace", c.status(c.role).State)
}

func (c *checking) heldAndRolledBack() {
	before := c.current(c.role)
	version := c.heldRotation()
	c.write("rollback/"+c.role, map[string]any{"wait": "1s"})
	await.Until(c.t, "the rollback to end", func() (bool, any) {
		s := c.status(c.role)
		return s.Rotation == nil && s.Current == before.Version, s
	})
	assert.Equal(c.t, before.Version, c.current(c.role).Version)
	assert.Equal(c.t, "retiring", c.status(c.role).version(version).State)
	assert.Equal(c.t, "succeeded", c.outcomes(c.role)[0])
}
