package tests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Readers of an exportable role's creds sign by themselves. Nothing else shows the key.
func TestJWTExportable(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "export", sharedVault(t))
	w.write("config", map[string]any{"external_url": "https://vault.example"})
	w.write("roles/"+w.role, keyFields(map[string]any{"exportable": true, "issuer": issuer}))
	w.announced(w.role)
	c := w.get("creds/" + w.role).fields()
	private, _ := c["private_key"].(string)
	require.Contains(t, private, "-----BEGIN PRIVATE KEY-----\n")
	assert.Equal(t, private, w.get("creds/" + w.role + "/versions/1").fields()["private_key"])
	kid, _ := c["kid"].(string)
	v := w.verify(w.role, signByHand(t, private, kid, jwa.ES256(), issuer))
	assert.True(t, v.Active, v.Reason)
	assert.Equal(t, 1, v.Version)

	for _, path := range []string{
		"roles/" + w.role, "status/" + w.role, "status", "history/" + w.role, "preflight/" + w.role,
		"jwks/" + w.role, "oidc/" + w.role + "/.well-known/openid-configuration",
	} {
		a := w.call(t.Context(), http.MethodGet, path, nil)
		assert.NotContains(t, a.Text, "PRIVATE", path)
		assert.NotContains(t, a.Text, "private_key", path)
		assert.NotContains(t, a.Text, `"d"`, path)
	}
	a := w.call(t.Context(), http.MethodPut, "sign/"+w.role, map[string]any{"claims": map[string]any{"sub": "user-1"}})
	assert.NotContains(t, a.Text, "private_key")

	other := w.role + "-closed"
	w.write("roles/"+other, keyFields(nil))
	assert.NotContains(t, w.get("creds/"+other).fields(), "private_key")
	for role, wanted := range map[string]bool{w.role: false, other: true} {
		refusal{path: "roles/" + role, body: map[string]any{"exportable": wanted}, field: "exportable", says: "cannot be changed"}.check(t, w)
		assert.Equal(t, !wanted, w.get("roles/" + role).fields()["exportable"])
	}
}

// signByHand makes a token with a private key in PEM, as a service does that has read it.
func signByHand(t *testing.T, private, kid string, algorithm jwa.SignatureAlgorithm, issuer string) string {
	t.Helper()
	key, err := jwk.ParseKey([]byte(private), jwk.WithPEM(true))
	require.NoError(t, err)
	require.NoError(t, key.Set(jwk.KeyIDKey, kid))
	now := time.Now()
	builder := jwt.NewBuilder().Subject("user-2").IssuedAt(now).Expiration(now.Add(5 * time.Minute))
	if issuer != "" {
		builder = builder.Issuer(issuer)
	}
	token, err := builder.Build()
	require.NoError(t, err)
	signed, err := jwt.Sign(token, jwt.WithKey(algorithm, key))
	require.NoError(t, err)
	return string(signed)
}

// A key that exists goes on signing and verifying: in each form in which people have one.
func TestJWTImport(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "import", sharedVault(t))
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	named := asJWK(t, ec, "kid", "legacy-2024")
	for name, c := range map[string]struct {
		algorithm string
		key       any // private
		text      string
		kid       string // "" for the thumbprint
	}{
		"PKCS8":           {"ES256", ec, pemOf(t, "PRIVATE KEY", ec), ""},
		"SEC1":            {"ES384", other, pemOf(t, "EC PRIVATE KEY", other), ""},
		"PKCS1":           {"RS256", long, pemOf(t, "RSA PRIVATE KEY", long), ""},
		"JWK":             {"ES256", ec, asJWK(t, ec), ""},
		"JWK-with-kid":    {"ES256", ec, named, "legacy-2024"},
		"JWK-of-RSA":      {"PS256", long, asJWK(t, long, "kid", "Key #7 of 'crm'"), "Key #7 of 'crm'"},
		"PKCS8-unchanged": {"RS512", long, pemOf(t, "PRIVATE KEY", long), ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := *w // each with its own role
			v.t, v.role = t, w.role+"-"+name
			v.imports(c.algorithm, c.key, c.text, c.kid)
		})
	}
}

