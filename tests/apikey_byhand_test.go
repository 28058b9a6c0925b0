package tests

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// Keys of Anthropic are made by a person: the role waits for the first one, takes in what is proven and
// whose id is found, and brings a key back that was refused since.
func TestAPIKeyAnthropicByHand(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewAnthropic())
	w := newPairs(t, "anthropic", sharedVault(t), toAnthropic(api, nil))
	w.waitsForFirstKey()
	first, firstID := api.MakeByHand("first")
	w.stagesNothing(api, first)

	v, _ := w.stage(w.role, map[string]any{"key": first})
	assert.Equal(t, 1, v.Version)
	assert.Equal(t, "current", v.State)
	assert.Equal(t, firstID, v.Identifier, "the id was found by the hint")
	now := w.pair(w.role)
	assert.Equal(t, keyPair{Version: 1, TTL: now.TTL, Primary: first, PrimaryID: firstID}, now)
	assert.Equal(t, "ok", w.status(w.role).State)
	w.denied(http.StatusConflict, "promote/"+w.role, nil, "there is nothing to promote")

	w.write("roles/"+w.role, map[string]any{"auto_promote": false})
	twins := api.MakeLookAlikes("second", "its twin")
	w.denied(http.StatusBadRequest, "stage/"+w.role, map[string]any{"key": twins[0].Key}, "nothing was staged", "key_id", "is required", twins[0].ID, twins[1].ID)
	v, a := w.stage(w.role, map[string]any{"key": twins[0].Key, "key_id": twins[0].ID})
	assert.Equal(t, 2, v.Version)
	assert.Equal(t, "standby", v.State)
	require.Len(t, a.Warnings, 1)
	assert.Contains(t, a.Warnings[0], "promote/"+w.role)
	again, _ := w.stage(w.role, map[string]any{"key": twins[0].Key, "key_id": twins[0].ID})
	assert.Equal(t, v.Version, again.Version, "the same key again is the same version")
	now = w.pair(w.role)
	assert.Equal(t, keyPair{
		Version: 1, TTL: now.TTL, Primary: first, PrimaryID: firstID, Secondary: twins[0].Key, SecondaryID: twins[0].ID,
	}, now, "it stands by")
	s := w.status(w.role)
	assert.Equal(t, "action_required", s.State)
	assert.Contains(t, s.Reason, "promote/"+w.role)

	r := w.rotation("promote/"+w.role, nil)
	assert.Equal(t, rotationAnswer{ID: r.ID, Trigger: "manual", Phase: "rolled_out", Outcome: "succeeded", Version: 2, Previous: 1}, r)
	now = w.pair(w.role)
	assert.Equal(t, 2, now.Version)
	assert.Equal(t, twins[0].Key, now.Primary)
	assert.Equal(t, first, now.Secondary)
	w.comesBack(api, first, firstID, twins)
}

// waitsForFirstKey makes a role without a key.
func (w *world) waitsForFirstKey() {
	w.t.Helper()
	a := w.write("roles/"+w.role, pairFields(nil))
	require.Len(w.t, a.Warnings, 1)
	const what = "make a new key in the Anthropic Console (Settings, API keys)"
	assert.Contains(w.t, a.Warnings[0], "the role has no secret yet: "+what)
	assert.Equal(w.t, "by_hand", w.get("roles/" + w.role).fields()["strategy"])
	w.gone("creds/" + w.role)
	s := w.status(w.role)
	assert.Equal(w.t, "action_required", s.State)
	assert.Equal(w.t, what+", and write stage/"+w.role+" with it", s.Reason)
	assert.Contains(w.t, w.get("status").Text, `"action_required":1`)
	w.denied(http.StatusConflict, "rotate/"+w.role, nil, "a person has to act first", what)
}

// stagesNothing hands in what must not be taken, which changes nothing.
func (w *world) stagesNothing(api *fakeapi.Anthropic, good string) {
	w.t.Helper()
	before := string(w.get("status/" + w.role).Data)
	off, _ := api.MakeByHand("switched off")
	api.DisableByHand(off)
	elsewhere, _ := api.MakeByHandIn("wrkspc_other", "of another workspace")
	w.write("connections/scoped", toAnthropic(api, map[string]any{"workspace": "wrkspc_main"}))
	w.write("roles/"+w.role+"-scoped", pairFields(map[string]any{"connection": "scoped"}))
	w.denied(http.StatusBadRequest, "stage/"+w.role+"-scoped", map[string]any{"key": elsewhere}, "nothing was staged", "workspace wrkspc_main")
	for _, c := range []struct{ key, id, says string }{
		{"sk-ant-api03-" + strings.Repeat("x", 95), "", "key: is none of the active keys"},
		{off, "", "key: is none of the active keys"},
		{good[:len(good)-1], "", "key: is none of the active keys"},
		{good, "apikey_01nobody", "key_id: is the id of no key"},
		{api.AdminKey(), "", "key: is an admin key"},
		{good + "\n", "", "key: must be of printable ASCII"},
	} {
		w.denied(http.StatusBadRequest, "stage/"+w.role, map[string]any{"key": c.key, "key_id": c.id}, "nothing was staged", c.says)
		w.gone("creds/" + w.role)
	}
	assert.Equal(w.t, before, string(w.get("status/"+w.role).Data))
}

