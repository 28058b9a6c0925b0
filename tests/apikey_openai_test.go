package tests

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// A person's way with keys of OpenAI, with the vault command, from an empty mount to an empty project.
// Each step goes on from the one before. Two more roles have a short grace, which runs meanwhile.
func TestAPIKeyOpenAIJourney(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "openai", sharedVault(t))
	j := &pairJourney{journey: &journey{world: w, t: t}, api: started(t, fakeapi.NewOpenAI()), short: w.role + "-short", brief: w.role + "-brief"}
	inSteps(t, j.journey, j, []step[*pairJourney]{
		{"connection", (*pairJourney).connect},
		{"graces begin", (*pairJourney).graces},
		{"role", (*pairJourney).writeRole},
		{"creds", (*pairJourney).primary},
		{"rotate", (*pairJourney).rotate},
		{"rollback", (*pairJourney).rollback},
		{"retire", (*pairJourney).retires},
		{"emergency", (*pairJourney).emergency},
		{"rotate-root", (*pairJourney).rotateRoot},
		{"history", (*pairJourney).history},
		{"graces are over", (*pairJourney).ended},
		{"delete", (*pairJourney).remove},
	})
}

type pairJourney struct {
	*journey
	api          *fakeapi.OpenAI
	short, brief string // roles of a short grace
	first        keyPair
	shortFirst   keyPair
	leaked       []string
}

func (j *pairJourney) connect() {
	j.vaultCommand("write", "connections/openai", "type=openai", "admin_key="+j.api.AdminKey(), "project="+j.api.Project(),
		"base_url="+j.api.BaseURL(), "allow_insecure_http=true")
	shown := j.vaultCommand("read", "connections/openai").fields()
	assert.Equal(j.t, "openai", shown["type"])
	assert.Equal(j.t, j.api.Project(), shown["project"])
	assert.NotContains(j.t, shown, "admin_key")
	var check struct {
		Lines []struct{ Check, Result, Detail string } `json:"lines"`
	}
	require.NoError(j.t, unmarshal(j.vaultCommand("read", "connections/openai/check"), &check))
	require.NotEmpty(j.t, check.Lines)
	for _, line := range check.Lines {
		assert.Equal(j.t, "pass", line.Result, "%s: %s", line.Check, line.Detail)
	}
	assert.Empty(j.t, j.api.Accounts(), "nothing was made to find that out")
}

// graces lets two graces run: of a version whose successor took over, and of a role that was deleted.
func (j *pairJourney) graces() {
	for _, role := range []string{j.short, j.brief} {
		j.write("roles/"+role, pairFields(map[string]any{"connection": "openai"}))
	}
	j.shortFirst = j.pair(j.short)
	j.rotation("rotate/"+j.short, nil)
	a := j.call(j.t.Context(), http.MethodDelete, "roles/"+j.brief, nil)
	require.True(j.t, a.ok(), a.Text)
	require.Len(j.t, a.Warnings, 1)
	assert.Contains(j.t, a.Warnings[0], "stays valid until")
	j.denied(http.StatusConflict, "roles/"+j.brief, pairFields(map[string]any{"connection": "openai"}), "still being ended")
	assert.Len(j.t, j.api.Accounts(), 3, "whoever read the key of a deleted role has its grace, too")
}

func (j *pairJourney) writeRole() {
	r := j.rotated("write", "roles/"+j.role, "type=api-key", "connection=openai", "rotation_period=90d", "grace_period=1h")
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "initial", Phase: "rolled_out", Outcome: "succeeded", Version: 1}, r)
	shown := j.vaultCommand("read", "roles/"+j.role).fields()
	for name, value := range map[string]any{
		"strategy": "create", "auto_promote": true, "soak_period": json.Number("0"), "rotation_period": json.Number("7776000"),
		"grace_period": json.Number("3600"),
	} {
		assert.Equal(j.t, value, shown[name], name)
	}
	assert.NotContains(j.t, shown, "key")
	i := slices.IndexFunc(j.api.Accounts(), func(k fakeapi.Key) bool { return strings.Contains(k.Name, j.role+":v1:") })
	require.GreaterOrEqual(j.t, i, 0, "the service account bears the name of the role and its version: %v", j.api.Accounts())
	assert.Contains(j.t, j.api.Accounts()[i].Name, r.ID)
}

