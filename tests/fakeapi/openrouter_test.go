package fakeapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestOpenRouter(t *testing.T) {
	api := fakeapi.NewOpenRouter()
	t.Cleanup(api.Close)
	admin := bearer(api.AdminKey())
	made := exchange(t, api, admin, "POST", "/api/v1/keys", `{"name":"rotation 1"}`)
	require.Equal(t, 201, made.status)
	key, hash := made.text(t, "/key"), made.text(t, "/data/hash")
	require.Regexp(t, `^sk-or-v1-[0-9a-f]{64}$`, key)
	one := "/api/v1/keys/" + hash
	check(t, api, []shape{
		{"verify", bearer(key), "GET", "/api/v1/key", "", 200, map[string]any{"/data/label": made.at(t, "/data/label"), "/data/is_management_key": false}},
		{"list", admin, "GET", "/api/v1/keys", "", 200, map[string]any{
			"/data/0/hash": hash, "/data/0/name": "rotation 1", "/data/0/disabled": false, "/data/0/key": nil, "/data/0/created_at": anything{},
		}},
		{"get", admin, "GET", one, "", 200, map[string]any{"/data/hash": hash}},
		{"no management", bearer(key), "GET", "/api/v1/keys", "", 403, map[string]any{"/error/code": 403.0, "/error/message": anything{}}},
		{"disable", admin, "PATCH", one, `{"disabled":true}`, 200, map[string]any{"/data/disabled": true}},
		{"disabled", bearer(key), "GET", "/api/v1/key", "", 401, map[string]any{"/error/code": 401.0}},
		{"left out", admin, "GET", "/api/v1/keys", "", 200, map[string]any{"/data/0": nil}},
		{"asked for", admin, "GET", "/api/v1/keys?include_disabled=true", "", 200, map[string]any{"/data/0/disabled": true}},
		{"enable", admin, "PATCH", one, `{"disabled":false}`, 200, map[string]any{"/data/disabled": false}},
		{"works", bearer(key), "GET", "/api/v1/key", "", 200, nil},
		{"without a name", admin, "POST", "/api/v1/keys", `{}`, 400, nil},
		{"delete", admin, "DELETE", one, "", 200, map[string]any{"/deleted": true}},
		{"deleted", admin, "DELETE", one, "", 404, nil},
		{"refused", bearer(key), "GET", "/api/v1/key", "", 401, nil},
	})
	require.Empty(t, api.Keys())

	api.PageSize(2)
	for _, name := range []string{"a", "b", "c"} {
		api.MakeByHand(name)
	}
	require.Len(t, exchange(t, api, admin, "GET", "/api/v1/keys", "").items(t, "/data"), 2)
	require.Len(t, exchange(t, api, admin, "GET", "/api/v1/keys?offset=2", "").items(t, "/data"), 1)
	require.Empty(t, exchange(t, api, admin, "GET", "/api/v1/keys?offset=4", "").items(t, "/data"))
}
