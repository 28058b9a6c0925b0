package tests

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// everyKey is all that a refused request could have changed: what the mount shows of its roles, and
// what it publishes.
func (w *world) everyKey() map[string]string {
	w.t.Helper()
	shown := map[string]string{}
	for _, path := range []string{"roles/" + w.role, "status/" + w.role, "status", "config", "history/" + w.role} {
		shown[path] = string(w.get(path).Data)
	}
	for _, path := range []string{"roles", "incidents"} {
		a := w.call(w.t.Context(), "LIST", path, nil)
		shown[path] = strconv.Itoa(a.Status) + string(a.Data)
	}
	d, _ := w.keySet(w.role)
	shown["jwks"] = d.Text
	shown["signs"] = w.signFor(w.role, "user-1").Kid
	return shown
}

// Wrong input is answered with one sentence that names the field, and changes nothing.
func TestJWTBadInput(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "badkeys", sharedVault(t))
	w.write("roles/"+w.role, keyFields(map[string]any{"allowed_claims": "sub,aud,exp,nbf", "issuer": issuer}))
	w.announced(w.role)
	w.settled()
	before := w.everyKey()
	for _, r := range concat(w.badKeys(), w.badTimes(), w.badImports(), w.badChanges(), w.badClaims(), w.badDates(), w.badRequestsOfKeys()) {
		t.Run(r.name, func(t *testing.T) {
			r.check(t, w)
			assert.Equal(t, before, w.everyKey(), "nothing may change")
		})
	}
}

// badKey is a write of a new role with one thing wrong.
func (w *world) badKey(name, field, says string, changes map[string]any) refusal {
	return refusal{name: name, path: "roles/" + w.role + "-new", body: keyFields(changes), field: field + ":", says: says}
}

func (w *world) badKeys() []refusal {
	type m = map[string]any
	return []refusal{
		w.badKey("symmetric algorithm", "algorithm", "RS256, RS384", m{"algorithm": "HS256"}),
		w.badKey("no algorithm at all", "algorithm", "EdDSA", m{"algorithm": "none"}),
		w.badKey("algorithm in small letters", "algorithm", "ES256", m{"algorithm": "es256"}),
		w.badKey("short RSA key", "key_bits", "2048, 3072 or 4096", m{"algorithm": "RS256", "key_bits": 1024}),
		w.badKey("odd RSA key", "key_bits", "2048, 3072 or 4096", m{"algorithm": "PS512", "key_bits": 4095}),
		w.badKey("RSA size for a curve", "key_bits", "P-256", m{"key_bits": 2048}),
		w.badKey("size of another curve", "key_bits", "P-521", m{"algorithm": "ES512", "key_bits": 512}),
		w.badKey("RSA size for Ed25519", "key_bits", "Ed25519", m{"algorithm": "EdDSA", "key_bits": 4096}),
		w.badKey("key_bits that are no number", "key_bits", "whole number", m{"algorithm": "RS256", "key_bits": "long"}),
		w.badKey("unknown field", "token_tll", "did you mean token_ttl?", m{"token_tll": "5m"}),
		w.badKey("field of another type", "member_of", "", m{"member_of": "app"}),
		w.badKey("connection", "connection", "needs none", m{"connection": "main"}),
		w.badKey("template that is no object", "claims_template", "JSON object", m{"claims_template": `["a"]`}),
		w.badKey("template with quoted placeholder", "claims_template", "without quotes", m{"claims_template": `{"a": "{{identity.entity.id}}"}`}),
		w.badKey("template with an unknown placeholder", "claims_template", "not known", m{"claims_template": `{"a": {{identity.entity.secret}}}`}),
		w.badKey("template that sets exp", "claims_template", "exp", m{"claims_template": `{"exp": 1}`}),
		w.badKey("allowed iat", "allowed_claims", "iat", m{"allowed_claims": "sub,iat"}),
		w.badKey("allowed kid", "allowed_headers", "kid", m{"allowed_headers": "typ,kid"}),
		w.badKey("allowed jwk", "allowed_headers", "jwk", m{"allowed_headers": "jwk"}),
		w.badKey("issuer with a colon that is no URI", "issuer", "URI", m{"issuer": ": nobody"}),
		w.badKey("exportable that is no bool", "exportable", "true or false", m{"exportable": "perhaps"}),
	}
}