// comesBack waits until the grace of the first key is over, which is then refused, and brings it back.
func (w *world) comesBack(api *fakeapi.Anthropic, first, firstID string, twins []fakeapi.Made) {
	w.t.Helper()
	w.awaitVersion(w.role, 1, "disabled")
	assert.Equal(w.t, "inactive", statusOf(api.Keys(), firstID))
	assert.False(w.t, api.Works(first))
	w.gone("creds/" + w.role + "/versions/1")
	assert.Empty(w.t, w.pair(w.role).Secondary)
	await.Until(w.t, "the proof of its death", func() (bool, any) {
		v := w.status(w.role).version(1)
		return v.ProvenDead, v
	})

	r := w.rotation("rollback/"+w.role, nil)
	assert.Equal(w.t, rotationAnswer{ID: r.ID, Trigger: "rollback", Phase: "rolled_out", Outcome: "succeeded", Version: 1, Previous: 2}, r)
	assert.Equal(w.t, "active", statusOf(api.Keys(), firstID))
	assert.True(w.t, api.Works(first))
	now := w.pair(w.role)
	assert.Equal(w.t, first, now.Primary)
	assert.Equal(w.t, twins[0].Key, now.Secondary)

	w.write("roles/"+w.role, map[string]any{"destroy_after": "0"})
	w.retire(w.role, 2)
	w.awaitDead(w.role, 2)
	assert.Equal(w.t, "archived", statusOf(api.Keys(), twins[0].ID), "after destroy_after")
	assert.Equal(w.t, "active", statusOf(api.Keys(), twins[1].ID), "its twin is not touched")
	w.denied(http.StatusConflict, "rollback/"+w.role, map[string]any{"version": 2}, "revoked at the provider, which cannot be undone")

	// An emergency ends what leaked although nobody made the next key yet: kill_first does.
	e := w.emergencyOf(w.role, map[string]any{"reason": "seen in a chat", "kill_first": true})
	assert.False(w.t, api.Works(first))
	assert.Equal(w.t, "contained", e.Status, e.NextSteps)
	assert.Contains(w.t, strings.Join(e.NextSteps, "\n"), "make a new key in the Anthropic Console")
	third, _ := api.MakeByHand("third")
	v, _ := w.stage(w.role, map[string]any{"key": third})
	assert.Equal(w.t, "standby", v.State, "auto_promote=false holds here, too")
	assert.Contains(w.t, w.status(w.role).Reason, "promote/"+w.role)
	w.rotation("promote/"+w.role, nil)
	now = w.pair(w.role)
	assert.Equal(w.t, third, now.Primary)
	assert.Empty(w.t, now.Secondary)
	w.awaitDead(w.role, 1)
}

// Keys of Stripe are made and expired by a person. The plugin proves both: a key is dead once a call
// with it is refused, and not when somebody says so.
func TestAPIKeyStripeByHand(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewStripe())
	w := newPairs(t, "stripe", sharedVault(t), reaches("stripe", api.URL(), nil))
	first, _ := api.MakeRestricted("first")
	r := w.rotation("roles/"+w.role, pairFields(map[string]any{"key": first, "auto_promote": false}))
	assert.Equal(t, "import", r.Trigger)
	v := w.status(w.role).version(1)
	assert.Equal(t, first[:8]+"..."+first[len(first)-4:], v.Identifier, "there is no id, and no key in the clear")
	assert.Empty(t, w.pair(w.role).PrimaryID)

	dead, _ := api.MakeByHand("dead")
	api.ExpireByHand(dead)
	w.denied(http.StatusBadRequest, "stage/"+w.role, map[string]any{"key": dead}, "nothing was staged", "api_key_expired")
	w.denied(http.StatusConflict, "stage/"+w.role, map[string]any{"key": first}, "this secret is version 1")
	second, _ := api.MakeByHand("second")
	v, _ = w.stage(w.role, map[string]any{"key": second})
	assert.Equal(t, "standby", v.State)
	assert.Equal(t, second, w.pair(w.role).Secondary)
	w.rotation("promote/"+w.role, nil)
	now := w.pair(w.role)
	assert.Equal(t, keyPair{Version: v.Version, TTL: now.TTL, Primary: second, Secondary: first}, now)
	w.write("roles/"+w.role, map[string]any{"auto_promote": true})

	await.Until(t, "the person to be asked", func() (bool, any) {
		s := w.status(w.role)
		return s.State == "action_required", s
	})
	assert.Empty(t, w.pair(w.role).Secondary, "its grace is over: nobody is given it any more")
	w.expires(api, first, 1)
	w.leaks(api, v.Version)
}

