package fakeapi_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestInPlace(t *testing.T) {
	api := fakeapi.NewInPlace()
	t.Cleanup(api.Close)
	first, id := api.MakeByHand("the one")
	body := `{"id":"` + id + `"}`
	second := exchange(t, api, bearer(api.AdminKey()), "POST", "/v1/key/rotate", body)
	require.Equal(t, 200, second.status)
	require.Equal(t, id, second.at(t, "/id"))
	third := exchange(t, api, bearer(second.text(t, "/key")), "POST", "/v1/key/rotate", body).text(t, "/key")
	other, _ := api.MakeByHand("another")
	check(t, api, []shape{
		{"the earlier one", bearer(first), "GET", "/v1/me", "", 401, map[string]any{"/error/code": "unauthorized"}},
		{"and the one after", bearer(second.text(t, "/key")), "GET", "/v1/me", "", 401, nil},
		{"the last one", bearer(third), "GET", "/v1/me", "", 200, map[string]any{"/id": id, "/name": "the one"}},
		{"of another", bearer(other), "POST", "/v1/key/rotate", body, 403, map[string]any{"/error/code": "forbidden"}},
		{"none", bearer(api.AdminKey()), "POST", "/v1/key/rotate", `{"id":"x"}`, 404, map[string]any{"/error/code": "not_found"}},
		{"no id", bearer(api.AdminKey()), "POST", "/v1/key/rotate", ``, 400, map[string]any{"/error/code": "invalid"}},
	})
	require.Len(t, api.Keys(), 2)

	var c clock
	api.SetNow(c.now)
	api.LingerAfterExpiry(time.Minute)
	api.PropagateAfter(10 * time.Second)
	fourth := exchange(t, api, bearer(third), "POST", "/v1/key/rotate", body).text(t, "/key")
	require.True(t, api.Works(third))
	require.False(t, api.Works(fourth))
	c.advance(time.Minute)
	require.False(t, api.Works(third))
	require.True(t, api.Works(fourth))
}
