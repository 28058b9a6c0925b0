package fakeapi_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestDatadog(t *testing.T) {
	api := fakeapi.NewDatadog()
	t.Cleanup(api.Close)
	pair := func(key, app string) http.Header {
		return http.Header{"Dd-Api-Key": {key}, "Dd-Application-Key": {app}}
	}
	admin := pair(api.AdminKey(), api.ApplicationKey())
	made := exchange(t, api, admin, "POST", "/api/v2/api_keys", `{"data":{"type":"api_keys","attributes":{"name":"rotation 1"}}}`)
	require.Equal(t, 201, made.status)
	key, id := made.text(t, "/data/attributes/key"), made.text(t, "/data/id")
	require.Regexp(t, `^[0-9a-f]{32}$`, key)
	alone, one := http.Header{"Dd-Api-Key": {key}}, "/api/v2/api_keys/"+id
	check(t, api, []shape{
		{"verify", alone, "GET", "/api/v1/validate", "", 200, map[string]any{"/valid": true}},
		{"no application key", alone, "GET", "/api/v2/api_keys", "", 401, map[string]any{"/errors/0": anything{}}},
		{"wrong application key", pair(key, "x"), "GET", "/api/v2/api_keys", "", 403, map[string]any{"/errors/0": "Forbidden"}},
		{"any API key goes with it", pair(key, api.ApplicationKey()), "GET", "/api/v2/api_keys", "", 200, nil},
		{"no data", admin, "POST", "/api/v2/api_keys", `{"name":"x"}`, 400, nil},
		{"get shows the value", admin, "GET", one, "", 200, map[string]any{"/data/attributes/key": key}},
		{"list does not", admin, "GET", "/api/v2/api_keys?filter=rotation", "", 200, map[string]any{
			"/data/0/id": id, "/data/0/type": "api_keys", "/data/0/attributes/last4": key[28:], "/data/0/attributes/key": nil,
			"/meta/page/total_filtered_count": 1.0,
		}},
		{"delete", admin, "DELETE", one, "", 204, nil},
		{"deleted", admin, "DELETE", one, "", 404, nil},
		{"dead is 403 here", alone, "GET", "/api/v1/validate", "", 403, map[string]any{"/errors/0": "Forbidden"}},
	})
	require.Empty(t, api.Keys())
	require.Len(t, api.AdminKeys(), 2)

	api.MakeByHand("a")
	api.MakeByHand("b")
	a := exchange(t, api, admin, "GET", "/api/v2/api_keys?page[size]=2&page[number]=1", "")
	require.Len(t, a.items(t, "/data"), 1)
	require.Equal(t, "b", a.at(t, "/data/0/attributes/name"))
	require.Equal(t, fakeapi.AdminCredential, api.Requests()[0].Credential)
	require.Equal(t, fakeapi.KeyCredential, api.Requests()[1].Credential)
}
