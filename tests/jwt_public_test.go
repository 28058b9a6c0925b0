package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// Two documents are for everybody. All else asks for a token, and who has none learns nothing of names
// but which of them publish keys.
func TestJWTPublicPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "public", sharedVault(t), pgtest.Shared(t))
	w.write("config", map[string]any{"external_url": "https://vault.example:8200"})
	keys := w.role + "-keys"
	w.write("roles/"+w.role, w.roleFields(nil))
	w.write("roles/"+keys, keyFields(map[string]any{"issuer": issuer}))
	w.write("roles/"+keys+"-anonymous", keyFields(nil))
	w.announced(keys)
	for _, token := range []string{"", "of nobody"} {
		anyone := mount{w.address, token, w.path}
		for _, path := range []string{"jwks/" + keys, "oidc/" + keys + "/.well-known/openid-configuration"} {
			assert.Equal(t, http.StatusOK, anyone.call(t.Context(), http.MethodGet, path, nil).Status, path)
		}
		w.closedTo(anyone, keys)
	}
	w.sameForAllOthers(keys)
}

// closedTo checks everything else.
func (w *world) closedTo(anyone mount, keys string) {
	w.t.Helper()
	for _, path := range []string{
		"creds/" + keys, "creds/" + keys + "/versions/1", "status", "status/" + keys, "roles/" + keys, "history/" + keys,
		"config", "incidents", "preflight/" + keys, "jwks", "jwks/" + keys + "/more", "oidc/" + keys,
		"oidc/" + keys + "/.well-known/jwks", "oidc/" + keys + "/.well-known/openid-configuration/more",
	} {
		assert.Equal(w.t, http.StatusForbidden, anyone.call(w.t.Context(), http.MethodGet, path, nil).Status, path)
	}
	for _, path := range []string{
		"sign/" + keys, "verify/" + keys, "rotate/" + keys, "rollback/" + keys, "emergency/" + keys, "roles/" + keys + "-new", "config",
	} {
		assert.Equal(w.t, http.StatusForbidden, anyone.call(w.t.Context(), http.MethodPut, path, map[string]any{}).Status, path)
	}
	for _, path := range []string{"jwks/" + keys, "oidc/" + keys + "/.well-known/openid-configuration"} {
		for _, method := range []string{http.MethodPut, http.MethodDelete, "LIST"} {
			a := anyone.call(w.t.Context(), method, path, nil)
			assert.GreaterOrEqual(w.t, a.Status, http.StatusBadRequest, "%s %s: %s", method, path, a.Text)
			assert.Less(w.t, a.Status, http.StatusInternalServerError, "%s %s: %s", method, path, a.Text)
		}
	}
}

// sameForAllOthers checks that a name which publishes nothing is answered like one that does not exist.
func (w *world) sameForAllOthers(keys string) {
	w.t.Helper()
	document := "/.well-known/openid-configuration"
	for _, c := range []struct {
		before, after string
		names         []string
	}{
		{"jwks/", "", []string{w.role}},
		{"oidc/", document, []string{w.role, keys + "-anonymous"}},
	} {
		nobody, err := fetch(w.t.Context(), w.url(c.before+"nobody"+c.after))
		require.NoError(w.t, err)
		assert.Equal(w.t, http.StatusNotFound, nobody.Status)
		var said answer
		require.NoError(w.t, json.Unmarshal([]byte(nobody.Text), &said))
		require.Len(w.t, said.Errors, 1)
		assert.NotContains(w.t, said.sentence(), "nobody")
		for _, name := range c.names {
			d, err := fetch(w.t.Context(), w.url(c.before+name+c.after))
			require.NoError(w.t, err)
			assert.Equal(w.t, http.StatusNotFound, d.Status, name)
			assert.Equal(w.t, nobody.Text, d.Text, name)
			d.Header.Del("Date")
			nobody.Header.Del("Date")
			assert.Equal(w.t, nobody.Header, d.Header, name)
		}
	}
}

// Neither reading the public documents nor signing and verifying writes anything: nobody fills the
// storage by asking, and every node of a cluster answers.
func TestJWTReadsWriteNothing(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "quiet", vaulttest.New(t, vaulttest.Options{})) // its own: others write all the time
	w.write("config", map[string]any{"external_url": "https://vault.example:8200"})
	w.write("roles/"+w.role, keyFields(map[string]any{"issuer": issuer}))
	w.announced(w.role)
	w.settled()
	token := w.signFor(w.role, "user-1").Token
	const times = 200
	for name, ask := range map[string]func(){
		"key set":   func() { w.keySet(w.role) },
		"discovery": func() { _, _ = fetch(t.Context(), w.url("oidc/"+w.role+"/.well-known/openid-configuration")) },
		"no key set": func() {
			d, err := fetch(t.Context(), w.url("jwks/nobody"))
			require.NoError(t, err)
			require.Equal(t, http.StatusNotFound, d.Status)
		},
		"sign":   func() { w.signFor(w.role, "user-1") },
		"verify": func() { w.verify(w.role, token) },
		"creds":  func() { w.get("creds/" + w.role) },
	} {
		ask() // a first one may fill caches
		before := w.writes()
		for range times {
			ask()
		}
		// Vault writes a little by itself.
		assert.Less(t, w.writes()-before, int64(times/10), "%s: writes for %d requests", name, times)
	}
}

