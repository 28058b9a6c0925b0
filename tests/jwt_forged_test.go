package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// What the role's key did not sign is never good, whatever the token says of how it is to be verified.
func TestJWTForgedTokens(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "forged", sharedVault(t))
	w.write("roles/"+w.role, keyFields(map[string]any{"algorithm": "RS256", "key_bits": 2048}))
	w.write("roles/"+w.role+"-other", keyFields(nil))
	w.announced(w.role)
	f := &forger{world: w, t: t, good: w.signFor(w.role, "user-1")}
	require.True(t, w.verify(w.role, f.good.Token).Active)
	forged := f.unsigned()
	maps.Copy(forged, f.confused())
	maps.Copy(forged, f.byOthers())
	for name, token := range forged {
		t.Run(name, func(t *testing.T) {
			v := *w
			v.t = t
			verdict := v.verify(w.role, token)
			assert.False(t, verdict.Active, "it passes")
			assert.NotEmpty(t, verdict.Reason)
			assert.Nil(t, verdict.Claims)
		})
	}
}

type forger struct {
	*world
	t    *testing.T
	good signedToken
}

// token makes one of a header, the claims of the good one, and a signature of the first two parts.
func (f *forger) token(header map[string]any, sign func(input string) []byte) string {
	f.t.Helper()
	raw, err := json.Marshal(header)
	require.NoError(f.t, err)
	input := base64.RawURLEncoding.EncodeToString(raw) + "." + strings.Split(f.good.Token, ".")[1]
	return input + "." + base64.RawURLEncoding.EncodeToString(sign(input))
}

// unsigned are tokens that say they need no signature.
func (f *forger) unsigned() map[string]string {
	nothing := func(string) []byte { return nil }
	signature, err := base64.RawURLEncoding.DecodeString(strings.Split(f.good.Token, ".")[2])
	require.NoError(f.t, err)
	forged := map[string]string{
		"alg none without kid":        f.token(map[string]any{"alg": "none"}, nothing),
		"no alg":                      f.token(map[string]any{"kid": f.good.Kid}, nothing),
		"empty signature":             f.token(map[string]any{"alg": "RS256", "kid": f.good.Kid}, nothing),
		"alg none and the signature":  f.token(map[string]any{"alg": "none", "kid": f.good.Kid}, func(string) []byte { return signature }),
		"alg that is no text":         f.token(map[string]any{"alg": []string{"RS256"}, "kid": f.good.Kid}, nothing),
		"claims of another signature": forgedSubject(f.t, f.good.Token),
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		forged["alg "+alg] = f.token(map[string]any{"alg": alg, "kid": f.good.Kid}, nothing)
	}
	return forged
}

// confused are tokens signed with the public key as if it were a shared secret.
func (f *forger) confused() map[string]string {
	c := f.get("creds/" + f.role).fields()
	public, _ := c["public_key"].(string)
	jwk, err := json.Marshal(c["public_jwk"])
	require.NoError(f.t, err)
	body := strings.Join(strings.Split(strings.TrimSpace(public), "\n")[1:], "")
	der, err := base64.StdEncoding.DecodeString(strings.Split(body, "-")[0])
	require.NoError(f.t, err)
	set, _ := f.keySet(f.role)
	forged := map[string]string{}
	for name, secret := range map[string]string{
		"PEM": public, "PEM without its end": strings.TrimSpace(public), "JWK": string(jwk), "DER": string(der), "key set": set.Text, "nothing": "",
	} {
		for _, alg := range []string{"HS256", "RS256"} {
			forged[alg+" with the "+name] = f.token(map[string]any{"alg": alg, "kid": f.good.Kid}, func(input string) []byte {
				mac := hmac.New(sha256.New, []byte(secret))
				mac.Write([]byte(input))
				return mac.Sum(nil)
			})
		}
	}
	return forged
}

// byOthers are tokens that somebody else's key signed, or that bring a key along.
func (f *forger) byOthers() map[string]string {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(f.t, err)
	private := pemOf(f.t, "PRIVATE KEY", own)
	other := f.signFor(f.role+"-other", "user-1")
	header := func(more map[string]any) string {
		return f.token(with(map[string]any{"alg": "RS256", "kid": f.good.Kid}, more), func(string) []byte { return []byte("signature") })
	}
	return map[string]string{
		"another role's key":      other.Token,
		"own key under the kid":   signByHand(f.t, private, f.good.Kid, jwa.ES256(), ""),
		"own key":                 signByHand(f.t, private, "mine", jwa.ES256(), ""),
		"kid that is a path":      header(map[string]any{"kid": "../../" + f.role}),
		"kid that is no text":     header(map[string]any{"kid": 7}),
		"key of its own":          header(map[string]any{"jwk": map[string]any{"kty": "EC"}}),
		"address of its own keys": header(map[string]any{"jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/certificate"}),
		"critical extension":      header(map[string]any{"crit": []string{"b64"}, "b64": false}),
		"other algorithm":         header(map[string]any{"alg": "PS256"}),
	}
}

// A token is good until its exp, and for the clock_skew after.
func TestJWTExpiredToken(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "expired", sharedVault(t))
	w.write("roles/"+w.role, keyFields(map[string]any{"clock_skew": "1s"}))
	s := w.sign(w.role, map[string]any{"ttl": "3s"})
	require.True(t, w.verify(w.role, s.Token).Active)
	var v verdict
	await.Until(t, "the token to end", func() (bool, any) {
		v = w.verify(w.role, s.Token)
		return !v.Active, s.Expires
	})
	assert.False(t, time.Now().Before(s.Expires.Add(time.Second)), "too early")
	assert.Equal(t, "the token ended at "+s.Expires.UTC().Format(time.RFC3339), v.Reason)
	_, set := w.keySet(w.role)
	assert.ErrorContains(t, checkWith(set, s.Token), "exp")
}
