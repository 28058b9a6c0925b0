package fakeapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestSendGrid(t *testing.T) {
	api := fakeapi.NewSendGrid()
	t.Cleanup(api.Close)
	admin := bearer(api.AdminKey())
	made := exchange(t, api, admin, "POST", "/v3/api_keys", `{"name":"rotation 1","scopes":["mail.send"]}`)
	require.Equal(t, 201, made.status)
	key, id := made.text(t, "/api_key"), made.text(t, "/api_key_id")
	require.Len(t, key, 69)
	check(t, api, []shape{
		{"verify", bearer(key), "GET", "/v3/scopes", "", 200, map[string]any{"/scopes/0": anything{}}},
		{"may not", bearer(key), "GET", "/v3/api_keys", "", 403, map[string]any{"/errors/0/message": "access forbidden", "/errors/0/field": nil}},
		{"without a name", admin, "POST", "/v3/api_keys", `{}`, 400, map[string]any{"/errors/0/field": "name"}},
		{"no key", nil, "GET", "/v3/scopes", "", 401, map[string]any{"/errors/0/message": "authorization required"}},
		{"delete", admin, "DELETE", "/v3/api_keys/" + id, "", 204, nil},
		{"deleted", admin, "DELETE", "/v3/api_keys/" + id, "", 404, map[string]any{"/errors/0/message": anything{}}},
		{"refused", bearer(key), "GET", "/v3/scopes", "", 401, nil},
	})
	_, byHand := api.MakeByHand("hers")
	items := exchange(t, api, admin, "GET", "/v3/api_keys", "").items(t, "/result")
	require.Len(t, items, 2, "the key that manages is one of them")
	require.Equal(t, map[string]any{"api_key_id": byHand, "name": "hers"}, items[1])
	for range 98 {
		api.MakeByHand("more")
	}
	require.Equal(t, 403, exchange(t, api, admin, "POST", "/v3/api_keys", `{"name":"one too many"}`).status)
}
