package jwt

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

func checkRole(values option.Values, change ...func(*rotator.Role)) error {
	r := &rotator.Role{Name: "app", Values: values, Interval: 7 * 24 * time.Hour}
	r.Grace = New().DefaultGrace(r)
	for _, c := range change {
		c(r)
	}
	return New().CheckRole(nil, r)
}

func TestRolesThatAreRefused(t *testing.T) {
	names := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("claim%d", i))
		}
		return out
	}
	for want, values := range map[string]option.Values{
		"algorithm: is not known; valid is RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA": {"algorithm": "HS256"},
		"key_bits: is not a size of keys for RS256, which are RSA keys of 2048, 3072 or 4096 bits":               {"key_bits": 1024},
		"key_bits: is not a size of keys for ES384, which are EC keys of 384 bits on the curve P-384":            {"algorithm": "ES384", "key_bits": 256},
		"key_bits: is not a size of keys for EdDSA, which are Ed25519 keys of 256 bits":                          {"algorithm": "EdDSA", "key_bits": 2048},
		"token_ttl: must be from 1s to 365d":                                                                                                           {"token_ttl": 0},
		"clock_skew: must be from 0 to 1h":                                                                                                             {"clock_skew": -1},
		"announce_period: must be at least 2s, or 0 for the default":                                                                                   {"announce_period": -5},
		"issuer: must be a URI, since it has a colon (RFC 7519, StringOrURI)":                                                                          {"issuer": "https://issuer example"},
		"issuer: must be at most 512 bytes":                                                                                                            {"issuer": strings.Repeat("x", 513)},
		"allowed_claims: must not have iat: when a token was made is always set here":                                                                  {"allowed_claims": []string{"sub", "iat"}},
		"allowed_claims: must be names of 1 to 128 bytes":                                                                                              {"allowed_claims": []string{" "}},
		"allowed_claims: must be at most 64 names":                                                                                                     {"allowed_claims": names(65)},
		"allowed_headers: must not have x5t#S256: it says how a token is to be verified":                                                               {"allowed_headers": []string{"cty", "x5t#S256"}},
		"allowed_headers: must be at most 16 names":                                                                                                    {"allowed_headers": names(17)},
		"allowed_claims: must not have \"Sub\", which many programs take for sub":                                                                      {"allowed_claims": []string{"Sub"}},
		"allowed_claims: must not have TEAM, which claims_template sets":                                                                               {"allowed_claims": []string{"TEAM"}, "claims_template": `{"team": 1}`},
		"allowed_headers: must not have ALG: it says how a token is to be verified":                                                                    {"allowed_headers": []string{"ALG"}},
		"claims_template: must not set \"EXP\", which many programs take for exp":                                                                      {"claims_template": `{"EXP": 1}`},
		"claims_template: must not set exp: it is made for each token":                                                                                 {"claims_template": `{"exp": {{time.now.plus.1h}} }`},
		"claims_template: must not set iss: it is the role's issuer":                                                                                   {"claims_template": `{"iss": "me"}`},
		"claims_template: must name its claims, with at most 128 bytes; only their values may be placeholders":                                         {"claims_template": `{ {{identity.entity.name}}: 1}`},
		"claims_template: must have a string or a list of strings as aud, which are URIs if they have a colon (RFC 7519)":                              {"claims_template": `{"aud": 5}`},
		"claims_template: must be at most 4096 bytes":                                                                                                  {"claims_template": `{"a": "` + strings.Repeat("x", 4096) + `"}`},
		"allowed_claims: must not have team, which claims_template sets":                                                                               {"allowed_claims": []string{"team"}, "claims_template": `{"team": 1}`},
		"nonsense: is not an option of this type":                                                                                                      {"nonsense": 1},
		"claims_template: must be a JSON object; placeholders become JSON values and stand without quotes: {\"sub\": {{identity.entity.id}}}":          {"claims_template": `{"sub": "{{identity.entity.id}}"}`},
		"claims_template: has a placeholder that is not known: see Vault's identity templates (identity.entity..., time.now...)":                       {"claims_template": `{"sub": {{identity.entity.nonsense}} }`},
		"claims_template: must not have placeholders of identity.groups: identity.entity.groups.names lists the groups of who asks":                    {"claims_template": `{"g": {{identity.groups.names.a.id}} }`},
		"claims_template: has braces that do not match: write placeholders like {{identity.entity.id}}, and a space between braces that close objects": {"claims_template": `{"a": {"b": {{identity.entity.id}}}}`},
		"announce_period: must be at least 2m0s, twice clock_skew: else a verifier with cached keys would meet tokens of a key that it does not know":  {"announce_period": 119},
		"announce_period: must be shorter than the time between two rotations, which is 168h0m0s":                                                      {"announce_period": 7 * 24 * 3600},
	} {
		t.Run(want, func(t *testing.T) {
			err := checkRole(values)
			require.EqualError(t, err, want)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
		})
	}
	for _, text := range []string{`[]`, `null`, `5`, `{"a": 1e999999}`, `{"a":1} {"b":2}`, `{"a":}`, `nonsense`} {
		require.ErrorContains(t, checkRole(option.Values{"claims_template": text}), "claims_template: must be a JSON object", text)
	}
}

