package tests

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// checkWith verifies a token as a service in Go does, with keys that it has.
func checkWith(set jwk.Set, token string) error {
	_, err := jwt.ParseString(token, jwt.WithKeySet(set))
	return err
}

// A cachingVerifier is a service that keeps the keys for as long as Cache-Control says, and fetches
// them then and only then: not for a key that it does not know.
type cachingVerifier struct {
	url     string
	set     jwk.Set
	until   time.Time
	fetches int
	stretch int // how many times as long it keeps them, when it does not care
}

func (v *cachingVerifier) check(ctx context.Context, token string) error {
	if !time.Now().Before(v.until) {
		if err := v.fetch(ctx); err != nil {
			return err
		}
	}
	return checkWith(v.set, token)
}

// fetch repeats itself while Vault answers with a 5xx or not at all.
func (v *cachingVerifier) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, await.Patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		d, err := fetch(ctx, v.url)
		if err == nil && d.Status < http.StatusInternalServerError {
			return v.keep(d)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("fetch %s: %w; last answer: %d %s %w", v.url, ctx.Err(), d.Status, d.Text, err)
		}
	}
}

func (v *cachingVerifier) keep(d document) error {
	if d.Status != http.StatusOK {
		return fmt.Errorf("fetch %s: %d %s", v.url, d.Status, d.Text)
	}
	age, err := d.maxAge()
	if err != nil {
		return err
	}
	v.fetches++
	v.until = time.Now().Add(age * time.Duration(max(v.stretch, 1)))
	v.set, err = jwk.Parse([]byte(d.Text))
	return err
}

// A josed is what testdata/verify.mjs answers of a token.
type josed struct {
	Claims map[string]any `json:"claims"`
	Kid    string         `json:"kid"`
	Alg    string         `json:"alg"`
	Code   string         `json:"code"`
}

// jose verifies tokens in a process of Node.js, by the live URL of the keys.
func (w *world) jose(role string, options map[string]any, tokens ...string) (answers []josed) {
	w.t.Helper()
	input, err := json.Marshal(map[string]any{"jwks": w.url("jwks/" + role), "options": options, "tokens": tokens})
	require.NoError(w.t, err)
	command := exec.CommandContext(w.t.Context(), ensure(w.t, "node"), filepath.Join("testdata", "verify.mjs"))
	command.Env = append(os.Environ(), "JOSE_DIR="+ensure(w.t, "jose"))
	command.Stdin, command.Stderr = bytes.NewReader(input), os.Stderr
	output, err := command.Output()
	require.NoError(w.t, err)
	require.NoError(w.t, json.Unmarshal(output, &answers), "%s", output)
	require.Len(w.t, answers, len(tokens))
	return answers
}

// Libraries that know nothing of this product verify its tokens, by the live URL of the keys: one of
// JavaScript and one of Go. They refuse what is not as it was signed.
func TestJWTVerifiersOfOthers(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "others", sharedVault(t))
	for algorithm, bits := range map[string]any{"RS256": 2048, "PS256": 2048, "ES256": nil, "ES384": nil, "EdDSA": nil} {
		t.Run(algorithm, func(t *testing.T) {
			v := *w // each with its own role
			v.t, v.role = t, w.role+"-"+algorithm
			v.write("roles/"+v.role, keyFields(map[string]any{"algorithm": algorithm, "key_bits": bits, "issuer": issuer}))
			v.provesToOthers(algorithm)
		})
	}
}

func (w *world) provesToOthers(algorithm string) {
	w.t.Helper()
	next := w.announced(w.role)
	claims := map[string]any{"sub": "user-1", "aud": []string{"crm", "billing"}, "scope": "read"}
	old := w.sign(w.role, map[string]any{"claims": claims})
	verifier := &cachingVerifier{url: w.url("jwks/" + w.role)}
	require.NoError(w.t, verifier.check(w.t.Context(), old.Token))

	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	fresh := w.sign(w.role, map[string]any{"claims": claims})
	require.Equal(w.t, next.Identifier, fresh.Kid)
	assert.NoError(w.t, verifier.check(w.t.Context(), fresh.Token), "the next key was announced")
	assert.Equal(w.t, 1, verifier.fetches, "by its cache")

	options := map[string]any{"issuer": issuer, "audience": "crm", "algorithms": []string{algorithm}}
	swapped := fresh.Token[:strings.LastIndex(fresh.Token, ".")] + old.Token[strings.LastIndex(old.Token, "."):]
	answers := w.jose(w.role, options, old.Token, fresh.Token, swapped, forgedSubject(w.t, fresh.Token))
	for i, s := range []signedToken{old, fresh} {
		assert.Empty(w.t, answers[i].Code)
		assert.Equal(w.t, s.Kid, answers[i].Kid)
		assert.Equal(w.t, algorithm, answers[i].Alg)
		assert.Equal(w.t, "user-1", answers[i].Claims["sub"])
		assert.Equal(w.t, []any{"crm", "billing"}, answers[i].Claims["aud"])
		assert.InDelta(w.t, s.Expires.Unix(), answers[i].Claims["exp"], 0)
	}
	assert.Equal(w.t, "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", answers[2].Code)
	assert.Equal(w.t, "ERR_JWS_SIGNATURE_VERIFICATION_FAILED", answers[3].Code)
	assert.Equal(w.t, "ERR_JWT_CLAIM_VALIDATION_FAILED", w.jose(w.role, map[string]any{"issuer": "https://other.example"}, fresh.Token)[0].Code)

	w.emergency(map[string]any{"reason": "key in a repository"})
	after := w.jose(w.role, options, old.Token, fresh.Token, w.sign(w.role, map[string]any{"claims": claims}).Token)
	assert.Equal(w.t, []string{"ERR_JWKS_NO_MATCHING_KEY", "ERR_JWKS_NO_MATCHING_KEY", ""}, []string{after[0].Code, after[1].Code, after[2].Code})
}

// forgedSubject gives a token the claims of another, under the signature it has.
func forgedSubject(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	forged := strings.Replace(string(claims), "user-1", "user-2", 1)
	require.NotEqual(t, string(claims), forged)
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(forged))
	return strings.Join(parts, ".")
}
