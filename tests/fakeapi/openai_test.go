package fakeapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestOpenAIServiceAccounts(t *testing.T) {
	api := newOpenAI(t)
	admin, accounts := bearer(api.AdminKey()), "/v1/organization/projects/"+api.Project()+"/service_accounts"
	made := exchange(t, api, admin, "POST", accounts, `{"name":"rotation 1"}`)
	require.Equal(t, 200, made.status)
	id, key := made.text(t, "/id"), made.text(t, "/api_key/value")
	require.Regexp(t, `^svc_acct_`, id)
	require.Regexp(t, `^sk-`, key)
	require.True(t, api.Works(key))

	keys := "/v1/organization/projects/" + api.Project() + "/api_keys"
	check(t, api, []shape{
		{"verify", bearer(key), "GET", "/v1/models", "", 200, map[string]any{"/object": "list", "/data/0/object": "model", "/data/0/id": anything{}}},
		{"list", admin, "GET", accounts, "", 200, map[string]any{
			"/object": "list", "/data/0/object": "organization.project.service_account", "/data/0/name": "rotation 1", "/data/0/role": "member",
			"/data/0/created_at": anything{}, "/data/0/api_key": nil, "/first_id": id, "/last_id": id, "/has_more": false,
		}},
		{"get", admin, "GET", accounts + "/" + id, "", 200, map[string]any{"/id": id, "/api_key": nil}},
		{"keys", admin, "GET", keys, "", 200, map[string]any{
			"/data/0/object": "organization.project.api_key", "/data/0/id": made.at(t, "/api_key/id"), "/data/0/redacted_value": anything{},
			"/data/0/owner/type": "service_account", "/data/0/owner/service_account/id": id, "/data/0/value": nil,
		}},
		{"its key", admin, "DELETE", keys + "/" + made.text(t, "/api_key/id"), "", 400, map[string]any{"/error/message": anything{}}},
		{"without a name", admin, "POST", accounts, `{}`, 400, map[string]any{"/error/type": "invalid_request_error"}},
		{"other project", admin, "GET", "/v1/organization/projects/proj_x/service_accounts", "", 404, nil},
		{"delete", admin, "DELETE", accounts + "/" + id, "", 200, map[string]any{
			"/object": "organization.project.service_account.deleted", "/id": id, "/deleted": true,
		}},
		{"deleted", admin, "DELETE", accounts + "/" + id, "", 404, map[string]any{"/error/code": nil}},
		{"its key is dead", bearer(key), "GET", "/v1/models", "", 401, map[string]any{"/error/code": "invalid_api_key", "/error/param": nil}},
	})
	require.Empty(t, api.Keys())
	require.Empty(t, api.Accounts())
}

func TestOpenAIKeysOfPeople(t *testing.T) {
	api := newOpenAI(t)
	key, id := api.MakeByHand("hers")
	require.Equal(t, []fakeapi.Key{{ID: id, Name: "hers", Status: "active"}}, api.Keys())
	keys := "/v1/organization/projects/" + api.Project() + "/api_keys"
	check(t, api, []shape{
		{"list", bearer(api.AdminKey()), "GET", keys, "", 200, map[string]any{"/data/0/owner/type": "user", "/data/0/last_used_at": nil}},
		{"no administration", bearer(key), "GET", keys, "", 401, map[string]any{"/error/code": nil}},
		{"an admin key is for administration", bearer(api.AdminKey()), "GET", "/v1/models", "", 401, map[string]any{"/error/code": nil}},
		{"no key", nil, "GET", "/v1/models", "", 401, map[string]any{"/error/type": "invalid_request_error"}},
		{"nowhere", nil, "GET", "/v1/none", "", 404, map[string]any{"/error/message": anything{}}},
	})
	api.LimitScopes(key)
	a := exchange(t, api, bearer(key), "GET", "/v1/models", "")
	require.Equal(t, 401, a.status)
	require.Nil(t, a.at(t, "/error/code"))
	require.Contains(t, a.text(t, "/error/message"), "Missing scopes")
	require.True(t, api.Works(key))
	require.Equal(t, 200, exchange(t, api, bearer(api.AdminKey()), "DELETE", keys+"/"+id, "").status)
	require.False(t, api.Works(key))
}

func TestOpenAIPages(t *testing.T) {
	api := newOpenAI(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		api.MakeAccountByHand(name)
	}
	admin, accounts := bearer(api.AdminKey()), "/v1/organization/projects/"+api.Project()+"/service_accounts"
	names, after, pages := "", "", 0
	for more := true; more; pages++ {
		a := exchange(t, api, admin, "GET", accounts+"?limit=2&after="+after, "")
		require.Equal(t, 200, a.status)
		for _, item := range a.items(t, "/data") {
			names += item.(map[string]any)["name"].(string)
		}
		more, after = a.at(t, "/has_more") == true, a.text(t, "/last_id")
		require.Equal(t, 200, exchange(t, api, admin, "DELETE", accounts+"/"+after, "").status, "a cursor outlives what it names")
	}
	require.Equal(t, "abcde", names)
	require.Equal(t, 3, pages)
	require.Equal(t, 400, exchange(t, api, admin, "GET", accounts+"?limit=0", "").status)
}

func TestOpenAIAdminKeys(t *testing.T) {
	api := newOpenAI(t)
	first := api.AdminKey()
	const keys = "/v1/organization/admin_api_keys"
	made := exchange(t, api, bearer(first), "POST", keys, `{"name":"second","expires_in_seconds":60}`)
	require.Equal(t, 200, made.status)
	require.Equal(t, "organization.admin_api_key", made.at(t, "/object"))
	second := made.text(t, "/value")
	require.Regexp(t, `^sk-admin-`, second)
	require.NotNil(t, made.at(t, "/expires_at"))
	id := api.AdminKeys()[0].ID
	check(t, api, []shape{
		{"list", bearer(second), "GET", keys, "", 200, map[string]any{"/data/0/id": id, "/data/0/value": nil, "/data/0/redacted_value": anything{}, "/has_more": false}},
		{"get", bearer(second), "GET", keys + "/" + id, "", 200, map[string]any{"/id": id}},
		{"delete", bearer(second), "DELETE", keys + "/" + id, "", 200, map[string]any{"/object": "organization.admin_api_key.deleted", "/deleted": true}},
		{"refused", bearer(first), "GET", keys, "", 401, map[string]any{"/error/code": "invalid_api_key"}},
	})
	require.Equal(t, second, api.AdminKey())
}