// writes counts what Vault has ever written.
func (w *world) writes() int64 {
	w.t.Helper()
	d, err := fetch(w.t.Context(), w.address+"/v1/sys/leader")
	require.NoError(w.t, err)
	var leader struct {
		Index int64 `json:"raft_committed_index"`
	}
	require.NoError(w.t, json.Unmarshal([]byte(d.Text), &leader))
	require.Positive(w.t, leader.Index, d.Text)
	return leader.Index
}

// A deleted role signs nothing any more, but what it signed stays good: until the grace of its keys is
// over, or an emergency ends them. Then its name is free.
func TestJWTDeletedRole(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "deleted", sharedVault(t))
	fields := keyFields(map[string]any{"rotation_period": "1m", "token_ttl": "5s", "clock_skew": "1s", "grace_period": "20s"})
	for _, leaked := range []bool{false, true} {
		t.Run(fmt.Sprintf("leaked=%t", leaked), func(t *testing.T) {
			t.Parallel()
			v := *w // each with its own role
			v.t, v.role = t, fmt.Sprintf("%s-%t", w.role, leaked)
			v.write("roles/"+v.role, fields)
			v.announced(v.role)
			held := v.signFor(v.role, "user-1")
			began := time.Now()
			a := v.call(t.Context(), http.MethodDelete, "roles/"+v.role, nil)
			require.True(t, a.ok(), a.sentence())
			assert.Contains(t, a.Text, held.Kid, "the answer must say what stays valid, and until when")
			v.closed()
			if leaked {
				assert.Equal(t, "contained", v.emergency(map[string]any{"reason": "key in a repository"}).Status)
			} else {
				v.staysGood(held)
			}
			v.ends(held)
			await.Until(t, "the name to be free", func() (bool, any) {
				a := v.call(t.Context(), http.MethodPut, "roles/"+v.role, fields)
				return a.ok(), a.sentence()
			})
			t.Logf("the name was free after %s", time.Since(began).Round(time.Millisecond))
			assert.Equal(t, !leaked, time.Since(began) > 20*time.Second, "the grace, which an emergency does not wait for")
			assert.NotContains(t, v.kids(v.role), held.Kid)
			assert.Contains(t, v.verify(v.role, held.Token).Reason, "is not one of this role")
		})
	}
}

// closed checks that a deleted role gives nothing new, and that its name is not free yet.
func (w *world) closed() {
	w.t.Helper()
	for _, path := range []string{"roles/", "creds/", "status/"} {
		assert.Equal(w.t, http.StatusNotFound, w.call(w.t.Context(), http.MethodGet, path+w.role, nil).Status, path)
	}
	a := w.call(w.t.Context(), http.MethodPut, "sign/"+w.role, nil)
	assert.Equal(w.t, http.StatusNotFound, a.Status)
	assert.Contains(w.t, a.sentence(), "is deleted: nothing is signed any more")
	a = w.call(w.t.Context(), http.MethodPut, "roles/"+w.role, keyFields(nil))
	assert.Equal(w.t, http.StatusConflict, a.Status, a.sentence())
}

// staysGood checks a token of a deleted role until it expires.
func (w *world) staysGood(held signedToken) {
	w.t.Helper()
	verifier := &cachingVerifier{url: w.url("jwks/" + w.role)}
	await.Until(w.t, "the token to expire", func() (bool, any) {
		v := w.verify(w.role, held.Token)
		err := verifier.check(w.t.Context(), held.Token)
		if expired(held) {
			return true, nil
		}
		assert.True(w.t, v.Active, v.Reason)
		assert.NoError(w.t, err)
		verifier.until = time.Time{} // whoever comes new finds the key too
		return false, held.Expires
	})
}

// ends waits until a deleted role publishes nothing any more.
func (w *world) ends(held signedToken) {
	w.t.Helper()
	await.Until(w.t, "the keys of the deleted role to end", func() (bool, any) {
		d, err := fetch(w.t.Context(), w.url("jwks/"+w.role))
		require.NoError(w.t, err)
		return d.Status == http.StatusNotFound, d.Text
	})
	a := w.call(w.t.Context(), http.MethodPut, "verify/"+w.role, map[string]any{"token": held.Token})
	assert.Equal(w.t, http.StatusNotFound, a.Status, a.Text)
	assert.Contains(w.t, a.sentence(), "there is no role")
}

// A key is not ended by hand while its tokens may be in use, but by force.
func TestJWTRetireByHand(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "byhand", sharedVault(t))
	w.write("roles/"+w.role, keyFields(nil))
	w.announced(w.role)
	held := w.signFor(w.role, "user-1")
	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	refusal{path: "retire/" + w.role, status: http.StatusConflict, says: "version 1 may be in use until"}.check(t, w)
	assert.True(t, w.verify(w.role, held.Token).Active)

	w.write("retire/"+w.role, map[string]any{"force": true})
	v := w.verify(w.role, held.Token)
	assert.False(t, v.Active)
	assert.Contains(t, v.Reason, "was retired")
	assert.NotContains(t, w.kids(w.role), held.Kid)
	assert.Empty(t, w.keyStatus(w.role).Revoked, "nothing leaked")
}
