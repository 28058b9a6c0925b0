package tests

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

const issuer = "https://auth.intelliflow.example"

// A person's way with a signing key, with the vault command: the commands of the README, in their
// order. Each step goes on from the one before.
func TestJWTJourney(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "session", sharedVault(t))
	j := &keyJourney{journey: &journey{world: w, t: t}}
	inSteps(t, j.journey, j, []step[*keyJourney]{
		{"role", (*keyJourney).writeRole},
		{"sign", (*keyJourney).signs},
		{"verify", (*keyJourney).verifies},
		{"jwks", (*keyJourney).publishes},
		{"discovery", (*keyJourney).discovery},
		{"creds", (*keyJourney).creds},
		{"emergency", (*keyJourney).emergency},
		{"rollback to what leaked", (*keyJourney).neverBack},
		{"rotate", (*keyJourney).rotate},
		{"rollback", (*keyJourney).rollback},
		{"history", (*keyJourney).history},
	})
}

type keyJourney struct {
	*journey
	first, second, third signedToken // of version 1, 2 and 3
}

// refusedCommand runs a command that must fail, and gives what it printed.
func (j *keyJourney) refusedCommand(verb, path string, args ...string) string {
	j.t.Helper()
	output, err := j.vault.CLI(j.t.Context(), append([]string{verb, j.path + "/" + path}, args...)...)
	require.Error(j.t, err, output)
	return output
}

func (j *keyJourney) signCommand(args ...string) (s signedToken) {
	j.t.Helper()
	require.NoError(j.t, unmarshal(j.vaultCommand("write", "sign/"+j.role, args...), &s))
	return s
}

func (j *keyJourney) verifyCommand(token string, args ...string) (v verdict) {
	j.t.Helper()
	require.NoError(j.t, unmarshal(j.vaultCommand("write", "verify/"+j.role, append(args, "token="+token)...), &v))
	return v
}

func (j *keyJourney) writeRole() {
	began := time.Now()
	r := j.rotated("write", "roles/"+j.role, "type=jwt", "algorithm=RS256", "key_bits=4096", "rotation_period=7d",
		"token_ttl=24h", "allowed_claims=sub,aud,scope", "issuer="+issuer)
	j.t.Logf("a role with an RSA key of 4096 bits was made in %s", time.Since(began).Round(time.Millisecond))
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "initial", Phase: "rolled_out", Outcome: "succeeded", Version: 1}, r)

	shown := j.vaultCommand("read", "roles/"+j.role).fields()
	for name, want := range map[string]any{
		"algorithm": "RS256", "key_bits": json.Number("4096"), "rotation_period": json.Number("604800"),
		"token_ttl": json.Number("86400"), "issuer": issuer, "exportable": false,
		"allowed_claims": []any{"sub", "aud", "scope"},
		"grace_period":   json.Number("115280"), // 4/3 of 24h and a minute
	} {
		assert.Equal(j.t, want, shown[name], name)
	}
	assert.NotContains(j.t, shown, "import_key")
}

func (j *keyJourney) signs() {
	before := time.Now()
	j.first = j.signCommand(`claims={"sub": "user-1", "aud": "crm", "scope": "read write"}`)
	assert.Equal(j.t, 1, j.first.Version)
	assert.Equal(j.t, j.world.status(j.role).version(1).Identifier, j.first.Kid)
	assert.WithinDuration(j.t, before.Add(24*time.Hour), j.first.Expires, time.Minute, "token_ttl, since nothing else was asked")
	short := j.signCommand(`claims={"sub": "user-1"}`, "ttl=5m")
	assert.WithinDuration(j.t, before.Add(5*time.Minute), short.Expires, time.Minute)
}

func (j *keyJourney) verifies() {
	v := j.verifyCommand(j.first.Token, "audience=crm")
	assert.True(j.t, v.Active, v.Reason)
	assert.Equal(j.t, j.first.Kid, v.Kid)
	assert.Equal(j.t, 1, v.Version)
	for name, want := range map[string]any{"sub": "user-1", "aud": "crm", "scope": "read write", "iss": issuer} {
		assert.Equal(j.t, want, v.Claims[name], name)
	}
	assert.Equal(j.t, []string{"aud", "exp", "iat", "iss", "jti", "scope", "sub"}, slices.Sorted(maps.Keys(v.Claims)))

	other := j.verifyCommand(j.first.Token, "audience=billing")
	assert.False(j.t, other.Active)
	assert.Contains(j.t, other.Reason, `"billing"`)
	assert.Nil(j.t, other.Claims, "claims of a good token only")
}