// imports makes a role of an existing key, and follows it through its first rotation.
func (w *world) imports(algorithm string, private any, text, kid string) {
	w.t.Helper()
	key, err := jwk.Import(private)
	require.NoError(w.t, err)
	if kid == "" {
		kid = thumbprint(w.t, key)
	}
	r := w.rotation("roles/"+w.role, keyFields(map[string]any{"algorithm": algorithm, "import_key": text}))
	assert.Equal(w.t, "import", r.Trigger)
	s := w.signFor(w.role, "user-1")
	assert.Equal(w.t, kid, s.Kid)
	public, err := key.PublicKey()
	require.NoError(w.t, err)
	known, ok := jwa.LookupSignatureAlgorithm(algorithm)
	require.True(w.t, ok)
	_, err = jwt.ParseString(s.Token, jwt.WithKey(known, public))
	assert.NoError(w.t, err, "who knows the key verifies")
	old := signByHand(w.t, pemOf(w.t, "PRIVATE KEY", private), kid, known, "")
	v := w.verify(w.role, old)
	assert.True(w.t, v.Active, "what it signed before is good: %s", v.Reason)

	c := w.get("creds/" + w.role).fields()
	assert.Equal(w.t, kid, c["kid"])
	assert.NotContains(w.t, c, "private_key")
	assert.NotContains(w.t, w.get("roles/"+w.role).fields(), "import_key")

	next := w.announced(w.role)
	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	assert.Equal(w.t, next.Identifier, w.signFor(w.role, "user-1").Kid)
	assert.NotEqual(w.t, kid, next.Identifier)
	assert.Contains(w.t, w.kids(w.role), kid, "its tokens are good for their whole life")
	assert.True(w.t, w.verify(w.role, old).Active)
}

// thumbprint is the kid of a key that brings none (RFC 7638, SHA-256).
func thumbprint(t *testing.T, key jwk.Key) string {
	t.Helper()
	require.NoError(t, jwk.AssignKeyID(key))
	kid, ok := key.KeyID()
	require.True(t, ok)
	return kid
}

// pemOf writes a private key in a form that the type names.
func pemOf(t *testing.T, kind string, private any) string {
	t.Helper()
	var der []byte
	var err error
	switch kind {
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(private.(*ecdsa.PrivateKey))
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(private.(*rsa.PrivateKey))
	default:
		der, err = x509.MarshalPKCS8PrivateKey(private)
	}
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// asJWK writes a private key as a JWK, with further members: name, value, ...
func asJWK(t *testing.T, private any, members ...string) string {
	t.Helper()
	key, err := jwk.Import(private)
	require.NoError(t, err)
	for i := 0; i < len(members); i += 2 {
		require.NoError(t, key.Set(members[i], members[i+1]))
	}
	text, err := json.Marshal(key)
	require.NoError(t, err)
	return string(text)
}

// A key is brought along by a new role only: elsewhere it is checked, not taken, and whoever gave it is
// told so.
func TestJWTImportIntoAnExistingRole(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "late", sharedVault(t))
	w.write("roles/"+w.role, keyFields(nil))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	before := w.signFor(w.role, "user-1").Kid
	a := w.write("roles/"+w.role, map[string]any{"import_key": pemOf(t, "PRIVATE KEY", key)})
	require.Len(t, a.Warnings, 1)
	assert.Contains(t, a.Warnings[0], "was not used and is not kept")
	assert.Equal(t, before, w.signFor(w.role, "user-1").Kid)
	w.announced(w.role)
	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	public, err := jwk.Import(key.Public())
	require.NoError(t, err)
	assert.NotContains(t, w.kids(w.role), thumbprint(t, public))
}