func (j *pairJourney) primary() {
	a := j.vaultCommand("read", "creds/"+j.role)
	assert.Equal(j.t, []string{"last_vault_rotation", "primary_key", "primary_key_id", "rotation_period", "ttl", "version"},
		slices.Sorted(maps.Keys(a.fields())), "one key, and none before it")
	j.noLease(a)
	j.first = j.pair(j.role)
	assert.Equal(j.t, 1, j.first.Version)
	assert.True(j.t, j.api.Works(j.first.Primary))
	assert.Equal(j.t, "active", statusOf(j.api.Keys(), j.first.PrimaryID), "the id is the provider's")
	assert.Equal(j.t, j.first.PrimaryID, j.world.status(j.role).version(1).Identifier)
	assert.Positive(j.t, j.first.TTL)
	assert.LessOrEqual(j.t, j.first.TTL, 900, "a quarter of the grace")
}

func (j *pairJourney) rotate() {
	r := j.rotated("write", "rotate/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "manual", Phase: "rolled_out", Outcome: "succeeded", Version: 2, Previous: 1}, r)
	second := j.pair(j.role)
	assert.Equal(j.t, 2, second.Version)
	assert.NotEqual(j.t, j.first.Primary, second.Primary)
	assert.Equal(j.t, j.first.Primary, second.Secondary)
	assert.Equal(j.t, j.first.PrimaryID, second.SecondaryID)
	assert.True(j.t, j.api.Works(second.Primary) && j.api.Works(second.Secondary), "both live")

	old := j.vaultCommand("read", "creds/"+j.role+"/versions/1").fields()
	assert.Equal(j.t, j.first.Primary, old["primary_key"])
	assert.Equal(j.t, "retiring", old["state"])
	assert.NotEmpty(j.t, old["expire_time"])
	assert.NotContains(j.t, old, "secondary_key")
	assert.Equal(j.t, "grace", j.world.status(j.role).State)
}

func (j *pairJourney) rollback() {
	before := j.pair(j.role)
	r := j.rotated("write", "rollback/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "rollback", Phase: "rolled_out", Outcome: "succeeded", Version: 1, Previous: 2}, r)
	after := j.pair(j.role)
	assert.Equal(j.t, before.Primary, after.Secondary, "they changed places")
	assert.Equal(j.t, before.Secondary, after.Primary)
	assert.True(j.t, j.api.Works(after.Primary) && j.api.Works(after.Secondary))
	assert.Equal(j.t, 3, j.rotated("write", "rotate/"+j.role).Version)
}

// retires ends the versions before, and finds that a service account that was deleted does not come back.
func (j *pairJourney) retires() {
	secondary := j.pair(j.role).Secondary
	for _, version := range []string{"1", "2"} {
		v := j.vaultCommand("write", "retire/"+j.role, "version="+version, "force=true").fields()
		assert.Equal(j.t, "retired", v["state"])
		assert.Equal(j.t, true, v["proven_dead"])
	}
	assert.False(j.t, j.api.Works(secondary))
	assert.False(j.t, j.api.Works(j.first.Primary))
	assert.Empty(j.t, j.pair(j.role).Secondary)
	j.gone("creds/" + j.role + "/versions/1")
	j.denied(http.StatusConflict, "rollback/"+j.role, nil, "revoked at the provider, which cannot be undone")
	assert.Equal(j.t, 4, j.rotated("write", "rotate/"+j.role).Version)
}

func (j *pairJourney) emergency() {
	pair := j.pair(j.role)
	j.leaked = []string{pair.Primary, pair.Secondary}
	var e emergencyAnswer
	require.NoError(j.t, unmarshal(j.vaultCommand("write", "emergency/"+j.role, "reason=pushed to a public repository", "severity=critical"), &e))
	for _, key := range j.leaked {
		assert.False(j.t, j.api.Works(key), "what leaked is dead once the emergency is answered")
	}
	assert.Equal(j.t, "contained", e.Status, e.NextSteps)
	assert.Empty(j.t, e.NextSteps)
	assert.Equal(j.t, 5, e.Version)
	require.Len(j.t, e.Killed, 2)
	assert.True(j.t, e.Killed[0].ProvenDead && e.Killed[1].ProvenDead)
	after := j.pair(j.role)
	assert.True(j.t, j.api.Works(after.Primary))
	assert.Empty(j.t, after.Secondary)

	record := j.awaitIncident(e.IncidentID, "contained")
	require.Len(j.t, record.Roles, 1)
	require.Len(j.t, record.Roles[0].Versions, 2)
	ids := []string{record.Roles[0].Versions[0].Identifier, record.Roles[0].Versions[1].Identifier}
	assert.ElementsMatch(j.t, []string{pair.PrimaryID, pair.SecondaryID}, ids)
	for _, v := range record.Roles[0].Versions {
		require.NotNil(j.t, v.Proof)
		assert.Contains(j.t, v.Proof.Result, "invalid_api_key")
		assert.Contains(j.t, v.Proof.Result, after.PrimaryID, "the witness")
	}
	j.denied(http.StatusConflict, "rollback/"+j.role, map[string]any{"version": 4}, "compromised")
}

func (j *pairJourney) rotateRoot() {
	old := j.api.AdminKey()
	j.vaultCommand("write", "connections/openai/rotate-root")
	assert.False(j.t, j.api.Works(old), "the old admin key is refused")
	admins := j.api.AdminKeys()
	require.Len(j.t, admins, 1, "and gone: the new one is the only one")
	assert.Contains(j.t, admins[0].Name, "openai")
	now := j.api.AdminKey()
	assert.NotEqual(j.t, old, now)
	shown := j.vaultCommand("read", "connections/openai")
	assert.NotEmpty(j.t, shown.fields()["last_root_rotation"])
	assert.NotContains(j.t, shown.Text, now, "it is in Vault alone")

	before := j.pair(j.role)
	assert.Equal(j.t, 6, j.rotated("write", "rotate/"+j.role).Version)
	assert.Equal(j.t, before.Primary, j.pair(j.role).Secondary)
	j.denied(http.StatusBadRequest, "connections/openai", map[string]any{"admin_key": old}, "the admin key is refused")
	assert.Equal(j.t, 7, j.rotated("write", "rotate/"+j.role).Version)
}

func (j *pairJourney) history() {
	var page struct {
		Rotations []rotationAnswer `json:"rotations"`
	}
	require.NoError(j.t, unmarshal(j.vaultCommand("read", "history/"+j.role), &page))
	require.Len(j.t, page.Rotations, 8)
	assert.Equal(j.t, []string{
		"manual succeeded 7", "manual succeeded 6", "emergency succeeded 5", "manual succeeded 4", "manual succeeded 3",
		"rollback succeeded 1", "manual succeeded 2", "initial succeeded 1",
	}, j.told(j.role))
}

// ended waits until the short graces are over.
func (j *pairJourney) ended() {
	j.awaitDead(j.short, 1)
	assert.False(j.t, j.api.Works(j.shortFirst.Primary))
	now := j.pair(j.short)
	assert.Equal(j.t, 2, now.Version)
	assert.Empty(j.t, now.Secondary)
	assert.True(j.t, j.api.Works(now.Primary))
	j.gone("creds/" + j.short + "/versions/1")
	assert.Equal(j.t, "ok", j.world.status(j.short).State)
	await.Until(j.t, "the deleted role's account to go", func() (bool, any) {
		accounts := j.api.Accounts()
		return !slices.ContainsFunc(accounts, func(k fakeapi.Key) bool { return strings.Contains(k.Name, j.brief+":") }), accounts
	})
}

// remove deletes the roles. What is left of them lives until its grace is over, or an emergency ends it.
func (j *pairJourney) remove() {
	held := j.pair(j.role)
	for _, role := range []string{j.role, j.short} {
		a := j.vaultCommand("delete", "roles/"+role)
		assert.Contains(j.t, a.Text, "stays valid until")
		j.gone("creds/" + role)
	}
	assert.True(j.t, j.api.Works(held.Primary), "what a reader holds outlives the role")
	a := j.call(j.t.Context(), http.MethodDelete, "connections/openai", nil)
	assert.Equal(j.t, http.StatusConflict, a.Status, a.Text)
	for _, role := range []string{j.role, j.short} {
		e := j.emergencyOf(role, map[string]any{"reason": "nobody is to have it any more"})
		assert.Equal(j.t, "contained", e.Status, e.NextSteps)
	}
	assert.False(j.t, j.api.Works(held.Primary))
	assert.Empty(j.t, j.api.Accounts(), "nothing is left")
	assert.Empty(j.t, j.api.Keys())
	await.Until(j.t, "the connection to be free", func() (bool, any) {
		a := j.call(j.t.Context(), http.MethodDelete, "connections/openai", nil)
		return a.ok(), a.Text
	})
}

// The key that applications use today becomes version 1, whoever made it: its id is found by what the
// provider shows of it. Nothing is made for that, and it ends as any other.
func TestAPIKeyImport(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewOpenAI())
	w := newPairs(t, "import", sharedVault(t), toOpenAI(api, nil))
	ofAccount, _ := api.MakeAccountByHand("web shop")
	ofPerson, personsID := api.MakeByHand("made by Alice")
	other, _ := api.MakeByHand("of somebody else")
	accountsID := api.Keys()[0].ID
	w.denied(http.StatusBadRequest, "roles/"+w.role, pairFields(map[string]any{"key": ofPerson, "key_id": accountsID}), "key_id:", "of another key")
	w.denied(http.StatusBadRequest, "roles/"+w.role, pairFields(map[string]any{"key": "sk-proj-" + strings.Repeat("x", 64)}), "key:", "none of the keys of project")
	w.gone("roles/" + w.role)
	for _, c := range []struct{ role, key, id, given string }{
		{w.role + "-account", ofAccount, accountsID, ""},
		{w.role + "-person", ofPerson, personsID, personsID},
	} {
		fields := pairFields(map[string]any{"key": c.key})
		if c.given != "" {
			fields["key_id"] = c.given
		}
		r := w.rotation("roles/"+c.role, fields)
		assert.Equal(t, rotationAnswer{ID: r.ID, Trigger: "import", Phase: "rolled_out", Outcome: "succeeded", Version: 1}, r)
		now := w.pair(c.role)
		assert.Equal(t, keyPair{Version: 1, TTL: now.TTL, Primary: c.key, PrimaryID: c.id}, now)
		assert.NotContains(t, w.get("roles/"+c.role).Text, c.key)
	}
	assert.Len(t, api.Keys(), 3, "nothing was made")
	for _, role := range []string{w.role + "-account", w.role + "-person"} {
		first := w.pair(role)
		a := w.write("roles/"+role, map[string]any{"key": other, "grace_period": "30s"})
		require.Len(t, a.Warnings, 1)
		assert.Contains(t, a.Warnings[0], "was not used")
		w.rotation("rotate/"+role, nil)
		assert.Equal(t, first.Primary, w.pair(role).Secondary)
		v := w.retire(role, 1)
		assert.Equal(t, "retired", v.State)
		assert.True(t, v.ProvenDead)
		assert.False(t, api.Works(first.Primary))
		assert.Empty(t, statusOf(api.Keys(), first.PrimaryID))
	}
	assert.True(t, api.Works(other), "what is not ours stays")
	assert.Len(t, api.Accounts(), 2, "those of the new versions")
	assert.Len(t, api.Keys(), 3)
}
