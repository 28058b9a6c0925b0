package jwt

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var every = option.Values{
	"algorithm": "EdDSA", "issuer": "https://issuer.example",
	"allowed_claims":  []string{"exp", "nbf", "jti", "iss", "sub", "aud", "custom"},
	"allowed_headers": []string{"typ", "cty"},
	"claims_template": `{"team": "payments"}`,
}

func with(values option.Values, changes option.Values) option.Values {
	out := option.Values{}
	for _, from := range []option.Values{values, changes} {
		for name, value := range from {
			out[name] = value
		}
	}
	return out
}

func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	require.Len(t, parts, 3)
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	claims, ok := decodeObject(raw)
	require.True(t, ok, string(raw))
	return claims
}

func TestSignSetsWhatATokenNeeds(t *testing.T) {
	f := newFixture(t, every)
	out := f.sign(SignItem{Claims: map[string]any{"sub": "me"}})
	require.NoError(t, out.Err)
	require.Equal(t, f.keys[0].kid, out.KeyID)
	require.Equal(t, 1, out.Version)
	require.Equal(t, at.Truncate(time.Second).Add(time.Hour), out.ExpireTime)

	claims := claimsOf(t, out.Token)
	require.Regexp(t, `^[0-9a-f-]{36}$`, claims["jti"])
	delete(claims, "jti")
	require.Equal(t, map[string]any{
		"iat": json.Number("1772366400"), "exp": json.Number("1772370000"), "iss": "https://issuer.example", "sub": "me", "team": "payments",
	}, claims)
	header, err := base64.RawURLEncoding.DecodeString(out.Token[:strings.IndexByte(out.Token, '.')])
	require.NoError(t, err)
	require.JSONEq(t, `{"alg":"EdDSA","typ":"JWT","kid":"`+f.keys[0].kid+`"}`, string(header))
	require.True(t, f.verify(t, out.Token).Active)
	first, second := f.signed(t, SignItem{}), f.signed(t, SignItem{})
	require.NotEqual(t, claimsOf(t, first)["jti"], claimsOf(t, second)["jti"])
}

