package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// signingKeys takes private keys through the lives of three roles: one that shows them to its readers,
// and two whose keys are brought along. No private key turns up anywhere else, in no form.
func (c *canaries) signingKeys() {
	c.t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(c.t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(c.t, err)
	c.private("the key brought along as a JWK", ec)
	c.private("the key brought along as PEM", long)
	made, brought, wide := c.role+"-made", c.role+"-brought", c.role+"-wide"
	for role, fields := range map[string]map[string]any{
		made:    keyFields(map[string]any{"exportable": true, "issuer": issuer}),
		brought: keyFields(map[string]any{"import_key": asJWK(c.t, ec, "kid", "legacy")}),
		wide:    keyFields(map[string]any{"algorithm": "PS256", "import_key": pemOf(c.t, "RSA PRIVATE KEY", long)}),
	} {
		a := c.tell(http.MethodPut, "roles/"+role, fields)
		require.Equal(c.t, http.StatusOK, a.Status, a.sentence())
		c.announced(role)
		c.holdKey(role)
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "rotate/"+role, map[string]any{"force": true}).Status)
		c.announced(role)
		c.holdKey(role)
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "rollback/"+role, nil).Status)
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "emergency/"+role, map[string]any{"reason": "an exercise"}).Status)
		c.holdKey(role)
	}
	c.misplaceKeys(made, ec, long)
	c.lookAtKeys(made, brought, wide)
}

// holdKey makes the current private key a canary where readers get it, and what it signs everywhere.
func (c *canaries) holdKey(role string) {
	c.t.Helper()
	s := c.signFor(role, "user-1")
	what := "a token of " + s.Kid
	c.secrets[what] = s.Token
	assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "verify/"+role, map[string]any{"token": s.Token}).Status)
	text, shown := c.get("creds/" + role).fields()["private_key"].(string)
	if !shown {
		return
	}
	block, _ := pem.Decode([]byte(text))
	require.NotNil(c.t, block)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	require.NoError(c.t, err)
	c.private("the key "+s.Kid, key)
}

// private makes a private key a canary in every form in which a program could print it.
func (c *canaries) private(what string, key any) {
	c.t.Helper()
	numbers := map[string]*big.Int{}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		d, err := key.Bytes()
		require.NoError(c.t, err)
		numbers["its number"] = new(big.Int).SetBytes(d)
	case *rsa.PrivateKey:
		numbers["its exponent"], numbers["its first prime"], numbers["its second prime"] = key.D, key.Primes[0], key.Primes[1]
	default:
		c.t.Fatalf("%T", key)
	}
	for name, n := range numbers {
		for form, text := range map[string]string{
			"decimal": n.String(), "hexadecimal": hex.EncodeToString(n.Bytes()),
			"base64": base64.RawStdEncoding.EncodeToString(n.Bytes()), "base64url": base64.RawURLEncoding.EncodeToString(n.Bytes()),
		} {
			c.secrets[what+", "+name+" in "+form] = text
		}
	}
	// The line in the middle of the file is of the private half, however line ends are written.
	lines := strings.Split(strings.TrimSpace(pemOf(c.t, "PRIVATE KEY", key)), "\n")
	c.secrets[what+", in PEM"] = lines[len(lines)/2]
}

// misplaceKeys gives private keys where they do not belong, or which are wrong.
func (c *canaries) misplaceKeys(role string, ec *ecdsa.PrivateKey, long *rsa.PrivateKey) {
	c.t.Helper()
	type m = map[string]any
	short, wide := pemOf(c.t, "PRIVATE KEY", ec), pemOf(c.t, "PRIVATE KEY", long)
	for _, r := range []struct {
		path string
		body m
	}{
		{"roles/wrong", keyFields(m{"import_key": wide})},
		{"roles/wrong", keyFields(m{"import_key": wide[:len(wide)-80]})},
		{"roles/wrong", keyFields(m{"import_key": short + wide})},
		{"roles/wrong", keyFields(m{"algorithm": "ES384", "import_key": asJWK(c.t, ec)})},
		{"roles/wrong", keyFields(m{"import_key": asJWK(c.t, ec, "use", "enc")})},
		{"roles/wrong", keyFields(m{"import_key": asJWK(c.t, ec)[1:]})},
		{"roles/wrong", keyFields(m{"import_kee": short})},
		{"roles/wrong", keyFields(m{"algorithm": short})},
		{"roles/wrong", keyFields(m{"algorithm": "RS256", "key_bits": short})},
		{"roles/wrong", keyFields(m{"claims_template": short})},
		{"roles/wrong", keyFields(m{"allowed_claims": short})},
		{"roles/wrong", keyFields(m{"allowed_headers": short})},
		{"roles/wrong", keyFields(m{"issuer": wide})},
		{"roles/wrong", keyFields(m{"token_ttl": short})},
		{"roles/wrong", keyFields(m{"exportable": short})},
		{"sign/" + role, m{"claims": short}},
		{"sign/" + role, m{"headers": asJWK(c.t, ec)}},
		{"sign/" + role, m{"ttl": short}},
		{"sign/" + role, m{"batch_input": asJWK(c.t, ec)}},
		{"sign/" + role, m{"batch_input": []any{short}}},
		{"sign/" + role, m{"private_key": short}},
		{"verify/" + role, m{"token": short}},
		{"verify/" + role, m{"token": asJWK(c.t, ec)}},
	} {
		a := c.tell(http.MethodPut, r.path, r.body)
		assert.Equal(c.t, http.StatusBadRequest, a.Status, "%s: %s", r.path, a.sentence())
	}
}

// lookAtKeys asks for everything that tells of the roles; the keys themselves only where readers do
// not get the private half.
func (c *canaries) lookAtKeys(exportable string, others ...string) {
	c.t.Helper()
	for _, role := range append(others, exportable) {
		for _, path := range []string{"roles/", "status/", "history/", "preflight/", "jwks/"} {
			c.tell(http.MethodGet, path+role, nil)
		}
	}
	for _, role := range others {
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodGet, "creds/"+role, nil).Status)
	}
	c.tell(http.MethodPut, "config", map[string]any{"external_url": c.vault.Address()})
	d := c.tell(http.MethodGet, "oidc/"+exportable+"/.well-known/openid-configuration", nil)
	assert.Equal(c.t, http.StatusOK, d.Status)
	var list struct{ Keys []string }
	require.NoError(c.t, unmarshal(c.tell("LIST", "incidents", nil), &list))
	for _, id := range list.Keys {
		c.tell(http.MethodGet, "incidents/"+id, nil)
	}
}
