package fakeapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func newAnthropic(t *testing.T) *fakeapi.Anthropic {
	t.Helper()
	api := fakeapi.NewAnthropic()
	t.Cleanup(api.Close)
	return api
}

func versioned(key string) http.Header {
	return http.Header{"X-Api-Key": {key}, "Anthropic-Version": {"2023-06-01"}}
}

func TestAnthropicKeys(t *testing.T) {
	api := newAnthropic(t)
	key, id := api.MakeByHand("staged")
	require.Regexp(t, `^sk-ant-api03-.*AA$`, key)
	admin, keys := versioned(api.AdminKey()), "/v1/organizations/api_keys"
	one := keys + "/" + id
	check(t, api, []shape{
		{"list", admin, "GET", keys, "", 200, map[string]any{
			"/data/0/type": "api_key", "/data/0/id": id, "/data/0/name": "staged", "/data/0/status": "active", "/data/0/workspace_id": nil,
			"/data/0/partial_key_hint": key[:16] + "..." + key[len(key)-4:], "/data/0/created_by/type": "user", "/data/0/expires_at": nil,
			"/first_id": id, "/last_id": id, "/has_more": false,
		}},
		{"get", admin, "GET", one, "", 200, map[string]any{"/id": id}},
		{"verify", versioned(key), "GET", "/v1/models", "", 200, map[string]any{"/data/0/type": "model", "/has_more": false}},
		{"no version", http.Header{"X-Api-Key": {key}}, "GET", "/v1/models", "", 400, map[string]any{"/type": "error", "/error/type": "invalid_request_error"}},
		{"no key", http.Header{"Anthropic-Version": {"2023-06-01"}}, "GET", "/v1/models", "", 401, map[string]any{"/error/type": "authentication_error"}},
		{"no administration", versioned(key), "GET", keys, "", 401, map[string]any{"/request_id": anything{}}},
		{"no create", admin, "POST", keys, `{"name":"x"}`, 404, map[string]any{"/error/type": "not_found_error"}},
		{"rename", admin, "POST", one, `{"name":"other"}`, 200, map[string]any{"/name": "other", "/status": "active"}},
		{"disable", admin, "POST", one, `{"status":"inactive"}`, 200, map[string]any{"/status": "inactive"}},
		{"refused", versioned(key), "GET", "/v1/models", "", 401, map[string]any{"/error/type": "authentication_error"}},
		{"enable", admin, "POST", one, `{"status":"active"}`, 200, map[string]any{"/status": "active"}},
		{"works again", versioned(key), "GET", "/v1/models", "", 200, nil},
		{"no such status", admin, "POST", one, `{"status":"expired"}`, 400, nil},
		{"archive", admin, "POST", one, `{"status":"archived"}`, 200, map[string]any{"/status": "archived"}},
		{"archived is final", admin, "POST", one, `{"status":"active"}`, 400, map[string]any{"/error/type": "invalid_request_error"}},
		{"unknown", admin, "GET", keys + "/apikey_01x", "", 404, map[string]any{"/error/type": "not_found_error"}},
	})
	require.Equal(t, []fakeapi.Key{{ID: id, Name: "other", Status: "archived"}}, api.Keys())
}

func TestAnthropicListings(t *testing.T) {
	api := newAnthropic(t)
	admin, keys := versioned(api.AdminKey()), "/v1/organizations/api_keys"
	_, first := api.MakeByHand("a")
	second, _ := api.MakeByHandIn("wrkspc_1", "b")
	_, third := api.MakeByHand("c")
	api.DisableByHand(second)

	a := exchange(t, api, admin, "GET", keys+"?limit=2", "")
	require.Len(t, a.items(t, "/data"), 2)
	require.Equal(t, true, a.at(t, "/has_more"))
	a = exchange(t, api, admin, "GET", keys+"?limit=2&after_id="+a.text(t, "/last_id"), "")
	require.Equal(t, third, a.at(t, "/first_id"))
	require.Equal(t, false, a.at(t, "/has_more"))
	a = exchange(t, api, admin, "GET", keys+"?workspace_id=wrkspc_1&status=inactive", "")
	require.Len(t, a.items(t, "/data"), 1)
	require.Equal(t, "wrkspc_1", a.at(t, "/data/0/workspace_id"))
	a = exchange(t, api, admin, "GET", keys+"?status=active&limit=1", "")
	require.Equal(t, first, a.at(t, "/first_id"))
}

func TestAnthropicLookAlikesAndForbidden(t *testing.T) {
	api := newAnthropic(t)
	two := api.MakeLookAlikes("a", "b")
	a := exchange(t, api, versioned(api.AdminKey()), "GET", "/v1/organizations/api_keys", "")
	items := a.items(t, "/data")
	require.Equal(t, items[0].(map[string]any)["partial_key_hint"], items[1].(map[string]any)["partial_key_hint"])
	require.NotEqual(t, two[0].Key, two[1].Key)

	api.LimitScopes(two[0].Key)
	a = exchange(t, api, versioned(two[0].Key), "GET", "/v1/models", "")
	require.Equal(t, 403, a.status)
	require.Equal(t, "permission_error", a.at(t, "/error/type"))
	require.Equal(t, a.header.Get("Request-Id"), a.at(t, "/request_id"))

	api.ExpireAt(two[1].Key, time.Now())
	require.Equal(t, "expired", api.Keys()[1].Status)
	require.False(t, api.Works(two[1].Key))
}