func (w *world) badTimes() []refusal {
	type m = map[string]any
	return []refusal{
		w.badKey("no life", "token_ttl", "1s to 365d", m{"token_ttl": 0}),
		w.badKey("life of more than a year", "token_ttl", "1s to 365d", m{"token_ttl": "366d", "rotation_period": "600d"}),
		w.badKey("clock_skew of two hours", "clock_skew", "0 to 1h", m{"clock_skew": "2h"}),
		w.badKey("grace shorter than a token's life", "grace_period", "must be at least 11m0s", m{"grace_period": "10m"}),
		w.badKey("grace shorter than an exported key's use", "grace_period", "4/3", m{"grace_period": "12m", "exportable": true}),
		w.badKey("grace as long as the period", "grace_period", "shorter", m{"grace_period": "7d"}),
		w.badKey("announced for a second", "announce_period", "at least 2s", m{"announce_period": "1s", "clock_skew": 0}),
		w.badKey("announced for less than clocks differ", "announce_period", "twice clock_skew", m{"announce_period": "90s"}),
		w.badKey("announced for as long as the period", "announce_period", "shorter", m{"announce_period": "7d"}),
		w.badKey("negative announcement", "announce_period", "a duration", m{"announce_period": "-5m"}),
		w.badKey("clock_skew of half the period", "clock_skew", "less than half", m{
			"rotation_period": "2m", "clock_skew": "1m", "token_ttl": "5s", "grace_period": "70s",
		}),
		w.badKey("period below a minute", "rotation_period", "at least 1m", m{"rotation_period": "59s"}),
	}
}