func TestSignTakesWhatIsAllowed(t *testing.T) {
	f := newFixture(t, every)
	now := at.Unix()
	for name, c := range map[string]struct {
		claims map[string]any
		want   map[string]any
	}{
		"exp as json.Number": {map[string]any{"exp": json.Number("1772366460")}, map[string]any{"exp": json.Number("1772366460")}},
		"exp as float":       {map[string]any{"exp": float64(now + 60)}, map[string]any{"exp": json.Number("1772366460")}},
		"exp as int":         {map[string]any{"exp": int(now + 60)}, map[string]any{"exp": json.Number("1772366460")}},
		"exp, latest":        {map[string]any{"exp": now + 3600}, map[string]any{"exp": json.Number("1772370000")}},
		"exp with an E":      {map[string]any{"exp": json.Number("17.7236646e8")}, map[string]any{"exp": json.Number("1772366460")}},
		"exp with fraction":  {map[string]any{"exp": json.Number("1772366460.5")}, map[string]any{"exp": json.Number("1772366460.5")}},
		"nbf":                {map[string]any{"nbf": now - 5}, map[string]any{"nbf": json.Number("1772366395")}},
		"jti":                {map[string]any{"jti": "mine"}, map[string]any{"jti": "mine"}},
		"iss, the same":      {map[string]any{"iss": "https://issuer.example"}, map[string]any{"iss": "https://issuer.example"}},
		"sub, a URI":         {map[string]any{"sub": "spiffe://example/a"}, map[string]any{"sub": "spiffe://example/a"}},
		"aud":                {map[string]any{"aud": "https://api.example"}, map[string]any{"aud": "https://api.example"}},
		"aud, several":       {map[string]any{"aud": []any{"a", "urn:b"}}, map[string]any{"aud": []any{"a", "urn:b"}}},
		"null":               {map[string]any{"custom": nil}, map[string]any{"custom": nil}},
		"big number":         {map[string]any{"custom": json.Number("123456789012345678901234567890")}, map[string]any{"custom": json.Number("123456789012345678901234567890")}},
		"unicode":            {map[string]any{"custom": "zażółć\u2028🔑<&>\"\\"}, map[string]any{"custom": "zażółć\u2028🔑<&>\"\\"}},
		"nested":             {map[string]any{"custom": map[string]any{"a": []any{true, map[string]any{"b": "c"}}}}, map[string]any{"custom": map[string]any{"a": []any{true, map[string]any{"b": "c"}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			claims := claimsOf(t, f.signed(t, SignItem{Claims: c.claims}))
			for name, want := range c.want {
				require.Equal(t, want, claims[name])
			}
		})
	}
	require.Equal(t, at.Truncate(time.Second).Add(90*time.Second), f.sign(SignItem{TTL: 90*time.Second + 5*time.Millisecond}).ExpireTime)
}

func TestSignRefusesBadItems(t *testing.T) {
	f := newFixture(t, every)
	claim := func(name string, value any) SignItem { return SignItem{Claims: map[string]any{name: value}} }
	header := func(name string, value any) SignItem { return SignItem{Headers: map[string]any{name: value}} }
	const (
		noNumber = "claims: must have a number as exp: seconds since 1970 (RFC 7519, NumericDate)"
		noSub    = "claims: must have a string as sub, which is a URI if it has a colon (RFC 7519, StringOrURI)"
		noAud    = "claims: must have a string or a list of strings as aud, which are URIs if they have a colon (RFC 7519)"
		millis   = "claims: must have an exp in seconds and before the year 10000: this looks like milliseconds"
	)
	for _, c := range []struct {
		name string
		item SignItem
		want string
	}{
		{"not allowed", SignItem{Claims: map[string]any{"scope": 1, "admin": true, "sub": "me"}}, `claims: "admin", "scope" are not allowed by the role; its allowed_claims are exp, nbf, jti, iss, sub, aud, custom`},
		{"one not allowed", claim("Exp", 1), `claims: "Exp" is not allowed by the role; its allowed_claims are exp, nbf, jti, iss, sub, aud, custom`},
		{"a long name", claim(strings.Repeat("x", 1000), 1), `claims: "` + strings.Repeat("x", 128) + `..." is not allowed by the role; its allowed_claims are exp, nbf, jti, iss, sub, aud, custom`},
		{"template's", claim("team", "x"), `claims: must not set "team": the role's claims_template does`},
		{"iat", claim("iat", 1), "claims: must not set iat: it is set here to when the token is made"},
		{"exp string", claim("exp", "1772366460"), noNumber},
		{"exp bool", claim("exp", true), noNumber},
		{"exp null", claim("exp", nil), noNumber},
		{"exp NaN", claim("exp", math.NaN()), noNumber},
		{"exp infinite", claim("exp", json.Number("1e999")), noNumber},
		{"exp no number", claim("exp", json.Number("soon")), noNumber},
		{"exp negative", claim("exp", -1), "claims: must not have an exp before 1970"},
		{"exp in milliseconds", claim("exp", json.Number("1772366460000")), millis},
		{"exp far", claim("exp", json.Number("253402300800")), millis},
		{"exp past", claim("exp", at.Unix()), "claims: must have an exp in the future: it is now 1772366400"},
		{"exp too late", claim("exp", at.Unix()+3601), "claims: must have an exp of at most 1772370000 (2026-03-01T13:00:00Z): this role's tokens live for at most 1h0m0s"},
		{"nbf after exp", claim("nbf", at.Unix()+3600), "claims: must have an nbf before its exp, which is 1772370000"},
		{"nbf string", claim("nbf", "now"), "claims: must have a number as nbf: seconds since 1970 (RFC 7519, NumericDate)"},
		{"exp and ttl", SignItem{Claims: map[string]any{"exp": at.Unix() + 60}, TTL: time.Minute}, "ttl: and the claim exp exclude each other: give one of them"},
		{"ttl short", SignItem{TTL: time.Millisecond}, "ttl: must be at least 1s"},
		{"ttl negative", SignItem{TTL: -time.Second}, "ttl: must be at least 1s"},
		{"ttl long", SignItem{TTL: time.Hour + time.Second}, "ttl: must be at most 1h0m0s, the longest life of this role's tokens"},
		{"sub number", claim("sub", 5), noSub},
		{"sub empty", claim("sub", ""), noSub},
		{"sub no URI", claim("sub", "a b:c"), noSub},
		{"sub no scheme", claim("sub", ":c"), noSub},
		{"jti number", claim("jti", 5), "claims: must have a string as jti, which is a URI if it has a colon (RFC 7519, StringOrURI)"},
		{"other issuer", claim("iss", "https://evil.example"), `claims: must have the role's issuer as iss, or none: it is "https://issuer.example"`},
		{"aud empty", claim("aud", []any{}), noAud},
		{"aud of numbers", claim("aud", []any{"a", 5}), noAud},
		{"aud object", claim("aud", map[string]any{}), noAud},
		{"aud null", claim("aud", nil), noAud},
		{"no JSON", claim("custom", math.Inf(1)), `claims: have a value that cannot be written as JSON: "custom"`},
		{"a number that is none elsewhere", claim("custom", []any{json.Number("1e400")}), `claims: have a value that cannot be written as JSON: "custom"`},
		{"no number", claim("custom", json.Number("1x")), `claims: have a value that cannot be written as JSON: "custom"`},
		{"large", claim("custom", strings.Repeat("x", 16<<10)), "claims: have 16525 bytes as JSON: at most 16384 are signed"},
		{"large token", claim("custom", strings.Repeat("x", 13000)), "claims: make a token of 17716 bytes: one may have 16384"},
		{"headers", SignItem{Headers: map[string]any{"kid": "x", "alg": "none"}}, `headers: "alg", "kid" are not allowed by the role; its allowed_headers are typ, cty`},
		{"header number", header("cty", 5), "headers: must have a text of 1 to 256 bytes as cty"},
		{"header empty", header("typ", ""), "headers: must have a text of 1 to 256 bytes as typ"},
		{"header long", header("typ", strings.Repeat("x", 257)), "headers: must have a text of 1 to 256 bytes as typ"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := f.sign(c.item)
			require.EqualError(t, out.Err, c.want)
			require.Equal(t, fault.Invalid, fault.KindOf(out.Err))
			require.Empty(t, out.Token)
		})
	}
	bare := newFixture(t, option.Values{"algorithm": "EdDSA", "allowed_headers": []string{}})
	require.EqualError(t, bare.sign(claim("sub", "me")).Err, `claims: "sub" is not allowed by the role; its allowed_claims are none`)
	require.EqualError(t, bare.sign(header("typ", "at+jwt")).Err, `headers: "typ" is not allowed by the role; its allowed_headers are none`)
}

func TestHeaders(t *testing.T) {
	f := newFixture(t, every)
	token := f.signed(t, SignItem{Headers: map[string]any{"typ": "at+jwt", "cty": "ü\n"}})
	header, err := base64.RawURLEncoding.DecodeString(token[:strings.IndexByte(token, '.')])
	require.NoError(t, err)
	require.JSONEq(t, `{"alg":"EdDSA","typ":"at+jwt","cty":"ü\n","kid":"`+f.keys[0].kid+`"}`, string(header))
	require.True(t, f.verify(t, token).Active)
}

func TestLifeIsBoundByTheVersionsGrace(t *testing.T) {
	f := newFixture(t, every)
	f.live.Current.Version.Grace = rotation.Duration(10 * time.Minute)
	out := f.sign(SignItem{})
	require.NoError(t, out.Err)
	require.Equal(t, at.Truncate(time.Second).Add(9*time.Minute), out.ExpireTime)
	require.EqualError(t, f.sign(SignItem{TTL: 10 * time.Minute}).Err, "ttl: must be at most 9m0s, the longest life of this role's tokens")
	f.live.Current.Version.Grace = rotation.Duration(time.Minute)
	err := f.sign(SignItem{}).Err
	require.EqualError(t, err, "version 1 became current with a grace period of 1m0s, which a clock_skew of 1m0s leaves nothing of: rotate first")
	require.Equal(t, fault.Conflict, fault.KindOf(err))
}

func TestWhatLeakedSignsNoMore(t *testing.T) {
	for name, leak := range map[string]func(v *rotation.Version){
		"compromised": func(v *rotation.Version) { v.Compromised = true },
		"killed":      func(v *rotation.Version) { v.KilledTime = at },
	} {
		f := newFixture(t, every)
		leak(&f.live.Current.Version)
		_, err := f.use(SignRequest{Items: make([]SignItem, 1)})
		require.EqualError(t, err, "the key of version 1 was ended by an emergency and signs nothing: its replacement is being made", name)
		require.Equal(t, fault.Conflict, fault.KindOf(err))
	}
}

func TestBatch(t *testing.T) {
	f := newFixture(t, every)
	items := make([]SignItem, 300)
	for i := range items {
		items[i].Claims = map[string]any{"custom": i}
		if i%3 == 0 {
			items[i].Claims["scope"] = "x"
		}
	}
	answer, err := f.use(SignRequest{Items: items})
	require.NoError(t, err)
	for i, out := range answer.([]Signed) {
		require.Equal(t, i%3 == 0, out.Err != nil)
		if out.Err == nil {
			n, err := claimsOf(t, out.Token)["custom"].(json.Number).Int64()
			require.NoError(t, err)
			require.EqualValues(t, i, n)
		}
	}

	_, err = f.use(SignRequest{})
	require.EqualError(t, err, "batch_input: has no items")
	_, err = f.use(SignRequest{Items: make([]SignItem, 1001)})
	require.EqualError(t, err, "batch_input: has 1001 items: at most 1000 are signed at once")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = New().Use(ctx, f.live, SignRequest{Items: items})
	require.ErrorIs(t, err, context.Canceled)
}

func TestTemplate(t *testing.T) {
	f := newFixture(t, with(every, option.Values{"claims_template": `{"team": {{identity.entity.metadata.team}}, "sub": {{identity.entity.id}} }`, "allowed_claims": []string{}}))
	sign := func(filled string, err error) Signed {
		answer, err := f.use(SignRequest{Items: make([]SignItem, 1), Populate: func(template string) (string, error) {
			require.Equal(t, f.role.Values["claims_template"], template)
			return filled, err
		}})
		if err != nil {
			return Signed{Err: err}
		}
		return answer.([]Signed)[0]
	}
	out := sign(`{"team": "payments", "sub": "entity-1", "n": 12345678901234567890}`, nil)
	require.NoError(t, out.Err)
	claims := claimsOf(t, out.Token)
	require.Equal(t, "entity-1", claims["sub"])
	require.Equal(t, json.Number("12345678901234567890"), claims["n"])

	require.EqualError(t, sign(`{"team": "x", "sub": ""}`, nil).Err, "claims_template: must have a string as sub, which is a URI if it has a colon (RFC 7519, StringOrURI)")
	require.EqualError(t, sign(`{"exp": 1}`, nil).Err, "claims_template: must not set exp: it is made for each token")
	require.EqualError(t, sign(`{"team": "\x00"}`, nil).Err, "the role's claims_template is no JSON object when it is filled in for the caller")
	require.EqualError(t, sign("", errors.New("no entity")).Err, "the role's claims_template cannot be filled in for the caller: no entity")
	_, err := f.use(SignRequest{Items: make([]SignItem, 1)})
	require.EqualError(t, err, "the role's claims_template needs an identity, which the caller has not")
}
