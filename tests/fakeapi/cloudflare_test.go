package fakeapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

const cloudflarePolicies = `"policies":[{"effect":"allow","resources":{},"permission_groups":[]}]`

func TestCloudflare(t *testing.T) {
	api := fakeapi.NewCloudflare()
	t.Cleanup(api.Close)
	admin, tokens := bearer(api.AdminKey()), "/client/v4/user/tokens"
	made := exchange(t, api, admin, "POST", tokens, `{"name":"rotation 1",`+cloudflarePolicies+`}`)
	require.Equal(t, 200, made.status)
	require.Equal(t, true, made.at(t, "/success"))
	key, id := made.text(t, "/result/value"), made.text(t, "/result/id")
	one, verify := tokens+"/"+id, tokens+"/verify"
	check(t, api, []shape{
		{"verify", bearer(key), "GET", verify, "", 200, map[string]any{"/success": true, "/result/status": "active", "/result/id": id}},
		{"without policies", admin, "POST", tokens, `{"name":"x"}`, 400, map[string]any{"/success": false, "/errors/0/message": anything{}, "/result": nil}},
		{"get", admin, "GET", one, "", 200, map[string]any{"/result/id": id, "/result/value": nil}},
		{"may not", bearer(key), "GET", tokens, "", 403, map[string]any{"/errors/0/code": 9109.0}},
		{"no token", nil, "GET", verify, "", 400, map[string]any{"/success": false}},
		{"disable", admin, "PUT", one, `{"name":"rotation 1","status":"disabled",` + cloudflarePolicies + `}`, 200, map[string]any{"/result/status": "disabled"}},
		{"disabled is 200 too", bearer(key), "GET", verify, "", 200, map[string]any{"/result/status": "disabled"}},
		{"enable", admin, "PUT", one, `{"name":"rotation 1","status":"active",` + cloudflarePolicies + `}`, 200, map[string]any{"/result/status": "active"}},
	})
	rolled := exchange(t, api, admin, "PUT", one+"/value", `{}`).text(t, "/result")
	check(t, api, []shape{
		{"the earlier value", bearer(key), "GET", verify, "", 401, map[string]any{"/errors/0/code": 1000.0}},
		{"the next value", bearer(rolled), "GET", verify, "", 200, map[string]any{"/result/id": id}},
		{"delete", admin, "DELETE", one, "", 200, map[string]any{"/result/id": id}},
		{"deleted", admin, "DELETE", one, "", 404, map[string]any{"/success": false}},
		{"refused", bearer(rolled), "GET", verify, "", 401, nil},
	})
	require.Empty(t, api.Keys())
}

func TestCloudflarePages(t *testing.T) {
	api := fakeapi.NewCloudflare()
	t.Cleanup(api.Close)
	api.MakeByHand("a")
	key, _ := api.MakeByHand("b")
	a := exchange(t, api, bearer(api.AdminKey()), "GET", "/client/v4/user/tokens?page=2&per_page=2", "")
	require.Equal(t, "b", a.at(t, "/result/0/name"))
	require.Equal(t, map[string]any{"page": 2.0, "per_page": 2.0, "count": 1.0, "total_count": 3.0, "total_pages": 2.0}, a.at(t, "/result_info"))
	api.DisableByHand(key)
	require.False(t, api.Works(key))
}
