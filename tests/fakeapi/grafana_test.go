package fakeapi_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestGrafana(t *testing.T) {
	api := fakeapi.NewGrafana()
	t.Cleanup(api.Close)
	admin := bearer(api.AdminKey())
	tokens := "/api/serviceaccounts/" + strconv.FormatInt(api.ServiceAccount(), 10) + "/tokens"
	made := exchange(t, api, admin, "POST", tokens, `{"name":"rotation 1"}`)
	require.Equal(t, 200, made.status)
	key := made.text(t, "/key")
	require.Regexp(t, `^glsa_`, key)
	number, isNumber := made.at(t, "/id").(float64)
	require.True(t, isNumber, "an id is a number")
	id := strconv.Itoa(int(number))
	check(t, api, []shape{
		{"verify", bearer(key), "GET", "/api/org", "", 200, map[string]any{"/id": 1.0, "/name": anything{}}},
		{"list", admin, "GET", tokens, "", 200, map[string]any{"/0/id": number, "/0/name": "rotation 1", "/0/hasExpired": false, "/0/key": nil}},
		{"a name twice", admin, "POST", tokens, `{"name":"rotation 1"}`, 400, map[string]any{"/messageId": "serviceaccounts.ErrTokenAlreadyExists"}},
		{"in another account too", admin, "POST", "/api/serviceaccounts/1/tokens", `{"name":"rotation 1"}`, 400, nil},
		{"no such account", admin, "GET", "/api/serviceaccounts/9/tokens", "", 404, map[string]any{"/message": anything{}}},
		{"may not", bearer(key), "GET", tokens, "", 403, map[string]any{"/message": anything{}}},
		{"of another account", admin, "DELETE", "/api/serviceaccounts/1/tokens/" + id, "", 404, nil},
		{"delete", admin, "DELETE", tokens + "/" + id, "", 200, map[string]any{"/message": "Service account token deleted"}},
		{"deleted", admin, "DELETE", tokens + "/" + id, "", 404, nil},
		{"none", admin, "GET", tokens, "", 200, map[string]any{"/0": nil}},
		{"refused", bearer(key), "GET", "/api/org", "", 401, map[string]any{"/message": anything{}}},
		{"the name is free again", admin, "POST", tokens, `{"name":"rotation 1","secondsToLive":60}`, 200, nil},
	})
	require.Len(t, api.Keys(), 1)
	require.Equal(t, "2", api.Keys()[0].Owner)
}