func (w *world) badImports() []refusal {
	type m = map[string]any
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(w.t, err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(w.t, err)
	der, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	require.NoError(w.t, err)
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	private := pemOf(w.t, "PRIVATE KEY", ec)
	return []refusal{
		w.badKey("RSA key for ES256", "import_key", "is an RSA key of 2048 bits; ES256 takes EC keys", m{"import_key": pemOf(w.t, "PRIVATE KEY", long)}),
		w.badKey("EC key for RS256", "import_key", "RS256 takes RSA keys", m{"algorithm": "RS256", "import_key": private}),
		w.badKey("key of another curve", "import_key", "P-384", m{"algorithm": "ES384", "import_key": private}),
		w.badKey("Ed25519 key for ES256", "import_key", "is an Ed25519 key", m{"import_key": pemOf(w.t, "PRIVATE KEY", edwards)}),
		w.badKey("key of another size than asked", "key_bits", "2048", m{"algorithm": "RS256", "key_bits": 4096, "import_key": pemOf(w.t, "PRIVATE KEY", long)}),
		w.badKey("public key", "import_key", "is a public key", m{"import_key": public}),
		w.badKey("two keys", "import_key", "more than one thing", m{"import_key": private + private}),
		w.badKey("no key at all", "import_key", "neither PEM nor a JWK", m{"import_key": "hunter2"}),
		w.badKey("PEM that is cut off", "import_key", "PEM", m{"import_key": private[:100]}),
		w.badKey("symmetric JWK", "import_key", "symmetric", m{"import_key": `{"kty":"oct","k":"aHVudGVyMg"}`}),
		w.badKey("JWK for another algorithm", "import_key", "another algorithm", m{"import_key": asJWK(w.t, ec, "alg", "ES384")}),
		w.badKey("JWK for encryption", "import_key", "not for signing", m{"import_key": asJWK(w.t, ec, "use", "enc")}),
		w.badKey("JWK with a kid that is none", "import_key", "kid", m{"import_key": asJWK(w.t, ec, "kid", "line\nfeed")}),
	}
}

func (w *world) badChanges() []refusal {
	type m = map[string]any
	change := func(name, field, says string, body m) refusal {
		return refusal{name: "existing role: " + name, path: "roles/" + w.role, body: body, field: field + ":", says: says}
	}
	return []refusal{
		change("other algorithm", "algorithm", "cannot be changed", m{"algorithm": "ES384"}),
		change("other size", "key_bits", "", m{"key_bits": 384}),
		change("exportable", "exportable", "cannot be changed", m{"exportable": true}),
		change("other type", "type", "cannot be changed", m{"type": "postgresql"}),
		change("longer tokens than the grace", "grace_period", "token_ttl", m{"token_ttl": "1h", "grace_period": "30m"}),
		change("announced for a second", "announce_period", "", m{"announce_period": "1s"}),
		change("unknown field", "anounce_period", "did you mean announce_period?", m{"anounce_period": "1h"}),
	}
}

// badSign is a request for a token with one thing wrong.
func (w *world) badSign(name, field, says string, body map[string]any) refusal {
	return refusal{name: "sign: " + name, path: "sign/" + w.role, body: body, field: field + ":", says: says}
}

func (w *world) badClaims() []refusal {
	type m = map[string]any
	return []refusal{
		w.badSign("claims that are a list", "claims", "JSON object", m{"claims": []any{"sub"}}),
		w.badSign("claims that are the text of a list", "claims", "JSON object", m{"claims": `["sub"]`}),
		w.badSign("claims that are a text", "claims", "JSON object", m{"claims": "hunter2"}),
		w.badSign("claims that are a number", "claims", "JSON object", m{"claims": 7}),
		w.badSign("two objects", "claims", "JSON object", m{"claims": `{} {}`}),
		w.badSign("claim that is not allowed", "claims", `"admin" is not allowed`, m{"claims": m{"admin": true}}),
		w.badSign("iat", "claims", "iat", m{"claims": m{"iat": 1}}),
		w.badSign("another issuer", "claims", `"iss" is not allowed`, m{"claims": m{"iss": "https://other.example"}}),
		w.badSign("sub that is a number", "claims", "sub", m{"claims": m{"sub": 7}}),
		w.badSign("aud that is an object", "claims", "aud", m{"claims": m{"aud": m{"a": "b"}}}),
		w.badSign("claims of 20 kB", "claims", "at most 16384", m{"claims": m{"sub": strings.Repeat("x", 20<<10)}}),
		w.badSign("header alg", "headers", `"alg" is not allowed`, m{"headers": m{"alg": "none"}}),
		w.badSign("header kid", "headers", `"kid" is not allowed`, m{"headers": m{"kid": "other"}}),
		w.badSign("header that is a number", "headers", "typ", m{"headers": m{"typ": 7}}),
		w.badSign("unknown field", "clams", "did you mean claims?", m{"clams": m{"sub": "a"}}),
		w.badSign("batch that is no list", "batch_input", "JSON list", m{"batch_input": "all"}),
		w.badSign("empty batch", "batch_input", "0 items", m{"batch_input": []any{}}),
		w.badSign("batch of 1001", "batch_input", "1001 items", m{"batch_input": "[" + strings.Repeat("{},", 1000) + "{}]"}),
		w.badSign("batch and claims", "claims", "together with batch_input", m{"batch_input": []any{m{}}, "claims": m{}}),
		w.badSign("item of another form", "batch_input[1].clams", "did you mean claims?", m{"batch_input": []any{m{}, m{"clams": m{}}}}),
	}
}

func (w *world) badDates() []refusal {
	type m = map[string]any
	now := time.Now()
	return []refusal{
		w.badSign("exp beyond token_ttl", "claims", "at most 10m0s", m{"claims": m{"exp": now.Add(time.Hour).Unix()}}),
		w.badSign("exp that has passed", "claims", "in the future", m{"claims": m{"exp": now.Add(-time.Minute).Unix()}}),
		w.badSign("exp as a string", "claims", "a number as exp", m{"claims": m{"exp": strconv.FormatInt(now.Add(time.Minute).Unix(), 10)}}),
		w.badSign("exp as a date", "claims", "a number as exp", m{"claims": m{"exp": now.Add(time.Minute).Format(time.RFC3339)}}),
		w.badSign("exp in milliseconds", "claims", "milliseconds", m{"claims": m{"exp": now.Add(time.Minute).UnixMilli()}}),
		w.badSign("nbf as a string", "claims", "a number as nbf", m{"claims": m{"nbf": "now"}}),
		w.badSign("nbf in milliseconds", "claims", "milliseconds", m{"claims": m{"nbf": now.UnixMilli()}}),
		w.badSign("nbf after exp", "claims", "nbf before its exp", m{"claims": m{"nbf": now.Add(time.Hour).Unix()}}),
		{name: "sign: exp and ttl", path: "sign/" + w.role, body: m{"claims": m{"exp": now.Add(time.Minute).Unix()}, "ttl": "1m"}, field: "ttl", says: "exclude each other"},
		w.badSign("ttl beyond token_ttl", "ttl", "at most 10m0s", m{"ttl": "11m"}),
		w.badSign("ttl of nothing", "ttl", "at least 1s", m{"ttl": 0}),
		w.badSign("negative ttl", "ttl", "a duration", m{"ttl": "-1m"}),
		w.badSign("ttl that is none", "ttl", "a duration", m{"ttl": "soon"}),
	}
}

func (w *world) badRequestsOfKeys() []refusal {
	type m = map[string]any
	verify := func(name, field, says string, body m) refusal {
		return refusal{name: "verify: " + name, path: "verify/" + w.role, body: body, field: field + ":", says: says}
	}
	return []refusal{
		verify("no token", "token", "is required", nil),
		verify("token of 100 kB", "token", "at most 16384", m{"token": strings.Repeat("a.b.", 25<<10)}),
		verify("what is no token", "token", "compact JWS", m{"token": "hunter2"}),
		verify("token with a line feed", "token", "base64url", m{"token": "e30.e30.\n"}),
		verify("unknown field", "tokn", "did you mean token?", m{"tokn": "e30.e30.e30"}),
		{name: "sign with a role that does not exist", path: "sign/" + w.role + "-nobody", status: http.StatusNotFound, says: "no role"},
		{name: "verify with a role that does not exist", path: "verify/" + w.role + "-nobody", body: m{"token": "e30.e30.e30"}, status: http.StatusNotFound, says: "no role"},
		{name: "emergency without a reason", path: "emergency/" + w.role, field: "reason:", says: "required"},
		{name: "rollback to a version that does not exist", path: "rollback/" + w.role, body: m{"version": 77}, field: "version:"},
		{name: "rollback to what never signed", path: "rollback/" + w.role, body: m{"version": 2}, status: http.StatusConflict, says: "rotate makes it so"},
		{name: "unknown field of a rotation", path: "rotate/" + w.role, body: m{"forse": true}, field: "forse:", says: "did you mean force?"},
		{name: "external_url that is none", path: "config", body: m{"external_url": "vault"}, field: "external_url:"},
	}
}
