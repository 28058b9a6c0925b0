package tests

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// The definition of OpenRouter as it stands in the docs, through the life of a key: made, rotated,
// disabled after grace, brought back by a rollback, and revoked after destroy_after.
func TestAPIKeyOpenRouter(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewOpenRouter())
	api.PageSize(2)
	for _, name := range []string{"mine", "yours", "theirs"} { // so that ours are on a later page
		api.MakeByHand(name)
	}
	fields := reaches("http", api.URL(), map[string]any{"definition": definition(t, "openrouter"), "admin_key": api.AdminKey()})
	w := newPairs(t, "openrouter", sharedVault(t), fields)
	shown := w.get("connections/main").fields()
	assert.JSONEq(t, definition(t, "openrouter"), shown["definition"].(string))
	assert.NotContains(t, shown, "admin_key")
	assert.NotContains(t, w.get("connections/main/check").Text, `"fail"`)

	w.rotation("roles/"+w.role, pairFields(nil))
	first := w.pair(w.role)
	assert.True(t, api.Works(first.Primary))
	assert.Equal(t, "active", statusOf(api.Keys(), first.PrimaryID))
	w.rotation("rotate/"+w.role, nil)
	second := w.pair(w.role)
	assert.Equal(t, first.Primary, second.Secondary)
	assert.Equal(t, first.PrimaryID, second.SecondaryID)

	w.awaitVersion(w.role, 1, "disabled")
	assert.Equal(t, "disabled", statusOf(api.Keys(), first.PrimaryID))
	assert.False(t, api.Works(first.Primary))
	assert.Equal(t, 1, w.rotation("rollback/"+w.role, nil).Version)
	assert.True(t, api.Works(first.Primary), "enabled again")
	back := w.pair(w.role)
	assert.Equal(t, first.Primary, back.Primary)
	assert.Equal(t, second.Primary, back.Secondary)

	w.write("roles/"+w.role, map[string]any{"destroy_after": "1s"})
	w.retire(w.role, 2)
	w.awaitDead(w.role, 2)
	assert.Empty(t, statusOf(api.Keys(), second.PrimaryID), "revoked after destroy_after")
	w.denied(http.StatusConflict, "rollback/"+w.role, map[string]any{"version": 2}, "cannot be undone")

	// An answer that was lost leaves a key that the list gives away.
	api.LoseAnswer(1, fakeapi.On(http.MethodPost, "/api/v1/keys"))
	w.denied(http.StatusBadRequest, "rotate/"+w.role, nil, "OpenRouter", "the answer was lost")
	await.Until(t, "the orphan to be revoked", func() (bool, any) { return len(api.Keys()) == 4, api.Keys() })
	w.rotation("rotate/"+w.role, nil)
	e := w.emergencyOf(w.role, map[string]any{"reason": "an exercise"})
	assert.Equal(t, "contained", e.Status, e.NextSteps)
	assert.False(t, api.Works(first.Primary))
	await.Until(t, "what leaked to be revoked", func() (bool, any) { return len(api.Keys()) == 4, api.Keys() })
	assert.True(t, api.Works(w.pair(w.role).Primary))
	w.denied(http.StatusBadRequest, "connections/main/rotate-root", nil, "no credential that can be rotated here")
}

// A key that is changed in place: the one in use is handed in, each rotation ends the one before, and
// an answer that is lost has lost the key, so that a person has to look.
func TestAPIKeyInPlace(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewInPlace())
	w := newPairs(t, "inplace", sharedVault(t),
		reaches("http", api.URL(), map[string]any{"definition": definition(t, "inplace"), "admin_key": api.AdminKey()}))
	first, id := api.MakeByHand("the one key")
	inPlace := func(changes map[string]any) map[string]any {
		return pairFields(with(map[string]any{"strategy": "in_place", "grace_period": nil, "key": first}, changes))
	}
	w.denied(http.StatusBadRequest, "roles/"+w.role, inPlace(map[string]any{"key": nil}), "key: is required with strategy in_place")
	r := w.rotation("roles/"+w.role, inPlace(nil))
	assert.Equal(t, "import", r.Trigger)
	now := w.pair(w.role)
	assert.Equal(t, keyPair{Version: 1, TTL: now.TTL, Primary: first, PrimaryID: id}, now)

	assert.Equal(t, 2, w.rotation("rotate/"+w.role, nil).Version)
	assert.False(t, api.Works(first), "there is one key")
	second := w.pair(w.role)
	assert.True(t, api.Works(second.Primary))
	assert.Equal(t, id, second.PrimaryID, "which keeps its id")
	assert.Empty(t, second.Secondary)
	w.denied(http.StatusConflict, "rollback/"+w.role, nil, "cannot be brought back")

	api.LoseAnswer(1, fakeapi.On(http.MethodPost, "/v1/key/rotate"))
	w.denied(http.StatusBadRequest, "rotate/"+w.role, nil, "the role is blocked", "the answer was lost")
	s := w.status(w.role)
	assert.Equal(t, "blocked", s.State)
	assert.Contains(t, s.Reason, "the answer that had the new secret was lost, and the earlier one may be refused")
	assert.Contains(t, s.Reason, "stage/"+w.role)
	assert.False(t, api.Works(second.Primary))
	assert.Equal(t, 2, w.pair(w.role).Version, "readers get what there is")

	r = w.rotation("rotate/"+w.role, nil)
	assert.Equal(t, "succeeded", r.Outcome, "the admin key can change it once more")
	third := w.pair(w.role)
	assert.True(t, api.Works(third.Primary))
	w.handsInPlace(api)
}

// handsInPlace mends a blocked role with a key that a person made.
func (w *world) handsInPlace(api *fakeapi.InPlace) {
	w.t.Helper()
	api.LoseAnswer(1, fakeapi.On(http.MethodPost, "/v1/key/rotate"))
	w.denied(http.StatusBadRequest, "rotate/"+w.role, nil, "the role is blocked")
	byHand, id := api.MakeByHand("another one")
	v, _ := w.stage(w.role, map[string]any{"key": byHand})
	assert.Equal(w.t, "current", v.State)
	assert.Equal(w.t, id, v.Identifier)
	assert.Equal(w.t, byHand, w.pair(w.role).Primary)
	assert.NotEqual(w.t, "blocked", w.status(w.role).State)
	r := w.rotation("rotate/"+w.role, nil)
	assert.Equal(w.t, "succeeded", r.Outcome)
	now := w.pair(w.role)
	assert.True(w.t, api.Works(now.Primary))
	assert.Equal(w.t, id, now.PrimaryID)
	assert.False(w.t, api.Works(byHand))
	assert.NotContains(w.t, w.get("status/"+w.role).Text, now.Primary)
	assert.NotContains(w.t, w.get("history/"+w.role).Text, byHand)
}