func (j *keyJourney) publishes() {
	next := j.announced(j.role)
	d, set := j.keySet(j.role)
	assert.Equal(j.t, "application/json", d.Header.Get("Content-Type"))
	assert.Equal(j.t, "public, max-age=3600", d.Header.Get("Cache-Control"), "half of the announce period of 24h, but at most an hour")
	assert.Equal(j.t, []string{j.first.Kid, next.Identifier}, j.kids(j.role), "what signs, and what will")
	assert.NotEqual(j.t, j.first.Kid, next.Identifier)
	for i := range set.Len() {
		key, _ := set.Key(i)
		assert.ElementsMatch(j.t, []string{"kty", "kid", "alg", "use", "n", "e"}, key.Keys(), "nothing of the private half")
	}
	require.NoError(j.t, checkWith(set, j.first.Token), "by another library")
}

func (j *keyJourney) discovery() {
	path := "oidc/" + j.role + "/.well-known/openid-configuration"
	d, err := fetch(j.t.Context(), j.url(path))
	require.NoError(j.t, err)
	assert.Equal(j.t, http.StatusNotFound, d.Status, "nobody said where this Vault is")

	j.vaultCommand("write", "config", "external_url="+j.vault.Address())
	d, err = fetch(j.t.Context(), j.url(path))
	require.NoError(j.t, err)
	require.Equal(j.t, http.StatusOK, d.Status, d.Text)
	assert.Equal(j.t, "application/json", d.Header.Get("Content-Type"))
	assert.Equal(j.t, "public, max-age=3600", d.Header.Get("Cache-Control"))
	var about struct {
		Issuer     string   `json:"issuer"`
		KeySet     string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	require.NoError(j.t, json.Unmarshal([]byte(d.Text), &about))
	assert.Equal(j.t, issuer, about.Issuer)
	assert.Equal(j.t, []string{"RS256"}, about.Algorithms)
	keys, err := fetch(j.t.Context(), about.KeySet)
	require.NoError(j.t, err)
	assert.Equal(j.t, http.StatusOK, keys.Status, "the address leads to the keys")
	assert.Contains(j.t, keys.Text, j.first.Kid)
}

func (j *keyJourney) creds() {
	a := j.vaultCommand("read", "creds/"+j.role)
	c := a.fields()
	assert.Equal(j.t, []string{
		"algorithm", "kid", "last_vault_rotation", "public_jwk", "public_key", "rotation_period", "ttl", "version",
	}, slices.Sorted(maps.Keys(c)), "no private_key")
	assert.Equal(j.t, j.first.Kid, c["kid"])
	assert.Equal(j.t, "RS256", c["algorithm"])
	assert.True(j.t, strings.HasPrefix(c["public_key"].(string), "-----BEGIN PUBLIC KEY-----\n"))
	public, _ := c["public_jwk"].(map[string]any)
	assert.Equal(j.t, []string{"alg", "e", "kid", "kty", "n", "use"}, slices.Sorted(maps.Keys(public)))
	assert.Equal(j.t, j.first.Kid, public["kid"])
	j.noLease(a)
}

func (j *keyJourney) emergency() {
	_, cached := j.keySet(j.role)
	began := time.Now()
	a := j.vaultCommand("write", "emergency/"+j.role, "reason=key seen in a log")
	took := time.Since(began)
	var e emergencyAnswer
	require.NoError(j.t, unmarshal(a, &e))
	assert.Equal(j.t, "contained", e.Status, e.NextSteps)
	assert.Equal(j.t, 2, e.Version, "the key that was announced")
	require.Len(j.t, e.Killed, 1)
	assert.True(j.t, e.Killed[0].ProvenDead)
	assert.Contains(j.t, strings.Join(e.NextSteps, "\n"), "may accept tokens of kid "+j.first.Kid, "who caches is told of")
	j.incident = e.IncidentID

	v := j.verifyCommand(j.first.Token)
	assert.False(j.t, v.Active)
	assert.Contains(j.t, v.Reason, "compromised")
	assert.NotContains(j.t, j.kids(j.role), j.first.Kid)
	assert.Equal(j.t, []string{j.first.Kid}, j.keyStatus(j.role).Revoked)
	incident := j.vaultCommand("read", "incidents/"+j.incident)
	assert.Contains(j.t, incident.Text, j.first.Kid)
	assert.Equal(j.t, "contained", incident.fields()["status"])

	j.second = j.signCommand(`claims={"sub": "user-1"}`)
	assert.Equal(j.t, 2, j.second.Version)
	assert.True(j.t, j.verifyCommand(j.second.Token).Active)
	assert.NoError(j.t, checkWith(cached, j.second.Token), "whoever fetched the keys before knows the new one")
	j.t.Logf("the emergency was answered in %s", took.Round(time.Millisecond))
}

func (j *keyJourney) neverBack() {
	for _, args := range [][]string{{"version=1"}, {"version=1", "force=true"}, {"wait=20s"}} { // the last one by default
		output := j.refusedCommand("write", "rollback/"+j.role, args...)
		assert.Contains(j.t, output, "Code: 409", args)
		assert.Contains(j.t, output, "compromised", args)
	}
	assert.Equal(j.t, 2, j.world.status(j.role).Current)
}

func (j *keyJourney) rotate() {
	next := j.announced(j.role)
	output := j.refusedCommand("write", "rotate/"+j.role, "wait=20s")
	assert.Contains(j.t, output, "Code: 409")
	assert.Contains(j.t, output, "version 3 is announced, and may take over at "+next.ReadyAt.Format(time.RFC3339))
	assert.WithinDuration(j.t, time.Now().Add(24*time.Hour), next.ReadyAt, 5*time.Minute)
	assert.Contains(j.t, output, "force=true")
	assert.Equal(j.t, 2, j.world.status(j.role).Current)

	r := j.rotated("write", "rotate/"+j.role, "force=true")
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "manual", Phase: "rolled_out", Outcome: "succeeded", Version: 3, Previous: 2}, r)
	j.third = j.signCommand(`claims={"sub": "user-1"}`)
	assert.Equal(j.t, next.Identifier, j.third.Kid)
	assert.True(j.t, j.verifyCommand(j.second.Token).Active, "what the old key signed is good for its whole life")
	assert.Contains(j.t, j.kids(j.role), j.second.Kid)
}

