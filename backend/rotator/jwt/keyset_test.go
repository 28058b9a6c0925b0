package jwt

import (
	"context"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// TestAnotherLibraryVerifies takes the served key set and our tokens to a verifier that
// has nothing in common with us.
func TestAnotherLibraryVerifies(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a.name), func(t *testing.T) {
			f := newFixture(t, option.Values{"algorithm": string(a.name), "issuer": "https://issuer.example", "allowed_claims": []string{"sub", "aud", "team", "id"}})
			old := f.signed(t, SignItem{})
			f.add(t, rotation.Current)
			f.add(t, rotation.Standby)
			token := f.signed(t, SignItem{Claims: map[string]any{
				"sub": "service-a", "aud": []any{"https://api.example"}, "team": "zażółć <&> 🔑", "id": json.Number("12345678901234567890"),
			}})

			set, err := jwk.Parse(f.document(t, KeySetRequest{}).JSON)
			require.NoError(t, err)
			require.Equal(t, 3, set.Len())
			clock := jwxjwt.ClockFunc(func() time.Time { return at })
			for _, text := range []string{old, token} {
				_, err = jwxjwt.Parse([]byte(text), jwxjwt.WithKeySet(set), jwxjwt.WithClock(clock), jwxjwt.WithIssuer("https://issuer.example"))
				require.NoError(t, err)
			}
			parsed, err := jwxjwt.Parse([]byte(token), jwxjwt.WithKeySet(set), jwxjwt.WithClock(clock), jwxjwt.WithAudience("https://api.example"))
			require.NoError(t, err)
			var team string
			require.NoError(t, parsed.Get("team", &team))
			require.Equal(t, "zażółć <&> 🔑", team)
			require.Equal(t, json.Number("12345678901234567890"), f.verify(t, token).Claims["id"])
		})
	}
}

func TestKeySetIsOfPublishedKeys(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256"})
	f.add(t, rotation.Current)
	f.add(t, rotation.Standby)
	kids := func() (out []string) {
		set := struct {
			Keys []struct{ Kid, Alg, Use, Kty string } `json:"keys"`
		}{}
		doc := f.document(t, KeySetRequest{})
		require.Equal(t, doc.JSON, f.document(t, KeySetRequest{}).JSON, "the same keys make the same bytes")
		require.NoError(t, json.Unmarshal(doc.JSON, &set))
		for _, k := range set.Keys {
			require.Equal(t, []string{"ES256", "sig", "EC"}, []string{k.Alg, k.Use, k.Kty})
			out = append(out, k.Kid)
		}
		return out
	}
	require.Equal(t, []string{f.keys[0].kid, f.keys[1].kid, f.keys[2].kid}, kids())
	f.version(1).Compromised = true
	require.Equal(t, []string{f.keys[1].kid, f.keys[2].kid}, kids())
	f.version(2).KilledTime = at
	require.Equal(t, []string{f.keys[2].kid}, kids())
	f.version(3).RetireBegun = at
	require.JSONEq(t, `{"keys":[]}`, string(f.document(t, KeySetRequest{}).JSON))
}

func TestNothingPrivateIsServed(t *testing.T) {
	member := regexp.MustCompile(`"(d|p|q|dp|dq|qi|oth|k)"`)
	for _, name := range []string{"RS256", "PS512", "ES256", "ES512", "EdDSA"} {
		f := newFixture(t, option.Values{"algorithm": name, "issuer": "https://issuer.example"})
		for _, request := range []any{KeySetRequest{}, DiscoveryRequest{KeySetURL: "https://vault.example/jwks"}} {
			require.NotRegexp(t, member, string(f.document(t, request).JSON))
		}
		live := f.live.All[0]
		rendered, err := New().Render(&rotator.Target{Role: f.role, Version: live.Version, Material: live.Material})
		require.NoError(t, err)
		require.NotContains(t, rendered, "private_key")
		raw, err := json.Marshal(rendered)
		require.NoError(t, err)
		require.NotRegexp(t, member, string(raw))
		require.NotContains(t, string(raw), "PRIVATE")

		f.role.Values["exportable"] = true
		rendered, err = New().Render(&rotator.Target{Role: f.role, Version: live.Version, Material: live.Material})
		require.NoError(t, err)
		require.Equal(t, live.Material["private_key"].Reveal(), rendered["private_key"])
	}
}

func TestRender(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256"})
	live := f.live.All[0]
	rendered, err := New().Render(&rotator.Target{Role: f.role, Version: live.Version, Material: live.Material})
	require.NoError(t, err)
	require.Equal(t, f.keys[0].kid, rendered["kid"])
	require.Equal(t, "ES256", rendered["algorithm"])
	public, err := jwk.ParseKey([]byte(rendered["public_key"].(string)), jwk.WithPEM(true))
	require.NoError(t, err)
	raw, err := json.Marshal(rendered["public_jwk"])
	require.NoError(t, err)
	same, err := jwk.ParseKey(raw)
	require.NoError(t, err)
	require.True(t, jwk.Equal(public, same))
	// A change of the role changes nothing for the versions that it has.
	f.role.Values["algorithm"] = "EdDSA"
	rendered, err = New().Render(&rotator.Target{Role: f.role, Version: live.Version, Material: live.Material})
	require.NoError(t, err)
	require.Equal(t, "ES256", rendered["algorithm"])
}

func TestDiscovery(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA", "issuer": "https://issuer.example", "announce_period": 600})
	doc := f.document(t, DiscoveryRequest{KeySetURL: "https://vault.example/v1/rotation/jwks/app"})
	require.JSONEq(t, `{
		"issuer": "https://issuer.example",
		"jwks_uri": "https://vault.example/v1/rotation/jwks/app",
		"response_types_supported": ["id_token"],
		"subject_types_supported": ["public"],
		"id_token_signing_alg_values_supported": ["EdDSA"]
	}`, string(doc.JSON))
	require.Equal(t, 5*time.Minute, doc.MaxAge)

	_, err := f.use(DiscoveryRequest{})
	require.EqualError(t, err, "the address of the keys is not known: set external_url in config")
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	f = newFixture(t, option.Values{"algorithm": "EdDSA"})
	_, err = f.use(DiscoveryRequest{KeySetURL: "https://vault.example/v1/rotation/jwks/app"})
	require.EqualError(t, err, `role "app" has no issuer: set it to the URL under which verifiers find this document`)
	require.Equal(t, fault.NotFound, fault.KindOf(err))
}

func TestUseKnowsItsRequests(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "EdDSA"})
	_, err := f.use("sign")
	require.ErrorContains(t, err, "does not answer this")
	f.live.All[0].Ready = nil
	for _, request := range []any{KeySetRequest{}, SignRequest{Items: make([]SignItem, 1)}} {
		_, err = New().Use(context.Background(), f.live, request)
		require.ErrorContains(t, err, "version 1 was not loaded")
	}
}
