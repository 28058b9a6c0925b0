package apikey

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

const testStripeKey = "sk_test_51CANARY0123456789"

func stripeAt(t *testing.T) (*fakeapi.Stripe, *stripe) {
	t.Helper()
	api := fakeapi.NewStripe()
	t.Cleanup(api.Close)
	return api, openProvider(t, stripeKind, api.URL(), "", nil).(*stripe)
}

func stripeErrorBody(typ, code, message string) string {
	return fmt.Sprintf(`{"error":{"type":%q,"code":%q,"message":%q}}`, typ, code, message)
}

func TestStripeOptions(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkOptions(stripeKind, "", nil))
	requireFault(t, checkOptions(stripeKind, testStripeKey, nil), fault.Invalid, "admin_key: is not used: Stripe has no call that manages keys", "CANARY")
}

func TestStripeLife(t *testing.T) {
	t.Parallel()
	api, p := stripeAt(t)
	ctx := context.Background()
	require.Equal(t, "Stripe", p.title())
	require.Equal(t, abilities{}, p.abilities())
	require.NoError(t, p.ping(ctx))
	lines, err := p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "reach Stripe: pass", results(lines))

	key, _ := api.MakeByHand("app")
	restricted, _ := api.MakeRestricted("app")
	for key, want := range map[string]string{key: "200", restricted: "403"} {
		require.NoError(t, p.checkKey(secret.New(key)))
		answer, err := p.verify(ctx, secret.New(key))
		require.NoError(t, err)
		require.Equal(t, want, answer)
	}

	// An expired key may live on for a while.
	now := time.Now()
	api.SetNow(func() time.Time { return now })
	api.LingerAfterExpiry(time.Minute)
	api.ExpireByHand(key)
	_, err = p.verify(ctx, secret.New(key))
	require.NoError(t, err)
	api.SetNow(func() time.Time { return now.Add(time.Minute) })
	_, err = p.verify(ctx, secret.New(key))
	requireFault(t, err, fault.AuthFailed, "verify a key at Stripe: the key is refused (status 401 api_key_expired: ", key)
	api.Echo(true)
	_, err = p.verify(ctx, secret.New(testStripeKey))
	requireFault(t, err, fault.AuthFailed, "(status 401 invalid_request_error: Invalid API Key", testStripeKey)
}

func TestStripeVerifyAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		answer string
		kind   fault.Kind
	}{
		"accepted":            {200, `{"object":"balance"}`, "200", ""},
		"forbidden":           {403, stripeErrorBody("invalid_request_error", "", "no"), "403", ""},
		"refused":             {401, stripeErrorBody("invalid_request_error", "", "Invalid API Key provided: sk_test_****6789"), "", fault.AuthFailed},
		"expired":             {401, stripeErrorBody("invalid_request_error", "api_key_expired", "Expired"), "", fault.AuthFailed},
		"expired, of a type":  {401, stripeErrorBody("authentication_error", "api_key_expired", "Expired"), "", fault.AuthFailed},
		"no key arrived":      {401, stripeErrorBody("invalid_request_error", "", "You did not provide an API key."), "", fault.Unreachable},
		"another reason":      {401, stripeErrorBody("invalid_request_error", "", "This API call cannot be made"), "", fault.Unreachable},
		"declined":            {400, stripeErrorBody("invalid_request_error", "", "hm"), "", fault.Target},
		"too often":           {429, stripeErrorBody("invalid_request_error", "rate_limit", "slow down"), "", fault.Unreachable},
		"failing":             {500, stripeErrorBody("api_error", "", "sorry"), "", fault.Unreachable},
		"another's 401":       {401, `{"error":"unauthorized"}`, "", fault.Unreachable},
		"forbidden elsewhere": {403, "<html>", "", fault.Unreachable},
		"a portal":            {200, "<html>", "", fault.Unreachable},
		"another's 200":       {200, "{}", "", fault.Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := answering(t, saying(c.status, c.body))
			answer, err := openProvider(t, stripeKind, s.URL, "", nil).verify(context.Background(), secret.New(testStripeKey))
			require.Equal(t, c.answer, answer)
			requireOutcome(t, err, c.kind, "verify a key at Stripe", "CANARY")
		})
	}
}

// Without a key there is only Stripe's own refusal to ask for.
func TestStripePing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
	}{
		"another's 401": {401, "<html>", fault.Target}, "balance": {200, `{"object":"balance"}`, fault.Target}, "portal": {200, "<html>", fault.Target},
		"failing": {503, "", fault.Unreachable}, "no such call": {404, stripeErrorBody("invalid_request_error", "", "no"), fault.Target},
	} {
		p := openProvider(t, stripeKind, answering(t, saying(c.status, c.body)).URL, "", nil)
		err := p.ping(ctx)
		requireFault(t, err, c.kind, "reach the API at Stripe")
		lines, err := p.check(ctx)
		require.NoError(t, err)
		require.Equal(t, "reach Stripe: fail", results(lines), name)
	}
	api, p := stripeAt(t)
	require.NoError(t, p.ping(ctx))
	require.Equal(t, fakeapi.NoCredential, api.Requests()[0].Credential)
}

func TestStripeCheckKey(t *testing.T) {
	t.Parallel()
	_, p := stripeAt(t)
	for _, good := range []string{"sk_live_51a", "sk_test_51a", "rk_live_51a", "rk_test_51a"} {
		require.NoError(t, p.checkKey(secret.New(good)), good)
	}
	for text, part := range map[string]string{
		"": "key: is empty", "pk_live_CANARY": "key: is a publishable key", "sk_CANARY": "key: is no key of a Stripe account",
		"sk_live_": "key: is no key of a Stripe account", "whsec_CANARY": "key: is no key of a Stripe account", "xsk_live_CANARY": "key: is no key",
		"sk_live_CANARY\n": "key: must be of printable ASCII", "sk_live_CANARY" + strings.Repeat("x", maxKey): "key: is longer",
	} {
		requireFault(t, p.checkKey(secret.New(text)), fault.Invalid, part, "CANARY")
	}
	require.Contains(t, p.byHand().Make, "Stripe Dashboard (Developers, API keys)")
	require.Equal(t, "expire it in the Stripe Dashboard (Developers, API keys)", p.byHand().End)
}