const expireIt = "expire it in the Stripe Dashboard (Developers, API keys)"

// expires is a person's part in the end of a key.
func (w *world) expires(api *fakeapi.Stripe, key string, version int) {
	w.t.Helper()
	asks := func(answer string) {
		w.t.Helper()
		s := w.status(w.role)
		assert.Equal(w.t, "action_required", s.State)
		assert.Contains(w.t, s.Reason, "Stripe still accepts it ("+answer+"): "+expireIt)
		assert.Contains(w.t, s.Reason, "retire/"+w.role)
		assert.False(w.t, s.version(version).ProvenDead)
	}
	asks("403")
	assert.True(w.t, api.Works(key))

	// Stripe lets an expired key live for some minutes: saying that it is expired is not enough.
	const minutes = 5 * time.Minute
	api.LingerAfterExpiry(minutes)
	api.ExpireByHand(key)
	api.LingerAfterExpiry(0)
	v := w.retire(w.role, version)
	assert.Equal(w.t, "retiring", v.State)
	assert.False(w.t, v.ProvenDead)
	asks("403")
	api.SetNow(func() time.Time { return time.Now().Add(minutes) })
	v = w.retire(w.role, version)
	assert.Equal(w.t, "retired", v.State)
	assert.True(w.t, v.ProvenDead)
	assert.Equal(w.t, "ok", w.status(w.role).State)
	w.denied(http.StatusConflict, "rollback/"+w.role, nil, "ended at the provider by hand, which cannot be undone")
}

// leaks declares emergencies: the record stays open, with what a person has to do, until a call proves
// the key dead and another one is in its place.
func (w *world) leaks(api *fakeapi.Stripe, version int) {
	w.t.Helper()
	leaked := w.pair(w.role).Primary
	e := w.emergencyOf(w.role, map[string]any{"reason": "seen in a log"})
	assert.Equal(w.t, "open", e.Status)
	assert.Contains(w.t, strings.Join(e.NextSteps, "\n"), "make a new key in the Stripe Dashboard (Developers, API keys)")
	assert.Contains(w.t, strings.Join(e.NextSteps, "\n"), "stage/"+w.role)
	assert.Equal(w.t, "action_required", w.status(w.role).State)
	assert.Equal(w.t, leaked, w.pair(w.role).Primary, "there is no other yet")

	third, _ := api.MakeByHand("third")
	v, _ := w.stage(w.role, map[string]any{"key": third})
	assert.Equal(w.t, "current", v.State)
	now := w.pair(w.role)
	assert.Equal(w.t, third, now.Primary)
	assert.Empty(w.t, now.Secondary, "what leaked is not handed out")
	await.Until(w.t, "the record to say what to do", func() (bool, any) {
		i := w.incident(e.IncidentID)
		return i.Status == "open" && strings.Contains(strings.Join(i.NextSteps, "\n"), expireIt), i
	})
	assert.True(w.t, api.Works(leaked), "replaced, and not dead")
	assert.Equal(w.t, []string{e.IncidentID}, w.status(w.role).OpenIncidents)

	api.ExpireByHand(leaked)
	assert.Equal(w.t, "open", w.incident(e.IncidentID).Status, "nobody has asked Stripe yet")
	assert.True(w.t, w.retire(w.role, version).ProvenDead)
	i := w.awaitIncident(e.IncidentID, "contained")
	require.Len(w.t, i.Roles, 1)
	require.NotNil(w.t, i.Roles[0].Versions[0].Proof)
	assert.Contains(w.t, i.Roles[0].Versions[0].Proof.Result, "api_key_expired")
	assert.Empty(w.t, i.NextSteps)

	// The other way round: expired first. As long as it is what readers get, it is not contained.
	e = w.emergencyOf(w.role, map[string]any{"reason": "seen in another log"})
	assert.Equal(w.t, "open", e.Status)
	api.ExpireByHand(third)
	assert.Equal(w.t, "open", w.incident(e.IncidentID).Status)
	fourth, _ := api.MakeByHand("fourth")
	w.stage(w.role, map[string]any{"key": fourth})
	w.awaitIncident(e.IncidentID, "contained")
	w.awaitDead(w.role, v.Version)
	assert.Equal(w.t, fourth, w.pair(w.role).Primary)
	assert.Equal(w.t, "ok", w.status(w.role).State)
	assert.NotContains(w.t, w.get("incidents/"+e.IncidentID).Text, third)
}
