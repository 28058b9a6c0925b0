package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A person is somebody who logs in with a name and a password, and whom Vault knows by an entity.
type person struct {
	mount
	name, entity string
}

// people makes persons who may sign with the role, each with its tenant.
func (w *world) people(tenants map[string]string) map[string]person {
	w.t.Helper()
	ctx, client := w.t.Context(), w.vault.Client()
	auth := "people-" + w.path
	require.NoError(w.t, client.Sys().EnableAuthWithOptionsWithContext(ctx, auth, &api.EnableAuthOptions{Type: "userpass"}))
	rules := fmt.Sprintf("path %q { capabilities = [\"update\"] }", w.path+"/sign/*")
	require.NoError(w.t, client.Sys().PutPolicyWithContext(ctx, auth, rules))
	mounts, err := client.Sys().ListAuthWithContext(ctx)
	require.NoError(w.t, err)
	people := map[string]person{}
	for name, tenant := range tenants {
		user := name + "-" + w.path
		entity, err := client.Logical().WriteWithContext(ctx, "identity/entity", map[string]any{
			"name": user, "metadata": map[string]any{"tenant": tenant},
		})
		require.NoError(w.t, err)
		id, _ := entity.Data["id"].(string)
		_, err = client.Logical().WriteWithContext(ctx, "identity/entity-alias", map[string]any{
			"name": name, "canonical_id": id, "mount_accessor": mounts[auth+"/"].Accessor,
		})
		require.NoError(w.t, err)
		_, err = client.Logical().WriteWithContext(ctx, "auth/"+auth+"/users/"+name, map[string]any{"password": user, "policies": auth})
		require.NoError(w.t, err)
		login, err := client.Logical().WriteWithContext(ctx, "auth/"+auth+"/login/"+name, map[string]any{"password": user})
		require.NoError(w.t, err)
		people[name] = person{mount{w.address, login.Auth.ClientToken, w.path}, user, id}
	}
	return people
}

// The role says who asks, by what Vault knows of them. Nobody can speak as another.
func TestJWTClaimsOfTheCaller(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "callers", sharedVault(t))
	w.write("roles/"+w.role, keyFields(map[string]any{
		"allowed_claims":  "aud",
		"claims_template": `{"sub": {{identity.entity.id}}, "name": {{identity.entity.name}}, "tenant": {{identity.entity.metadata.tenant}}, "kind": "person"}`,
	}))
	tenants := map[string]string{"alice": "north", "bob": `south", "sub": "somebody`}
	people := w.people(tenants)
	for name, p := range people {
		a := p.call(t.Context(), http.MethodPut, "sign/"+w.role, map[string]any{"claims": map[string]any{"aud": "crm"}})
		require.True(t, a.ok(), a.sentence())
		var s signedToken
		require.NoError(t, unmarshal(a, &s))
		v := w.verify(w.role, s.Token)
		require.True(t, v.Active, v.Reason)
		for claim, want := range map[string]any{"sub": p.entity, "name": p.name, "tenant": tenants[name], "kind": "person", "aud": "crm"} {
			assert.Equal(t, want, v.Claims[claim], "%s of %s", claim, name)
		}
	}
	w.cannotImpersonate(people["bob"], people["alice"])

	a := w.call(t.Context(), http.MethodPut, "sign/"+w.role, nil)
	assert.Equal(t, http.StatusBadRequest, a.Status)
	for _, says := range []string{"the role's claims_template", "needs a token with an entity"} {
		assert.Contains(t, a.sentence(), says)
	}
	refusal{path: "roles/" + w.role, body: map[string]any{"allowed_claims": "aud,sub"}, field: "allowed_claims", says: "sub"}.check(t, w)
}

// cannotImpersonate tries whatever a request can say.
func (w *world) cannotImpersonate(who, victim person) {
	w.t.Helper()
	claims := map[string]any{"sub": victim.entity}
	for name, body := range map[string]map[string]any{
		"sub":       {"claims": claims},
		"name":      {"claims": map[string]any{"name": victim.name}},
		"tenant":    {"claims": map[string]any{"tenant": "north"}},
		"JSON text": {"claims": fmt.Sprintf(`{"aud": "crm", "sub": %q}`, victim.entity)},
	} {
		a := who.call(w.t.Context(), http.MethodPut, "sign/"+w.role, body)
		assert.Equal(w.t, http.StatusBadRequest, a.Status, name)
		assert.Contains(w.t, a.sentence(), "claims: must not set", name)
		assert.Contains(w.t, a.sentence(), "claims_template", name)
	}
	a := who.call(w.t.Context(), http.MethodPut, "sign/"+w.role, map[string]any{"batch_input": []any{map[string]any{"claims": claims}, map[string]any{}}})
	require.True(w.t, a.ok(), a.sentence())
	var batch struct {
		Results []signedToken `json:"batch_results"`
	}
	require.NoError(w.t, unmarshal(a, &batch))
	require.Len(w.t, batch.Results, 2)
	assert.Contains(w.t, batch.Results[0].Error, "must not set")
	assert.Empty(w.t, batch.Results[0].Token)
	assert.Equal(w.t, who.entity, w.verify(w.role, batch.Results[1].Token).Claims["sub"])

	// A field of Vault's own requests, not of the path's.
	a = who.call(w.t.Context(), http.MethodPut, "sign/"+w.role, map[string]any{"entity_id": victim.entity})
	assert.Equal(w.t, http.StatusBadRequest, a.Status)
}

// An item that cannot be signed does not fail the others, and each answer stands where its item stood.
func TestJWTBatch(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "batch", sharedVault(t))
	w.write("roles/"+w.role, keyFields(nil))
	const items, bad = 100, 41
	input := make([]any, items)
	for i := range input {
		input[i] = map[string]any{"claims": map[string]any{"sub": fmt.Sprintf("user-%d", i)}}
	}
	input[bad] = map[string]any{"claims": map[string]any{"sub": "user-41", "admin": true}}
	a := w.write("sign/"+w.role, map[string]any{"batch_input": input})
	assert.NotContains(t, a.fields(), "token", "batch_results alone")
	var batch struct {
		Results []signedToken `json:"batch_results"`
	}
	require.NoError(t, unmarshal(a, &batch))
	require.Len(t, batch.Results, items)
	_, set := w.keySet(w.role)
	ids := map[any]bool{}
	for i, s := range batch.Results {
		if i == bad {
			assert.Equal(t, signedToken{Error: `claims: "admin" is not allowed by the role; its allowed_claims are sub, aud, scope`}, s)
			continue
		}
		require.Empty(t, s.Error)
		require.NoError(t, checkWith(set, s.Token))
		v := w.verify(w.role, s.Token)
		assert.Equal(t, fmt.Sprintf("user-%d", i), v.Claims["sub"])
		ids[v.Claims["jti"]] = true
	}
	assert.Len(t, ids, items-1, "each with an id of its own")
}