func TestRolesThatAreGood(t *testing.T) {
	for _, values := range []option.Values{
		{},
		{"algorithm": "PS512", "key_bits": 3072},
		{"algorithm": "ES512", "key_bits": 521},
		{"algorithm": "EdDSA", "key_bits": 256},
		{"issuer": "urn:example:issuer"},
		{"issuer": "an issuer without a colon"},
		{"allowed_claims": []string{"exp", "nbf", "jti", "iss", "sub", "aud", "https://example.com/claim"}},
		{"allowed_headers": []string{"typ", "cty", "x-team"}},
		{"allowed_headers": []string{}},
		{"claims_template": `{"team": {{identity.entity.metadata.team}}, "sub": {{identity.entity.id}}, "groups": {{identity.entity.groups.names}}, "aud": {{identity.entity.groups.ids}}, "until": {{time.now.plus.1h}} }`},
		{"claims_template": `{"name": {{identity.entity.aliases.auth_userpass_1.name}}}`},
		{"clock_skew": 0, "announce_period": 2},
		{"announce_period": 120},
	} {
		require.NoError(t, checkRole(values), values)
	}
}

func TestTimesThatDependOnOthers(t *testing.T) {
	grace := func(d time.Duration) func(*rotator.Role) { return func(r *rotator.Role) { r.Grace = d } }
	interval := func(d time.Duration) func(*rotator.Role) { return func(r *rotator.Role) { r.Interval = d } }

	require.NoError(t, checkRole(option.Values{}, grace(61*time.Minute)))
	require.EqualError(t, checkRole(option.Values{}, grace(61*time.Minute-time.Second)),
		"grace_period: must be at least 1h1m0s (token_ttl and clock_skew together): a token must not outlive its key")
	exported := option.Values{"exportable": true}
	require.NoError(t, checkRole(exported))
	require.EqualError(t, checkRole(exported, grace(time.Hour+20*time.Minute)),
		"grace_period: must be at least 1h21m20s (4/3 of token_ttl and clock_skew together) where keys are exportable: who has read one signs with it for up to a quarter of the grace")
	require.EqualError(t, checkRole(option.Values{}, interval(2*time.Minute)),
		"clock_skew: must be less than half the time between two rotations, which is 2m0s: each key is announced for at least twice clock_skew before it signs")
	require.NoError(t, checkRole(option.Values{}, interval(0)))
}

func TestDerivedTimes(t *testing.T) {
	for _, c := range []struct {
		values                     option.Values
		interval                   time.Duration
		announce, cacheLife, grace time.Duration
	}{
		{option.Values{}, 7 * 24 * time.Hour, 24 * time.Hour, time.Hour, 81*time.Minute + 20*time.Second},
		{option.Values{}, 0, 24 * time.Hour, time.Hour, 81*time.Minute + 20*time.Second},
		{option.Values{"token_ttl": 600}, 4 * time.Hour, time.Hour, 30 * time.Minute, 14*time.Minute + 40*time.Second},
		{option.Values{"token_ttl": 1, "clock_skew": 0}, time.Minute, 15 * time.Second, 7 * time.Second, 20 * time.Second},
		{option.Values{"clock_skew": 60}, 4 * time.Minute, 2 * time.Minute, time.Minute, 81*time.Minute + 20*time.Second},
		{option.Values{"announce_period": 300, "token_ttl": 100, "clock_skew": 0}, time.Hour, 5 * time.Minute, 150 * time.Second, 134 * time.Second},
	} {
		r := &rotator.Role{Values: c.values, Interval: c.interval}
		o, err := decodeRole(r)
		require.NoError(t, err)
		require.Equal(t, c.announce, New().AnnounceAhead(r), c)
		require.Equal(t, c.cacheLife, o.cacheLife(c.interval), c)
		require.Equal(t, c.grace, New().DefaultGrace(r), c)
		require.GreaterOrEqual(t, c.announce, c.cacheLife+o.ClockSkew.Std())
	}
	require.Equal(t, 81*time.Minute+20*time.Second, New().Kind().Grace)
}

func TestKeyBitsAreFixed(t *testing.T) {
	role := func(values option.Values) *rotator.Role {
		return &rotator.Role{Name: "app", Values: values, Grace: 24 * time.Hour, Interval: 7 * 24 * time.Hour}
	}
	require.NoError(t, New().CheckRole(role(option.Values{}), role(option.Values{"key_bits": 4096})), "the default, written out")
	require.EqualError(t, New().CheckRole(role(option.Values{}), role(option.Values{"key_bits": 2048})),
		"key_bits: is 4096 and cannot be changed once the role exists: make another role")
}
