package fakeapi_test

import (
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestStripe(t *testing.T) {
	api := fakeapi.NewStripe()
	t.Cleanup(api.Close)
	key, _ := api.MakeByHand("first")
	limited, _ := api.MakeRestricted("limited")
	old, oldID := api.MakeByHand("old")
	api.ExpireByHand(old)
	basic := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"))}, "Stripe-Version": {"2024-06-20"}}
	check(t, api, []shape{
		{"bearer", bearer(key), "GET", "/v1/balance", "", 200, map[string]any{"/object": "balance", "/livemode": false, "/available/0/currency": "usd"}},
		{"basic", basic, "GET", "/v1/balance", "", 200, map[string]any{"/object": "balance"}},
		{"restricted", bearer(limited), "GET", "/v1/balance", "", 403, map[string]any{"/error/type": "invalid_request_error"}},
		{"expired", bearer(old), "GET", "/v1/balance", "", 401, map[string]any{"/error/code": "api_key_expired", "/error/type": "invalid_request_error"}},
		{"unknown", bearer("sk_test_51nobody"), "GET", "/v1/balance", "", 401, map[string]any{"/error/type": "invalid_request_error", "/error/code": nil}},
		{"none", nil, "GET", "/v1/balance", "", 401, map[string]any{"/error/message": anything{}}},
		{"no key management", bearer(key), "POST", "/v1/api_keys", "name=x", 404, map[string]any{"/error/type": "invalid_request_error"}},
	})
	a := exchange(t, api, basic, "GET", "/v1/account", "")
	require.Equal(t, "2024-06-20", a.header.Get("Stripe-Version"))
	require.Regexp(t, "^req_", a.header.Get("Request-Id"))
	require.True(t, api.Works(limited))
	require.Contains(t, api.Keys(), fakeapi.Key{ID: oldID, Name: "old", Status: "expired"})
	live, _ := api.MakeWithPrefix("rk_live_", "live")
	require.Equal(t, true, exchange(t, api, bearer(live), "GET", "/v1/balance", "").at(t, "/livemode"))
}

// An expired key works for some minutes more, as Stripe warns.
func TestStripeLingers(t *testing.T) {
	api := fakeapi.NewStripe()
	t.Cleanup(api.Close)
	var c clock
	api.SetNow(c.now)
	api.LingerAfterExpiry(3 * time.Minute)
	key, _ := api.MakeByHand("old")
	api.ExpireByHand(key)
	require.Equal(t, 200, exchange(t, api, bearer(key), "GET", "/v1/balance", "").status)
	c.advance(3 * time.Minute)
	require.Equal(t, 401, exchange(t, api, bearer(key), "GET", "/v1/balance", "").status)
}