func (j *keyJourney) rollback() {
	r := j.rotated("write", "rollback/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "rollback", Phase: "rolled_out", Outcome: "succeeded", Version: 2, Previous: 3}, r)
	again := j.signCommand(`claims={"sub": "user-1"}`)
	assert.Equal(j.t, j.second.Kid, again.Kid)
	assert.Equal(j.t, 2, again.Version)
	for _, s := range []signedToken{j.second, j.third, again} {
		assert.True(j.t, j.verifyCommand(s.Token).Active, "version %d", s.Version)
	}
	kids := j.kids(j.role)
	assert.Contains(j.t, kids, j.second.Kid)
	assert.Contains(j.t, kids, j.third.Kid, "its tokens are good for their whole life")
	assert.NotContains(j.t, kids, j.first.Kid)
}

func (j *keyJourney) history() {
	var page struct {
		Rotations []rotationAnswer `json:"rotations"`
	}
	require.NoError(j.t, unmarshal(j.vaultCommand("read", "history/"+j.role), &page))
	var told []string
	for _, r := range page.Rotations {
		told = append(told, r.Trigger+" "+r.Outcome)
	}
	assert.Equal(j.t, []string{"rollback succeeded", "manual succeeded", "emergency succeeded", "initial succeeded"}, told,
		"a rotation that was refused is none")
}

// The schedule rotates without anybody: to the key that was announced, and not before it was.
func TestJWTScheduledRotation(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "scheduled", sharedVault(t))
	began := time.Now()
	w.write("roles/"+w.role, keyFields(map[string]any{
		"rotation_period": "1m", "token_ttl": "5s", "clock_skew": "1s", "announce_period": "6s", "grace_period": "20s",
		"next_rotation": began.Add(3 * time.Second).UTC().Format(time.RFC3339), // before the announcement has run
	}))
	next := w.announced(w.role)
	verifier := &cachingVerifier{url: w.url("jwks/" + w.role)}
	await.Until(t, "the scheduled rotation", func() (bool, any) {
		s := w.status(w.role)
		token := w.signFor(w.role, "user-1").Token
		require.NoError(t, verifier.check(t.Context(), token))
		return s.Current == next.Version && s.Rotation == nil, s
	})
	t.Logf("rotated %s after the role was made", time.Since(began).Round(time.Millisecond))
	assert.GreaterOrEqual(t, time.Since(began), 6*time.Second)
	assert.Equal(t, next.Identifier, w.signFor(w.role, "user-1").Kid)
	var page struct {
		Rotations []rotationAnswer `json:"rotations"`
	}
	require.NoError(t, unmarshal(w.get("history/"+w.role), &page))
	require.Len(t, page.Rotations, 2)
	assert.Equal(t, "scheduled", page.Rotations[0].Trigger)
}
